"""Which tensor of a `.pt` file is damaged.

Such a file is a zip archive: `data.pkl` says which tensor lies in which record, and `data/KEY` are the records, each
with a CRC-32 in the archive's directory, which comes last. torch looks at none of these sums, and of a file that was
cut off it can only say that the directory is missing. Here the pickle is read for the names alone (nothing in it is
called), the sums are compared, and of a file without its directory the first record that is not whole is found.
"""

import mmap
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEADER = 30  # bytes of a record's header before its name
_SIZES = {
    "DoubleStorage": 8, "LongStorage": 8, "ComplexFloatStorage": 8, "FloatStorage": 4, "IntStorage": 4,
    "HalfStorage": 2, "BFloat16Storage": 2, "ShortStorage": 2,
}  # fmt: skip
_BLOCK = 2**24


@dataclass(frozen=True)
class _Record:
    key: str
    nbytes: int


def damaged_tensor(path: Path) -> str | None:
    """The first tensor of a `.pt` file that is not whole, in words (`tensor 'x' …`); None if there is none, or if this
    is no such file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            name, start = _first_record(content)
            if not name.endswith("/data.pkl"):
                return None
            file.seek(start)
            records = dict(_records(_Names(file).load()))
            root = name.removesuffix("data.pkl")
            try:
                with zipfile.ZipFile(path) as archive:
                    return _with_other_sum(content, archive, root, records)
            except zipfile.BadZipFile:
                return _cut_off(content, root, records)
    except (OSError, ValueError, pickle.UnpicklingError, EOFError, IndexError, KeyError, TypeError, AttributeError):
        return None  # not for us to say: torch has read it or will say why not


def _with_other_sum(
    content: mmap.mmap, archive: zipfile.ZipFile, root: str, records: Mapping[str, _Record]
) -> str | None:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if _sum(content, entries[f"{root}data.pkl"]) != entries[f"{root}data.pkl"].CRC:
        return None  # written without sums
    for tensor, record in records.items():
        entry = entries.get(f"{root}data/{record.key}")
        if entry is None or entry.file_size < record.nbytes:
            return f"tensor '{tensor}' is not in the file"
        if _sum(content, entry) != entry.CRC:
            return f"tensor '{tensor}' is damaged: its checksum differs"
    return None


def _sum(content: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    _, start = _first_record(content, entry.header_offset)
    total = 0
    for place in range(start, start + entry.file_size, _BLOCK):
        total = zlib.crc32(content[place : min(place + _BLOCK, start + entry.file_size)], total)
    return total


def _cut_off(content: mmap.mmap, root: str, records: Mapping[str, _Record]) -> str | None:
    """The records lie in the order of their keys; the first that is not whole is where the file ends."""
    place = 0
    for tensor, record in sorted(records.items(), key=lambda one: int(one[1].key)):
        found = content.find(f"{root}data/{record.key}FB".encode(), place)  # FB: begins the padding after the name
        if found >= 0:
            place = _first_record(content, found - _HEADER)[1] + record.nbytes
        if found < 0 or place > len(content):
            return f"tensor '{tensor}' lies past the end of the file"
    return None


def _first_record(content: mmap.mmap, at: int = 0) -> tuple[str, int]:
    """Name of the record whose header lies here, and where its bytes begin. Raises ValueError."""
    header = content[at : at + _HEADER]
    if header[:4] != b"PK\x03\x04":
        raise ValueError("no record of a zip archive")
    name, more = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return content[at + _HEADER : at + _HEADER + name].decode(), at + _HEADER + name + more


def _records(held: Any, prefix: str = "") -> Iterator[tuple[str, _Record]]:
    if isinstance(held, _Record):
        yield prefix, held
    elif isinstance(held, Mapping):
        for name, value in held.items():
            yield from _records(value, f"{prefix}.{name}" if prefix else str(name))


def _rebuilt(data: Any, *_: Any) -> Any:
    return data


class _Names(pickle.Unpickler):
    """Where tensors lie, without making any."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name.startswith("_rebuild_"):
            return _rebuilt
        if (module, name) == ("torch", "Size"):
            return tuple
        if module in ("torch", "torch.storage"):
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a weights file")

    def persistent_load(self, pid: Any) -> _Record:
        _, kind, key, _, count = pid
        return _Record(key, count * _SIZES.get(kind, 1))
