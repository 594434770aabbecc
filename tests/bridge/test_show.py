"""Unattended shows: the file, the stage manager on a clock that the test turns, and a whole one for a few seconds."""

import datetime
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from everscene_bridge.allow import PromptRule
from everscene_bridge.errors import EversceneError, InputRejected, SceneError
from everscene_bridge.inputs import Action
from everscene_bridge.messages import Notice
from everscene_bridge.scene import load_scene
from everscene_bridge.show import RECORDER_BACK_OFF_S, RecorderProcess, StageManager
from everscene_bridge.show_file import Show, load_show
from everscene_bridge.systemd import Notifier
from everscene_bridge.ways import RECACHE

FEED = "name: quiet\nevery: 10\nsteps:\n  - {at: 1, event: calm}\n  - {at: 2, prompt: 'a [red] fox'}\n"
SHOW = """
name: lobby
engine: {model: pattern, seed: 4}
serve: {control_port: 0, frames_port: 0, viewer_port: null, state_dir: kept}
idle: {after: 60s, feed: {file: quiet.yaml}}
schedule:
  - {from: "10:00", to: "18:30", days: [mon, tue]}
  - {from: "22:00", to: "02:00", days: [fri]}
prompts: ["a * harbour"]
record: {file: "takes/{time}.mp4", split: 3600}
health: {stalled_after: 30s}
"""
MONDAY = datetime.datetime(2026, 11, 23)


def written(folder: Path, text: str = SHOW) -> Path:
    (folder / "quiet.yaml").write_text(FEED)
    (folder / "lost.yaml").write_text("name: lost\nsteps: [{at: 4, event: hail}]\n")
    path = folder / "show.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def show(tmp_path: Path) -> Show:
    return load_show(written(tmp_path))


def test_paths_are_relative_to_the_file(show: Show, tmp_path: Path) -> None:
    assert show.options.serve.state_folder == tmp_path / "kept"
    assert show.recording(MONDAY) == tmp_path / "takes" / "2026-11-23-000000.mp4"
    assert show.options.engine.seed == 4
    assert show.idle is not None and show.idle.feed.name == "quiet"


@pytest.mark.parametrize(
    ("day", "time", "opens"),
    [
        (0, "09:59", False),
        (0, "10:00", True),
        (1, "18:29", True),
        (1, "18:30", False),
        (2, "12:00", False),
        (4, "21:59", False),
        (4, "23:00", True),
        (5, "01:59", True),
        (5, "02:00", False),
        (4, "01:00", False),
    ],
)
def test_the_schedule(show: Show, day: int, time: str, opens: bool) -> None:
    hours, minutes = map(int, time.split(":"))
    assert show.open_at(MONDAY + datetime.timedelta(days=day, hours=hours, minutes=minutes)) is opens


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("quiet.yaml", "loud.yaml", "loud.yaml"),
        ("name: lobby", "name: lobby\nscene: none.yaml", r"show.yaml:3:1: scene: there is no file"),
        ('"10:00"', "10:00", 'schedule.0.from: a time of day is written like "09:30", in quotes'),
        ('to: "18:30"', 'to: "10:00"', "open for no time"),
        ("days: [mon, tue]", "days: [someday]", "schedule.0.days.0"),
        ("engine: {model", "engine: {modell", "show.yaml:3:10: engine.modell"),
        ("after: 60s", "after: soon", "idle.after: must be seconds"),
        ("quiet.yaml", "lost.yaml", r"lost.yaml: lost, at 4 s, hail: the scene has no event 'hail'"),
    ],
)
def test_what_is_wrong_with_a_show_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = written(tmp_path, SHOW.replace(old, new))
    with pytest.raises(EversceneError, match=words.replace("(", r"\(")):
        load_show(path)


def test_free_prompts_are_taken_if_they_match_and_the_shows_own_always(show: Show) -> None:
    rule, slots = show.options.serve.prompts, load_scene().slots
    assert rule is not None
    for text in ("a calm harbour", "A big grey HARBOUR", "a [red] fox"):
        rule.check(Action(prompt=text), slots)
    for text in ("a forest", "a red fox", "the harbour"):
        with pytest.raises(InputRejected, match="not among those that are taken here"):
            rule.check(Action(prompt=text), slots)


def test_events_of_the_scene_and_first_words_of_slots_are_always_taken() -> None:
    scene = load_scene()
    rule = PromptRule()
    rule.check(scene.action("storm", {}, None), scene.slots)
    rule.check(scene.slots_action({"time": "by day"}, RECACHE, "now"), scene.slots)
    with pytest.raises(InputRejected) as caught:
        rule.check(scene.slots_action({"time": "at three"}, RECACHE, "now"), scene.slots)
    assert caught.value.code == "not_allowed"


class Noted:
    """A stage, a feed and a recording in one: notes what is asked of it."""

    client_id = 1
    state = "live"

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.playing = False

    def pause(self) -> None:
        self.notes.append("pause")

    def resume(self) -> None:
        self.notes.append("resume")

    def begin(self) -> None:
        self.notes.append("begin")
        self.playing = True

    def end(self) -> None:
        self.notes.append("end")
        self.playing = False

    def look(self) -> None:
        pass


