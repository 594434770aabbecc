"""What a show file holds: everything that an unattended show needs, in one place. docs/director.md tells it to people.

Paths in it are relative to the file itself.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from everscene_bridge import feed_check, protocol
from everscene_bridge.allow import PromptRule
from everscene_bridge.engines import EngineChoice
from everscene_bridge.errors import SceneError
from everscene_bridge.feed import Feed
from everscene_bridge.feed_imports import HOLD_S, load_any_feed
from everscene_bridge.osc import OSC_PORT
from everscene_bridge.scene import Scene, load_scene
from everscene_bridge.settings import ServeSettings
from everscene_bridge.sidecar import SidecarOptions
from everscene_bridge.timeline import TimelineSettings
from everscene_bridge.yaml_file import Checked, PositiveSeconds, parse, read_text

DAYS: Final[tuple["Day", ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Port = Annotated[int, Field(ge=0, le=65535)]


def _time_of_day(value: object) -> object:
    """`9:30` and `"09:30"`; YAML reads 9:30 as sixties, so quotes are asked for."""
    if isinstance(value, str):
        hours, _, minutes = value.partition(":")
        if hours.isdigit() and minutes.isdigit() and int(hours) <= 24 and int(minutes) < 60:
            return int(hours) * 60 + int(minutes)
    raise ValueError('a time of day is written like "09:30", in quotes')


TimeOfDay = Annotated[int, BeforeValidator(_time_of_day), Field(ge=0, le=24 * 60)]  # minutes


class EngineSpec(Checked):
    """Which engine, as `everscene serve` takes it."""

    model: str = "pocket"
    seed: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int | None, Field(ge=1, le=64)] = None
    device: str | None = None
    threads: Annotated[int | None, Field(ge=1)] = None
    decoder: str | None = None
    precision: str = "auto"
    kv: str = "auto"
    attention: str = "bf16"
    gpus: Annotated[int, Field(ge=1)] = 1
    decoder_device: str | None = None


class ServeSpec(Checked):
    """Where it listens. The token comes from the environment, never from this file."""

    host: str = protocol.LOOPBACK
    control_port: Port = protocol.CONTROL_PORT
    frames_port: Port = protocol.FRAMES_PORT
    viewer_port: Port | None = protocol.VIEWER_PORT
    state_dir: str | None = None
    restore: str | None = None
    autosave: PositiveSeconds = 10.0
    max_lead_ms: Annotated[float | None, Field(ge=0)] = None


class FeedSpec(Checked):
    """A feed to play."""

    file: str
    loop: bool = True
    speed: Annotated[float, Field(gt=0, le=100)] = 1.0


class OscSpec(Checked):
    """OSC in."""

    port: Port = OSC_PORT
    host: str = protocol.LOOPBACK


class RecordSpec(Checked):
    """A recording. `{time}` in the name becomes the local time at which it begins."""

    file: str
    split: PositiveSeconds | None = 3600.0
    crf: Annotated[int, Field(ge=0, le=51)] = 20


class IdleSpec(Checked):
    """What plays when nobody has sent anything for a while, until somebody does."""

    after: PositiveSeconds = 60.0
    feed: FeedSpec


class OpenSpec(Checked):
    """When the show plays; outside it stands still and nothing is recorded."""

    from_: Annotated[TimeOfDay, Field(alias="from")]
    to: TimeOfDay
    days: Annotated[list[Day], Field(min_length=1)] = Field(default_factory=lambda: [*DAYS])

    def holds(self, now: datetime.datetime) -> bool:
        """Whether it is open then. Hours that go past midnight belong to the day on which they begin."""
        minute = now.hour * 60 + now.minute
        today, yesterday = DAYS[now.weekday()], DAYS[now.weekday() - 1]
        if self.from_ < self.to:
            return today in self.days and self.from_ <= minute < self.to
        return (today in self.days and minute >= self.from_) or (yesterday in self.days and minute < self.to)


class HealthSpec(Checked):
    """When the show is taken for dead: no new frame for so long though it should play."""

    stalled_after: PositiveSeconds = 30.0


class ShowFile(Checked):
    """A whole show file."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    scene: str | None = None
    engine: EngineSpec = EngineSpec()
    serve: ServeSpec = ServeSpec()
    feed: FeedSpec | None = None
    osc: OscSpec | None = None
    record: RecordSpec | None = None
    idle: IdleSpec | None = None
    schedule: list[OpenSpec] = Field(default_factory=list)
    prompts: Literal["any", "none"] | list[str] = "any"
    health: HealthSpec = HealthSpec()

    @model_validator(mode="after")
    def _not_open_for_no_time(self) -> "ShowFile":
        for one in self.schedule:
            if one.from_ == one.to:
                raise ValueError("an entry of the schedule is open for no time: from and to are the same")
        return self


