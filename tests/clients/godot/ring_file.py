"""A frame ring as docs/protocol.md §7 says it is, for the peer to write."""

import mmap
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLOTS = 8
DATA_OFFSET = 65536


class RingFile:
    """The file of docs/protocol.md §7, written in its order."""

    def __init__(self, folder: Path, epoch: int, width: int, height: int, fps: int) -> None:
        self.ring_id = random.getrandbits(62) + 1
        self.path = folder / f"everscene-{os.getpid()}-{random.getrandbits(32):08x}.ring"
        self.width, self.height = width, height
        capacity = width * height * 4
        self.slot_stride = -(-capacity // 65536) * 65536
        self.file_bytes = DATA_OFFSET + SLOTS * self.slot_stride
        with self.path.open("wb") as file:
            file.truncate(self.file_bytes)
        self._file = self.path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), self.file_bytes)
        self._words = np.frombuffer(self._map, np.uint64)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._epoch = epoch
        struct.pack_into(
            "<8sIIQIIIIQQQQQqIIQII",
            self._map,
            0,
            b"EVERRING",
            0x00010000,
            4096,
            self.file_bytes,
            SLOTS,
            0x200,
            128,
            DATA_OFFSET,
            self.slot_stride,
            capacity,
            self.ring_id,
            os.getpid(),
            time.time_ns(),
            0,
            0x01020304,
            0,
            epoch,
            fps,
            1,
        )
        self.beat()
        self.set_state(1)

    def beat(self) -> None:
        self._words[0x88 // 8] = time.time_ns()

    def set_state(self, state: int) -> None:
        struct.pack_into("<I", self._map, 0x90, state)

    def commit(self, frame: dict[str, Any], picture: NDArray[np.uint8]) -> None:
        number, slot = frame["frame"], frame["frame"] % SLOTS
        at = 0x200 + 128 * slot
        self._words[at // 8] = 2 * number - 1
        start = DATA_OFFSET + slot * self.slot_stride
        self._bytes[start : start + picture.nbytes] = picture.reshape(-1)
        struct.pack_into(
            "<QqqIIIIIBBBBIIQQIIQ",
            self._map,
            at + 8,
            number,
            frame["pts_ns"],
            frame["stamps_ns"]["published"],
            self.width,
            self.height,
            self.width * 4,
            picture.nbytes,
            0x41424752,
            1,
            13,
            0,
            1,
            frame["flags"],
            0,
            self._epoch,
            frame["order"],
            1000,
            frame["index"],
            frame["chunk"],
        )
        self._words[at // 8] = 2 * number
        self._words[0x80 // 8] = number

    def close(self) -> None:
        self.set_state(2)
        self.path.unlink(missing_ok=True)

    def description(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "ring_id": self.ring_id,
            "slot_count": SLOTS,
            "file_bytes": self.file_bytes,
        }
