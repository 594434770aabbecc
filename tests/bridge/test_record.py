"""Recording: every frame, chapters, the JSONL beside it, and what is told about what was lost."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bridge.fake_world import welcome

from everscene_bridge import bench_record
from everscene_bridge.client import Client
from everscene_bridge.client_frames import Frame
from everscene_bridge.errors import NotInTime, SettingsError
from everscene_bridge.messages import Notice, Stamps, Welcome
from everscene_bridge.pattern import PatternEngine
from everscene_bridge.protocol import FLAG_CUT
from everscene_bridge.record import FRAME_TIMEOUT_S, Recorded, Recorder, RecordSettings
from everscene_bridge.scene import load_scene
from everscene_bridge.server import Server
from everscene_bridge.video_file import VideoFile

av = pytest.importorskip("av")

WIDTH, HEIGHT, FPS = 64, 36, 16


def frame(number: int, prompt: str = "a", order: int = 0, flags: int = 0) -> Frame:
    pixels = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    pixels[..., :3] = number % 250
    return Frame(pixels, number, (number - 1) / FPS, prompt, Stamps(), order, number // 8, number % 8, flags)


class Scripted:
    """A world that gives these frames, then ends; a None is a while without a frame."""

    timeout: float | None = None

    def __init__(self, *frames: Frame | None) -> None:
        self.left = list(frames)
        self.asked = False

    @property
    def info(self) -> Welcome:
        return welcome().model_copy(update={"width": WIDTH, "height": HEIGHT, "fps": float(FPS)})

    def frames(self, in_order: bool = False, timeout: float | None = None) -> "Scripted":
        assert in_order and not self.asked, "a second time, and it would begin with a frame that it had"
        self.asked, self.timeout = True, timeout
        return self

    def __iter__(self) -> "Scripted":
        return self

    def __next__(self) -> Frame:
        if not self.left:
            raise StopIteration
        one = self.left.pop(0)
        if one is None:
            raise NotInTime("nothing")
        return one


def record(path: Path, world: Scripted, *notices: Notice, **settings: Any) -> Recorded:
    recorder = Recorder(RecordSettings(path, **settings))
    for notice in notices:
        recorder.heard(notice)
    return recorder.record(world)


def decoded(path: Path) -> list[tuple[float, int]]:
    """Second and grey value of each frame."""
    with av.open(str(path)) as container:
        return [(float(one.time), int(one.to_ndarray(format="gray")[0, 0])) for one in container.decode(video=0)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.with_name(path.name + ".jsonl").read_text().splitlines()]


def chapters(path: Path) -> list[tuple[float, str]]:
    with av.open(str(path)) as container:
        found = container.chapters()
    return [(float(one["start"] * one["time_base"]), one["metadata"]["title"]) for one in found]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_frame_is_in_the_video_at_its_time(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    result = record(path, Scripted(*(frame(number) for number in range(10, 40))))
    assert (result.frames, result.lost) == (30, 0)
    shown = decoded(path)
    assert [second for second, _ in shown] == pytest.approx([place / FPS for place in range(30)], abs=1e-3)
    assert np.abs(np.diff([grey for _, grey in shown])).max() <= 3


def test_a_lost_frame_leaves_its_place_and_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    result = record(path, Scripted(frame(1), frame(2), frame(6), frame(7)))
    assert (result.frames, result.lost) == (4, 3)
    assert [second for second, _ in decoded(path)] == pytest.approx([0, 1 / FPS, 5 / FPS, 6 / FPS])
    assert {"kind": "lost", "frames": 3, "before_frame": 6} in lines(path)
    assert lines(path)[-1] == {"kind": "end", "frames": 4, "lost": 3}


def test_a_pause_leaves_no_frame_twice(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server(lambda: PatternEngine(width=WIDTH, height=HEIGHT, fps=24.0))
    recorder = Recorder(RecordSettings(tmp_path / "out.mp4"))
    with Client(server.endpoint) as world:
        next(world.frames(timeout=20))
        world.pause()
        first = world.stats().frame
        found: list[Recorded] = []
        ready = threading.Event()
        thread = threading.Thread(target=lambda: found.append(recorder.record(world, ready.set)))
        thread.start()
        assert ready.wait(20)
        time.sleep(1.5 * FRAME_TIMEOUT_S)  # the time that is tested is the recorder's own
        world.resume()
        frames = world.frames(timeout=20)
        assert next(one for one in frames if one.number > first + 60)
        world.pause()
        last = world.stats().frame
        recorder.stop()
        thread.join(20)
    assert (found[0].frames, found[0].lost) == (last - first + 1, 0)


def test_a_recording_that_is_stopped_has_what_was_published(tmp_path: Path) -> None:
    recorder = Recorder(RecordSettings(tmp_path / "out.mp4"))
    recorder.stop()
    world = Scripted(*(frame(number) for number in range(1, 7)), None, frame(7))
    assert recorder.record(world).frames == 6


def test_an_event_that_changes_no_words_is_a_chapter_too(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    said = Notice(kind="input", epoch=7, at_ns=5, order=2, client="desk", event="storm")
    record(path, Scripted(*(frame(n, "a", order=0 if n < 9 else 2) for n in range(1, 17))), said)
    assert chapters(path) == [(0.0, "a"), (0.5, "storm")]


def test_events_are_chapters_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    said = Notice(kind="input", epoch=7, at_ns=5, order=2, client="desk", event="storm", params={"force": 0.5})
    frames = [frame(n) for n in range(1, 9)] + [frame(n, "a storm", order=2) for n in range(9, 17)]
    record(path, Scripted(*frames), said)
    assert chapters(path) == [(0.0, "a"), (0.5, "storm (force 0.5)")]
    kinds = [line["kind"] for line in lines(path)]
    assert kinds == ["recording", "prompt", "input", "prompt", "end"]
    changed = [line for line in lines(path) if line["kind"] == "prompt"][-1]
    assert (changed["second"], changed["frame"], changed["order"], changed["prompt"]) == (0.5, 9, 2, "a storm")


def test_a_long_recording_is_split(tmp_path: Path) -> None:
    result = record(tmp_path / "out.mp4", Scripted(*(frame(number) for number in range(1, 41))), split_s=1.0)
    assert [path.name for path in result.files] == ["out-0001.mp4", "out-0002.mp4", "out-0003.mp4"]
    assert [len(decoded(path)) for path in result.files] == [16, 16, 8]
    assert all(decoded(path)[0][0] == 0 for path in result.files)
    assert lines(result.files[1])[0]["first_frame"] == 17


def test_a_recording_has_the_length_that_was_asked_for(tmp_path: Path) -> None:
    result = record(tmp_path / "out.mp4", Scripted(*(frame(number) for number in range(1, 100))), seconds=2.0)
    assert result.frames == 32


def test_a_server_that_starts_anew_goes_on_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    result = record(path, Scripted(frame(100), frame(101), None, frame(1), frame(2)))
    assert (result.frames, result.lost) == (4, 0)
    assert [second for second, _ in decoded(path)] == pytest.approx([place / FPS for place in range(4)])


def test_a_recording_from_a_snapshot_begins_at_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    frames = [frame(5), frame(6), frame(7, flags=FLAG_CUT), frame(8)]
    assert record(path, Scripted(*frames), from_cut=True).frames == 2
    assert lines(path)[0]["first_frame"] == 7


def test_a_file_whose_writer_was_killed_can_be_played(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    code = (
        "import numpy, os, sys; from pathlib import Path; from everscene_bridge.video_file import VideoFile\n"
        f"video = VideoFile(Path(sys.argv[1]), {WIDTH}, {HEIGHT}, 16.0, 18)\n"
        f"for place in range(160): video.write(numpy.zeros(({HEIGHT}, {WIDTH}, 4), numpy.uint8), place)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert len(decoded(path)) >= 96


def test_a_momentary_event_that_passes_begins_a_chapter_named_by_its_prompt(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    said = Notice(kind="input", epoch=7, at_ns=5, order=2, client="desk", event="flash")
    prompts = [("day", 0)] * 8 + [("day flash", 2)] * 8 + [("day", 2)] * 8
    record(path, Scripted(*(frame(n, prompt, order) for n, (prompt, order) in enumerate(prompts, start=1))), said)
    assert chapters(path) == [(0.0, "day"), (0.5, "flash"), (1.0, "day")]


@pytest.mark.parametrize(("name", "words"), [("x.avi", "must end in one of"), ("none/x.mp4", "there is no folder")])
def test_the_command_refuses_a_file_before_it_connects(tmp_path: Path, name: str, words: str) -> None:
    command = [
        sys.executable,
        "-m",
        "everscene_bridge",
        "record",
        str(tmp_path / name),
        "--endpoint",
        "tcp://127.0.0.1:9",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and words in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "size", "words"), [("x.avi", (64, 36), "must end in"), ("x.mp4", (63, 36), "even")])
def test_what_cannot_be_recorded_is_named(tmp_path: Path, name: str, size: tuple[int, int], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        VideoFile(tmp_path / name, *size, 16.0, 18)


def test_a_live_stream_is_recorded_frame_by_frame(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server(lambda: PatternEngine(width=WIDTH, height=HEIGHT, fps=60.0))
    path = tmp_path / "out.mp4"
    recorder = Recorder(RecordSettings(path, seconds=2.0))
    with Client(server.endpoint, on_notice=recorder.heard) as world:
        receipts = [world.event("storm"), world.event("night")]
        result = recorder.record(world)
        assert all(receipt.wait("applied", 10) for receipt in receipts)
    assert result.frames + result.lost == 120
    assert len(decoded(path)) == result.frames


def test_the_command_finishes_its_file_when_it_is_asked_to_stop(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    command = [sys.executable, "-m", "everscene_bridge", "record", str(path), "--endpoint", server.endpoint]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    recorded = threading.Event()
    with Client(server.endpoint) as world:
        for one in world.frames(timeout=20):
            if path.exists() and one.number % 16 == 0:
                recorded.set()
                break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert recorded.is_set() and process.returncode == 0
    frames = len(decoded(path))
    assert frames > 0 and f"out.mp4: {frames} frames, 0 lost" in out


def test_the_bench_compares_windows_with_and_without_a_recorder() -> None:
    def load() -> PatternEngine:
        return PatternEngine(width=WIDTH, height=HEIGHT, fps=60.0)

    found = bench_record.measure(load, load_scene(), window_s=1.0, rounds=1)
    assert found["with"]["fps"] > 0 and found["without"]["fps"] > 0
    assert found["recorded"] > 0 and found["ratio"] > 0