@dataclass(frozen=True)
class Script:
    """A feed and how fast it is played."""

    feed: Feed
    speed: float


@dataclass(frozen=True)
class Show:
    """A show file that was read, with all that it names."""

    file: ShowFile
    folder: Path
    options: SidecarOptions
    feed: Script | None
    idle: Script | None

    def open_at(self, now: datetime.datetime) -> bool:
        """Whether it plays then."""
        return not self.file.schedule or any(one.holds(now) for one in self.file.schedule)

    def recording(self, now: datetime.datetime) -> Path | None:
        """Where a recording that begins now goes."""
        if self.file.record is None:
            return None
        return self.folder / self.file.record.file.replace("{time}", now.strftime("%Y-%m-%d-%H%M%S"))


def load_show(path: Path, token: str | None = None) -> Show:
    """Read a show and the files it names. Raises SceneError, SettingsError naming file, place, value and rule."""
    text = parse(read_text(path, "show"), str(path))
    file = text.check(ShowFile)
    folder = path.resolve().parent
    if file.scene is not None and not (folder / file.scene).is_file():
        raise SceneError(text.error(("scene",), f"there is no file {folder / file.scene}"))
    scene = SidecarOptions().scene if file.scene is None else folder / file.scene
    known = load_scene(scene)
    feed = None if file.feed is None else _script(folder, file.feed, known)
    idle = None if file.idle is None else _script(folder, file.idle.feed, known)
    options = SidecarOptions(
        engine=EngineChoice(**file.engine.model_dump()),
        serve=_serve(file, folder, token, _rule(file, feed, idle)),
        scene=scene,
        viewer_port=file.serve.viewer_port,
        osc=None if file.osc is None else (file.osc.host, file.osc.port),
        paused=True,  # until it opens
    )
    return Show(file, folder, options, feed, idle)


def _script(folder: Path, spec: FeedSpec, scene: Scene) -> Script:
    feed = load_any_feed(folder / spec.file)
    wrong = feed_check.problems(feed, scene)
    if wrong:
        raise SceneError("\n".join(f"{folder / spec.file}: {line}" for line in wrong))
    return Script(feed.looped(HOLD_S) if spec.loop else feed, spec.speed)


def _rule(file: ShowFile, *scripts: Script | None) -> PromptRule | None:
    """The prompts that are taken: those of the show's own feeds among them."""
    if file.prompts == "any":
        return None
    own: list[str] = []
    for script in scripts:
        for step in script.feed.steps if script is not None else ():
            for deed in (step, *step.choose):
                own += [deed.prompt] if deed.prompt is not None else []
                own += deed.slots.values()
    escaped = [text.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]") for text in own]
    given = [] if file.prompts == "none" else file.prompts
    return PromptRule((*given, *escaped))


def _serve(file: ShowFile, folder: Path, token: str | None, prompts: PromptRule | None) -> ServeSettings:
    spec = file.serve
    return ServeSettings(
        host=spec.host,
        control_port=spec.control_port,
        frames_port=spec.frames_port,
        token=token,
        state_dir=None if spec.state_dir is None else folder / spec.state_dir,
        restore=spec.restore,
        autosave_s=spec.autosave,
        timeline=TimelineSettings(max_lead_ms=spec.max_lead_ms),
        prompts=prompts,
    )
