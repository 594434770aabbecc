"""The server's clock: Unix time that never jumps."""

import time
from typing import Protocol


class Clock(Protocol):
    """Points in time in ns since the Unix epoch, never going back."""

    @property
    def offset_ns(self) -> int:
        """This clock − the system's monotonic clock."""

    def now_ns(self) -> int:
        """Now."""


class SystemClock:
    """The system time at the start of the process, carried on by the monotonic clock."""

    def __init__(self) -> None:
        self.offset_ns = time.time_ns() - time.monotonic_ns()

    def now_ns(self) -> int:
        """Now."""
        return time.monotonic_ns() + self.offset_ns
