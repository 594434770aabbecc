"""The frame ring: one file in memory, written by the server, mapped by any number of readers.

The writer never waits for readers. Each slot bears a lock word: odd while it is written, 2 × seq once it is
committed. A reader copies the pixels and looks at the lock again; if it has changed, the copy is thrown away.
docs/protocol.md §7 has the layout, ring_layout.py the same as types.

Writing is two steps, so that whoever has the pixels can put them straight into the slot: `loan` gives the slot's
memory, `commit` says that it is a frame.
"""

import contextlib
import mmap
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everscene_bridge import ring_files, ring_layout
from everscene_bridge.errors import Overwritten, RingError, RingUnreadable
from everscene_bridge.fence import fence
from everscene_bridge.messages import RingPlace
from everscene_bridge.protocol import MAX_ID
from everscene_bridge.ring_layout import DESCRIPTOR, HEADER, RingShape


@dataclass(frozen=True)
class SlotWords:
    """What a slot's descriptor says about its frame."""

    seq: int
    pts_ns: int
    commit_unix_ns: int
    width: int
    height: int
    flags: int
    epoch: int
    order: int
    generation_us: int
    index: int
    chunk: int


class RingWriter:
    """Makes a ring and writes frames into it. One thread."""

    def __init__(
        self,
        shape: RingShape,
        *,
        epoch: int,
        fps: float,
        clock_offset_ns: int,
        now_ns: Callable[[], int],
        directory: Path | None = None,
    ) -> None:
        """Take the first directory that has the room. Raises RingError when none has."""
        self.shape = shape
        self.ring_id = secrets.randbelow(MAX_ID) + 1
        self._now_ns = now_ns
        self._places, self._memory = _make_file(shape, directory)
        self._words: NDArray[np.uint64] = np.frombuffer(self._memory, np.uint64, ring_layout.HEADER_BYTES // 8)
        self._header: NDArray[np.void] = np.frombuffer(self._memory, HEADER, 1)
        self._slots: NDArray[np.void] = np.frombuffer(
            self._memory, DESCRIPTOR, shape.slot_count, offset=ring_layout.DESC_OFFSET
        )
        numerator, denominator = ring_layout.rate_fraction(fps)
        self._write_header(
            epoch=epoch,
            clock_offset_ns=clock_offset_ns,
            fps_numerator=numerator,
            fps_denominator=denominator,
        )
        self._loaned = 0
        self._places.unfinished.rename(self._places.ring)

    @property
    def path(self) -> Path:
        """The ring's file."""
        return self._places.ring

    @property
    def place(self) -> RingPlace:
        """What `welcome` says of it."""
        return RingPlace(
            path=str(self.path),
            ring_id=self.ring_id,
            slot_count=self.shape.slot_count,
            file_bytes=self.shape.file_bytes,
        )

    def _write_header(self, **more: int) -> None:
        shape = self.shape
        values: dict[str, Any] = {
            "magic": ring_layout.MAGIC,
            "version": ring_layout.VERSION,
            "header_bytes": ring_layout.HEADER_BYTES,
            "file_bytes": shape.file_bytes,
            "slot_count": shape.slot_count,
            "desc_offset": ring_layout.DESC_OFFSET,
            "desc_stride": ring_layout.DESC_STRIDE,
            "data_offset": ring_layout.DATA_OFFSET,
            "slot_stride": shape.slot_stride,
            "slot_capacity": shape.payload_bytes,
            "ring_id": self.ring_id,
            "writer_pid": os.getpid(),
            "created_unix_ns": self._now_ns(),
            "byte_order": ring_layout.BYTE_ORDER,
            "heartbeat_unix_ns": self._now_ns(),
            "state": ring_layout.STATE_STARTING,
            **more,
        }
        for name, value in values.items():
            self._header[name] = value

    @property
    def memory(self) -> NDArray[np.uint8]:
        """All of the file, as bytes: for whoever prepares it for copies by DMA."""
        return np.frombuffer(self._memory, np.uint8)

    def loan(self, seq: int) -> NDArray[np.uint8]:
        """The memory of the slot for frame `seq` (1 and up): [H, W, 4] uint8 RGBA, sRGB, top row first.

        The slot's old frame is gone from here on.
        """
        slot = seq % self.shape.slot_count
        self._words[self._lock_word(slot)] = 2 * seq - 1
        fence()
        self._loaned = seq
        shape = self.shape
        offset = ring_layout.DATA_OFFSET + slot * shape.slot_stride
        pixels: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8, shape.payload_bytes, offset=offset)
        return pixels.reshape(shape.height, shape.width, 4)  # [H, W, 4]

    def commit(
        self,
        seq: int,
        *,
        pts_ns: int,
        commit_unix_ns: int,
        epoch: int,
        flags: int = 0,
        order: int = 0,
        generation_us: int = 0,
        index: int = 0,
        chunk: int = 0,
    ) -> int:
        """Make the loaned slot frame `seq`; its slot number. All points in time are the server's clock, ns."""
        assert seq == self._loaned, f"frame {seq} was not loaned"
        slot = seq % self.shape.slot_count
        values = {
            "seq": seq,
            "pts_ns": pts_ns,
            "commit_unix_ns": commit_unix_ns,
            "width": self.shape.width,
            "height": self.shape.height,
            "stride_bytes": self.shape.stride_bytes,
            "payload_bytes": self.shape.payload_bytes,
            "fourcc": ring_layout.FOURCC_RGBA,
            "primaries": 1,
            "transfer": 13,
            "matrix": 0,
            "full_range": 1,
            "flags": flags,
            "epoch": epoch,
            "order": order,
            "generation_us": min(generation_us, 2**32 - 1),
            "index": index,
            "chunk": chunk,
        }
        descriptor = self._slots[slot]
        for name, value in values.items():
            descriptor[name] = value
        fence()
        self._words[self._lock_word(slot)] = 2 * seq
        fence()
        self._words[ring_layout.LATEST_SEQ_WORD] = seq
        self._loaned = 0
        return slot

    def beat(self) -> None:
        """Renew the heartbeat."""
        self._words[ring_layout.HEARTBEAT_WORD] = self._now_ns()

    def set_state(self, state: int) -> None:
        """Set one of the STATE_ words of ring_layout."""
        self._header["state"] = state

    def close(self, state: int = ring_layout.STATE_CLOSED) -> None:
        """Say so in the header and unlink the files. Calling it again does nothing."""
        if self._memory.closed:
            return
        self.set_state(state)
        self._places.remove()
        del self._words, self._header, self._slots
        with contextlib.suppress(BufferError):  # a loaned slot is still held somewhere: the memory goes with it
            self._memory.close()

    @staticmethod
    def _lock_word(slot: int) -> int:
        return (ring_layout.DESC_OFFSET + slot * ring_layout.DESC_STRIDE) // 8


