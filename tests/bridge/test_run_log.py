"""A log of a run that cannot be written any more ends; the run does not."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.bridge.harness import make_engine
from tests.bridge.simulation import Simulation
from tests.bridge.test_replay import PATTERN, again, lines, live, record, until

from everscene_bridge.client import Client
from everscene_bridge.replay import replay
from everscene_bridge.run_log import RunLog
from everscene_bridge.snapshots import Snapshot

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@pytest.fixture
def run_log(tmp_path: Path) -> Iterator[RunLog]:
    with RunLog(tmp_path / "logs" / "run.jsonl", PATTERN, make_engine().info) as made:
        yield made


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()


def fill_disk(run_log: RunLog) -> None:
    """What is written to the log from now on meets a full disk."""
    with FULL.open("w") as full:
        os.dup2(full.fileno(), run_log._file.fileno())


def lose_folder(run_log: RunLog) -> None:
    """No file can be made beside the log any more."""
    shutil.rmtree(run_log._path.parent)
    run_log._path.parent.touch()


def ends(caplog: pytest.LogCaptureFixture) -> int:
    return sum("ends here" in line.getMessage() for line in caplog.records)


@needs_full
def test_a_log_on_a_full_disk_ends_and_says_so_once(run_log: RunLog, caplog: pytest.LogCaptureFixture) -> None:
    fill_disk(run_log)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            run_log.write("settle")
    assert ends(caplog) == 1
    assert run_log._file.closed


@needs_full
def test_a_log_that_cannot_be_begun_is_an_error() -> None:
    with pytest.raises(OSError, match="No space left"):
        RunLog(FULL, PATTERN, make_engine().info)


def a_snapshot() -> Snapshot:
    engine = make_engine()
    engine.generate(lambda: False)
    moment = Simulation().run(2000).timeline.moment()
    assert moment is not None
    return Snapshot(engine.snapshot(1), moment, "test")


@pytest.mark.parametrize(
    "write",
    [
        lambda run_log: run_log.write_snapshot("restore", a_snapshot()),
        lambda run_log: run_log.write_picture(np.zeros((2, 3, 3), np.uint8)),
    ],
    ids=["snapshot", "picture"],
)
def test_a_log_ends_where_a_file_beside_it_cannot_be_written(
    run_log: RunLog, caplog: pytest.LogCaptureFixture, write: Callable[[RunLog], None]
) -> None:
    lose_folder(run_log)
    with caplog.at_level(logging.ERROR):
        write(run_log)
        write(run_log)
    assert ends(caplog) == 1


@needs_full
def test_the_picture_goes_on_when_the_disk_of_the_log_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[RunLog] = []

    def enter(run_log: RunLog) -> RunLog:
        made.append(run_log)
        return run_log

    monkeypatch.setattr(RunLog, "__enter__", enter)

    def script(world: Client) -> None:
        until(world, 10)
        fill_disk(made[0])
        world.event("storm").wait("applied", 10)
        until(world, 10)

    path = record(tmp_path, script, lambda: live(PATTERN))
    assert len(lines(path, "frame")) < 25
    assert replay(path, again).first_difference is None
