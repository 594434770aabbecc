"""Snapshots on disk: one safetensors file for each name, with everything but the arrays in its metadata.

Automatic snapshots lie in a folder beside them, a few files for each model that are used in turn; LAST is the newest
that can be read.

The file is whole or not there: it is written beside its place and then renamed. Its metadata is text: `format`,
`model`, `engine` (the facts of the engine's state, JSON) and `world` (the moment and the scene's name, JSON).
"""

import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from everscene_bridge.errors import SnapshotUnreadable
from everscene_bridge.history import Moment
from everscene_engine.port import EngineState

log = logging.getLogger(__name__)

FORMAT: Final = "everscene-snapshot-1"
SUFFIX: Final = ".safetensors"
LAST: Final = "last"
AUTOMATIC: Final = "automatic"
AUTOMATIC_KEPT: Final = 2
NAME: Final = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9 _-]{0,62}[A-Za-z0-9_-])?")
NAME_RULE: Final = "1 to 64 letters, digits, spaces, _ and -, no space at either end"


@dataclass(frozen=True)
class Snapshot:
    """A world as it was on the screen."""

    engine: EngineState
    moment: Moment
    scene: str  # name of the scene file's scene


def save(path: Path, snapshot: Snapshot) -> int:
    """Write it, in place of what was there; its bytes. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": FORMAT,
        "model": str(snapshot.engine.facts["model"]),
        "engine": json.dumps(snapshot.engine.facts),
        "world": json.dumps({"scene": snapshot.scene, "moment": snapshot.moment.to_json()}),
    }
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(dict(snapshot.engine.arrays), part, metadata)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except SafetensorError as problem:
        raise OSError(f"cannot write {path}: {problem}") from problem
    finally:
        part.unlink(missing_ok=True)
    return path.stat().st_size


def load(path: Path) -> Snapshot:
    """Read one. Raises SnapshotUnreadable, naming the file and what is wrong with it."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise SnapshotUnreadable(f"{path} is no snapshot of the format {FORMAT}")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        world = json.loads(metadata["world"])
        engine = EngineState(json.loads(metadata["engine"]), arrays)
        return Snapshot(engine, Moment.from_json(world["moment"]), str(world["scene"]))
    except FileNotFoundError:
        raise SnapshotUnreadable(f"there is no snapshot {path}") from None
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError) as problem:
        raise SnapshotUnreadable(f"{path} is damaged: {type(problem).__name__} {problem}") from problem


def path_of(folder: Path, name: str) -> Path:
    """Where a snapshot of this name lies. Raises ValueError for a name that is none."""
    if name == LAST:
        raise ValueError(f"{LAST!r} is no name for a snapshot: it stands for the newest automatic one")
    if NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name for a snapshot: {NAME_RULE}")
    return folder / (name + SUFFIX)


def automatic_path(folder: Path, model: str, number: int) -> Path:
    """Where the automatic snapshot with this number (0 and up) lies."""
    return folder / AUTOMATIC / f"{model}.{number % AUTOMATIC_KEPT}{SUFFIX}"


def automatic(folder: Path, model: str) -> list[Path]:
    """The automatic snapshots of this model that are there, newest first."""
    kept = [path for number in range(AUTOMATIC_KEPT) if (path := automatic_path(folder, model, number)).exists()]
    return sorted(kept, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def find(folder: Path, name: str, model: str) -> Snapshot:
    """The snapshot of this name, or for LAST the newest automatic one of this model that can be read.

    Raises ValueError for a name that is none, SnapshotUnreadable.
    """
    if name != LAST:
        return load(path_of(folder, name))
    for path in automatic(folder, model):
        try:
            return load(path)
        except SnapshotUnreadable as why:
            log.warning("an automatic snapshot is passed over: %s", why)
    raise SnapshotUnreadable(f"there is no automatic snapshot of {model} in {folder / AUTOMATIC} that can be read")
