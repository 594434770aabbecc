"""Runtimes and assemblies, made once for all of these tests; without Mono they skip and say why."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everscene_bridge.pattern import PatternEngine, PatternTimes
from everscene_bridge.scene import load_scene
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings
from everscene_engine.port import EnginePort

from .runtimes import MISSING, Runtime, build_checks, build_play, find_runtimes
from .session import Session

RUNTIMES = {runtime.name: runtime for runtime in find_runtimes()}
Connect = Callable[..., Session]
Serve = Callable[..., Server]


@pytest.fixture(params=["mono", "coreclr"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each test that asks for it runs under both."""
    if request.param not in RUNTIMES:
        pytest.skip(MISSING)
    return RUNTIMES[request.param]


@pytest.fixture(scope="session")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checks.exe."""
    if "mono" not in RUNTIMES:
        pytest.skip(MISSING)
    return build_checks(tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Play.exe."""
    if "mono" not in RUNTIMES:
        pytest.skip(MISSING)
    return build_play(tmp_path_factory.mktemp("play"))


@pytest.fixture
def run_check(runtime: Runtime, checks: Path) -> Callable[..., str]:
    """Run `Checks.exe` to its end; gives what it printed."""

    def run(*arguments: object, timeout: float = 60) -> str:
        command = [*runtime.command, str(checks), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def connect(runtime: Runtime, checks: Path) -> Iterator[Connect]:
    """Start C# clients; all of them end with the test."""
    started: list[Session] = []

    def start(endpoint: str, *options: str) -> Session:
        session = Session(runtime, str(checks), endpoint, *options)
        started.append(session)
        return session

    yield start
    for session in started:
        session.__exit__(None, None, None)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers with the test pattern on free ports; what is no setting of the server is one of the pattern."""
    started: list[Server] = []

    def start(token: str | None = None, control_port: int = 0, frames_port: int = 0, **pattern: object) -> Server:
        def engine() -> EnginePort:
            return PatternEngine(
                times=PatternTimes(recache=0.01, forward=0.01, forwards=3, decode=0.005),
                **pattern,  # type: ignore[arg-type]
            )

        settings = ServeSettings(control_port=control_port, frames_port=frames_port, token=token, ring_dir=tmp_path)
        server = Server(engine(), engine, load_scene(), settings)
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()
