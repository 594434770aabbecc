"""The scene file: named events, and the words that each puts into the prompt.

A scene has slots (`time`, `weather`, …) with words in them, and a template that makes them into one prompt; subject and
setting are repeated in every prompt, because these models need them there. An event fills slots; one with `for` gives
them back after that many seconds of content. What the scene holds at a moment is a SceneState, a value: events make
new ones, and the stream can go back to an older one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from everscene_bridge import messages
from everscene_bridge.errors import InputRejected, SceneError
from everscene_bridge.inputs import Action, Input
from everscene_bridge.messages import EventDescription, ParamDescription, ParamValue, SceneDescription
from everscene_bridge.protocol import MAX_TEXT_PARAM, Transition, When

DEFAULT_SCENE: Final = Path(__file__).parent / "scenes" / "pocket.yaml"
_PLACEHOLDER: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}")

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Words = Annotated[str, Field(max_length=400)]


def _seconds(value: Any) -> Any:
    """`2`, `2.5`, `2s` and `2.5 s` are all seconds."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*s\s*", value)
        return float(match[1]) if match else value
    return value


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NumberParam(_Checked):
    """A number within bounds; `words` says it in words: the first word whose bound is not below the number."""

    type: Literal["number"]
    label: str = ""
    min: float = 0.0
    max: float = 1.0
    default: float
    words: list[tuple[float, Words]] = []

    @model_validator(mode="before")
    @classmethod
    def _pairs(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("words"), list):
            pairs = [tuple(pair) if isinstance(pair, list) else pair for pair in data["words"]]
            return {**data, "words": pairs}
        return data

    @model_validator(mode="after")
    def _in_bounds(self) -> "NumberParam":
        if not self.min <= self.default <= self.max:
            raise ValueError(f"default {self.default} must lie from min {self.min} to max {self.max}")
        bounds = [bound for bound, _ in self.words]
        if bounds != sorted(bounds) or (bounds and bounds[-1] < self.max):
            raise ValueError(f"the bounds of words must rise and reach max {self.max}; they are {bounds}")
        return self

    def words_for(self, value: ParamValue) -> str:
        """The words of a value that was checked. Raises ValueError with the rule when it does not fit."""
        if isinstance(value, bool | str):
            raise ValueError("must be a number")
        if not self.min <= value <= self.max:
            raise ValueError(f"must lie from {self.min:g} to {self.max:g}")
        if not self.words:
            return f"{value:g}"
        return next(words for bound, words in self.words if value <= bound)


class ChoiceParam(_Checked):
    """One of several texts."""

    type: Literal["choice"]
    label: str = ""
    choices: Annotated[list[Words], Field(min_length=1)]
    default: Words

    @model_validator(mode="after")
    def _among_choices(self) -> "ChoiceParam":
        if self.default not in self.choices:
            raise ValueError(f"default {self.default!r} must be one of {self.choices}")
        return self

    def words_for(self, value: ParamValue) -> str:
        """As NumberParam."""
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}")
        return value


class TextParam(_Checked):
    """Free text."""

    type: Literal["text"]
    label: str = ""
    max_length: Annotated[int, Field(ge=1, le=MAX_TEXT_PARAM)] = 80
    default: Words = ""

    def words_for(self, value: ParamValue) -> str:
        """As NumberParam."""
        if not isinstance(value, str):
            raise ValueError("must be text")
        if len(value) > self.max_length:
            raise ValueError(f"must have at most {self.max_length} characters")
        return value


class FlagParam(_Checked):
    """Yes or no, each with its words."""

    type: Literal["flag"]
    label: str = ""
    default: bool = False
    if_true: Words = ""
    if_false: Words = ""

    def words_for(self, value: ParamValue) -> str:
        """As NumberParam."""
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return self.if_true if value else self.if_false


Param = Annotated[NumberParam | ChoiceParam | TextParam | FlagParam, Field(discriminator="type")]


class SceneEvent(_Checked):
    """An event of a scene file."""

    label: str = ""
    group: str = ""
    set: Annotated[dict[Identifier, Words], Field(min_length=1)]
    params: dict[Identifier, Param] = {}
    transition: Transition = "recache"
    when: When = "now"
    for_s: Annotated[float | None, BeforeValidator(_seconds), Field(alias="for", gt=0, le=3600)] = None

    @model_validator(mode="after")
    def _params_are_there(self) -> "SceneEvent":
        for slot, words in self.set.items():
            for name in _PLACEHOLDER.findall(words):
                if name not in self.params:
                    raise ValueError(f"set.{slot} asks for {{{name}}}, which is not among the params")
        return self


