"""Scripted feeds: events, prompts and slots at their times, from a YAML or JSONL file.

    name: demo
    every: 100                                             # seconds; the round begins anew. Left out: played once
    steps:
      - {at: 5, event: rain, params: {intensity: 0.3}}     # seconds after the round's start
      - {at: "1:02.5", prompt: "a calm harbour at dawn"}

docs/director.md lists all that a step can be. In JSONL each line is a step; a first line without `at` holds the rest.
Files of other tools are read by `feed_imports`.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from everscene_bridge.errors import SceneError
from everscene_bridge.messages import Name, Params, PromptText, SlotWords
from everscene_bridge.protocol import Transition, When
from everscene_bridge.ways import LONGEST_BLEND_S, Ease
from everscene_bridge.yaml_file import Checked, Misplaced, PositiveSeconds, YamlText, parse, read_seconds, read_text
from everscene_engine.port import BlendPath

DEMO_FEED: Final = Path(__file__).parent / "feeds" / "demo.yaml"
_FRAME: Final = re.compile(r"f(\d+)")

BlendSeconds = Annotated[float, BeforeValidator(read_seconds), Field(gt=0, le=LONGEST_BLEND_S)]
Wait = Literal["accepted", "applied"]


class Deed(Checked):
    """What a step sends: an event, a prompt or slots."""

    event: Name | None = None
    params: Params = Field(default_factory=dict)
    prompt: PromptText | None = None
    slots: Annotated[dict[Name, SlotWords], Field(max_length=32)] = Field(default_factory=dict)
    transition: Transition | None = None
    seconds: BlendSeconds | None = None  # of a blend
    ease: Ease | None = None  # of a blend
    path: BlendPath | None = None  # of a blend
    when: When | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0  # among the choices of a `choose`

    @property
    def kinds(self) -> int:
        """How many of the three it is; 1 is right."""
        return (self.event is not None) + (self.prompt is not None) + bool(self.slots)

    @property
    def what(self) -> str:
        """For people."""
        params = "".join(f" {name}={value}" for name, value in self.params.items())
        slots = ", ".join(f"{slot}={words!r}" for slot, words in self.slots.items())
        return f"{self.event}{params}" if self.event is not None else self.prompt or slots

    @model_validator(mode="after")
    def _fits_together(self) -> "Deed":
        if self.params and self.event is None:
            raise ValueError("params belong to an event")
        if self.transition is not None and self.event is not None:
            raise ValueError("the scene says the transition of an event; a step gives it for prompts and slots alone")
        if (self.seconds or self.ease or self.path) and self.transition != "blend":
            raise ValueError("seconds, ease and path belong to the transition blend")
        return self


class Choice(Deed):
    """One of the deeds of a `choose`."""

    @model_validator(mode="after")
    def _is_one(self) -> "Choice":
        if self.kinds != 1:
            raise ValueError("a choice is either an event, a prompt or slots")
        return self


class Step(Deed):
    """A deed at its time, or a random one of several, or a jump; it may bear a label to jump to."""

    at: Annotated[float, BeforeValidator(read_seconds), Field(ge=0, le=86_400)]  # after the start of the round
    label: Name | None = None
    choose: list[Choice] = Field(default_factory=list)
    jump: Name | None = None  # to a label, whose time it then is
    times: Annotated[int | None, Field(ge=1)] = None  # so often in a round; None: each time
    wait: Wait | None = None  # the feed stands still until this receipt has come
    timeout: PositiveSeconds = 30.0  # of the wait

    @model_validator(mode="after")
    def _is_one(self) -> "Step":
        kinds = self.kinds + bool(self.choose) + (self.jump is not None)
        if kinds > 1 or (kinds == 0 and self.label is None):
            raise ValueError("a step has either an event or a prompt, or slots, choose, jump, or a label alone")
        if self.times is not None and self.jump is None:
            raise ValueError("times belongs to a jump")
        if self.wait is not None and not (self.kinds or self.choose):
            raise ValueError("wait belongs to a step that sends something")
        return self


class Feed(Checked):
    """A whole feed."""

    name: Name
    every: PositiveSeconds | None = None  # the round begins anew; None: played once
    length: PositiveSeconds | None = None  # of a feed that is played once; None: it ends with its last step
    seed: Annotated[int, Field(ge=0)] = 0  # of the choices
    fps: Annotated[float | None, Field(gt=0, le=1000)] = None  # for times in frames
    steps: Annotated[list[Step], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _frames_to_seconds(cls, data: Any) -> Any:
        """`at: f120` is frame 120 of the feed's own `fps`."""
        if not isinstance(data, dict) or not isinstance(data.get("steps"), list):
            return data
        fps = data.get("fps")
        return {**data, "steps": [_in_seconds(place, step, fps) for place, step in enumerate(data["steps"])]}

    @model_validator(mode="after")
    def _in_order(self) -> "Feed":
        times = [step.at for step in self.steps]
        for place in range(1, len(times)):
            if times[place] < times[place - 1]:
                rule = f"steps must be in the order of their times; the one before is at {times[place - 1]:g} s"
                raise Misplaced(("steps", place, "at"), rule)
        if self.every is not None and self.every <= times[-1]:
            raise Misplaced(("every",), f"{self.every:g} s must be later than the last step, at {times[-1]:g} s")
        if self.length is not None and self.length < times[-1]:
            raise Misplaced(("length",), f"{self.length:g} s must not be before the last step, at {times[-1]:g} s")
        if self.length is not None and self.every is not None:
            raise Misplaced(("length",), "a feed has either every or length")
        return self

    @model_validator(mode="after")
    def _jumps_lead_somewhere(self) -> "Feed":
        labels: dict[str, int] = {}
        for place, step in enumerate(self.steps):
            if step.label is not None and labels.setdefault(step.label, place) != place:
                raise Misplaced(("steps", place, "label"), f"{step.label!r} is the label of another step already")
        for place, step in enumerate(self.steps):
            if step.jump is None:
                continue
            if step.jump not in labels:
                known = ", ".join(labels) or "none"
                raise Misplaced(("steps", place, "jump"), f"there is no label {step.jump!r}; there are {known}")
            goal = labels[step.jump]
            if step.times is None and goal <= place and self.steps[goal].at == step.at:
                rule = f"this goes nowhere: the label {step.jump!r} is at the same time"
                raise Misplaced(("steps", place, "jump"), rule)
        return self

    def place(self, label: str) -> int:
        """Which step bears this label."""
        return next(place for place, step in enumerate(self.steps) if step.label == label)

    def looped(self, gap_s: float) -> "Feed":
        """The same, beginning anew at its end; `gap_s` after its last step if it names no end."""
        if self.every is not None:
            return self
        end = self.length if self.length is not None else self.steps[-1].at + gap_s
        return self.model_copy(update={"every": end, "length": None})

    def to_yaml(self) -> str:
        """A file that reads as this feed."""
        data = self.model_dump(exclude_defaults=True, exclude_none=True)
        return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120))


