"""Servers with a test pattern on free ports."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bridge.harness import Bare, make_engine

from everscene_bridge.client import Client
from everscene_bridge.scene import load_scene
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers; they are stopped at the end of the test."""
    servers: list[Server] = []

    def start(engine: Callable[[], Any] = make_engine, **settings: Any) -> Server:
        ports = {"control_port": 0, "frames_port": 0, "ring_dir": tmp_path, "state_dir": tmp_path / "state"}
        server = Server(engine(), engine, load_scene(), ServeSettings(**{**ports, **settings}))
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    """A server with the usual settings."""
    return start_server()


@pytest.fixture
def bare(server: Server) -> Iterator[Bare]:
    """A bare client that has not said hello."""
    made = Bare(server.endpoint)
    yield made
    made.close()


@pytest.fixture
def world(server: Server) -> Iterator[Client]:
    """A client of that server."""
    with Client(server.endpoint) as made:
        yield made
