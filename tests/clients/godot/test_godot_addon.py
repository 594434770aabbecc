"""The Godot addon by itself: the project imports clean, every script parses, the wire's bytes are right."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from .conftest import PROJECT, ROOT, RunTests

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


@pytest.mark.parametrize("tool", [["formatter", "--check"], ["linter"]], ids=["gdformat", "gdlint"])
def test_the_scripts_are_formatted_and_linted(tool: list[str]) -> None:
    scripts = [str(PROJECT / script) for script in SCRIPTS]
    command = [sys.executable, "-m", f"gdtoolkit.{tool[0]}", *tool[1:], *scripts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nodes_texture_and_dock_work_without_a_server(run_godot_tests: RunTests) -> None:
    run_godot_tests("test_nodes")


@pytest.mark.parametrize("scene", ["menu", "painting/painting", "courtyard/courtyard"])
def test_every_demo_runs_without_a_server(godot: str, project: Path, scene: str) -> None:
    command = [godot, "--headless", "--path", str(project), f"res://demo/{scene}.tscn", "--quit-after", "30"]
    endpoint = ["--", "--endpoint=tcp://127.0.0.1:1"]
    done = subprocess.run([*command, *endpoint], capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "ERROR" not in said and "WARNING" not in said, said


def test_the_asset_librarys_download_holds_the_addon_and_nothing_else(tmp_path: Path) -> None:
    archive = tmp_path / "addon.tar"
    packing = ["git", "-C", str(ROOT), "archive", "--output", str(archive), "HEAD:godot_client"]
    done = subprocess.run(packing, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"this is no git checkout: {done.stderr.strip()}")
    with tarfile.open(archive) as packed:
        names = {name for name in packed.getnames() if not packed.getmember(name).isdir()}
    assert all(name.startswith("addons/everscene/") for name in names), names
    wanted = {"plugin.cfg", "plugin.gd", "LICENSE", "README.md", "stream.gd", "texture.gd", "trigger.gd"}
    assert {f"addons/everscene/{name}" for name in wanted} <= names


def test_versions_agree() -> None:
    version = (PROJECT / "addons/everscene/plugin.cfg").read_text().split('version="')[1].split('"')[0]
    assert f'const VERSION := "{version}"' in (PROJECT / "addons/everscene/stream.gd").read_text()
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
