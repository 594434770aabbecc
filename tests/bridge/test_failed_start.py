"""What a sidecar leaves behind when it cannot start."""

import socket
from typing import Any

import pytest
from rich.console import Console

from everscene_bridge import sidecar as module
from everscene_bridge.engines import EngineChoice
from everscene_bridge.errors import PortTaken
from everscene_bridge.pattern import PatternEngine
from everscene_bridge.settings import ServeSettings
from everscene_bridge.sidecar import SidecarOptions, sidecar


def test_an_engine_whose_server_cannot_start_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []
    monkeypatch.setattr(PatternEngine, "close", lambda engine: closed.append(engine))
    made = PatternEngine()
    monkeypatch.setattr(module, "loader", lambda choice: lambda: made)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = ServeSettings(control_port=taken.getsockname()[1], frames_port=0)
        options = SidecarOptions(EngineChoice("pattern"), settings, viewer_port=None)
        with pytest.raises(PortTaken), sidecar(options, Console(quiet=True)):
            pass
    assert closed == [made]
