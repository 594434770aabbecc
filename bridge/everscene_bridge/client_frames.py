"""The frames that a Python client has: notices, and pixels from the ring or from the socket.

Pixels are copied once, from the shared memory straight into the array that the frame owns.
"""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everscene_bridge import protocol
from everscene_bridge.errors import NotInTime, Overwritten
from everscene_bridge.frame_ring import RingReader
from everscene_bridge.messages import FrameNotice, Stamps
from everscene_bridge.protocol import NS

NOTICES_KEPT = 64
PICTURES_KEPT = 8


@dataclass(frozen=True)
class Frame:
    """A frame of the world."""

    pixels: NDArray[np.uint8]  # [H, W, 4] RGBA, sRGB, top row first; the caller's to keep
    number: int  # frame number
    pts: float  # content time, seconds
    prompt: str  # under which it was generated
    stamps: Stamps  # points in time on the server's clock, ns
    order: int  # of the latest event or prompt in it, 0 = none
    chunk: int
    index: int  # in its chunk
    flags: int  # docs/protocol.md §7


class FrameInbox:
    """What is known of the latest frames. Any thread; guarded by the client's condition."""

    def __init__(self, changed: threading.Condition, closed: Callable[[], bool]) -> None:
        """changed: notified after each `take`. closed: whether nothing more will come."""
        self.ring: RingReader | None = None
        self.lost = 0
        self.torn = 0
        self._changed = changed
        self._closed = closed
        self._notices: OrderedDict[int, FrameNotice] = OrderedDict()
        self._pictures: OrderedDict[int, tuple[bytes, bytes]] = OrderedDict()  # frame number → topic, picture

    def forget(self) -> None:
        """The frames are those of another server. Called with the condition held."""
        self._notices.clear()
        self._pictures.clear()

    def take(self, notice: FrameNotice, topic: bytes, picture: bytes | None) -> None:
        """Keep the notice, and the picture if there is one. Called with the condition held."""
        self._notices[notice.frame] = notice
        while len(self._notices) > NOTICES_KEPT:
            self._notices.popitem(last=False)
        if picture is not None:
            self._pictures[notice.frame] = (topic, picture)
            while len(self._pictures) > PICTURES_KEPT:
                self._pictures.popitem(last=False)

    def latest(self) -> Frame | None:
        """The newest frame; None before there is one."""
        for _ in range(protocol.MAX_UNREAD_NOTICES):
            notice = self.newest()
            if notice is None:
                return None
            frame = self.fetch(notice)
            if frame is not None:
                return frame
        return None

    def follow(self, in_order: bool, timeout: float | None) -> "Following":
        """As `Client.frames`."""
        return Following(self, in_order, timeout)

    def next_notice(self, last: int, epoch: int, in_order: bool, timeout: float | None) -> FrameNotice | None:
        """The notice of the frame to give after frame `last` of `epoch`; None when the client is closed."""
        with self._changed:

            def newest() -> FrameNotice | None:
                found = self.newest()
                return None if found is None or (found.epoch == epoch and found.frame <= last) else found

            if not self._changed.wait_for(lambda: self._closed() or newest() is not None, timeout):
                raise NotInTime(f"no frame came within {timeout:g} s")
            found = newest()
            if self._closed() or found is None:
                return None
            if not in_order:
                return found
            oldest = found.frame - (PICTURES_KEPT if self.ring is None else self.ring.slot_count - 1) + 2
            if found.epoch != epoch:
                kept = self._notices.values()
                return next(one for one in kept if one.epoch == found.epoch and one.frame >= oldest)
            return self._notices.get(last + 1, found) if last + 1 >= oldest else found

    def newest(self) -> FrameNotice | None:
        """The newest notice; None before there is one."""
        with self._changed:
            return next(reversed(self._notices.values())) if self._notices else None

    def fetch(self, notice: FrameNotice) -> Frame | None:
        """The frame of a notice; None when its pixels are gone."""
        with self._changed:
            ring = self.ring
            picture = self._pictures.get(notice.frame)
        if ring is not None and ring.ring_id == notice.ring_id and picture is None:
            try:
                pixels, _ = ring.read(notice.frame)
            except Overwritten:
                self.torn += 1
                return None
        elif picture is not None:
            pixels = _decode(picture, notice)
        else:
            return None
        return Frame(
            pixels=pixels,
            number=notice.frame,
            pts=notice.pts_ns / NS,
            prompt=notice.prompt,
            stamps=notice.stamps_ns,
            order=notice.order,
            chunk=notice.chunk,
            index=notice.index,
            flags=notice.flags,
        )


class Following(Iterator[Frame]):
    """Frames one after another. After NotInTime it can be asked again, and goes on where it was."""

    def __init__(self, inbox: FrameInbox, in_order: bool, timeout: float | None) -> None:
        self.timeout = timeout  # seconds; may be changed
        self._inbox = inbox
        self._in_order = in_order
        newest = inbox.newest()
        self._last = 0 if newest is None else newest.frame - 1
        self._epoch = 0 if newest is None else newest.epoch

    def __next__(self) -> Frame:
        inbox, in_order = self._inbox, self._in_order
        while True:
            notice = inbox.next_notice(self._last, self._epoch, in_order, self.timeout)
            if notice is None:
                raise StopIteration
            if in_order and notice.epoch == self._epoch:
                inbox.lost += notice.frame - self._last - 1
            self._last, self._epoch = notice.frame, notice.epoch
            frame = inbox.fetch(notice)
            if frame is not None:
                return frame
            inbox.lost += in_order


def _decode(picture: tuple[bytes, bytes], notice: FrameNotice) -> NDArray[np.uint8]:
    """The pixels [H, W, 4] of a picture that came through the socket."""
    topic, data = picture
    if topic == protocol.TOPIC_JPEG:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).copy()
    return np.frombuffer(data, np.uint8).reshape(notice.height, notice.width, 4).copy()
