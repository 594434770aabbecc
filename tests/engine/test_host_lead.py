"""How far the host runs ahead: marks and a clock of our own stand in for a GPU's."""

import torch

from everscene_engine.host_lead import FiniteCheck, HostLead, to_device

CPU = torch.device("cpu")


class Queue:
    """A device that does what it was given in order, each forward in its own time, while a clock goes on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.free_at = 0.0

    def forward(self, seconds: float = 1.0) -> None:
        self.free_at = max(self.now, self.free_at) + seconds

    @property
    def waiting(self) -> float:
        """Seconds of work that were given and are not done."""
        return max(0.0, self.free_at - self.now)

    def mark(self) -> "QueueMark":
        return QueueMark(self)

    def pause(self, seconds: float) -> None:
        self.now += seconds


class QueueMark:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._at = 0.0

    def record(self) -> None:
        self._at = max(self._queue.now, self._queue.free_at)

    def passed(self) -> bool:
        return self._queue.now >= self._at

    def synchronize(self) -> None:
        self._queue.now = max(self._queue.now, self._at)

    def seconds_after(self, earlier: "QueueMark") -> float:
        assert self.passed()
        return self._at - earlier._at


def lead_over(queue: Queue) -> HostLead:
    return HostLead(CPU, queue.mark, lambda: queue.now, queue.pause)


def waits(lead: HostLead, queue: Queue, forwards: list[float]) -> list[float]:
    """What is left to the device each time before these forwards."""
    left = []
    for seconds in forwards:
        lead.wait()
        left.append(round(queue.waiting, 2))
        queue.forward(seconds)
    return left


def test_a_forward_is_queued_when_the_one_before_is_nearly_done() -> None:
    queue = Queue()
    assert waits(lead_over(queue), queue, [1.0] * 6)[2:] == [0.15] * 4


def test_the_device_never_idles_between_forwards() -> None:
    queue = Queue()
    lead = lead_over(queue)
    waits(lead, queue, [1.0, 0.9, 1.1, 1.0, 0.9, 1.1])
    assert queue.free_at == 6.0


def test_a_forward_shorter_than_those_before_is_waited_for_no_longer_than_it_takes() -> None:
    queue = Queue()
    lead = lead_over(queue)
    waits(lead, queue, [1.0] * 5)
    lead.wait()
    queue.forward(0.1)
    lead.wait()
    assert queue.free_at == 5.1
    assert queue.now < 5.1 + 0.002


def test_after_a_rest_nothing_is_waited_for() -> None:
    queue = Queue()
    lead = lead_over(queue)
    waits(lead, queue, [1.0] * 4)
    queue.now = 10.0
    lead.wait()
    assert queue.now == 10.0


def test_a_rest_does_not_count_as_part_of_a_forward() -> None:
    queue = Queue()
    lead = lead_over(queue)
    waits(lead, queue, [1.0] * 4)
    queue.now = 10.0
    assert waits(lead, queue, [1.0] * 3)[1:] == [0.15] * 2


def test_a_host_that_was_slow_to_queue_does_not_wait_from_then_on() -> None:
    """A forward that is queued kernel by kernel begins long before its last kernel is queued."""
    queue = Queue()
    lead = lead_over(queue)
    waits(lead, queue, [1.0] * 4)
    lead.wait()
    queue.forward()
    queue.now += 0.15 + 0.5  # it has been half done meanwhile
    lead.wait()
    assert queue.waiting > 0.1


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
