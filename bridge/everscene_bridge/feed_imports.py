"""Feeds from the files of other tools, told apart by what they hold.

Scope timelines (daydreamlive/scope, versions 2.0 and 2.1): JSON, blocks with `startTime` and `endTime` in seconds, each
with weighted prompts. The heaviest prompt of a block counts. `transitionSteps` are chunks, of 12 frames at 16 a second.

Odyssey scripts: a JSON list of `timestamp_ms` with `start`, `interact` or `end`, alone or as `script` of a map. A start
begins a new world. What is said in `interact` is meant in the world of the start, so its prompt is the start's with it.

LongLive prompt lists: JSONL with `prompts` on each line, a line for each video, and no times: those stand in LongLive's
configuration. Some add `switch_frames`, in latent frames of a quarter of a second; without them each prompt gets `hold`
seconds.
"""

import json
from pathlib import Path
from typing import Any, Final

from everscene_bridge.errors import SceneError
from everscene_bridge.feed import Feed, load_feed
from everscene_bridge.yaml_file import YamlText, read_text

SCOPE_CHUNK_S: Final = 12 / 16
LATENT_FRAME_S: Final = 4 / 16
HOLD_S: Final = 10.0

Steps = list[dict[str, Any]]


def load_any_feed(path: Path, line: int = 1, hold_s: float = HOLD_S) -> Feed:
    """Read a feed of ours, or import one. Raises SceneError naming the file and what is wrong.

    line: which video of a LongLive list, from 1. hold_s: seconds for each of its prompts.
    """
    if path.suffix not in (".json", ".jsonl"):
        return load_feed(path)
    text = read_text(path, "feed")
    try:
        return _from_json(path, text, line, hold_s)
    except (LookupError, TypeError, AttributeError, ValueError) as problem:
        raise SceneError(f"{path} cannot be imported: {type(problem).__name__} {problem}") from None


def _from_json(path: Path, text: str, line: int, hold_s: float) -> Feed:
    if path.suffix == ".jsonl":
        rows = [json.loads(row) for row in text.splitlines() if row.strip()]
        if not rows or not isinstance(rows[0], dict) or "prompts" not in rows[0]:
            return load_feed(path)
        if not 1 <= line <= len(rows):
            raise ValueError(f"line {line} was asked for; the file has {len(rows)}")
        return _made(path, *_longlive(rows[line - 1], hold_s))
    data = json.loads(text)
    script = data.get("script") if isinstance(data, dict) else data
    if isinstance(script, list):
        return _made(path, *_odyssey(script))
    if "prompts" in data:
        return _made(path, *_scope(data["prompts"]))
    return load_feed(path)


def _scope(blocks: list[dict[str, Any]]) -> tuple[Steps, float]:
    steps: Steps = []
    for block in blocks:
        text = block["text"] if "text" in block else _heaviest(block["prompts"])
        step = {"at": float(block["startTime"]), "prompt": text}
        chunks = int(block.get("transitionSteps") or 0)
        if chunks and steps:
            path = "slerp" if block.get("temporalInterpolationMethod") == "slerp" else "linear"
            step |= {"transition": "blend", "seconds": chunks * SCOPE_CHUNK_S, "ease": "linear", "path": path}
        steps.append(step)
    return steps, float(blocks[-1]["endTime"])


def _heaviest(prompts: list[dict[str, Any]]) -> str:
    return str(max(prompts, key=lambda prompt: float(prompt.get("weight", 1)))["text"])


def _odyssey(script: list[dict[str, Any]]) -> tuple[Steps, float | None]:
    steps: Steps = []
    world = ""
    end: float | None = None
    for entry in script:
        at = float(entry["timestamp_ms"]) / 1e3
        if "start" in entry:
            world = str(entry["start"]["prompt"])
            steps.append({"at": at, "prompt": world, "transition": "reset"})
        elif "interact" in entry:
            said = str(entry["interact"]["prompt"])
            steps.append({"at": at, "prompt": f"{world.rstrip('. ')}. {said}" if world else said})
        elif "end" in entry:
            end = at
        else:
            raise ValueError(f"the entry at {entry['timestamp_ms']} ms has neither start, interact nor end")
    return steps, end


def _longlive(row: dict[str, Any], hold_s: float) -> tuple[Steps, float]:
    prompts = [str(prompt) for prompt in row["prompts"]]
    switches = row.get("switch_frames")
    if switches is None:
        times = [place * hold_s for place in range(len(prompts))]
    else:
        times = [0.0, *(float(frame) * LATENT_FRAME_S for frame in switches)]
        if len(times) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need {len(prompts) - 1} switch_frames; there are {len(switches)}")
    steps = [{"at": at, "prompt": prompt} for at, prompt in zip(times, prompts, strict=True)]
    return steps, times[-1] + hold_s


def _made(path: Path, steps: Steps, length: float | None) -> Feed:
    data = {"name": path.stem[:64], "steps": steps, "length": length}
    return YamlText(str(path), data, None).check(Feed)
