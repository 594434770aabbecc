"""What a scene file holds, as types; docs/director.md tells it to people."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from everscene_bridge.inputs import Coalesce, Interrupts, Otherwise, Rules
from everscene_bridge.messages import ParamValue
from everscene_bridge.protocol import When
from everscene_bridge.scene_params import Param, Words
from everscene_bridge.ways import BLEND_SECONDS, LONGEST_BLEND_S, RECACHE, Blend, Ease, Way
from everscene_bridge.yaml_file import Checked, Seconds, YamlText, read_seconds
from everscene_engine.port import BlendPath

PLACEHOLDER: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_BRACE: Final = re.compile(r"\{[^{}]*\}?|\}")
ANCHORS: Final = ("subject", "setting")
"""Slots that every prompt must hold: these models need them said again each time."""
FIXED_SLOTS: Final = (*ANCHORS, "style")
MESSAGE_FIELDS: Final = ("name", "when")
"""Params go beside these in a call of a client, so they may not be called like them."""


def _identifier(name: str) -> str:
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) is None:
        raise ValueError("a name is made of small letters, digits and _, and begins with a letter")
    return name


Identifier = Annotated[str, AfterValidator(_identifier), Field(max_length=64)]


class SlotSpec(Checked):
    """A slot: its first words, and which others it may hold. choices: empty for any."""

    default: Words
    choices: list[Words] = Field(default_factory=list)
    max_length: Annotated[int, Field(ge=1, le=400)] = 400

    @model_validator(mode="before")
    @classmethod
    def _words_alone(cls, data: Any) -> Any:
        return {"default": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _default_fits(self) -> "SlotSpec":
        problem = self.problem(self.default)
        if problem:
            raise ValueError(f"default {self.default!r} {problem}")
        return self

    def problem(self, words: str) -> str:
        """The rule that these words break; empty: they fit."""
        if self.choices and words not in self.choices:
            return f"must be one of {', '.join(map(repr, self.choices))}"
        if len(words) > self.max_length:
            return f"must have at most {self.max_length} characters"
        return ""


class BlendSpec(Checked):
    """How a blend goes."""

    seconds: Annotated[float, BeforeValidator(read_seconds), Field(gt=0, le=LONGEST_BLEND_S)] = BLEND_SECONDS
    ease: Ease = "cosine"
    path: BlendPath = "linear"


class WaySpec(Checked):
    """`recache`, `text`, `cut`, `reset`, `blend`, `{blend: 3s}` or `{blend: {seconds: 3s, ease: linear}}`."""

    kind: Literal["recache", "text", "cut", "reset", "blend"] = "recache"
    blend: BlendSpec = BlendSpec()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"kind": data}
        if isinstance(data, dict) and set(data) == {"blend"}:
            how = data["blend"] if isinstance(data["blend"], dict) else {"seconds": data["blend"]}
            return {"kind": "blend", "blend": how}
        raise ValueError("must be recache, text, cut, reset, blend, or a map like {blend: 3s}")

    @property
    def way(self) -> Way:
        """The same for the stream."""
        return Way(self.kind, Blend(self.blend.seconds, self.blend.ease, self.blend.path))


class BackSpec(WaySpec):
    """The way back: a shot that began cannot be undone by another."""

    kind: Literal["recache", "text", "blend"] = "recache"


class SceneEvent(Checked):
    """An event of a scene file."""

    label: str = ""
    group: str = ""
    set: Annotated[dict[Identifier, Words], Field(min_length=1)]
    params: dict[Identifier, Annotated[Param, Field(discriminator="type")]] = Field(default_factory=dict)
    transition: WaySpec | None = None
    when: When = "now"
    for_s: Annotated[float | None, BeforeValidator(read_seconds), Field(alias="for", gt=0, le=3600)] = None
    decay: BackSpec | None = None
    priority: Annotated[int, Field(ge=0, le=100)] = 0
    cooldown: Seconds = 0.0
    debounce: Seconds = 0.0
    coalesce: Coalesce = "latest"
    interrupts: Interrupts = "same"
    otherwise: Otherwise = "reject"

    @field_validator("params")
    @classmethod
    def _no_message_fields(cls, params: dict[str, Any]) -> dict[str, Any]:
        for name in MESSAGE_FIELDS:
            if name in params:
                raise ValueError(f"a param may not be called {name!r}: the message that bears it has such a field")
        return params

    @model_validator(mode="after")
    def _fits_together(self) -> "SceneEvent":
        for slot, words in self.set.items():
            for name in PLACEHOLDER.findall(words):
                if name not in self.params:
                    raise ValueError(f"set.{slot} asks for {{{name}}}, which is not among the params")
        if self.decay is not None and self.for_s is None:
            raise ValueError("decay is the way back after `for`, which is not given")
        if self.coalesce in ("max", "sum") and not any(param.type == "number" for param in self.params.values()):
            raise ValueError(f"coalesce {self.coalesce} needs a param of type number")
        return self

    @property
    def way(self) -> Way:
        """How the picture goes to its words."""
        return RECACHE if self.transition is None else self.transition.way

    @property
    def way_back(self) -> Way:
        """How it goes back from them."""
        return RECACHE if self.decay is None else self.decay.way

    @property
    def rules(self) -> Rules:
        """What the director goes by."""
        return Rules(self.priority, self.cooldown, self.debounce, self.coalesce, self.interrupts, self.otherwise)

    def param_values(self) -> dict[str, list[ParamValue]]:
        """For each param, values that between them make all its words."""
        return {name: param.values() for name, param in self.params.items()}


class SceneFile(Checked):
    """A whole scene file."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    subject: Words | None = None
    setting: Words | None = None
    style: Words | None = None
    template: Annotated[str, Field(min_length=1, max_length=1000)]
    slots: dict[Identifier, SlotSpec] = Field(default_factory=dict)
    events: dict[Identifier, SceneEvent]

    @property
    def all_slots(self) -> dict[str, SlotSpec]:
        """Subject, setting and style among the others."""
        fixed = {name: getattr(self, name) for name in FIXED_SLOTS}
        given = {name: SlotSpec(default=words) for name, words in fixed.items() if words is not None}
        return {**given, **self.slots}


