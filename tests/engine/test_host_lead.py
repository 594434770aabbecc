"""How far the host runs ahead: marks of our own stand in for a GPU's."""

import torch

from everscene_engine.host_lead import FiniteCheck, HostLead, to_device

CPU = torch.device("cpu")


class Queue:
    """What a device was given, in order; waiting for a mark runs the queue up to it."""

    def __init__(self) -> None:
        self.given: list[object] = []
        self.done = 0

    def forward(self) -> None:
        self.given.append("forward")

    @property
    def waiting(self) -> int:
        """Forwards that were given and are not done."""
        return self.given[self.done :].count("forward")

    def mark(self) -> "QueueMark":
        return QueueMark(self)


class QueueMark:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._place = 0

    def record(self) -> None:
        self._place = len(self._queue.given)

    def synchronize(self) -> None:
        self._queue.done = max(self._queue.done, self._place)


def test_one_forward_is_left_to_the_device_while_the_host_gets_the_next_ready() -> None:
    queue = Queue()
    lead = HostLead(CPU, queue.mark)
    left = []
    for _ in range(5):
        lead.wait()
        left.append(queue.waiting)
        queue.forward()
    assert left == [0, 1, 1, 1, 1]


def test_a_forward_that_nobody_asked_for_is_waited_for_with_the_next() -> None:
    queue = Queue()
    lead = HostLead(CPU, queue.mark)
    for _ in range(3):
        lead.wait()
        queue.forward()
    queue.forward()  # a clean pass
    lead.wait()
    queue.forward()
    lead.wait()
    assert queue.waiting == 1


def test_a_cpu_has_nothing_to_wait_for() -> None:
    lead = HostLead(CPU)
    lead.wait()
    lead.wait()


def test_numbers_alone_pass_the_check() -> None:
    assert FiniteCheck(torch.ones(3)).passed()
    assert not FiniteCheck(torch.tensor([1.0, torch.inf])).passed()
    assert not FiniteCheck(torch.tensor([1.0, torch.nan])).passed()


def test_a_copy_has_the_dtype_that_was_asked_for() -> None:
    assert to_device(torch.ones(2), CPU, torch.bfloat16).dtype == torch.bfloat16
