"""Figures of a pocket model, read from its generated frames by judges that never saw one.

    PYTHONPATH=engine:bridge:kernels:. python -m tests.judges.evaluate --out runs/evaluation

Three questions. Does an event turn the picture the right way, at once and for good (`switches`)? Is it still a picture
of the prompted world, with its subject, after minutes (`endurance`)? What does the switch itself look like under each
transition (chunks until the new attribute is read, and the largest change from frame to frame)? Many clips run side by
side in one stream, so an accelerator answers in seconds; the arithmetic is that of a live stream.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from statistics import fmean, median

import torch
from torch import Tensor

from everscene_engine.decoder import PocketDecoder
from everscene_engine.pocket import WEIGHTS, PocketModel, best_dtype, load_pocket
from everscene_engine.stream import LatentStream, Transition
from everscene_engine.training.world.captions import prompt_for
from everscene_engine.training.world.contact_sheet import sheet
from everscene_engine.training.world.names import (
    INTENSITIES,
    SETTINGS,
    SUBJECT_COLOURS,
    SUBJECTS,
    TIMES,
    WEATHERS,
    Attributes,
)
from tests.judges.reader import WEIGHTS as JUDGES
from tests.judges.reader import WINDOW, Judges, Reading, load

CHUNKS_BEFORE = 12  # 6 s under the first prompt: the window has moved on from the sink
SECONDS_AFTER = (1.0, 2.0, 10.0, 60.0)
WATCHED_CHUNKS = 8  # after a switch, read chunk by chunk
SAMPLE_SECONDS = 30.0  # between readings of an endurance run


@dataclass(frozen=True)
class Switch:
    """One clip of the first question: a prompt, and a prompt that differs in one attribute."""

    attribute: str
    before: Attributes
    after: Attributes


def all_switches(repeats: int, seed: int) -> list[Switch]:
    """Every ordered pair of times and every ordered pair of weathers, `repeats` times, the rest drawn at random."""
    rng = random.Random(seed)
    pairs = [("time", a, b) for a, b in permutations(TIMES, 2)]
    pairs += [("weather", a, b) for a, b in permutations(WEATHERS, 2)]
    switches = []
    for attribute, before, after in pairs * repeats:
        rest = random_attributes(rng)
        first = replace(rest, **{attribute: before})
        switches.append(Switch(attribute, _sound(first), _sound(replace(first, **{attribute: after}))))
    return switches


def random_attributes(rng: random.Random) -> Attributes:
    """Attributes at random, of weather that is not only light."""
    return _sound(
        Attributes(
            setting=rng.choice(SETTINGS),
            time=rng.choice(TIMES),
            weather=rng.choice(WEATHERS),
            intensity=rng.choice(INTENSITIES[1:]),
            subject=rng.choice(SUBJECTS),
            colour=rng.choice(SUBJECT_COLOURS),
        )
    )


def _sound(attributes: Attributes) -> Attributes:
    """Clear weather has no intensity."""
    return replace(attributes, intensity="normal") if attributes.weather == "clear" else attributes


class Rollout:
    """B clips generated side by side, each under its own prompt; hands out frames as they are decoded."""

    def __init__(self, model: PocketModel, clips: int, seed: int, steps: int | None, settle: int = 0) -> None:
        """settle: clean passes after each chunk, of those that a recache of the newest chunks has left."""
        self._model = model
        self._settle = settle
        self._stream = LatentStream(model.transformer, model.stream, seed, clips=clips, steps=steps)
        self._decoder = PocketDecoder(model.autoencoder)
        self._device = model.transformer.patch_embedding.weight.device

    @torch.inference_mode()
    def steer(self, prompts: Sequence[str], transition: Transition) -> None:
        """Give every clip its prompt from the next chunk on."""
        embedding = self._model.text.encode(prompts).to(self._device)
        self._stream.steer(self._model.transformer.condition(embedding), transition)

    @torch.inference_mode()
    def chunk(self) -> Tensor:
        """Frames of the next chunk, [B, T, 3, H, W] in 0..1."""
        made = self._stream.generate()
        assert made is not None
        for _ in range(self._settle):
            self._stream.settle()
        return (self._decoder.feed(made.latents).float() * 0.5 + 0.5).clamp(0, 1)


def agrees(reading: Reading, attributes: Attributes, attribute: str) -> bool:
    return bool(getattr(reading, attribute) == getattr(attributes, attribute))


def same_subject(reading: Reading, attributes: Attributes) -> bool:
    return reading.subject == attributes.subject and reading.colour == attributes.colour


def measure_switches(
    model: PocketModel,
    judges: Judges,
    switches: Sequence[Switch],
    transition: Transition,
    seed: int,
    steps: int | None,
    seconds_after: Sequence[float] = SECONDS_AFTER,
    show: Callable[[str, Tensor], None] = lambda name, frames: None,
    settle: int = 0,
) -> dict[str, object]:
    """Accuracy of the changed attribute by seconds after the switch, speed and size of the change."""
    fps, frames_per_chunk = model.stream.fps, model.stream.chunk_frames * model.stream.frames_per_latent
    rollout = Rollout(model, len(switches), seed, steps, settle)
    rollout.steer([prompt_for(s.before, None) for s in switches], "recache")
    before = [rollout.chunk() for _ in range(CHUNKS_BEFORE)]
    steady = torch.cat(before[2:], dim=1)
    usual = (steady[:, 1:] - steady[:, :-1]).abs().mean((2, 3, 4)).median(dim=1).values  # [B]
    first_reading = judges.read(before[-1][:, -WINDOW:])
    rollout.steer([prompt_for(s.after, None) for s in switches], transition)
    ends = {round(s * fps): s for s in seconds_after}
    by_chunk: list[list[bool]] = []
    by_second: dict[float, list[Reading]] = {}
    jump = torch.zeros_like(usual)
    last = before[-1][:, -1:]
    shown = [before[-1][:, -1]]
    for number in range(max(ends) // frames_per_chunk):
        frames = rollout.chunk()
        if number < 2:
            path = torch.cat([last, frames], dim=1)
            jump = torch.maximum(jump, (path[:, 1:] - path[:, :-1]).abs().mean((2, 3, 4)).amax(dim=1))
            last = frames[:, -1:]
        end = (number + 1) * frames_per_chunk
        if number < WATCHED_CHUNKS or end in ends:
            readings = judges.read(frames[:, -WINDOW:])
            if number < WATCHED_CHUNKS:
                by_chunk.append([agrees(r, s.after, s.attribute) for r, s in zip(readings, switches, strict=True)])
            if end in ends:
                by_second[ends[end]] = readings
                shown.append(frames[:, -1])
    show(f"switch-{transition}", torch.stack(shown, dim=1))
    needed = [next((n + 1 for n in range(WATCHED_CHUNKS) if by_chunk[n][i]), None) for i in range(len(switches))]
    reached = [n for n in needed if n is not None]
    result: dict[str, object] = {
        "clips": len(switches),
        "before": _accuracy(first_reading, [s.before for s in switches], [s.attribute for s in switches]),
        "by_chunk": [round(fmean(row), 3) for row in by_chunk],
        "median_chunks_until_read": median(reached) if reached else None,
        "never_read_in_8_chunks": len(needed) - len(reached),
        "largest_change_over_usual": round(float((jump / usual).median()), 2),
        "largest_change": round(float(jump.mean()), 4),
        "usual_change": round(float(usual.mean()), 4),
    }
    for second, readings in sorted(by_second.items()):
        for attribute in ("time", "weather"):
            of = [(r, s.after) for r, s in zip(readings, switches, strict=True) if s.attribute == attribute]
            result[f"{attribute}_{second:g}s"] = round(fmean(agrees(r, a, attribute) for r, a in of), 3)
        wanted = [s.after for s in switches]
        result[f"setting_{second:g}s"] = _accuracy(readings, wanted, ["setting"] * len(wanted))
        result[f"subject_there_{second:g}s"] = round(fmean(r.subject is not None for r in readings), 3)
        same = [same_subject(r, a) for r, a in zip(readings, wanted, strict=True)]
        result[f"subject_same_{second:g}s"] = round(fmean(same), 3)
    return result


def _accuracy(readings: Sequence[Reading], wanted: Sequence[Attributes], attributes: Sequence[str]) -> float:
    return round(fmean(agrees(r, w, a) for r, w, a in zip(readings, wanted, attributes, strict=True)), 3)


def measure_endurance(
    model: PocketModel,
    judges: Judges,
    clips: int,
    seconds: float,
    seed: int,
    steps: int | None,
    show: Callable[[str, Tensor], None] = lambda name, frames: None,
) -> dict[str, object]:
    """One prompt a clip for so many seconds: what the judges still read, every half minute."""
    rng = random.Random(seed)
    wanted = [random_attributes(rng) for _ in range(clips)]
    rollout = Rollout(model, clips, seed, steps)
    rollout.steer([prompt_for(a, None) for a in wanted], "recache")
    frames_per_chunk = model.stream.chunk_frames * model.stream.frames_per_latent
    chunks = round(seconds * model.stream.fps / frames_per_chunk)
    every = round(SAMPLE_SECONDS * model.stream.fps / frames_per_chunk)
    rows: list[dict[str, float]] = []
    shown = []
    for number in range(1, chunks + 1):
        frames = rollout.chunk()
        if number % every == 0 or number == 4:
            readings = judges.read(frames[:, -WINDOW:])
            row = {"second": number * frames_per_chunk / model.stream.fps}
            for attribute in ("setting", "time", "weather"):
                row[attribute] = _accuracy(readings, wanted, [attribute] * clips)
            row["subject_there"] = round(fmean(r.subject is not None for r in readings), 3)
            same = [same_subject(r, a) for r, a in zip(readings, wanted, strict=True)]
            row["subject_same"] = round(fmean(same), 3)
            rows.append(row)
            print("endurance", json.dumps(row), flush=True)
            shown.append(frames[:, -1])
    show("endurance", torch.stack(shown, dim=1))
    return {"clips": clips, "rows": rows}


class Sheets:
    """Saves contact sheets of a few clips: a row is a clip, a column a moment."""

    def __init__(self, folder: Path, clips: int) -> None:
        self._folder, self._clips = folder, clips

    def __call__(self, name: str, frames: Tensor) -> None:
        step = max(1, len(frames) // self._clips)
        picked = frames[::step][: self._clips]  # [b, columns, 3, H, W]
        sheet(picked.flatten(0, 1).cpu(), picked.shape[1]).save(self._folder / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the model (default: the shipped one)")
    parser.add_argument("--judges", type=Path, default=JUDGES, help="folder of the judges' weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the preset's)")
    parser.add_argument("--recache-depth", type=int, help="chunks made anew at a switch, newest first (default: all)")
    parser.add_argument("--settle", type=int, default=0, help="clean passes after each chunk, of what that has left")
    parser.add_argument("--repeats", type=int, default=4, help="clips for each of the 32 pairs")
    parser.add_argument("--transitions", default="recache,text,reset")
    parser.add_argument("--seconds-after", default=",".join(f"{s:g}" for s in SECONDS_AFTER))
    parser.add_argument("--endurance-seconds", type=float, default=300.0, help="0 leaves that question out")
    parser.add_argument("--endurance-clips", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    model = load_pocket(device, best_dtype(device), options.weights)
    model = replace(model, stream=replace(model.stream, recache_depth=options.recache_depth))
    judges, show = load(options.judges, device), Sheets(options.out, 12)
    figures: dict[str, object] = {"steps": options.steps or model.stream.steps, "seed": options.seed}
    after = [float(s) for s in options.seconds_after.split(",")]
    for transition in filter(None, options.transitions.split(",")):
        start = time.monotonic()
        switches = all_switches(options.repeats, options.seed)
        figures[transition] = measure_switches(
            model, judges, switches, transition, options.seed, options.steps, after, show, options.settle
        )
        print(transition, json.dumps(figures[transition]), f"({time.monotonic() - start:.0f} s)", flush=True)
    if options.endurance_seconds:
        start = time.monotonic()
        figures["endurance"] = measure_endurance(
            model, judges, options.endurance_clips, options.endurance_seconds, options.seed, options.steps, show
        )
        print(f"({time.monotonic() - start:.0f} s)")
    (options.out / "figures.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
