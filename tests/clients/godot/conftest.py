"""A Godot to test with, a copy of the demo project, and the sidecar.

GODOT          the engine, 4.3 or newer; without it `godot4` or `godot` on the PATH; without those the tests skip
GODOT_SCREEN   a command that runs the engine on a screen (real or virtual), for the tests that look at pixels; without
               it GODOT itself where there is a display, else `xvfb-run -a GODOT`
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROJECT = ROOT / "godot_client"
VECTORS = ROOT / "tests" / "vectors"
NO_GODOT = "no Godot 4 here: set GODOT=/path/to/godot (4.3 or newer, from https://godotengine.org/download)"
NO_SCREEN = "no screen here: set GODOT_SCREEN, or install xvfb (apt-get install xvfb xauth)"

RunTests = Callable[..., str]
StartTests = Callable[..., "subprocess.Popen[str]"]


def find_godot() -> str | None:
    """The Godot to run, None when there is none."""
    return os.environ.get("GODOT") or shutil.which("godot4") or shutil.which("godot")


@pytest.fixture(scope="session")
def godot() -> str:
    found = find_godot()
    if found is None:
        pytest.skip(NO_GODOT)
    return found


@pytest.fixture(scope="session")
def godot_screen(godot: str) -> list[str]:
    """The command that runs Godot where it can draw."""
    if "GODOT_SCREEN" in os.environ:
        return shlex.split(os.environ["GODOT_SCREEN"])
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return [godot]
    if shutil.which("xvfb-run"):
        return ["xvfb-run", "-a", "-s", "-screen 0 1400x900x24", godot, "--audio-driver", "Dummy"]
    pytest.skip(NO_SCREEN)


@pytest.fixture(scope="session")
def project(godot: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo project, imported once: the class cache must be there before scripts run."""
    copy = tmp_path_factory.mktemp("godot") / "project"
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns(".godot"))
    done = subprocess.run(
        [godot, "--headless", "--path", str(copy), "--import"], capture_output=True, text=True, timeout=300
    )
    (copy.parent / "import.log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy


@pytest.fixture
def run_godot_tests(godot: str, project: Path, tmp_path: Path) -> RunTests:
    """Call it with names of test files of godot_client/tests and options; it returns what they printed."""

    def run(*names: str, timeout: float = 120, **options: object) -> str:
        options = {"vectors": VECTORS, "scratch": tmp_path, **options}
        arguments = [*names, *(f"{key}={value}" for key, value in options.items())]
        command = [godot, "--headless", "--path", str(project), "--script", "res://tests/run.gd", "--"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=timeout)
        said = done.stdout + done.stderr
        assert re.search(r"^[1-9]\d* passed, 0 failed$", said, re.MULTILINE), said
        assert done.returncode == 0, said
        assert "SCRIPT ERROR" not in said, said
        assert "leaked at exit" not in said, said
        return said

    return run


@pytest.fixture
def start_godot_tests(godot: str, project: Path, tmp_path: Path) -> Iterator[StartTests]:
    """As `run_godot_tests` for one file, but the engine runs beside the test; it does not outlive it."""
    engines: list[subprocess.Popen[str]] = []

    def start(name: str, **options: object) -> subprocess.Popen[str]:
        arguments = [f"{key}={value}" for key, value in {"scratch": tmp_path, **options}.items()]
        command = [godot, "--headless", "--path", str(project), "--script", "res://tests/run.gd", "--", name]
        engine = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.kill()
        engine.communicate()


def run_on_screen(command: list[str], timeout: float) -> str:
    """What a command said that had to end with 0 within so many seconds. The virtual screen that it started, and the
    engine on that, end with it."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"no end within {timeout} s: {process.communicate()[0]}")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, said
    return said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Sidecar:
    """`everscene serve` as a process of its own, on ports that stay the same when it starts again."""

    model: str
    folder: Path
    token: str = ""
    control_port: int = 0
    frames_port: int = 0
    process: subprocess.Popen[str] | None = None

    @property
    def endpoint(self) -> str:
        return f"tcp://127.0.0.1:{self.control_port}"

    def start(self) -> None:
        """Start it and wait for its first words. Skips the test when the model's weights are not in this checkout."""
        self.control_port = self.control_port or free_port()
        self.frames_port = self.frames_port or free_port()
        command = [str(Path(sys.executable).parent / "everscene"), "serve", "--model", self.model, "--no-viewer"]
        command += ["--control-port", str(self.control_port), "--frames-port", str(self.frames_port)]
        command += ["--ring-dir", str(self.folder)] + (["--token", self.token] if self.token else [])
        log = self.folder / "sidecar.log"
        self.process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, text=True)
        end = time.monotonic() + 120
        while "Ctrl-C stops it" not in log.read_text():
            if self.process.poll() is not None:
                said = log.read_text()
                if "no transformer weights" in said:
                    pytest.skip(f"the {self.model} model's weights are not in this checkout")
                pytest.fail(f"the sidecar ended: {said}")
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(20)
            finally:
                process.kill()


MakeSidecar = Callable[..., Sidecar]


@pytest.fixture
def make_sidecar(tmp_path: Path) -> Iterator[MakeSidecar]:
    """Call it with a model, and a token if need be: a sidecar that runs, until the end of the test at the latest."""
    made: list[Sidecar] = []

    def make(model: str, token: str = "") -> Sidecar:
        made.append(Sidecar(model, tmp_path, token))
        made[-1].start()
        return made[-1]

    yield make
    for sidecar in made:
        sidecar.stop()


@pytest.fixture(params=["pattern", "pocket"])
def sidecar(request: pytest.FixtureRequest, make_sidecar: MakeSidecar) -> Sidecar:
    return make_sidecar(request.param)
