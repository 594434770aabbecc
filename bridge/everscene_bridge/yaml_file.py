"""YAML files with models behind them: what is wrong is named with file, line, column, field, value and rule."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from everscene_bridge.errors import SceneError

Place = Sequence[str | int]


class Checked(BaseModel):
    """Base of all that such a file holds: no unknown fields, no guessing of types, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Model = TypeVar("Model", bound=BaseModel)


def read_seconds(value: Any) -> Any:
    """`2`, `2.5`, `2s`, `2.5 s` and `1:02.5` (minutes, hours before them) are all seconds; anything else stays as it
    is, to be refused."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(?:(?:(\d+):)?(\d+):)?(\d*\.?\d+)\s*s?\s*", value)
    if match is None:
        return value
    hours, minutes, rest = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest)


Seconds = Annotated[float, BeforeValidator(read_seconds), Field(ge=0, le=86_400)]
PositiveSeconds = Annotated[float, BeforeValidator(read_seconds), Field(gt=0, le=86_400)]


@dataclass(frozen=True)
class YamlText:
    """The data of a YAML document, and where each part of it stands."""

    source: str  # stands for the file in errors
    data: Any
    root: yaml.Node | None

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

    def _describe(self, error: Any) -> str:
        rule = error["msg"].removeprefix("Value error, ")
        got = "" if error["type"] in ("missing", "value_error") else f" (got {error['input']!r:.80})"
        return self.error([part for part in error["loc"] if part != "[key]"], rule + got)

    def _position(self, place: Place) -> tuple[int, int]:
        """Line and column, from 1, of the deepest part of the place that is there."""
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
