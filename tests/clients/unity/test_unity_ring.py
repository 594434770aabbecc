"""What the C# reader does when a ring is replaced, overrun, damaged or not there; each frame is written by the test."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from everscene_bridge import ring_layout
from everscene_bridge.clock import SystemClock
from everscene_bridge.frame_ring import RingWriter
from everscene_bridge.ring_layout import RingShape

from .conftest import Connect
from .rogues import router
from .session import Session
from .test_unity_rogues import welcome

pytestmark = pytest.mark.slow  # make test-unity runs it

WIDTH, HEIGHT, SLOTS = 20, 9, 4
EPOCH = 77


class Stage:
    """A control socket that welcomes, a frames socket, and rings to write by hand."""

    def __init__(self, folder: Path) -> None:
        self.clock = SystemClock()
        self.folder = folder
        self.hellos = 0
        self.ring = self.make_ring()
        self.place: dict[str, Any] | None = self.place_of(self.ring)
        self._context = zmq.Context()
        self._frames = self._context.socket(zmq.XPUB)
        self._frames.linger = 0
        self._frames.bind("tcp://127.0.0.1:*")

    def close(self) -> None:
        self.ring.close()
        self._frames.close()
        self._context.term()

    def make_ring(self) -> RingWriter:
        shape = RingShape(WIDTH, HEIGHT, SLOTS)
        now_ns = self.clock.now_ns
        ring = RingWriter(shape, epoch=EPOCH, fps=24.0, clock_offset_ns=0, now_ns=now_ns, directory=self.folder)
        ring.set_state(ring_layout.STATE_LIVE)
        return ring

    @staticmethod
    def place_of(ring: RingWriter) -> dict[str, Any]:
        place = ring.place
        return {"path": place.path, "ring_id": place.ring_id, "slot_count": SLOTS, "file_bytes": place.file_bytes}

    def answer(self, message: dict[str, Any]) -> list[bytes]:
        if message["type"] != "hello":
            return []
        self.hellos += 1
        endpoint = self._frames.getsockopt_string(zmq.LAST_ENDPOINT)
        return [welcome(epoch=EPOCH, ring=self.place, frames_endpoint=endpoint, width=WIDTH, height=HEIGHT)]

    def write(self, seq: int) -> None:
        self.ring.loan(seq)[:] = seq % 251
        self.ring.commit(seq, pts_ns=0, commit_unix_ns=self.clock.now_ns(), epoch=EPOCH, flags=8)

    def publish(self, *parts: bytes) -> None:
        self._frames.send_multipart(parts)

    def await_topics(self, *topics: bytes) -> None:
        """Wait until the client has subscribed to these."""
        missing = set(topics)
        while missing:
            assert self._frames.poll(5000), f"nobody asked for {missing}"
            missing.discard(self._frames.recv()[1:])


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def begin(stage: Stage, endpoint: str, connect: Connect, *options: str) -> Session:
    session = connect(endpoint, *options)
    session.expect("connected")
    session.do("frames 1000")
    session.expect("counting")
    stage.write(1)
    assert session.expect("frame")["number"] == 1
    return session


def test_a_replaced_ring_is_followed(stage: Stage, connect: Connect) -> None:
    with router(stage.answer) as endpoint:
        session = begin(stage, endpoint, connect)
        stage.await_topics(b"notice")
        old, stage.ring = stage.ring, stage.make_ring()
        notice = {"kind": "ring_changed", "epoch": EPOCH, "at_ns": 1, "ring": stage.place_of(stage.ring)}
        stage.publish(b"notice", msgpack.packb(notice))
        time.sleep(0.3)
        old.close(ring_layout.STATE_REPLACED)
        stage.write(2)
        assert session.expect("frame")["number"] == 2
    assert stage.hellos == 1


def test_a_ring_that_is_closed_makes_the_client_say_hello_again(stage: Stage, connect: Connect) -> None:
    with router(stage.answer) as endpoint:
        session = begin(stage, endpoint, connect)
        time.sleep(1.1)  # hello is said once a second at most
        old, stage.ring = stage.ring, stage.make_ring()
        stage.place = stage.place_of(stage.ring)
        old.close(ring_layout.STATE_CLOSED)
        stage.write(2)
        assert session.expect("frame")["number"] == 2
    assert stage.hellos == 2


def test_a_ring_without_a_heartbeat_is_given_up_after_three_seconds(stage: Stage, connect: Connect) -> None:
    with router(stage.answer) as endpoint:
        begin(stage, endpoint, connect)
        deadline = time.monotonic() + 8
        while stage.hellos < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert stage.hellos == 2


def test_in_order_every_frame_is_shown_until_the_ring_is_overrun(stage: Stage, connect: Connect) -> None:
    with router(stage.answer) as endpoint:
        session = begin(stage, endpoint, connect, "playback=InOrder")
        for seq in (2, 3, 4):
            stage.write(seq)
        assert [session.expect("frame")["number"] for _ in range(3)] == [2, 3, 4]
        with_gap = [30 + one for one in range(SLOTS)]
        for slot_seq in with_gap:
            stage.ring.loan(slot_seq)[:] = 0
            stage.ring.commit(slot_seq, pts_ns=0, commit_unix_ns=1, epoch=EPOCH, flags=8)
        first = session.expect("frame")["number"]
        assert first in with_gap
        session.ever("frame", number=with_gap[-1])
        lost = session.close()["lost"]
    shown = sum(said["kind"] == "frame" and said["number"] >= 30 for said in session.heard)
    assert lost == with_gap[-1] - 4 - shown


def test_a_frame_under_the_writers_pen_is_not_shown(stage: Stage, connect: Connect) -> None:
    with router(stage.answer) as endpoint:
        session = begin(stage, endpoint, connect)
        stage.ring.loan(2)[:] = 9  # never committed
        words: Any = np.memmap(stage.ring.path, np.uint64, "r+", shape=(512,))
        words[ring_layout.LATEST_SEQ_WORD] = 2
        assert session.quiet_for(0.5, "frame")


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [(0, "8s", b"NORING!!"), (8, "<I", 0x00020000), (0x18, "<I", 200), (0x58, "<I", 0x04030201), (0x38, "<Q", 12345)],
    ids=["magic", "version", "slots", "byte order", "another ring"],
)
def test_a_ring_that_cannot_be_used_is_replaced_by_pictures_through_the_socket(
    stage: Stage, connect: Connect, offset: int, form: str, value: object
) -> None:
    copy = stage.folder / "damaged.ring"
    data = bytearray(stage.ring.path.read_bytes())
    struct.pack_into(form, data, offset, value)
    copy.write_bytes(data)
    assert stage.place is not None
    stage.place["path"] = str(copy)
    with router(stage.answer) as endpoint:
        session = connect(endpoint)
        session.expect("connected")
        stage.await_topics(b"frame.raw", b"notice")
        session.do("frames 1")
        session.expect("counting")
        frame: dict[str, Any] = {"frame": 5, "epoch": EPOCH, "ring_id": 0, "slot": 0, "width": WIDTH, "height": HEIGHT}
        frame |= {"stride": WIDTH * 4, "pts_ns": 0, "chunk": 0, "index": 0, "order": 0, "prompt": "p", "flags": 8}
        stage.publish(b"frame.raw", msgpack.packb(frame), bytes(WIDTH * HEIGHT * 4 - 1))
        assert "a picture of 719 bytes" in session.expect("failed")["reason"]
        stage.publish(b"frame.raw", msgpack.packb(frame), bytes(WIDTH * HEIGHT * 4))
        assert session.expect("frame")["transport"] == "Raw"


def test_a_descriptor_that_points_outside_its_slot_is_not_followed(stage: Stage, connect: Connect) -> None:
    with router(stage.answer) as endpoint:
        session = begin(stage, endpoint, connect)
        stage.write(2)
        session.expect("frame", number=2)
        with stage.ring.path.open("r+b") as file:
            file.seek(0x200 + 128 * (4 % SLOTS) + 36)
            file.write(struct.pack("<I", 1 << 20))  # height
            file.seek(0x200 + 128 * (4 % SLOTS))
            file.write(struct.pack("<Q", 8))
            file.seek(0x80)
            file.write(struct.pack("<Q", 4))
        assert session.quiet_for(0.5, "frame")
        assert session.close()["kind"] == "closed"


def test_frames_of_another_epoch_make_the_client_say_hello_again(stage: Stage, connect: Connect) -> None:
    with router(stage.answer) as endpoint:
        begin(stage, endpoint, connect)
        stage.await_topics(b"frame.ring")
        time.sleep(1.1)
        frame = {"frame": 1, "epoch": EPOCH + 1, "ring_id": 9, "slot": 0, "width": 4, "height": 4, "stride": 16}
        stage.publish(b"frame.ring", msgpack.packb(frame))
        deadline = time.monotonic() + 5
        while stage.hellos < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert stage.hellos == 2
