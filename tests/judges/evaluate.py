"""Figures of a pocket model, read from its generated frames by judges that never saw one.

    PYTHONPATH=engine:bridge:kernels:. python -m tests.judges.evaluate --steps 2 --out runs/evaluation

Puts the questions of `questions.py` to the model, and to the world's own renders as the upper bound of each figure.
All clips of a question run side by side in one stream, those of all seeds together; each has a world, prompts and noise
of its own. Prints Markdown tables, and writes them with all figures to the folder `--out`.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from everscene_engine.pocket import WEIGHTS, PocketModel, best_dtype, load_pocket
from everscene_engine.stream import Transition
from everscene_engine.training.world.contact_sheet import sheet
from everscene_engine.training.world.scene import FRAMES_PER_CHUNK
from tests.judges import plays as ask
from tests.judges.conditions import add_options as add_conditions
from tests.judges.conditions import conditions
from tests.judges.figures import Figure, over_time, table
from tests.judges.formats import in_precision
from tests.judges.plays import CHUNKS_BEFORE, CHUNKS_BETWEEN, Play
from tests.judges.questions import (
    WATCHED_CHUNKS,
    Show,
    ask_moments,
    ask_series,
    ask_steady,
    ask_switches,
    chunk_at,
)
from tests.judges.reader import WEIGHTS as JUDGES
from tests.judges.reader import Judges, load
from tests.judges.sources import Generated, Rendered, Source

QUESTIONS = ("switches", "moments", "series", "steady", "sinkless")
SHOWN_CLIPS = 12
RENDERS = "renders"

Columns = dict[str, dict[str, Figure]]


@dataclass(frozen=True)
class Size:
    """How much is asked, for each seed."""

    seeds: tuple[int, ...]
    pairs: int | None  # of the 52 ordered pairs of settings, times and weathers; None: all
    held_out: int  # into held-out scenes, and as many into others with held-out subjects
    moments: int
    series: int  # clips: half so many plays, with prompts that name the subject always and once
    changes: int
    steady: int
    seconds: float
    seconds_after: tuple[float, ...]
    varied: bool  # prompts in varied words

    def plays(self, make: Callable[[int], list[Play]]) -> list[Play]:
        """The plays of all seeds."""
        plays = [play for seed in self.seeds for play in make(seed)]
        return ask.varied(plays) if self.varied else plays


@dataclass(frozen=True)
class Examiner:
    """Puts questions to sources. source: of plays, chunks at most, transition, and whether there is a sink."""

    judges: Judges
    size: Size
    source: Callable[[Sequence[Play], int, Transition, bool], Source]
    show: Callable[[str], Show]

    def switches(self, transition: Transition) -> dict[str, Figure]:
        size = self.size

        def all_groups(seed: int) -> list[Play]:
            never_met = ask.held_out_switches(seed, size.held_out)
            return ask.switches(seed, size.pairs) + never_met + ask.held_out_subject_switches(seed, size.held_out)

        asked = size.plays(all_groups)
        chunks = CHUNKS_BEFORE + max(WATCHED_CHUNKS, chunk_at(max(size.seconds_after)) + 1)
        source = self.source(asked, chunks, transition, True)
        return ask_switches(source, self.judges, asked, size.seconds_after, self.show(transition))

    def moments(self, transition: Transition) -> dict[str, Figure]:
        asked = self.size.plays(lambda s: ask.moments(s, self.size.moments))
        source = self.source(asked, 2 * CHUNKS_BEFORE, transition, True)
        return ask_moments(source, self.judges, asked, self.show(transition))

    def series(self, transition: Transition) -> dict[str, Figure]:
        size = self.size

        def both(seed: int) -> list[Play]:
            named = ask.series(seed, size.series // 2, size.changes, named=True)
            return named + [replace(play, named=False) for play in named]

        asked = size.plays(both)
        source = self.source(asked, (size.changes + 1) * CHUNKS_BETWEEN, transition, True)
        return ask_series(source, self.judges, asked, size.changes, self.show(transition))

    def steady(self, sink: bool) -> Columns:
        asked = self.size.plays(lambda s: ask.steady(s, self.size.steady))
        source = self.source(asked, chunk_at(self.size.seconds) + 1, "recache", sink)
        made = ask_steady(source, self.judges, asked, self.size.seconds, self.show("sink" if sink else "no sink"))
        return {**made, **over_time(made)}


@dataclass(frozen=True)
class Answers:
    """All figures. by_transition: of switches, moments and series, by question and transition, renders among them.
    steady: of plays in which nothing changes, by kind and second, with mean and least of all seconds."""

    by_transition: Mapping[str, Columns]
    steady: Mapping[str, Columns]

    def json(self) -> dict[str, object]:
        """As they stand in a file."""
        return {
            **{question: _json(columns) for question, columns in self.by_transition.items()},
            **{f"steady, {kind}": _json(columns) for kind, columns in self.steady.items()},
        }

    def markdown(self) -> str:
        """As tables."""
        parts = [f"### {name}\n\n{table(columns, _rows(columns))}" for name, columns in self.by_transition.items()]
        for kind, columns in self.steady.items():
            parts.append(f"### steady, {kind}\n\n{table(columns, _rows(columns))}")
        return "\n\n".join(parts) + "\n"


def _json(columns: Columns) -> dict[str, object]:
    return {column: {name: figure.json() for name, figure in figures.items()} for column, figures in columns.items()}


def _rows(columns: Columns) -> list[str]:
    """Names in the order in which they first come; those that differ by the seconds alone follow one another."""
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    bare = [re.sub(r"[\d.]+ s$", "", name) for name in names]
    return [names[place] for place in sorted(range(len(names)), key=lambda place: bare.index(bare[place]))]


def examine(
    examiner: Examiner, bound: Examiner | None, questions: Iterable[str], transitions: Sequence[Transition]
) -> Iterator[Answers]:
    """Ask all, and tell after each question what has been answered. bound: of the renders, None to leave them out."""
    by_transition: dict[str, Columns] = {}
    steady: dict[str, Columns] = {}
    for question in questions:
        start = time.monotonic()
        if question in ("steady", "sinkless"):
            kind = "with the sink" if question == "steady" else "without a sink"
            steady[kind] = examiner.steady(question == "steady")
            if bound is not None and RENDERS not in steady:
                steady[RENDERS] = bound.steady(True)
        else:
            columns: Columns = {t: getattr(examiner, question)(t) for t in transitions}
            if bound is not None:
                columns[RENDERS] = getattr(bound, question)("recache")
            by_transition[question] = columns
        print(f"{question}: {time.monotonic() - start:.0f} s", flush=True)
        yield Answers(by_transition, dict(sorted(steady.items(), key=lambda item: item[0] == RENDERS)))


class Sheets:
    """Saves contact sheets of a few clips: a row is a clip, a column a moment."""

    def __init__(self, folder: Path, clips: int) -> None:
        self._folder, self._clips = folder, clips

    def of(self, source: str) -> Callable[[str], Show]:
        """Sheets of a source, for each way of asking it."""

        def way(name: str) -> Show:
            return lambda question, frames: self._save(f"{source}-{question}-{name}", frames)

        return way

    def _save(self, name: str, frames: Tensor) -> None:
        step = max(1, len(frames) // self._clips)
        picked = frames[::step][: self._clips]  # [b, columns, 3, H, W]
        sheet(picked.flatten(0, 1).cpu(), picked.shape[1]).save(self._folder / f"{name.replace(' ', '-')}.png")


def model_source(
    model: PocketModel, steps: int | None, kv: str, settle: int = 0
) -> Callable[[Sequence[Play], int, Transition, bool], Source]:
    """Makes sources of this model."""

    def make(plays: Sequence[Play], chunks: int, transition: Transition, sink: bool) -> Source:
        return Generated(model, plays, transition, steps, kv, sink, settle)

    return make


def render_source(device: torch.device) -> Callable[[Sequence[Play], int, Transition, bool], Source]:
    """Makes sources of the world itself."""

    def make(plays: Sequence[Play], chunks: int, transition: Transition, sink: bool) -> Source:
        return Rendered(plays, chunks, FRAMES_PER_CHUNK, device)

    return make


def size_of(options: argparse.Namespace) -> Size:
    """How much the command line asks for."""
    return Size(
        seeds=tuple(int(seed) for seed in options.seeds.split(",")),
        pairs=options.pairs,
        held_out=options.held_out_clips,
        moments=options.moment_clips,
        series=options.series_clips,
        changes=options.changes,
        steady=options.endurance_clips,
        seconds=options.endurance_seconds,
        seconds_after=tuple(float(second) for second in options.seconds_after.split(",")),
        varied=options.wording == "varied",
    )


def model_of(options: argparse.Namespace) -> PocketModel:
    """The model that the command line asks for, recached as it says."""
    device = torch.device(options.device)
    model = load_pocket(device, best_dtype(device), options.weights, options.steps)
    return replace(model, stream=model.stream.with_recache_depth(options.recache_depth))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What this command and that of the formats share. Clips are counted for each seed."""
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the model (default: the shipped one)")
    parser.add_argument("--judges", type=Path, default=JUDGES, help="folder of the judges' weights")
    parser.add_argument("--out", type=Path, required=True)
    add_conditions(parser)
    parser.add_argument("--pairs", type=int, help="so many of the 52 pairs that a switch can be of (default: all)")
    parser.add_argument("--held-out-clips", type=int, default=18, help="into held-out scenes, and as many into others")
    parser.add_argument("--moment-clips", type=int, default=16)
    parser.add_argument("--series-clips", type=int, default=16)
    parser.add_argument("--changes", type=int, default=10, help="in a series, one every 6 s")
    parser.add_argument("--endurance-clips", type=int, default=12)
    parser.add_argument("--endurance-seconds", type=float, default=300.0)
    parser.add_argument("--seconds-after", default="1,2,10,60", help="a switch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--precision", default="bf16", help="of the linears: bf16, fp8 or nvfp4")
    parser.add_argument("--kv", default="bf16", help="of the KV cache: bf16 or nvfp4")
    parser.add_argument("--questions", default=",".join(QUESTIONS), help="default: %(default)s")
    parser.add_argument("--transitions", default="recache,text,reset")
    parser.add_argument("--no-renders", action="store_true", help="leave the upper bound out")
    parser.add_argument("--settle", type=int, default=0, help="clean passes after each chunk, of what that has left")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    model = in_precision(model_of(options), options.precision)
    judges, size, sheets = load(options.judges, device), size_of(options), Sheets(options.out, SHOWN_CLIPS)
    source = model_source(model, options.steps, options.kv, options.settle)
    examiner = Examiner(judges, size, source, sheets.of("model"))
    bound = None if options.no_renders else Examiner(judges, size, render_source(device), sheets.of(RENDERS))
    questions = list(filter(None, options.questions.split(",")))
    head = {
        **conditions(options, options.steps or model.stream.steps, model.stream.recache_depth),
        "precision": options.precision,
        "kv": options.kv,
        "settle": options.settle,
    }
    text = ""
    for answers in examine(examiner, bound, questions, options.transitions.split(",")):
        (options.out / "figures.json").write_text(json.dumps({**head, **answers.json()}, indent=1) + "\n")
        text = f"{json.dumps(head)}\n\n{answers.markdown()}"
        (options.out / "figures.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