class SceneFile(_Checked):
    """A whole scene file."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    template: Annotated[str, Field(min_length=1, max_length=1000)]
    slots: dict[Identifier, Words]
    events: dict[Identifier, SceneEvent]

    @model_validator(mode="after")
    def _slots_are_there(self) -> "SceneFile":
        for name in _PLACEHOLDER.findall(self.template):
            if name not in self.slots:
                raise ValueError(f"template asks for {{{name}}}, which is not among the slots")
        for event_name, event in self.events.items():
            for slot in event.set:
                if slot not in self.slots:
                    raise ValueError(f"events.{event_name}.set.{slot}: there is no slot of this name")
        return self


@dataclass(frozen=True)
class Momentary:
    """The words of an event that goes back by itself."""

    order: int
    sets: Mapping[str, str]
    for_s: float


@dataclass(frozen=True)
class SceneState:
    """What the scene holds: words in slots, momentary events over them, or a whole prompt in their place."""

    slots: Mapping[str, str]
    momentary: tuple[Momentary, ...] = ()
    prompt: str | None = field(default=None)

    def after(self, one: Input) -> "SceneState":
        """The state once this input is in force."""
        action = one.action
        if action.prompt is not None:
            return replace(self, prompt=action.prompt)
        left = tuple(m for m in self.momentary if not set(m.sets) <= set(action.sets))
        if action.for_s is not None:
            new = Momentary(one.order, action.sets, action.for_s)
            return SceneState(self.slots, (*left, new))
        return SceneState({**self.slots, **action.sets}, left)

    def without(self, orders: set[int]) -> "SceneState":
        """The state once these momentary events have passed."""
        return replace(self, momentary=tuple(m for m in self.momentary if m.order not in orders))


class Scene:
    """A scene file that was read and found right."""

    def __init__(self, file: SceneFile) -> None:
        self.file = file
        self.initial = SceneState(dict(file.slots))

    def compose(self, state: SceneState, holds: Callable[[Momentary], bool] = lambda _: True) -> str:
        """The prompt of a state, with those momentary events that still hold."""
        if state.prompt is not None:
            return state.prompt
        slots = dict(state.slots)
        for momentary in state.momentary:
            if holds(momentary):
                slots.update(momentary.sets)
        return _tidy(_PLACEHOLDER.sub(lambda match: slots[match[1]], self.file.template))

    def action(self, name: str, params: Mapping[str, ParamValue], when: When | None) -> Action:
        """What an event does. Raises InputRejected naming event, param, value and rule."""
        event = self.file.events.get(name)
        if event is None:
            known = ", ".join(self.file.events)
            raise InputRejected("unknown_event", f"the scene has no event {name!r}; it has {known}")
        for given in params:
            if given not in event.params:
                known = ", ".join(event.params) or "none"
                raise InputRejected("unknown_param", f"{name} has no param {given!r}; it has {known}")
        words: dict[str, str] = {}
        for key, param in event.params.items():
            value = params.get(key, param.default)
            try:
                words[key] = param.words_for(value)
            except ValueError as rule:
                fits = isinstance(value, str) == isinstance(param.default, str)
                fits = fits and isinstance(value, bool) == isinstance(param.default, bool)
                code = "out_of_range" if fits else "wrong_type"
                raise InputRejected(code, f"{name}.{key} {rule} (got {value!r})") from None
        sets = {slot: _tidy(_fill(template, words)) for slot, template in event.set.items()}
        return Action(sets, None, event.for_s, event.transition, when or event.when)

    def describe(self) -> SceneDescription:
        """What the handshake says of it."""
        events = [_describe(name, event) for name, event in self.file.events.items()]
        return SceneDescription(name=self.file.name, events=events)


def load_scene(path: Path = DEFAULT_SCENE) -> Scene:
    """Read a scene file. Raises SceneError naming file, field, value and rule."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise SceneError(f"cannot read the scene {path}: {problem}") from None
    return parse_scene(text, str(path))


def parse_scene(text: str, source: str = "scene") -> Scene:
    """The same from text; `source` stands for the file in errors."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        raise SceneError(f"{source} is not YAML: {problem}") from None
    try:
        return Scene(SceneFile.model_validate(data))
    except ValidationError as problem:
        lines = [_error_line(error) for error in problem.errors(include_url=False)]
        raise SceneError("\n".join(f"{source}: {line}" for line in lines)) from None


def _error_line(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "the file"
    rule = error["msg"].removeprefix("Value error, ")
    got = "" if error["type"] in ("missing", "value_error") else f" (got {error['input']!r:.80})"
    return f"{place}: {rule}{got}"


def _describe(name: str, event: SceneEvent) -> EventDescription:
    return EventDescription(
        name=name,
        label=event.label or name.replace("_", " ").capitalize(),
        group=event.group,
        when=event.when,
        for_s=event.for_s,
        params=[_describe_param(key, param) for key, param in event.params.items()],
    )


def _describe_param(name: str, param: NumberParam | ChoiceParam | TextParam | FlagParam) -> messages.ParamDescription:
    return ParamDescription(
        name=name,
        label=param.label or name.replace("_", " ").capitalize(),
        type=param.type,
        min=param.min if isinstance(param, NumberParam) else None,
        max=param.max if isinstance(param, NumberParam) else None,
        choices=param.choices if isinstance(param, ChoiceParam) else None,
        max_length=param.max_length if isinstance(param, TextParam) else None,
        default=param.default,
    )


def _fill(template: str, words: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: words[match[1]], template)


def _tidy(text: str) -> str:
    """No doubled spaces, none before a comma, no empty clause left by an empty slot."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+,", ",", text)
    text = re.sub(r"(,\s*)+,", ",", text)
    return text.strip().strip(",").strip()
