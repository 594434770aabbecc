"""How far the host may run ahead of the GPU.

A GPU must find its next forward queued when it ends one, or it idles while the host gets it ready. But what is queued
cannot be taken back, so an interrupt waits for all of it. The middle is a lead of one: before the host queues a
forward, it waits until the one before the last is done. One forward runs, one is queued behind it, and the interrupt is
heard once in each.

On a CPU nothing is queued, and both classes do nothing but what they say at once.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor


class Mark(Protocol):
    """A place in the queue of a device, as torch.cuda.Event is one."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class HostLead:
    """Asked before each forward; see the module's head."""

    def __init__(self, device: torch.device, mark: Callable[[], Mark] | None = None) -> None:
        """mark: makes marks; None for those of the device, and for none on a CPU."""
        if mark is None and device.type == "cuda":
            mark = partial(_Event, device)
        self._next = None if mark is None else mark()
        self._last = None if mark is None else mark()
        self._recorded = False

    def wait(self) -> None:
        """Until the device has begun the forward that was queued last."""
        if self._next is None or self._last is None:
            return
        if self._recorded:
            self._last.synchronize()
        self._next.record()
        self._next, self._last = self._last, self._next
        self._recorded = True


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
        self._event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def record(self) -> None:
        self._event.record(torch.cuda.current_stream(self._device))

    def synchronize(self) -> None:
        self._event.synchronize()
