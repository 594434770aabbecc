"""The addon against the real sidecar: the same frames as the Python client, receipts, and coming back."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everscene_bridge.client import Client

from .conftest import MakeSidecar, RunTests, Sidecar, StartTests

FRAMES = 64


def test_godot_sees_the_frames_that_python_sees(
    start_godot_tests: StartTests, tmp_path: Path, sidecar: Sidecar
) -> None:
    options = {"endpoint": sidecar.endpoint, "frames_from": "ring", "playback": "in_order", "count": FRAMES}
    engine = start_godot_tests("test_frames", **options)
    seen: dict[int, str] = {}
    with Client(sidecar.endpoint, name="the other pair of eyes") as world:
        for frame in world.frames(in_order=True, timeout=30):
            seen[frame.number] = hashlib.md5(frame.pixels.tobytes()).hexdigest()
            if engine.poll() is not None:
                break
    said, _ = engine.communicate(timeout=60)
    assert "1 passed, 0 failed" in said, said
    digests = {int(n): md5 for n, md5 in json.loads((tmp_path / "frames.json").read_text()).items()}
    both = digests.keys() & seen.keys()
    assert len(both) >= FRAMES // 2, "the two hardly overlap: nothing was compared"
    assert {n: digests[n] for n in both} == {n: seen[n] for n in both}
    assert len({digests[n] for n in both}) > len(both) // 2, "the picture stands still"


def test_events_and_prompts_get_their_receipts(run_godot_tests: RunTests, sidecar: Sidecar) -> None:
    run_godot_tests("test_sidecar", endpoint=sidecar.endpoint)


@pytest.mark.parametrize("sidecar", ["pattern"], indirect=True)
def test_godot_comes_back_after_kill_9(start_godot_tests: StartTests, tmp_path: Path, sidecar: Sidecar) -> None:
    engine = start_godot_tests("test_restart", endpoint=sidecar.endpoint)
    wait_for(tmp_path / "live", engine)
    sidecar.kill()
    wait_for(tmp_path / "down", engine)
    sidecar.start()
    said, _ = engine.communicate(timeout=60)
    assert "1 passed, 0 failed" in said, said


def wait_for(file: Path, engine: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 30
    while not file.exists():
        assert engine.poll() is None, engine.communicate()[0]
        assert time.monotonic() < end, f"{file.name} never came"
        time.sleep(0.02)


def test_the_real_server_takes_the_right_token_only(run_godot_tests: RunTests, make_sidecar: MakeSidecar) -> None:
    sidecar = make_sidecar("pattern", token="sesame")
    run_godot_tests("test_token", endpoint=sidecar.endpoint, token="sesame")


@pytest.fixture
def rings(tmp_path: Path) -> Iterator[Callable[[], list[Path]]]:
    """Call it for the rings in tmp_path. Processes that still have one after the test are killed: Godot starts its
    sidecar in a session of its own, which nothing here is the parent of."""

    def find() -> list[Path]:
        return sorted(tmp_path.glob("everscene-*.ring"))

    yield find
    for ring in find():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(ring.name.split("-")[1]), signal.SIGKILL)


def test_godot_starts_the_sidecar_and_stops_it(
    run_godot_tests: RunTests, make_sidecar: MakeSidecar, rings: Callable[[], list[Path]]
) -> None:
    sidecar = make_sidecar("pattern")  # to find free ports, and that it starts at all
    sidecar.stop()
    program = Path(sys.executable).parent / "everscene"
    run_godot_tests("test_launch", endpoint=sidecar.endpoint, program=program, frames_port=sidecar.frames_port)
    assert not rings(), "it was stopped so that it could tidy up"