def cross_check(file: SceneFile, text: YamlText) -> Iterator[str]:
    """What does not fit between the parts of a file, a line for each."""
    slots = file.all_slots
    for name in FIXED_SLOTS:
        if getattr(file, name) is not None and name in file.slots:
            yield text.error(("slots", name), f"{name} is given above already")
    named = PLACEHOLDER.findall(file.template)
    for stray in _stray_braces(file.template):
        yield text.error(("template",), f"{stray} is no place for a slot: those are written {{name}}")
    for name in named:
        if name not in slots:
            yield text.error(("template",), f"template asks for {{{name}}}, which is not among the slots")
    for name in ANCHORS:
        if name in slots and name not in named:
            rule = f"template must hold {{{name}}}: these models need it said again in every prompt"
            yield text.error(("template",), rule)
    for event_name, event in file.events.items():
        for slot, words in event.set.items():
            place = ("events", event_name, "set", slot)
            for stray in _stray_braces(words):
                yield text.error(place, f"{stray} is no place for a param: those are written {{name}}")
            if slot not in slots:
                yield text.error(place, f"there is no slot of this name; there are {', '.join(slots)}")
            elif slot not in named:
                yield text.error(place, f"template does not hold {{{slot}}}, so nobody would see it")
            elif not PLACEHOLDER.search(words):
                problem = slots[slot].problem(words)
                if problem:
                    yield text.error(place, f"{words!r} {problem}")


def _stray_braces(text: str) -> list[str]:
    return _BRACE.findall(PLACEHOLDER.sub("", text))