def _make_file(shape: RingShape, chosen: Path | None) -> tuple[ring_files.RingPlaces, mmap.mmap]:
    problems: list[str] = []
    for directory in ring_files.directories(chosen):
        try:
            places = ring_files.claim(directory)
        except RingError as problem:
            problems.append(str(problem))
            continue
        try:
            return places, _reserve(places.unfinished, shape.file_bytes)
        except OSError as problem:
            problems.append(f"no room for {shape.file_bytes} bytes in {directory}: {problem.strerror}")
            places.remove()
    raise RingError("; ".join(problems) or "there is no directory for the frame ring; give one with --ring-dir")


def _reserve(path: Path, size: int) -> mmap.mmap:
    """A new file of zeros whose space is truly there: a sparse file on a full tmpfs would kill us later by SIGBUS."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        if sys.platform == "win32" or not hasattr(os, "posix_fallocate"):
            for start in range(0, size, 1 << 20):
                os.write(descriptor, bytes(min(1 << 20, size - start)))
        else:
            os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


class RingReader:
    """Reads frames from a ring. Any thread, any number of readers."""

    def __init__(self, path: Path, ring_id: int | None = None) -> None:
        """Map the ring. Raises RingUnreadable when it is not there, is no ring, or is not the one with `ring_id`."""
        try:
            with path.open("rb") as file:
                self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as problem:
            raise RingUnreadable(f"cannot open the ring {path}: {problem}") from None
        if len(self._memory) < ring_layout.DATA_OFFSET:
            raise RingUnreadable(f"{path} is too short for a ring")
        self._words: NDArray[np.uint64] = np.frombuffer(self._memory, np.uint64, ring_layout.HEADER_BYTES // 8)
        self._header: NDArray[np.void] = np.frombuffer(self._memory, HEADER, 1)
        _check_header(path, self._header[0], len(self._memory), ring_id)
        self.slot_count = int(self._header["slot_count"][0])
        self.ring_id = int(self._header["ring_id"][0])
        self.epoch = int(self._header["epoch"][0])
        self.fps = float(self._header["fps_numerator"][0] / self._header["fps_denominator"][0])
        self._slot_stride = int(self._header["slot_stride"][0])
        self._slot_capacity = int(self._header["slot_capacity"][0])
        self._slots: NDArray[np.void] = np.frombuffer(
            self._memory, DESCRIPTOR, self.slot_count, offset=ring_layout.DESC_OFFSET
        )

    @property
    def latest(self) -> int:
        """Frame number of the latest committed frame, 0 = none."""
        return int(self._words[ring_layout.LATEST_SEQ_WORD])

    @property
    def heartbeat_unix_ns(self) -> int:
        """When the server last said that it lives."""
        return int(self._words[ring_layout.HEARTBEAT_WORD])

    @property
    def state(self) -> int:
        """One of the STATE_ words of ring_layout."""
        return int(self._header["state"][0])

    def read(self, seq: int) -> tuple[NDArray[np.uint8], SlotWords]:
        """Copy frame `seq`: pixels [H, W, 4] uint8, and what the descriptor says. One copy.

        Raises Overwritten when the slot holds another frame, or got one during the copy.
        """
        slot = seq % self.slot_count
        lock = (ring_layout.DESC_OFFSET + slot * ring_layout.DESC_STRIDE) // 8
        if int(self._words[lock]) != 2 * seq:
            raise Overwritten(f"frame {seq} is not in the ring")
        fence()
        descriptor = self._slots[slot].copy()
        height, width = int(descriptor["height"]), int(descriptor["width"])
        size = min(height * width * 4, self._slot_capacity)
        offset = ring_layout.DATA_OFFSET + slot * self._slot_stride
        pixels: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8, size, offset=offset).copy()
        fence()
        if int(self._words[lock]) != 2 * seq:
            raise Overwritten(f"frame {seq} was overwritten while it was copied")
        words = SlotWords(**{name: int(descriptor[name]) for name in SlotWords.__dataclass_fields__})
        return pixels.reshape(height, width, 4), words  # [H, W, 4]


def _check_header(path: Path, header: Any, size: int, ring_id: int | None) -> None:
    if header["magic"] != ring_layout.MAGIC or header["byte_order"] != ring_layout.BYTE_ORDER:
        raise RingUnreadable(f"{path} is not a frame ring")
    if int(header["version"]) >> 16 != ring_layout.VERSION >> 16:
        raise RingUnreadable(f"{path} is a ring of version {int(header['version']) >> 16}; this reader knows version 1")
    if int(header["file_bytes"]) != size:
        raise RingUnreadable(f"{path} has {size} bytes and says {int(header['file_bytes'])}")
    if ring_id is not None and int(header["ring_id"]) != ring_id:
        raise RingUnreadable(f"{path} is another server's ring")
