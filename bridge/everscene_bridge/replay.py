"""A run again, from its log: the same engine is told the same things in the same order, and each frame compared."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everscene_bridge import snapshots
from everscene_bridge.engines import EngineChoice
from everscene_bridge.errors import ReplayError
from everscene_bridge.run_log import FORMAT, build, frame_hash
from everscene_engine.picture import fitted
from everscene_engine.port import EnginePort, prompting_from_json

WORKS_KEPT = 256
"""Frames of so many of the latest works are remembered, to be compared when they turn up in the log."""

PATHS = ("weights", "start_image")
"""Fields of an EngineChoice that are paths; the log holds them as text."""

Line = dict[str, Any]


@dataclass
class ReplayResult:
    """What came of it."""

    frames: int = 0  # compared, all the same but for the last if there is a difference
    first_difference: int | None = None  # frame number
    other_build: list[str] = field(default_factory=list)  # what is another version or machine than in the log


def replay(path: Path, load: Callable[[EngineChoice], EnginePort]) -> ReplayResult:
    """Do a run again until its end or its first other frame. Raises ReplayError naming file and line."""
    lines = _read(path)
    _, head = next(lines, (0, {}))
    if head.get("kind") != "run" or head.get("format") != FORMAT:
        raise ReplayError(f"{path} is no log of the format {FORMAT}")
    result = ReplayResult(other_build=_differences(head))
    try:
        fields: dict[str, Any] = head["engine"]
        paths = {name: Path(fields[name]) for name in PATHS if fields.get(name) is not None}
        choice = EngineChoice(**{**fields, **paths})
    except (KeyError, TypeError) as problem:
        raise ReplayError(f"{path}, line 1: {problem}") from problem
    run = _Run(path.parent, choice, load, _left_out(path))
    try:
        for number, line in lines:
            try:
                same = run.take(line)
            except (KeyError, TypeError, ValueError) as problem:
                raise ReplayError(f"{path}, line {number}: {type(problem).__name__} {problem}") from problem
            if same is not None:
                result.frames += 1
            if same is False:
                result.first_difference = int(line["frame"])
                break
    finally:
        run.engine.close()
    return result


class _Run:
    """The engine, and the hashes of what it gave."""

    def __init__(
        self, folder: Path, choice: EngineChoice, load: Callable[[EngineChoice], EnginePort], left: set[int]
    ) -> None:
        """left: numbers of the works whose clean pass was left out."""
        self._folder = folder
        self._choice = choice
        self._load = load
        self._left = left
        self.engine = load(choice)
        self._hashes: dict[int, list[str]] = {}  # by number of the work

    def take(self, line: Line) -> bool | None:
        """Do what a line says. For a frame: whether it is the same."""
        kind = line["kind"]
        if kind == "work":
            self._work(line)
        elif kind == "settle":
            self.engine.settle()
        elif kind == "rollback":
            self.engine.rollback(line["latent_frame"])
        elif kind == "image":
            info, file = self.engine.info, line["file"]
            self.engine.begin_with(None if file is None else fitted(self._folder / file, info.width, info.height))
        elif kind in ("restore", "engine"):
            if kind == "engine":
                self.engine.close()
                self.engine = self._load(self._choice)
            if line["file"] is not None:
                self.engine.restore(snapshots.load(self._folder / line["file"]).engine)
        elif kind == "frame":
            made = self._hashes.get(line["work"], [])
            return bool(line["index"] < len(made) and made[line["index"]] == line["hash"])
        return None

    def _work(self, line: Line) -> None:
        outcome = line["outcome"]
        if outcome == "failed":
            return  # what it left behind went with the engine
        if line["rollback"] is not None:
            self.engine.rollback(line["rollback"])
        if outcome == "refused":
            return
        if line["steer"] is not None:
            prompting, transition = line["steer"]
            self.engine.steer(prompting_from_json(prompting), transition)
        hurried = line["number"] in self._left
        chunk = self.engine.generate(lambda: outcome == "dropped", lambda chunk: None, lambda: hurried)
        if chunk is not None:
            info = self.engine.info
            frames = self.engine.decode(chunk).on_host(info.height, info.width)
            self._hashes[line["number"]] = [frame_hash(pixels) for pixels in frames]
            while len(self._hashes) > WORKS_KEPT:
                del self._hashes[next(iter(self._hashes))]


def _left_out(path: Path) -> set[int]:
    """Numbers of the works whose clean pass was left out. Raises ReplayError for one without a number."""
    found = set()
    for place, line in _read(path):
        if line.get("kind") == "unclean":
            if not isinstance(line.get("number"), int):
                raise ReplayError(f"{path}, line {place}: an unclean work needs its number, not {line.get('number')!r}")
            found.add(line["number"])
    return found


def _read(path: Path) -> Iterator[tuple[int, Line]]:
    """The lines with their numbers. A last line that is cut off, as a killed server leaves it, is passed over."""
    try:
        file = path.open(encoding="utf-8")
    except OSError as problem:
        raise ReplayError(f"cannot read {path}: {problem}") from None
    with file:
        for number, text in enumerate(file, start=1):
            try:
                line = json.loads(text)
            except json.JSONDecodeError as problem:
                if not text.endswith("\n"):
                    return
                raise ReplayError(f"{path}, line {number} is no JSON: {problem}") from None
            if not isinstance(line, dict):
                raise ReplayError(f"{path}, line {number} is no JSON map")
            yield number, line


def _differences(head: Line) -> list[str]:
    """What is not as it was, in words."""
    here = build()
    found = []
    for part, values in here.items():
        for name, value in values.items():
            before = head.get(part, {}).get(name)
            if before != value:
                found.append(f"{name} was {before}, is {value}")
    return found
