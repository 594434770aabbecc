"""Times on the device that does the work: CUDA events on a GPU, the clock of the host elsewhere."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

Mark = Any  # a torch.cuda.Event, or seconds


class Stopwatch:
    """Marks moments in the order of the current CUDA stream without waiting for them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"

    def mark(self) -> Mark:
        """Now, as the device sees it."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self._cuda:
            torch.cuda.synchronize(self._device)

    def ms(self, start: Mark, end: Mark) -> float:
        """Milliseconds between two marks that have passed."""
        if not self._cuda:
            return 1000.0 * float(end - start)
        return float(start.elapsed_time(end))

    def each(self, work: Callable[[], object], repeat: int = 10, warm: int = 3, cold: bool = False) -> float:
        """Median milliseconds of one call of `work`.

        cold: on a GPU, a gigabyte is written before each call, which empties the L2 cache and keeps the GPU busy while
        the host prepares the call: what is measured is the kernel and not its launch.
        """
        for _ in range(warm):
            work()
        flood = torch.empty(2**28, device=self._device) if cold and self._cuda else None
        self.wait()
        pairs = []
        for _ in range(repeat):
            if flood is not None:
                flood.zero_()
            start = self.mark()
            work()
            pairs.append((start, self.mark()))
        self.wait()
        return median(self.ms(start, end) for start, end in pairs)
