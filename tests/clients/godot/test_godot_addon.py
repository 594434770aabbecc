"""The Godot addon by itself: the project imports clean, every script parses, the wire's bytes are right."""

import subprocess
from pathlib import Path

import pytest

from .conftest import PROJECT, RunTests

SCRIPTS = sorted(path.relative_to(PROJECT) for path in PROJECT.rglob("*.gd"))


def test_the_project_imports_without_a_warning(project: Path) -> None:
    log = (project.parent / "import.log").read_text()
    assert "WARNING" not in log
    assert "ERROR" not in log


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_every_script_parses(godot: str, project: Path, script: Path) -> None:
    command = [godot, "--headless", "--path", str(project), "--check-only", "--script", f"res://{script}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr


def test_msgpack_zmtp_and_ring_match_the_golden_bytes(run_godot_tests: RunTests) -> None:
    run_godot_tests("test_msgpack", "test_zmtp", "test_frame_ring")
