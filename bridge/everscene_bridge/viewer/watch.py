"""The newest picture of the stream, for any number of browsers.

One thread follows the client's frames and keeps only the newest. A picture becomes a JPEG when the first browser asks
for it, and then once for all of them; with no browser open nothing is encoded at all.
"""

import asyncio
import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from everscene_bridge.client_frames import Frame

JPEG_QUALITY = 92


@dataclass(frozen=True, eq=False)
class Picture:
    """One frame as the viewer holds it."""

    serial: int  # counts the pictures of this process; frame numbers start anew with an epoch
    frame: Frame
    taken_at: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _made: list[bytes] = field(default_factory=list, repr=False)

    def jpeg(self) -> bytes:
        """The JPEG file, full colour resolution; made at the first call, thread-safe."""
        with self._lock:
            if not self._made:
                self._made.append(self.encoded("JPEG", quality=JPEG_QUALITY, subsampling=0))
            return self._made[0]

    def png(self) -> bytes:
        """The exact pixels as a PNG file."""
        return self.encoded("PNG", compress_level=3)

    def encoded(self, format: str, **options: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(self.frame.pixels[..., :3])).save(file, format, **options)
        return file.getvalue()


class Watch:
    """The newest picture. Set by one thread, read on the event loop."""

    def __init__(self) -> None:
        self.latest: Picture | None = None
        self.loop: asyncio.AbstractEventLoop | None = None  # None until the server runs
        self.wake: Callable[[], None] = lambda: None

    def open(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """From now on `wake` is called on `loop` for every new picture."""
        self.loop, self.wake = loop, wake

    def show(self, frame: Frame) -> None:
        """Puts a new picture in the place of the last."""
        serial = 1 if self.latest is None else self.latest.serial + 1
        self.latest = Picture(serial, frame)
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.wake)

    def age_s(self) -> float:
        """Seconds since the newest picture came; infinite before the first."""
        latest = self.latest
        return float("inf") if latest is None else time.monotonic() - latest.taken_at
