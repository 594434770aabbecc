"""The log of a run: what an engine was told, in the order it was told, and a hash of each frame that came of it.

A stream is a function of its seed, its prompts and the latent frames at which it was steered and rolled back; wall time
is nothing to it. So these are what is logged, one JSON map a line, and `replay` needs nothing else:

    run       first line: format, versions, machine, and which engine (model, seed, steps, device, threads)
    input     an event or prompt that was accepted, for people to read
    work      one call of the engine: roll back, steer, generate; `outcome`: made, dropped, refused, failed
    unclean   the clean pass of a work was left out
    settle    idle time was used for a part of what a recache had left for later
    image     what worlds begin with from here on; `file` lies beside the log, nil: nothing
    rollback  a rewind
    restore   a snapshot was put back; `file` lies beside the log
    engine    a new engine in place of one that failed, with a snapshot (`file`) or without
    frame     a frame was published: which work it came from, its index there, and the hash of its pixels
"""

import contextlib
import hashlib
import json
import logging
import os
import platform
import threading
from collections.abc import Callable
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

log = logging.getLogger(__name__)

FORMAT: Final = "everscene-run-1"
PACKAGES: Final = ("everscene", "torch", "numpy")


class RunLog:
    """Writes the log. Any thread may call it; a line is written whole.

    A log that cannot be written any more, as on a full disk, ends there and is closed; the run goes on without it.
    """

    def __init__(self, path: Path, choice: EngineChoice, info: EngineInfo) -> None:
        """Begins a new file. Raises OSError if it cannot. The device is logged as the engine found it."""
        self._path = path
        self._lock = threading.Lock()
        self._snapshots = 0
        self._file = path.open("w", encoding="utf-8", buffering=1)
        fields = {
            name: str(value.absolute()) if isinstance(value, Path) else value for name, value in asdict(choice).items()
        }
        engine = {**fields, "device": info.device, "steps": info.steps if choice.steps is not None else None}
        size = {"width": info.width, "height": info.height, "fps": info.fps}
        try:
            self._file.write(_line("run", format=FORMAT, **build(), engine=engine, **size))
        except OSError:
            self._close()
            raise

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """No more is written."""
        with self._lock:
            self._close()

    def write(self, kind: str, **fields: Any) -> None:
        """One line; nothing once the log is closed."""
        line = _line(kind, **fields)
        with self._lock:
            if self._file.closed:
                return
            try:
                self._file.write(line)
            except OSError as problem:
                self._end(problem)

    def write_snapshot(self, kind: str, snapshot: Snapshot | None) -> None:
        """A line about a snapshot, which is kept beside the log."""
        if snapshot is None:
            self.write(kind, file=None)
            return
        self._snapshots += 1
        file = self._path.with_name(f"{self._path.name}.{self._snapshots}{snapshots.SUFFIX}")
        if self._keep(lambda: snapshots.save(file, snapshot)):
            self.write(kind, file=file.name)

    def write_picture(self, pixels: NDArray[np.uint8] | None) -> None:
        """A line about what worlds begin with [H, W, 3]; the picture is kept beside the log, once."""
        if pixels is None:
            self.write("image", file=None)
            return
        file = self._path.with_name(f"{self._path.name}.{frame_hash(pixels)}.png")
        if file.exists() or self._keep(lambda: file.write_bytes(to_png(pixels))):
            self.write("image", file=file.name)

    def _keep(self, write: Callable[[], object]) -> bool:
        """Write a file beside the log, unless the log has ended; whether it is there."""
        if self._file.closed:
            return False
        try:
            write()
        except OSError as problem:
            with self._lock:
                self._end(problem)
            return False
        return True

    def _end(self, problem: OSError) -> None:
        log.error("the log %s ends here, the run goes on: %s", self._path, problem)
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):  # of what could not be written, and is tried again by closing
            self._file.close()


def _line(kind: str, **fields: Any) -> str:
    return json.dumps({"kind": kind, **fields}, ensure_ascii=False, separators=(",", ":")) + "\n"


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
