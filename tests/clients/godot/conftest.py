"""A Godot to test with: $GODOT, or `godot4` or `godot` on the PATH. Without one these tests skip and say so."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROJECT = ROOT / "godot_client"
VECTORS = ROOT / "tests" / "vectors"
NO_GODOT = "no Godot 4 here: set GODOT=/path/to/godot (4.3 or newer), or get one with godot_client/tests/get_godot.sh"

RunTests = Callable[..., str]


def find_godot() -> str | None:
    """The Godot to run, None when there is none."""
    named = os.environ.get("GODOT")
    return named if named else shutil.which("godot4") or shutil.which("godot")


@pytest.fixture(scope="session")
def godot() -> str:
    found = find_godot()
    if found is None:
        pytest.skip(NO_GODOT)
    return found


@pytest.fixture(scope="session")
def project(godot: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo project, imported once: the class cache must be there before scripts run."""
    copy = tmp_path_factory.mktemp("godot") / "project"
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns(".godot", "*.import"))
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
        return said

    return run
