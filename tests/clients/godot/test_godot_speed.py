"""What a stream of 1280×720 at 60 frames a second takes of the game's main thread.

`GODOT_SPEED_SECONDS` (60) is how long is measured. The window is 640×360, so that a software renderer's own work does
not hide what is measured; the texture and its upload are full size.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .test_godot_screens import DRIVERS

pytestmark = pytest.mark.slow

SECONDS = int(os.environ.get("GODOT_SPEED_SECONDS", "60"))
ATTEMPTS = 3
"""Other processes of the machine can take the processor away from the game: one undisturbed run out of three counts."""

P95_LIMIT_USEC = 2000


def measure(screen: list[str], project: Path, folder: Path, driver: str) -> dict[str, Any]:
    """One run; what tests/speed.gd writes."""
    serve = [sys.executable, str(Path(__file__).parent / "peer.py"), "--width", "1280", "--height", "720"]
    peer = subprocess.Popen([*serve, "--fps", "60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert peer.stdin is not None and peer.stdout is not None
    try:
        endpoint = json.loads(peer.stdout.readline())["endpoint"]
        command = [*screen, "--path", str(project), *DRIVERS[driver], "--resolution", "640x360"]
        command += ["--script", "res://tests/speed.gd", "--", f"endpoint={endpoint}", f"seconds={SECONDS}"]
        command += [f"folder={folder}", "playback=in_order", "max_fps=90"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 120)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        peer.stdin.close()
        peer.wait(20)
    result: dict[str, Any] = json.loads((folder / "speed.json").read_text())
    return result


@pytest.mark.parametrize("driver", DRIVERS)
def test_720p_at_60_takes_under_2_ms_and_misses_no_frame(
    godot_screen: list[str], project: Path, tmp_path: Path, driver: str
) -> None:
    tried = []
    for _ in range(ATTEMPTS):
        result = measure(godot_screen, project, tmp_path, driver)
        print(json.dumps(result))
        assert result["size"] == [1280, 720]
        lost = result["missed"] + result["torn"] + result["skipped"]
        frames = result["last"] - result["first"] + 1
        tried.append((result["cost_usec"]["p95"], lost, frames))
        if result["cost_usec"]["p95"] < P95_LIMIT_USEC and lost == 0 and result["shown"] == frames:
            assert frames >= SECONDS * 59, "the stream itself was slower than 60 frames a second"
            return
    pytest.fail(f"(p95 µs, frames lost, frames) of each attempt: {tried}")
