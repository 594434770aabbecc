"""Ten minutes of the harbour story with the real pocket model, with nobody there, and every frame in its recording.
`make test-show`, or `make test-show SECONDS=60` for a shorter evening.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from everscene_bridge.show_file import load_show

av = pytest.importorskip("av")
pytestmark = pytest.mark.slow

STORY = Path(__file__).parents[2] / "examples" / "harbour_story"
SECONDS = float(os.environ.get("SHOW_SECONDS", 600))
START_S, END_S = 120.0, 120.0
LOOK_EVERY_S = 5.0

ADDED = """
serve: {control_port: 0, frames_port: 0, viewer_port: 0, state_dir: state, restore: last}
record: {file: "takes/{time}.mp4", split: "2:00"}
idle: {after: 20s, feed: {file: idle.yaml}}
"""
IDLE = """
name: idle
every: 30
steps: [{at: 1, event: fireworks}]
"""


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[int]]:
    """The show's folder once it is over, what it said, and what /readyz answered meanwhile."""
    folder = tmp_path_factory.mktemp("show") / "story"
    shutil.copytree(STORY, folder)
    with (folder / "show.yaml").open("a") as show:
        show.write(ADDED)
    (folder / "idle.yaml").write_text(IDLE)
    load_show(folder / "show.yaml")
    command = [sys.executable, "-m", "everscene_bridge", "show", str(folder / "show.yaml"), "--seconds", str(SECONDS)]
    said = folder / "said.txt"
    ready: list[int] = []
    with said.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + START_S + SECONDS + END_S
            while process.poll() is None and time.monotonic() < end:
                time.sleep(LOOK_EVERY_S)
                ready.append(readiness(said.read_text()))
            assert process.poll() == 0, said.read_text()
        finally:
            process.kill()
            process.wait(10)
    return folder, said.read_text(), ready


def readiness(said: str) -> int:
    """Status of /readyz; 0 before there is a viewer, and after it."""
    viewer = re.search(r"http://[\w.:]+/", said)
    if viewer is None:
        return 0
    try:
        with urllib.request.urlopen(f"{viewer[0]}readyz", timeout=LOOK_EVERY_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as problem:
        return problem.code
    except OSError:
        return 0


def lines(folder: Path) -> list[list[dict[str, object]]]:
    """The lines beside each file of the recording."""
    found = sorted((folder / "takes").glob("*.jsonl"))
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in found]


def test_every_frame_that_was_shown_is_in_the_recording(evening: tuple[Path, str, list[int]]) -> None:
    folder, said, _ = evening
    files = lines(folder)
    ends = [file[-1] for file in files]
    assert all(end["kind"] == "end" and end["lost"] == 0 for end in ends), ends
    firsts = [int(str(file[0]["first_frame"])) for file in files]
    counts = [int(str(end["frames"])) for end in ends]
    last = int(re.findall(r"the show ends with frame (\d+)", said)[-1])
    print(f"{sum(counts)} frames in {len(files)} files, {last / SECONDS:.2f} a second")
    assert firsts[0] == 1 and sum(counts) == last
    assert firsts[1:] == [first + count for first, count in zip(firsts, counts, strict=True)][:-1]


def test_every_frame_of_the_recording_can_be_seen(evening: tuple[Path, str, list[int]]) -> None:
    for path in sorted((evening[0] / "takes").glob("*.mp4")):
        with av.open(str(path)) as container:
            places = [round(float(frame.time) * 16) for frame in container.decode(video=0)]
        end = json.loads(path.with_name(path.name + ".jsonl").read_text().splitlines()[-1])
        assert places == list(range(end["frames"])), path.name


def test_the_story_and_the_idle_feed_were_played(evening: tuple[Path, str, list[int]]) -> None:
    said = [line for file in lines(evening[0]) for line in file if line["kind"] == "input"]
    assert {"birds", "day", "fireworks"} <= {line["event"] for line in said}
    seen = {line["prompt"] for file in lines(evening[0]) for line in file if line["kind"] == "prompt"}
    assert len(seen) >= min(12, SECONDS / 15)


def test_nobody_had_to_come(evening: tuple[Path, str, list[int]]) -> None:
    _, said, ready = evening
    assert not re.search(r"ERROR|Traceback", said), said
    asked = [status for status in ready[ready.index(200) :] if status]
    late = asked.count(503)  # no frame for 2 s: that is the machine's business, not the show's
    print(f"of {len(asked)} times that it was asked it was not ready {late} times")
    assert set(asked) <= {200, 503} and late < len(asked) / 2
