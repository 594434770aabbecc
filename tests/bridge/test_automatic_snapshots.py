"""Snapshots that the server takes by itself and keeps on disk."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.bridge.harness import make_engine
from tests.bridge.simulation import Simulation
from tests.bridge.test_commands import first_cut, wait_for

from everscene_bridge import snapshots
from everscene_bridge.client import Client
from everscene_bridge.errors import RequestFailed, SettingsError, SnapshotUnreadable
from everscene_bridge.pattern import PatternEngine
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings

StartServer = Callable[..., Server]
MODEL = make_engine().info.model


def test_those_of_the_model_are_found_newest_first(tmp_path: Path) -> None:
    for number, model in ((0, "pocket"), (1, "pocket"), (0, "other")):
        path = snapshots.automatic_path(tmp_path, model, number)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    os.utime(snapshots.automatic_path(tmp_path, "pocket", 0), ns=(2**61, 2**61))
    names = [path.name for path in snapshots.automatic(tmp_path, "pocket")]
    assert names == ["pocket.0.safetensors", "pocket.1.safetensors"]


def keep(folder: Path, place: int, engine: PatternEngine) -> Path:
    """An automatic snapshot of this engine, a second newer than the one of the place before."""
    engine.generate(lambda: False)
    moment = Simulation().run(2000).timeline.moment()
    assert moment is not None
    path = snapshots.automatic_path(folder, MODEL, place)
    snapshots.save(path, snapshots.Snapshot(engine.snapshot(1), moment, "test"))
    os.utime(path, (place, place))
    return path


def damage(path: Path) -> None:
    """Half of the file is lost, as when the machine went down while it was written."""
    written = path.stat()
    path.write_bytes(path.read_bytes()[: written.st_size // 2])
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))


def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    keep(tmp_path, 0, PatternEngine(width=64, height=36, seed=3))
    damage(keep(tmp_path, 1, PatternEngine(width=64, height=36, seed=4)))
    assert snapshots.find(tmp_path, "last", MODEL).engine.facts["seed"] == 3


def test_a_start_passes_over_a_damaged_one(start_server: StartServer, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    keep(folder, 0, PatternEngine(width=64, height=36, seed=3))
    damage(keep(folder, 1, PatternEngine(width=64, height=36, seed=4)))
    server = start_server(restore="last", autosave_s=0.0)
    assert server.stream._autosaves[0].engine.facts["seed"] == 3


def test_a_start_passes_over_one_of_another_size(start_server: StartServer, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    keep(folder, 0, PatternEngine(width=64, height=36, seed=3))
    keep(folder, 1, PatternEngine(width=32, height=32, seed=4))
    server = start_server(restore="last", autosave_s=0.0)
    assert server.stream._autosaves[0].engine.facts["seed"] == 3


def test_a_start_from_none_that_can_be_used_begins_a_new_world(
    start_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    damage(keep(folder, 0, PatternEngine(width=64, height=36)))
    keep(folder, 1, PatternEngine(width=32, height=32))
    server = start_server(restore="last", autosave_s=0.0)
    assert not server.stream._autosaves
    assert [line.getMessage().split(":")[0] for line in caplog.records[:3]] == [
        "an automatic snapshot is passed over",
        "an automatic snapshot is passed over",
        "a new world begins",
    ]


def test_none_yet_is_said_with_the_folder(tmp_path: Path) -> None:
    with pytest.raises(SnapshotUnreadable, match=f"no automatic snapshot of pocket in {tmp_path}"):
        snapshots.find(tmp_path, "last", "pocket")


def test_a_server_keeps_a_few_in_turn_and_goes_back_to_the_newest(start_server: StartServer, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    server = start_server(autosave_s=0.1)
    with Client(server.endpoint) as world:
        wait_for(lambda: snapshots.automatic_path(folder, MODEL, 1).exists(), "no two were written")
        assert len(list((folder / snapshots.AUTOMATIC).glob("*.safetensors"))) <= snapshots.AUTOMATIC_KEPT
        number = world.stats().frame
        _, frame = first_cut(world, number, lambda: world.restore("last"))
        assert frame.number > number


def test_a_first_start_from_the_last_one_begins_a_new_world(start_server: StartServer) -> None:
    server = start_server(restore="last")
    with Client(server.endpoint) as world:
        assert next(world.frames(timeout=5)).number >= 1


def test_last_is_no_name_for_a_snapshot(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.endpoint) as world:
        wait_for(lambda: world.latest() is not None, "no frame came")
        with pytest.raises(RequestFailed, match="'last' stands for the newest automatic snapshot"):
            world.snapshot("last")


def test_without_automatic_ones_none_is_written(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(autosave_s=0.0)
    with Client(server.endpoint) as world:
        wait_for(lambda: world.stats().frame > 16, "no frames came")
    assert not (tmp_path / "state" / snapshots.AUTOMATIC).exists()


def test_a_bad_name_to_start_from_is_refused() -> None:
    with pytest.raises(SettingsError, match="--restore"):
        ServeSettings(restore="../last")
