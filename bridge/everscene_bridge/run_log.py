"""The log of a run: what an engine was told, in the order it was told, and a hash of each frame that came of it.

A stream is a function of its seed, its prompts and the latent frames at which it was steered and rolled back; wall time
is nothing to it. So these are what is logged, one JSON map a line, and `replay` needs nothing else:

    run       first line: format, versions, machine, and which engine (model, seed, steps, device, threads)
    input     an event or prompt that was accepted, for people to read
    work      one call of the engine: roll back, steer, generate; `outcome`: made, dropped, refused, failed
    settle    idle time was used for a part of what a recache had left for later
    image     what worlds begin with from here on; `file` lies beside the log, nil: nothing
    rollback  a rewind
    restore   a snapshot was put back; `file` lies beside the log
    engine    a new engine in place of one that failed, with a snapshot (`file`) or without
    frame     a frame was published: which work it came from, its index there, and the hash of its pixels
"""

import hashlib
import json
import os
import platform
import threading
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from everscene_bridge import snapshots
from everscene_bridge.engines import EngineChoice
from everscene_bridge.snapshots import Snapshot
from everscene_engine.picture import to_png
from everscene_engine.port import EngineInfo

FORMAT: Final = "everscene-run-1"
PACKAGES: Final = ("everscene", "torch", "numpy")


class RunLog:
    """Writes the log. Any thread may call it; a line is written whole."""

    def __init__(self, path: Path, choice: EngineChoice, info: EngineInfo) -> None:
        """Begins a new file. Raises OSError. The device is logged as the engine found it."""
        self._path = path
        self._lock = threading.Lock()
        self._snapshots = 0
        self._file = path.open("w", encoding="utf-8", buffering=1)
        fields = {
            name: str(value.absolute()) if isinstance(value, Path) else value for name, value in asdict(choice).items()
        }
        engine = {**fields, "device": info.device, "steps": info.steps if choice.steps is not None else None}
        size = {"width": info.width, "height": info.height, "fps": info.fps}
        self.write("run", format=FORMAT, **build(), engine=engine, **size)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """No more is written."""
        with self._lock:
            self._file.close()

    def write(self, kind: str, **fields: Any) -> None:
        """One line; nothing once the log is closed."""
        line = json.dumps({"kind": kind, **fields}, ensure_ascii=False, separators=(",", ":"))
        with self._lock:
            if not self._file.closed:
                self._file.write(line + "\n")

    def write_snapshot(self, kind: str, snapshot: Snapshot | None) -> None:
        """A line about a snapshot, which is kept beside the log."""
        if snapshot is None:
            self.write(kind, file=None)
            return
        self._snapshots += 1
        file = self._path.with_name(f"{self._path.name}.{self._snapshots}{snapshots.SUFFIX}")
        snapshots.save(file, snapshot)
        self.write(kind, file=file.name)

    def write_picture(self, pixels: NDArray[np.uint8] | None) -> None:
        """A line about what worlds begin with [H, W, 3]; the picture is kept beside the log, once."""
        if pixels is None:
            self.write("image", file=None)
            return
        file = self._path.with_name(f"{self._path.name}.{frame_hash(pixels)}.png")
        if not file.exists():
            file.write_bytes(to_png(pixels))
        self.write("image", file=file.name)


def build() -> dict[str, Any]:
    """What replay must find again to give the same bits."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from the source tree, not installed
            versions[package] = "not installed"
    return {"versions": versions, "machine": {"kind": platform.machine(), "cpus": os.cpu_count()}}


def frame_hash(pixels: NDArray[np.uint8]) -> str:
    """Of the pixels [H, W, 4] or [H, W, 3]: BLAKE2b, 16 bytes."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()
