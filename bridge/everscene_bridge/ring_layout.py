"""The frame ring byte by byte: docs/protocol.md §7 as numpy types."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np

MAGIC: Final = b"EVERRING"
VERSION: Final = 1 << 16
HEADER_BYTES: Final = 4096
DESC_OFFSET: Final = 0x200
DESC_STRIDE: Final = 128
DATA_OFFSET: Final = 65536
SLOT_ALIGNMENT: Final = 65536  # granularity of mappings on Windows, and a multiple of every page size
BYTE_ORDER: Final = 0x01020304
FOURCC_RGBA: Final = 0x41424752
MIN_SLOTS: Final = 3
MAX_SLOTS: Final = 28

STATE_STARTING: Final = 0
STATE_LIVE: Final = 1
STATE_CLOSED: Final = 2
STATE_REPLACED: Final = 3
STATE_ERROR: Final = 4

LATEST_SEQ_WORD: Final = 0x080 // 8
"""Index of latest_seq when the header is seen as 64-bit words."""
HEARTBEAT_WORD: Final = 0x088 // 8

_HEADER_FIELDS: Final = {
    "magic": ("S8", 0x000),
    "version": ("<u4", 0x008),
    "header_bytes": ("<u4", 0x00C),
    "file_bytes": ("<u8", 0x010),
    "slot_count": ("<u4", 0x018),
    "desc_offset": ("<u4", 0x01C),
    "desc_stride": ("<u4", 0x020),
    "data_offset": ("<u4", 0x024),
    "slot_stride": ("<u8", 0x028),
    "slot_capacity": ("<u8", 0x030),
    "ring_id": ("<u8", 0x038),
    "writer_pid": ("<u8", 0x040),
    "created_unix_ns": ("<u8", 0x048),
    "clock_offset_ns": ("<i8", 0x050),
    "byte_order": ("<u4", 0x058),
    "flags": ("<u4", 0x05C),
    "epoch": ("<u8", 0x060),
    "fps_numerator": ("<u4", 0x068),
    "fps_denominator": ("<u4", 0x06C),
    "latest_seq": ("<u8", 0x080),
    "heartbeat_unix_ns": ("<u8", 0x088),
    "state": ("<u4", 0x090),
}
_DESCRIPTOR_FIELDS: Final = {
    "lock": ("<u8", 0),
    "seq": ("<u8", 8),
    "pts_ns": ("<i8", 16),
    "commit_unix_ns": ("<i8", 24),
    "width": ("<u4", 32),
    "height": ("<u4", 36),
    "stride_bytes": ("<u4", 40),
    "payload_bytes": ("<u4", 44),
    "fourcc": ("<u4", 48),
    "primaries": ("u1", 52),
    "transfer": ("u1", 53),
    "matrix": ("u1", 54),
    "full_range": ("u1", 55),
    "flags": ("<u4", 56),
    "crc32": ("<u4", 60),
    "epoch": ("<u8", 64),
    "order": ("<u8", 72),
    "generation_us": ("<u4", 80),
    "index": ("<u4", 84),
    "chunk": ("<u8", 88),
}


def _structure(fields: dict[str, tuple[str, int]], size: int) -> np.dtype[np.void]:
    return np.dtype(
        {
            "names": list(fields),
            "formats": [form for form, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": size,
        }
    )


HEADER: Final = _structure(_HEADER_FIELDS, DESC_OFFSET)
DESCRIPTOR: Final = _structure(_DESCRIPTOR_FIELDS, DESC_STRIDE)


@dataclass(frozen=True)
class RingShape:
    """Sizes of a ring of RGBA8 frames; everything else about its size follows."""

    width: int  # pixels
    height: int  # pixels
    slot_count: int = 8  # 3 to 28

    def __post_init__(self) -> None:
        if not MIN_SLOTS <= self.slot_count <= MAX_SLOTS:
            raise ValueError(f"slot_count is {self.slot_count}; a ring has {MIN_SLOTS} to {MAX_SLOTS} slots")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a frame of {self.width} by {self.height} pixels has no pixels")

    @property
    def stride_bytes(self) -> int:
        """From row to row."""
        return self.width * 4

    @property
    def payload_bytes(self) -> int:
        """Bytes of one frame."""
        return self.stride_bytes * self.height

    @property
    def slot_stride(self) -> int:
        """From slot to slot."""
        return -(-self.payload_bytes // SLOT_ALIGNMENT) * SLOT_ALIGNMENT

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return DATA_OFFSET + self.slot_count * self.slot_stride


def rate_fraction(fps: float) -> tuple[int, int]:
    """Numerator and denominator of a content rate; 23.976 and its kin come out as multiples of 1/1001."""
    near = Fraction(round(fps * 1001), 1001)
    whole = Fraction(fps).limit_denominator(1000)
    rate = whole if abs(whole - Fraction(fps)) <= abs(near - Fraction(fps)) else near
    return rate.numerator, rate.denominator
