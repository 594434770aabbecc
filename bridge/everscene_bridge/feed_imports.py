"""Feeds from the files of other tools, told apart by what they hold.

Scope timelines (daydreamlive/scope, versions 2.0 and 2.1): JSON, blocks with `startTime` and `endTime` in seconds, each
with weighted prompts. The heaviest prompt of a block counts. `transitionSteps` are chunks, of 12 frames at 16 a second.

Odyssey scripts: a JSON list of `timestamp_ms` with `start`, `interact` or `end`, alone, or as `script` of a map, or one
of its `scripts`. A start begins a new world. What is said in `interact` is meant in the world of the start, so its
prompt is the start's with it.

LongLive prompt lists: JSONL with `prompts` on each line, a line for each video, and no times: those stand in LongLive's
configuration. Some add `switch_frames`, in latent frames of a quarter of a second; without them each prompt gets `hold`
seconds.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from everscene_bridge.errors import SceneError
from everscene_bridge.feed import Feed, feed_from_lines, json_lines, load_feed
from everscene_bridge.yaml_file import Misplaced, YamlText, read_text

SCOPE_CHUNK_S: Final = 12 / 16
LATENT_FRAME_S: Final = 4 / 16
HOLD_S: Final = 10.0

Steps = list[dict[str, Any]]


class _Foreign(BaseModel):
    """What we read of another tool's file; what else is in it does not matter to us."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Weighted(_Foreign):
    text: str
    weight: float = 1.0


class _Block(_Foreign):
    start: Annotated[float, Field(alias="startTime", ge=0)]
    end: Annotated[float, Field(alias="endTime", ge=0)]
    text: str | None = None
    prompts: list[_Weighted] = Field(default_factory=list)
    chunks: Annotated[int | None, Field(alias="transitionSteps", ge=0)] = None
    method: Annotated[str | None, Field(alias="temporalInterpolationMethod")] = None

    @model_validator(mode="after")
    def _says_something(self) -> "_Block":
        if self.text is None and not self.prompts:
            raise ValueError("a block needs prompts")
        return self

    @property
    def prompt(self) -> str:
        return self.text or max(self.prompts, key=lambda prompt: prompt.weight).text


class _Timeline(_Foreign):
    prompts: Annotated[list[_Block], Field(min_length=1)]

    def steps(self) -> tuple[Steps, float]:
        steps: Steps = []
        for block in self.prompts:
            step: dict[str, Any] = {"at": block.start, "prompt": block.prompt}
            if block.chunks and steps:
                path = "slerp" if block.method == "slerp" else "linear"
                step |= {"transition": "blend", "seconds": block.chunks * SCOPE_CHUNK_S, "ease": "linear", "path": path}
            steps.append(step)
        return steps, self.prompts[-1].end


class _Said(_Foreign):
    prompt: str


class _Entry(_Foreign):
    timestamp_ms: Annotated[float, Field(ge=0)]
    start: _Said | None = None
    interact: _Said | None = None
    end: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "_Entry":
        if [self.start, self.interact, self.end].count(None) != 2:
            raise ValueError("an entry has either start, interact or end")
        return self


class _Script(_Foreign):
    script: Annotated[list[_Entry], Field(min_length=1)]

    def steps(self) -> tuple[Steps, float | None]:
        steps: Steps = []
        world = ""
        end: float | None = None
        for entry in self.script:
            at = entry.timestamp_ms / 1e3
            if entry.start is not None:
                world = entry.start.prompt
                steps.append({"at": at, "prompt": world, "transition": "reset"})
            elif entry.interact is not None:
                said = entry.interact.prompt
                steps.append({"at": at, "prompt": f"{world.rstrip('. ')}. {said}" if world else said})
            else:
                end = at
        return steps, end


class _PromptList(_Foreign):
    prompts: Annotated[list[str], Field(min_length=1)]
    switch_frames: list[Annotated[int, Field(ge=0)]] | None = None

    @model_validator(mode="after")
    def _switches_between(self) -> "_PromptList":
        switches = self.switch_frames
        if switches is not None and len(switches) != len(self.prompts) - 1:
            rule = f"{len(self.prompts)} prompts need {len(self.prompts) - 1} of them; there are {len(switches)}"
            raise Misplaced(("switch_frames",), rule)
        return self

    def steps(self, hold_s: float) -> tuple[Steps, float]:
        if self.switch_frames is None:
            times = [place * hold_s for place in range(len(self.prompts))]
        else:
            times = [0.0, *(frame * LATENT_FRAME_S for frame in self.switch_frames)]
        steps = [{"at": at, "prompt": prompt} for at, prompt in zip(times, self.prompts, strict=True)]
        return steps, times[-1] + hold_s


def load_any_feed(path: Path, line: int = 1, hold_s: float = HOLD_S) -> Feed:
    """Read a feed of ours, or import one. Raises SceneError naming the file, the place and what is wrong.

    line: which video of a list of several, from 1. hold_s: seconds for each prompt of a LongLive list.
    """
    if path.suffix == ".jsonl":
        return _from_lines(path, json_lines(path, read_text(path, "feed")), line, hold_s)
    if path.suffix == ".json":
        return _from_json(path, read_text(path, "feed"), line)
    return load_feed(path)


def _from_lines(path: Path, rows: list[tuple[int, Any]], line: int, hold_s: float) -> Feed:
    if not rows or not isinstance(rows[0][1], dict) or "prompts" not in rows[0][1]:
        return feed_from_lines(path, rows)
    number, row = _chosen(path, rows, line)
    return _made(path, *YamlText(str(path), row, None, (number,)).check(_PromptList).steps(hold_s))


def _from_json(path: Path, text: str, line: int) -> Feed:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as problem:
        raise SceneError(f"{path}:{problem.lineno}:{problem.colno}: this is not JSON: {problem.msg}") from None
    if isinstance(data, dict) and "steps" in data:
        return load_feed(path)
    if isinstance(data, dict) and isinstance(data.get("scripts"), list):
        data = {"script": _chosen(path, data["scripts"], line)}
        return _made(path, *YamlText(str(path), data, None).check(_Script).steps())
    if isinstance(data, list):
        return _made(path, *YamlText(str(path), {"script": data}, None).check(_Script).steps())
    if isinstance(data, dict) and "script" in data:
        return _made(path, *YamlText(str(path), data, _root(text)).check(_Script).steps())
    if isinstance(data, dict) and "prompts" in data:
        return _made(path, *YamlText(str(path), data, _root(text)).check(_Timeline).steps())
    kinds = "ours has steps, a Scope timeline has prompts, an Odyssey script is a list of timestamp_ms or has script"
    raise SceneError(f"{path}:1:1: this is no feed that is known here: {kinds}")


def _chosen(path: Path, rows: list[Any], line: int) -> Any:
    if not 1 <= line <= len(rows):
        raise SceneError(f"{path}: line {line} was asked for; the file has {len(rows)}")
    return rows[line - 1]


def _root(text: str) -> yaml.Node | None:
    """Where everything stands, as JSON is nearly always YAML too."""
    try:
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return None


def _made(path: Path, steps: Steps, length: float | None) -> Feed:
    data = {"name": path.stem[:64], "steps": steps, "length": length}
    return YamlText(str(path), data, None).check(Feed)
