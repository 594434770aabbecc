"""Params of events: what may be sent along with an event, and the words that a value becomes in the prompt."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from everscene_bridge.messages import ParamDescription, ParamValue
from everscene_bridge.protocol import MAX_TEXT_PARAM
from everscene_bridge.yaml_file import Checked

Words = Annotated[str, Field(max_length=400)]


class NumberParam(Checked):
    """A number within bounds; `words` says it in words: the first word whose bound is not below the number."""

    type: Literal["number"]
    label: str = ""
    min: float = 0.0
    max: float = 1.0
    default: float
    words: list[tuple[float, Words]] = Field(default_factory=list)

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

    def values(self) -> list[ParamValue]:
        """Values that between them make all its words; a number that stands for itself has its default alone."""
        reached = [bound for bound, _ in self.words if self.min <= bound <= self.max]
        return [self.default, *reached, self.max] if self.words else [self.default]


class ChoiceParam(Checked):
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

    def values(self) -> list[ParamValue]:
        """As NumberParam."""
        return [self.default, *(choice for choice in self.choices if choice != self.default)]


class TextParam(Checked):
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

    def values(self) -> list[ParamValue]:
        """As NumberParam: free text has its default alone."""
        return [self.default]


class FlagParam(Checked):
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

    def values(self) -> list[ParamValue]:
        """As NumberParam."""
        return [self.default, not self.default]


Param = NumberParam | ChoiceParam | TextParam | FlagParam


def describe(name: str, param: Param) -> ParamDescription:
    """What the handshake says of it."""
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