def load_feed(path: Path = DEMO_FEED) -> Feed:
    """Read a feed. Raises SceneError naming file, line, column, field, value and rule."""
    text = read_text(path, "feed")
    if path.suffix == ".jsonl":
        return feed_from_lines(path, json_lines(path, text))
    return parse(text, str(path)).check(Feed)


def json_lines(path: Path, text: str) -> list[tuple[int, Any]]:
    """The number of each line that is not blank, and what it holds. Raises SceneError."""
    found: list[tuple[int, Any]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.append((number, json.loads(line)))
        except json.JSONDecodeError as problem:
            raise SceneError(f"{path}:{number}:{problem.colno}: this is not JSON: {problem.msg}") from None
    return found


def feed_from_lines(path: Path, lines: list[tuple[int, Any]]) -> Feed:
    """Steps line by line as one feed. Raises SceneError naming the line."""
    head: dict[str, Any] = {}
    first = 1
    if lines and isinstance(lines[0][1], dict) and "at" not in lines[0][1]:
        first, head = lines.pop(0)
    data = {"name": path.stem[:64], **head, "steps": [step for _, step in lines]}
    return YamlText(str(path), data, None, (first, *(number for number, _ in lines))).check(Feed)


def _in_seconds(place: int, step: Any, fps: Any) -> Any:
    frame = _FRAME.fullmatch(str(step.get("at", ""))) if isinstance(step, dict) else None
    if frame is None or not isinstance(fps, int | float) or isinstance(fps, bool) or fps <= 0:
        if frame is not None:
            raise Misplaced(("steps", place, "at"), f"{step['at']} is a frame number, so the feed needs fps")
        return step
    return {**step, "at": int(frame[1]) / fps}
