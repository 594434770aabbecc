"""Snapshots that the server takes by itself and keeps on disk."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.bridge.harness import make_engine
from tests.bridge.test_commands import first_cut, wait_for

from everscene_bridge import snapshots
from everscene_bridge.client import Client
from everscene_bridge.errors import RequestFailed, SettingsError, SnapshotUnreadable
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings

StartServer = Callable[..., Server]
MODEL = make_engine().info.model


def test_the_newest_is_found_among_those_of_the_model(tmp_path: Path) -> None:
    for number, model in ((0, "pocket"), (1, "pocket"), (0, "other")):
        path = snapshots.automatic_path(tmp_path, model, number)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    os.utime(snapshots.automatic_path(tmp_path, "pocket", 0), ns=(2**61, 2**61))
    assert snapshots.find(tmp_path, "last", "pocket").name == "pocket.0.safetensors"


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
        world.restore("last")
        assert first_cut(world, number).number > number


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
