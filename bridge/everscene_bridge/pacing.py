"""When frames are due: the content's clock, not the speed of generation.

Frame after frame is due one period apart. When generation cannot keep that up, the period is stretched to what it
does keep up, so that the stream slows evenly instead of running and halting; when a frame is late all the same, the
clock waits for it and goes on from there. There is never a backlog to catch up with.

All times are integers in ns on whatever clock the caller uses.
"""

from collections import deque
from dataclasses import dataclass, field

from everscene_bridge.protocol import NS

PACE_CHUNKS = 5
ESTIMATE_CHUNKS = 8
SLOW_RATIO = 1.03
"""How much longer than the content's the period must be before the stream is called slow."""


class Recent:
    """The latest durations of one stage, ns."""

    def __init__(self, size: int) -> None:
        self._values: deque[int] = deque(maxlen=size)

    def add(self, value_ns: int) -> None:
        """One more; the oldest falls out."""
        self._values.append(value_ns)

    @property
    def median(self) -> int:
        """0 when there is none."""
        ordered = sorted(self._values)
        return ordered[len(ordered) // 2] if ordered else 0

    @property
    def longest(self) -> int:
        """0 when there is none."""
        return max(self._values, default=0)


@dataclass
class Estimates:
    """How long the stages take, from the latest chunks."""

    recache: Recent = field(default_factory=lambda: Recent(ESTIMATE_CHUNKS))
    generate: Recent = field(default_factory=lambda: Recent(ESTIMATE_CHUNKS))  # until it is handed on, without recache
    clean: Recent = field(default_factory=lambda: Recent(ESTIMATE_CHUNKS))  # after the chunk was handed on
    first_decode: Recent = field(default_factory=lambda: Recent(ESTIMATE_CHUNKS))  # until a chunk's first frames
    pace: Recent = field(default_factory=lambda: Recent(PACE_CHUNKS))  # slower of the two stages, recache and all

    @property
    def reaction_ns(self) -> int:
        """From an input to the first frame under it: recache, one chunk, its first frames decoded."""
        return self.recache.median + self.generate.median + self.first_decode.median

    @property
    def start_ahead_ns(self) -> int:
        """How long before its first frame is due a chunk is started, with something to spare."""
        return (self.recache.median + self.generate.longest + self.first_decode.longest) * 3 // 2


class ContentClock:
    """Says when the next frame is due, and keeps account of what was late."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self.nominal_ns = round(NS / fps)
        self.period_ns = self.nominal_ns
        self.due_ns: int | None = None  # None: as soon as there is a frame
        self.held = 0
        self.shifted_ns = 0

    def set_pace(self, bottleneck_ns: int, frames: int) -> None:
        """Stretch the period when the slowest stage takes `bottleneck_ns` for `frames` frames."""
        needed = bottleneck_ns // max(frames, 1)
        self.period_ns = needed if needed > self.nominal_ns * SLOW_RATIO else self.nominal_ns

    @property
    def slow(self) -> bool:
        """Whether the period is stretched."""
        return self.period_ns > self.nominal_ns

    def pts_ns(self, frame: int) -> int:
        """Content time of a frame number (1 and up)."""
        return round((frame - 1) * NS / self.fps)

    def shown(self, now_ns: int, ready_ns: int) -> int:
        """A frame that was ready at `ready_ns` is shown; how late it is against its due time, ns.

        A frame that was ready in time and is shown within a period of its due time does not move the clock: waking up
        late by a little does not add up.
        """
        due = now_ns if self.due_ns is None else self.due_ns
        base = max(due, ready_ns)
        if now_ns - base > self.nominal_ns:
            base = now_ns
        self.held += round((base - due) / self.nominal_ns)
        self.shifted_ns += base - due + self.period_ns - self.nominal_ns
        self.due_ns = base + self.period_ns
        return max(0, now_ns - due)
