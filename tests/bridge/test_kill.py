"""Processes that are killed: the server, with the real pocket model, and a client."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.serve_process import ServeProcess

from everscene_bridge import snapshots
from everscene_bridge.client import Client
from everscene_bridge.client_frames import Frame
from everscene_bridge.errors import SnapshotUnreadable

OPTIONS = ("--model", "pocket", "--threads", "1", "--steps", "1", "--seed", "11")
Serve = Callable[..., ServeProcess]
LATENT_FRAMES = 4  # frames of a latent frame


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """For rings, and for snapshots."""
    for name in ("ring", "state"):
        (tmp_path / name).mkdir()
    return tmp_path / "ring", tmp_path / "state"


@pytest.fixture
def serve(folders: tuple[Path, Path]) -> Iterator[Callable[..., ServeProcess]]:
    """Starts servers; those that a failed test has left running are ended."""
    served: list[ServeProcess] = []

    def start(*options: str) -> ServeProcess:
        served.append(ServeProcess(folders[0], *OPTIONS, "--state-dir", str(folders[1]), *options))
        return served[-1]

    yield start
    for one in served:
        one.close()


def frames_until(world: Client, last: int) -> dict[int, Frame]:
    found: dict[int, Frame] = {}
    for frame in world.frames(in_order=True, timeout=30):
        found[frame.number] = frame
        if frame.number >= last:
            break
    return found


def difference(one: Frame, other: Frame) -> float:
    """Mean absolute difference of two pictures, of 255."""
    return float(np.abs(one.pixels.astype(int) - other.pixels.astype(int)).mean())


def test_after_a_kill_a_snapshot_goes_on_from_the_same_picture_and_each_time_alike(serve: Serve) -> None:
    first = serve()
    with Client(first.address("control")) as world:
        world.event("night").wait(timeout=30)
        frames_until(world, world.stats().frame + 24)
        world.pause()
        kept = world.command("snapshot", name="before the kill")["frame"]
        world.resume()
        before = frames_until(world, kept + LATENT_FRAMES)
        first.end(signal.SIGKILL)
    after: list[dict[int, Frame]] = []
    for _ in range(2):
        second = serve("--restore", "before the kill")
        with Client(second.address("control")) as world:
            after.append(frames_until(world, 12))
        assert second.end(signal.SIGTERM) == 0
    again = set(after[0]) & set(after[1])
    assert again and all(np.array_equal(after[0][n].pixels, after[1][n].pixels) for n in again)
    picture = before[min(kept + LATENT_FRAMES - 1, max(before))]
    newest = after[0][min(after[0])]
    moved = difference(after[0][12], newest) / (12 - newest.number)
    assert newest.prompt == picture.prompt
    assert difference(newest, picture) < 3 * max(1.0, moved) * newest.number


def test_a_killed_server_starts_again_from_its_last_automatic_snapshot(
    serve: Serve, folders: tuple[Path, Path]
) -> None:
    first = serve("--autosave-s", "0.2", "--restore", "last")
    with Client(first.address("control")) as world:
        applied = world.event("night").wait(timeout=30)
        deadline = time.monotonic() + 30
        while snapshot_frame(folders[1]) < applied.frame:
            assert time.monotonic() < deadline, "no automatic snapshot was written"
            time.sleep(0.05)
        first.end(signal.SIGKILL)
    second = serve("--restore", "last")
    with Client(second.address("control")) as world:
        assert next(world.frames(timeout=30)).prompt == applied.prompt
    assert second.end(signal.SIGTERM) == 0


def snapshot_frame(folder: Path) -> int:
    """Frame number of the newest automatic snapshot, 0 = there is none."""
    try:
        return snapshots.find(folder, snapshots.LAST, "pocket").moment.frame
    except SnapshotUnreadable:
        return 0


VICTIM = """
import sys
from everscene_bridge.client import Client
world = Client(sys.argv[1], name="victim")
for count, frame in enumerate(world.frames()):
    world.event("storm" if count % 2 else "rain")
    print(frame.number, flush=True)
"""


@pytest.fixture
def victim(serve: Serve) -> Iterator[tuple[ServeProcess, "subprocess.Popen[str]"]]:
    """A server, and a client in a process of its own that sends events as fast as frames come."""
    served = serve()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", VICTIM, served.address("control")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    yield served, process
    process.kill()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


def test_the_kill_of_a_client_changes_nothing_for_the_others(
    victim: tuple[ServeProcess, "subprocess.Popen[str]"],
) -> None:
    served, process = victim
    with Client(served.address("control")) as world:
        assert process.stdout is not None
        for _ in range(4):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        before = world.stats()
        applied = world.event("night").wait(timeout=30)
        seen = frames_until(world, applied.frame + 16)
        stats = world.stats()
    assert list(seen) == list(range(min(seen), max(seen) + 1))
    assert stats.epoch == before.epoch and stats.restarts == 0 and stats.errors == 0
    counts = stats.inputs
    assert counts.accepted == counts.applied + counts.superseded + counts.waiting
    assert counts.waiting == 0