class Evening:
    """A stage manager and all that it manages."""

    def __init__(self, show: Show, folder: Path) -> None:
        self.stage, self.idle, self.recording = Noted(), Noted(), Noted()
        self.frame = 1
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ear.bind(str(folder / "notify"))
        self.ear.setblocking(False)
        systemd = Notifier(str(folder / "notify"))
        idle = self.idle
        self.manager = StageManager(show, self.stage, lambda: self.frame, systemd, None, idle, self.recording)  # type: ignore[arg-type]

    def look(self, second: float, hours: float = 12, runs: bool = True) -> list[str]:
        """What systemd was told."""
        self.frame += runs
        self.manager.look(second, MONDAY + datetime.timedelta(hours=hours))
        told = []
        while True:
            try:
                told.append(self.ear.recv(1000).decode())
            except BlockingIOError:
                return told

    def somebody(self, client_id: int = 9) -> None:
        self.manager.heard(Notice(kind="input", epoch=1, at_ns=1, client_id=client_id))


@pytest.fixture
def evening(show: Show, tmp_path: Path) -> Evening:
    return Evening(show, tmp_path)


def test_a_show_opens_and_closes(evening: Evening) -> None:
    evening.look(0, hours=9)
    evening.look(1, hours=12)
    evening.look(2, hours=19)
    assert evening.stage.notes == ["pause", "pause", "resume", "pause"]
    assert evening.recording.notes == ["end", "begin", "end"]


def test_a_show_that_ends_stands_still_before_its_recording_does(evening: Evening) -> None:
    evening.look(0)
    del evening.stage.notes[:], evening.recording.notes[:]
    evening.manager.close(1)
    evening.manager.close(2)
    assert (evening.stage.notes, evening.recording.notes) == (["pause"], ["end"])


def test_the_idle_feed_plays_when_nobody_has_sent_anything(evening: Evening) -> None:
    evening.look(0)
    evening.look(59)
    assert not evening.idle.playing
    evening.look(60)
    assert evening.idle.playing


def test_somebody_ends_the_idle_feed_and_begins_the_wait_anew(evening: Evening) -> None:
    evening.look(0)
    evening.look(60)
    evening.somebody()
    evening.look(61)
    assert not evening.idle.playing
    evening.look(120)
    assert not evening.idle.playing
    evening.look(121)
    assert evening.idle.playing


def test_the_shows_own_events_are_nobody(evening: Evening) -> None:
    evening.look(0)
    evening.somebody(client_id=1)
    evening.look(60)
    assert evening.idle.playing


def test_systemd_hears_that_the_show_is_ready_and_lives(evening: Evening) -> None:
    first, second = evening.look(0), evening.look(1)
    assert first[0] == "READY=1" and first[1].startswith("WATCHDOG=1\nSTATUS=open, frame")
    assert len(second) == 1 and second[0].startswith("WATCHDOG=1")


def test_systemd_hears_nothing_good_when_no_frame_comes(evening: Evening) -> None:
    evening.look(0)
    assert evening.look(29, runs=False)[0].startswith("WATCHDOG")
    assert evening.look(31, runs=False)[0].startswith("STATUS=no frame since")
    assert not evening.manager.healthy
    assert evening.look(32)[0].startswith("WATCHDOG")


def test_a_closed_show_needs_no_frames(evening: Evening) -> None:
    evening.look(0, hours=19)
    assert evening.look(1000, hours=19, runs=False)[0].startswith("WATCHDOG=1\nSTATUS=closed")


def test_a_show_that_starts_while_it_is_closed_is_ready(evening: Evening) -> None:
    evening.frame = 0
    assert evening.look(0, hours=9, runs=False)[0] == "READY=1"


def test_without_systemd_nothing_is_told() -> None:
    Notifier(None).tell(READY=1)


def test_a_recorder_that_ends_is_begun_anew(tmp_path: Path) -> None:
    names = iter(["a", "b", "c"])
    recorder = RecorderProcess(["no-such-command"], lambda: tmp_path / "takes" / next(names), None)
    recorder.begin()
    first = recorder._process
    assert first is not None and first.wait(30) != 0
    recorder.look()
    assert recorder._process is not first and next(names) == "c"
    recorder.end()


def test_a_recording_whose_folder_cannot_be_made_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    (tmp_path / "takes").touch()
    recorder = RecorderProcess(["no-such-command"], lambda: tmp_path / "takes" / "a", None, lambda: now)
    recorder.begin()
    assert "cannot be recorded, the show goes on without" in caplog.text and recorder._process is None
    (tmp_path / "takes").unlink()
    recorder.look()
    assert recorder._process is None  # not so soon
    now += RECORDER_BACK_OFF_S
    recorder.look()
    assert recorder._process is not None
    recorder.end()
    now += RECORDER_BACK_OFF_S
    recorder.look()
    assert recorder._process is None


def test_a_show_with_no_such_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"cannot read the show .*none\.yaml"):
        load_show(tmp_path / "none.yaml")


def test_a_whole_show_plays_is_recorded_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "quiet.yaml").write_text("name: quiet\nsteps: [{at: 0.5, event: storm}, {at: 1.5, event: night}]\n")
    text = (
        "name: short\nengine: {model: pattern}\nserve: {control_port: 0, frames_port: 0, viewer_port: null}\n"
        "feed: {file: quiet.yaml, loop: false}\nosc: {port: 0}\nrecord: {file: take.mp4, split: null}\n"
    )
    (tmp_path / "show.yaml").write_text(text)
    command = [sys.executable, "-m", "everscene_bridge", "show", str(tmp_path / "show.yaml"), "--seconds", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "take.mp4.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines if line["kind"] == "input"] == ["storm", "night"]
    assert lines[-1]["kind"] == "end" and lines[-1]["lost"] == 0 and lines[-1]["frames"] > 16
    assert lines[0]["first_frame"] <= 3  # the stream stood until the recorder was there; a busy machine may lag
