"""Where rings lie, who holds them, and clearing away what a killed server left.

A server holds `<name>.lock` by a lock of the operating system for as long as it lives, however it ends. So a lock file
that can be locked belongs to nobody, and its ring can go. The lock is on a file of its own: .NET cannot open a file
that another process holds by flock.
"""

import contextlib
import os
import secrets
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from everscene_bridge.errors import RingError

PREFIX: Final = "everscene-"

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


_held: set[Path] = set()
"""Lock files of this process: a process's own lock never keeps itself out, so the sweep has to know them."""


@dataclass(frozen=True)
class RingPlaces:
    """The files of one ring."""

    ring: Path
    lock: Path
    lock_descriptor: int

    @property
    def unfinished(self) -> Path:
        """The ring's name until its header is written."""
        return self.ring.with_name(self.ring.name + ".tmp")

    def remove(self) -> None:
        """Unlink all of them and let go of the lock. Readers that have the ring mapped keep what they mapped."""
        for path in (self.ring, self.unfinished, self.lock):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        if self.lock in _held:
            _held.discard(self.lock)
            os.close(self.lock_descriptor)


def directories(chosen: Path | None) -> list[Path]:
    """Where a ring may lie, best first: the chosen directory alone, or those of docs/protocol.md §7 that are there."""
    if chosen is not None:
        return [chosen]
    candidates = [Path(tempfile.gettempdir())]
    if sys.platform.startswith("linux"):
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        candidates = [Path("/dev/shm"), *([Path(runtime)] if runtime else []), *candidates]
    return [path for path in dict.fromkeys(candidates) if path.is_dir() and os.access(path, os.W_OK)]


def claim(directory: Path) -> RingPlaces:
    """A new name in the directory, its lock file made and held. Raises RingError."""
    name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    lock = directory / f"{name}.lock"
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as problem:
        raise RingError(f"cannot make {lock}: {problem.strerror}") from None
    if not _try_lock(descriptor):
        os.close(descriptor)
        raise RingError(f"cannot lock {lock}")
    _held.add(lock)
    return RingPlaces(directory / f"{name}.ring", lock, descriptor)


def sweep(directory: Path) -> list[Path]:
    """Remove the rings in the directory whose server is dead; the removed rings."""
    removed: list[Path] = []
    for lock in sorted(directory.glob(f"{PREFIX}*.lock")):
        if lock in _held:
            continue
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except OSError:
            continue  # another user's, or another sweep was quicker
        if _try_lock(descriptor):
            ring = lock.with_suffix(".ring")
            for path in (ring, ring.with_name(ring.name + ".tmp"), lock):
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    path.unlink()
            removed.append(ring)
        os.close(descriptor)
    return removed
