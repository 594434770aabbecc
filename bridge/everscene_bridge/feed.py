"""Scripted feeds: events and prompts at their times, from a YAML file.

    name: demo
    every: 100                                             # seconds; the round begins anew. Left out: played once
    steps:
      - {at: 5, event: rain, params: {intensity: 0.3}}     # seconds after the round's start
      - {at: 9, prompt: "a calm harbour at dawn"}

Times are those at which a step is sent, on the wall clock. A feed that falls behind sends what is due at once, in
order.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from everscene_bridge.errors import ClientError, SceneError
from everscene_bridge.messages import Name, Params, PromptText

DEMO_FEED: Final = Path(__file__).parent / "feeds" / "demo.yaml"

Seconds = Annotated[float, Field(ge=0, le=86_400)]


class Step(BaseModel):
    """One event or one prompt at its time."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    at: Seconds  # after the start of the round
    event: Name | None = None
    params: Params = {}
    prompt: PromptText | None = None

    @model_validator(mode="after")
    def _either_event_or_prompt(self) -> "Step":
        if (self.event is None) == (self.prompt is None):
            raise ValueError("a step has either an event or a prompt")
        if self.params and self.event is None:
            raise ValueError("params belong to an event")
        return self


class Feed(BaseModel):
    """A whole feed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Name
    every: Annotated[float | None, Field(gt=0, le=86_400)] = None  # seconds; None = played once
    steps: Annotated[list[Step], Field(min_length=1)]

    @model_validator(mode="after")
    def _in_order(self) -> "Feed":
        times = [step.at for step in self.steps]
        if times != sorted(times):
            raise ValueError(f"steps must be in the order of their times; they are at {times}")
        if self.every is not None and self.every <= times[-1]:
            raise ValueError(f"every ({self.every:g} s) must be later than the last step ({times[-1]:g} s)")
        return self


def load_feed(path: Path = DEMO_FEED) -> Feed:
    """Read a feed. Raises SceneError naming file, field, value and rule."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise SceneError(f"cannot read the feed {path}: {problem}") from None
    try:
        return Feed.model_validate(data)
    except ValidationError as problem:
        lines = []
        for error in problem.errors(include_url=False):
            place = ".".join(str(part) for part in error["loc"]) or "the file"
            lines.append(f"{path}: {place}: {error['msg'].removeprefix('Value error, ')}")
        raise SceneError("\n".join(lines)) from None


class Player(Protocol):
    """What a feed needs of a `Client`."""

    def event(self, name: str, when: Any = None, **params: Any) -> Any: ...
    def prompt(self, text: str) -> Any: ...


class Stop(Protocol):
    """What a feed needs of a `threading.Event`."""

    def wait(self, timeout: float) -> bool: ...


def play(
    client: Player,
    feed: Feed,
    stop: Stop,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Send each step at its time until `stop` is set, or to the end of a feed without `every`.

    A step that cannot be sent (no server at the moment) is told to `say` and left out; the feed goes on. `clock` gives
    seconds.
    """
    start = clock()
    for round_number in itertools.count():
        for step in feed.steps:
            due = start + round_number * (feed.every or 0.0) + step.at
            if stop.wait(max(0.0, due - clock())):
                return
            try:
                if step.event is not None:
                    client.event(step.event, **step.params)
                elif step.prompt is not None:
                    client.prompt(step.prompt)
            except ClientError as problem:
                say(f"the feed {feed.name!r} left out {step.event or step.prompt}: {problem}")
        if feed.every is None:
            return
