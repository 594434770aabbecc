"""Each example runs alone with the pocket model, and does what its first line says."""

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from everscene_bridge.scene import load_scene
from everscene_bridge.scene_prompts import possible_prompts
from everscene_bridge.show_file import load_show
from everscene_engine.pocket import load_pocket

EXAMPLES = Path(__file__).parents[2] / "examples"
SCENES = sorted(EXAMPLES.glob("*/scene.yaml"))


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("path", SCENES, ids=lambda path: path.parent.name)
def test_the_pocket_model_knows_every_prompt_of_an_example(path: Path) -> None:
    text = load_pocket(torch.device("cpu"), torch.float32).text
    for prompt in possible_prompts(load_scene(path)):
        text.check(prompt)


def test_the_story_speaks_of_events_that_its_scene_has() -> None:
    load_show(EXAMPLES / "harbour_story" / "show.yaml")  # raises SceneError for others


def test_the_harbour_story(tmp_path: Path) -> None:
    pytest.importorskip("av")
    story = tmp_path / "story"
    shutil.copytree(EXAMPLES / "harbour_story", story)
    show = (story / "show.yaml").read_text()
    show = show.replace("{file: story.yaml}", "{file: story.yaml, speed: 6}")
    show += "serve: {control_port: 0, frames_port: 0, viewer_port: null, state_dir: state}\nrecord: {file: take.mp4}\n"
    (story / "show.yaml").write_text(show)
    run("-m", "everscene_bridge", "show", str(story / "show.yaml"), "--seconds", "14")
    (take,) = story.glob("take-0001.mp4.jsonl")
    lines = [json.loads(line) for line in take.read_text().splitlines()]
    sent = [line["event"] for line in lines if line["kind"] == "input"]
    assert "storm" in sent  # the recorder, a process of its own, may come after the first events
    assert len({line["prompt"] for line in lines if line["kind"] == "prompt"}) >= 3
    assert lines[-1]["frames"] > 30 and lines[-1]["lost"] == 0


def test_the_health_bar() -> None:
    out = run(str(EXAMPLES / "health_bar" / "run.py"), "--once")
    weathers = re.findall(r"^health .*by day, (.*); \d+ of 6 values", out, re.MULTILINE)
    assert weathers == ["clear sky", "rain", "storm", "storm"] or weathers[-1] in ("storm", "heavy storm")
    assert re.search(r"^healed: +a red fox trots along the mountains at dawn, clear sky$", out, re.MULTILINE)


def test_two_players() -> None:
    out = run(str(EXAMPLES / "two_players" / "run.py"), "--quiet", "--seconds", "8")
    counts = {
        end: int(count)
        for count, end in re.findall(r"^ *(\d+) ((?:applied|superseded|rejected).*)$", out, re.MULTILINE)
    }
    total = int(re.search(r"^(\d+) events, each with one end; 0 wait;", out, re.MULTILINE)[1])  # type: ignore[index]
    assert sum(counts.values()) == total > 200
    assert {"applied", "superseded", "rejected: cooldown"} <= counts.keys()


def test_the_osc_fader() -> None:
    pytest.importorskip("pythonosc")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = run(str(EXAMPLES / "osc_fader" / "run.py"), "--quiet", "--seconds", "12", "--port", str(port))
    moves, applied = re.search(r"^(\d+) moves of the fader came; (\d+) of them", out, re.MULTILINE).groups()  # type: ignore[union-attr]
    assert int(moves) > 100 and 0 < int(applied) < int(moves)
    assert "fog" in out and "rain" in out
