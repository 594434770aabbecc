"""YAML files with models behind them: what is wrong is named with file, line, column, field, value and rule."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from everscene_bridge.errors import SceneError
from everscene_bridge.wording import rule_of, short

Place = Sequence[str | int]


class Checked(BaseModel):
    """Base of all that such a file holds: no unknown fields, no guessing of types, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Model = TypeVar("Model", bound=BaseModel)


class Misplaced(ValueError):
    """What a validator of a whole raises for a part of it. place: of that part, from the whole on."""

    def __init__(self, place: Place, rule: str) -> None:
        super().__init__(rule)
        self.place = tuple(place)


def read_seconds(value: Any) -> Any:
    """`2`, `2.5`, `2s`, `2.5 s` and `1:02.5` (minutes, hours before them) are all seconds; what is neither number nor
    text stays as it is, to be refused."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(?:(?:(\d+):)?(\d+):)?(\d*\.?\d+)\s*s?\s*", value)
    if match is None:
        raise ValueError(f"must be seconds, as 2.5, 2.5s or 1:02.5 (got {value!r})")
    hours, minutes, rest = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest)


Seconds = Annotated[float, BeforeValidator(read_seconds), Field(ge=0, le=86_400)]
PositiveSeconds = Annotated[float, BeforeValidator(read_seconds), Field(gt=0, le=86_400)]


@dataclass(frozen=True)
class YamlText:
    """The data of a YAML document, and where each part of it stands."""

    source: str  # stands for the file in errors
    data: Any
    root: yaml.Node | None  # None: it came from JSON lines
    lines: tuple[int, ...] = ()  # of JSON lines: that of the head, then that of each of the `steps`

    def error(self, place: Place, rule: str) -> str:
        """One line: source, line, column, field, rule."""
        field = ".".join(str(part) for part in place) or "the file"
        line, column = self._position(place)
        return f"{self.source}:{line}:{column}: {field}: {rule}"

    def check(self, model: type[Model]) -> Model:
        """The data as this model. Raises SceneError with a line for each thing that is wrong."""
        try:
            return model.model_validate(self.data)
        except ValidationError as problem:
            raise SceneError("\n".join(self._describe(error) for error in problem.errors(include_url=False))) from None

    def _describe(self, error: ErrorDetails) -> str:
        place = [part for part in error["loc"] if part != "[key]"]
        inside = error.get("ctx", {}).get("error")
        if isinstance(inside, Misplaced):
            place += inside.place
        told = error["type"] in ("missing", "extra_forbidden", "value_error") or error["input"] is None
        got = "" if told else f" (got {short(error['input'])})"
        return self.error(self._without_tags(place, error["type"] == "missing"), rule_of(error) + got)

    def _without_tags(self, place: Place, missing: bool) -> Place:
        """The place without the names that a model puts in between, as the kind of a union."""
        node, found = self.root, []
        for part in place:
            entry = _entry(node, part)
            if entry is not None:
                node = entry[1]
                found.append(part)
            elif self.root is None or (missing and part == place[-1]):
                found.append(part)
        return found

    def _position(self, place: Place) -> tuple[int, int]:
        """Line and column, from 1, of the deepest part of the place that is there."""
        if self.lines:
            step = place[1] + 1 if len(place) > 1 and place[0] == "steps" and isinstance(place[1], int) else 0
            return self.lines[step], 1
        node = self.root
        mark = None if node is None else node.start_mark
        for part in place:
            entry = _entry(node, part)
            if entry is None:
                continue  # a name that the model puts in between, as the kind of a union
            mark, node = entry
        return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


def _entry(node: yaml.Node | None, part: str | int) -> tuple[Any, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if str(key.value) == str(part):
                return key.start_mark, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and 0 <= part < len(node.value):
        return node.value[part].start_mark, node.value[part]
    return None


def read_text(path: Path, what: str) -> str:
    """A file's text. Raises SceneError naming `what` it should be, and the file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise SceneError(f"cannot read the {what} {path}: {problem}") from None


def parse(text: str, source: str) -> YamlText:
    """Read YAML. Raises SceneError for what is none, and for a key that stands twice in one mapping."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        data = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        place = "1:1" if mark is None else f"{mark.line + 1}:{mark.column + 1}"
        raise SceneError(f"{source}:{place}: this is not YAML: {problem.problem or problem.context}") from None
    except (yaml.YAMLError, ValueError, TypeError) as problem:
        raise SceneError(f"{source}:1:1: this is not YAML: {problem}") from None
    except RecursionError:
        raise SceneError(f"{source}:1:1: this is nested too deep") from None
    finally:
        loader.dispose()
    found = YamlText(source, data, root)
    twice = [f"{source}:{line}:{column}: {key!r} stands here a second time" for line, column, key in _twice(root)]
    if twice:
        raise SceneError("\n".join(twice))
    return found


def _twice(node: yaml.Node | None) -> Iterable[tuple[int, int, str]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if isinstance(key, yaml.ScalarNode) and name in seen:
                yield key.start_mark.line + 1, key.start_mark.column + 1, name
            seen.add(name)
            yield from _twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _twice(value)
