"""How far the host may run ahead of the GPU.

A GPU must find its next forward queued when it ends one, or it idles while the host gets it ready. But what is queued
cannot be taken back, so an interrupt waits for all of it. So the host queues a forward when the one before it is nearly
done: it waits until that one has begun, and then for most of what the shortest of the last few took, or until it is
done. An interrupt is heard just before, and waits for little more than the forward that runs.

On a CPU nothing is queued, and both classes do nothing but what they say at once.
"""

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol, Self

import torch
from torch import Tensor

WAITED_FOR = 0.85
"""Of a forward. What is left, some 20 ms of a large model, covers a host that is held up."""
REMEMBERED = 6  # forwards, two chunks of two steps: some of them without idle time between
POLL_S = 0.001


class Mark(Protocol):
    """A place in the queue of a device, as torch.cuda.Event is one."""

    def record(self) -> None: ...

    def passed(self) -> bool: ...

    def synchronize(self) -> None: ...

    def seconds_after(self, earlier: Self) -> float: ...


class HostLead:
    """Asked before each forward; see the module's head."""

    def __init__(
        self,
        device: torch.device,
        mark: Callable[[], Mark] | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """mark: makes marks; None for those of the device, and for none on a CPU. clock, pause: seconds."""
        if mark is None and device.type == "cuda":
            mark = partial(_Event, device)
        self._marks = deque([] if mark is None else [mark() for _ in range(3)])
        self._clock, self._pause = clock, pause
        self._recorded = 0
        self._took: deque[float] = deque(maxlen=REMEMBERED)
        self._queued_at = clock()  # no forward that was queued since can have begun before

    def wait(self) -> None:
        """Until the device has nearly done the forward that was queued last."""
        if not self._marks:
            return
        before, last, end = self._marks
        end.record()
        if self._recorded >= 1:
            begun = self._queued_at
            if not last.passed():
                last.synchronize()
                begun = self._clock()
            if self._recorded >= 2:
                self._took.append(last.seconds_after(before))
            due = begun + WAITED_FOR * min(self._took, default=0.0)
            while self._clock() < due and not end.passed():
                self._pause(POLL_S)
        self._marks.rotate(-1)
        self._recorded += 1
        self._queued_at = self._clock()


class FiniteCheck:
    """Whether a tensor holds numbers alone, found out by the device while the host queues more behind it."""

    def __init__(self, tensor: Tensor) -> None:
        found = torch.isfinite(tensor).all()
        self._done: Mark | None = None
        if tensor.is_cuda:
            self._found = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._found.copy_(found, non_blocking=True)
            self._done = _Event(tensor.device)
            self._done.record()
        else:
            self._found = found

    def passed(self) -> bool:
        """Waits until the tensor is finished; not for what was queued after it."""
        if self._done is not None:
            self._done.synchronize()
        return bool(self._found)


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy on the device. On a GPU it is queued; a plain copy would first wait for all that is queued before it."""
    if device.type != "cuda":
        return tensor.to(device, dtype)
    return tensor.to(dtype).pin_memory().to(device, non_blocking=True)


class _Event:
    """A mark in the current CUDA stream of a device, whichever device is the thread's own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]

    def record(self) -> None:
        self._event.record(torch.cuda.current_stream(self._device))

    def passed(self) -> bool:
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def synchronize(self) -> None:
        self._event.synchronize()

    def seconds_after(self, earlier: "_Event") -> float:
        return float(earlier._event.elapsed_time(self._event)) / 1000
