"""Figures with error bars: a mean over seeds and the standard error of that mean, and the tables they stand in."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev


@dataclass(frozen=True)
class Figure:
    """mean: of the seeds' means. error: the standard error of it; None for one seed."""

    mean: float
    error: float | None
    seeds: tuple[float, ...]

    def json(self) -> dict[str, object]:
        """As it stands in a file."""
        error = None if self.error is None else round(self.error, 4)
        return {"mean": round(self.mean, 4), "error": error, "seeds": [round(value, 4) for value in self.seeds]}


def over_time(figures: Mapping[str, Mapping[str, Figure]]) -> dict[str, dict[str, Figure]]:
    """The mean of the figures at several moments, and the least of them, by name; of the same seeds at each."""
    made: dict[str, dict[str, Figure]] = {"mean": {}, "least": {}}
    for name in next(iter(figures.values())):
        each = [moment[name] for moment in figures.values()]
        by_seed = zip(*(figure.seeds for figure in each), strict=True)
        made["mean"][name] = _figure([fmean(values) for values in by_seed])
        made["least"][name] = min(each, key=lambda figure: figure.mean)
    return made


def _figure(means: Sequence[float]) -> Figure:
    error = stdev(means) / sqrt(len(means)) if len(means) > 1 else None
    return Figure(fmean(means), error, tuple(means))


class Tally:
    """Collects values under names, each for a seed; a share of right answers is the mean of 1s and 0s."""

    def __init__(self) -> None:
        self._values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, name: str, seed: int, value: float) -> None:
        self._values[name][seed].append(float(value))

    def add_all(self, name: str, seeds: Iterable[int], values: Iterable[float]) -> None:
        for seed, value in zip(seeds, values, strict=True):
            self.add(name, seed, value)

    def figures(self) -> dict[str, Figure]:
        """Every name's figure, in the order in which names came."""
        made = {}
        for name, by_seed in self._values.items():
            made[name] = _figure([fmean(by_seed[seed]) for seed in sorted(by_seed)])
        return made


def table(columns: Mapping[str, Mapping[str, Figure]], rows: Sequence[str]) -> str:
    """A Markdown table: a column for each set of figures, a row for each name that any of them has."""
    lines = [f"| | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    for row in rows:
        cells = [written(row, figures[row]) if row in figures else "" for figures in columns.values()]
        if any(cells):
            lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


PLAIN = ("chunks until", "frames until", "change from frame", "change over", "PSNR", "distance")
"""A row that has one of these in its name is a number, not a share."""


def written(name: str, figure: Figure) -> str:
    """A share in per cent, another number as it is, with its error."""
    plain = any(word in name for word in PLAIN)
    scale, digits = (1.0, 3) if plain else (100.0, 1)
    error = "" if figure.error is None else f" ± {figure.error * scale:.{digits}f}"
    return f"{figure.mean * scale:.{digits}f}{error}{'' if plain else ' %'}"
