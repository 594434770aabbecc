"""Numbers about a run: counts, and distributions of times."""

from collections import deque
from dataclasses import dataclass

from everscene_bridge.messages import DistributionMessage
from everscene_bridge.protocol import NS

WINDOW = 1024
RATE_SECONDS = 5
STAGES = ("recache", "denoise", "clean", "decode", "publish")


class Distribution:
    """The latest WINDOW values, and how many there were in all."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=WINDOW)
        self._count = 0

    def add(self, value: float) -> None:
        """One more."""
        self._values.append(value)
        self._count += 1

    def message(self) -> DistributionMessage:
        """p50, p95 (the smallest value that so many percent do not exceed) and the largest."""
        ordered = sorted(self._values)
        if not ordered:
            return DistributionMessage(n=0, p50=0.0, p95=0.0, max=0.0)
        at = [ordered[-(-len(ordered) * percent // 100) - 1] for percent in (50, 95)]
        return DistributionMessage(n=self._count, p50=at[0], p95=at[1], max=ordered[-1])


class Rate:
    """Events per second over the last RATE_SECONDS."""

    def __init__(self) -> None:
        self._times: deque[int] = deque()
        self._first_ns: int | None = None

    def add(self, now_ns: int) -> None:
        """One more, now."""
        if self._first_ns is None:
            self._first_ns = now_ns
        self._times.append(now_ns)
        self._forget(now_ns)

    def per_second(self, now_ns: int) -> float:
        """0 before the second event."""
        self._forget(now_ns)
        if self._first_ns is None or now_ns <= self._first_ns:
            return 0.0
        if now_ns - self._first_ns >= RATE_SECONDS * NS:
            return len(self._times) / RATE_SECONDS
        return (len(self._times) - 1) * NS / (now_ns - self._first_ns)

    def _forget(self, now_ns: int) -> None:
        while self._times and now_ns - self._times[0] >= RATE_SECONDS * NS:
            self._times.popleft()


@dataclass
class StreamTotals:
    """Since the start of the epoch."""

    chunks: int = 0
    dropped_chunks: int = 0
    discarded_frames: int = 0
    restarts: int = 0


class Meter:
    """All distributions of a run. One lock guards it: the stream's."""

    def __init__(self) -> None:
        self.latency_ms = Distribution()
        self.seen_ms = Distribution()
        self.stages_ms = {stage: Distribution() for stage in STAGES}
        self.published = Rate()
