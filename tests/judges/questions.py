"""The questions put to a source of clips, and what the judges read from them.

switches    does an event turn the picture the right way, how fast, for how long, and with what jump?
moments     is a momentary event to be seen while it lasts, and none where there is none?
series      is it the same subject after one change after another?
steady      is it still a picture of the prompted world, with its subject, after minutes?
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from everscene_engine.training.world.scene import FRAMES_PER_CHUNK, FRAMES_PER_SECOND, MOMENT_CHUNKS
from tests.judges.figures import Figure, Tally
from tests.judges.plays import CHUNKS_BEFORE, CHUNKS_BETWEEN, NAMES, SEEN, Play
from tests.judges.reader import WINDOW, Judges, Reading
from tests.judges.sources import Source, watch

STEADY_CHUNKS = 4  # before a switch: how much a clip usually changes from frame to frame
SWITCH_CHUNKS = 2  # in which the jump is looked for
WATCHED_CHUNKS = 8  # after a switch, read chunk by chunk
FINE_STRIDE = 2  # frames between readings right after a switch
READ_OFTEN = 2  # windows of the eight of 2 s in which a moment must be read: one alone may be a false alarm
SAMPLE_SECONDS = 30.0  # between readings of a steady play
FIRST_CHUNK = 3  # the first reading of a steady play: at 2 s

Show = Callable[[str, Tensor], None]


def chunk_at(seconds: float) -> int:
    """The number of the chunk that ends so many seconds after the first began."""
    return round(seconds * FRAMES_PER_SECOND / FRAMES_PER_CHUNK) - 1


def ask_switches(
    source: Source, judges: Judges, plays: Sequence[Play], seconds_after: Sequence[float], show: Show
) -> dict[str, Figure]:
    """Figures of plays that change one attribute at CHUNKS_BEFORE."""
    ends = {CHUNKS_BEFORE + chunk_at(seconds): seconds for seconds in seconds_after}
    watched = range(CHUNKS_BEFORE - STEADY_CHUNKS, CHUNKS_BEFORE + WATCHED_CHUNKS)
    tally = Tally()
    seeds = [play.seed for play in plays]
    steady: list[Tensor] = []
    after: list[Tensor] = []
    by_chunk: list[list[bool]] = []
    shown: list[Tensor] = []
    for number, frames in watch(source, {*watched, *ends}):
        readings = judges.read(frames[:, -WINDOW:])
        if number < CHUNKS_BEFORE:
            steady.append(frames)
        elif number < CHUNKS_BEFORE + SWITCH_CHUNKS:
            after.append(frames)
        if CHUNKS_BEFORE <= number < CHUNKS_BEFORE + WATCHED_CHUNKS:
            by_chunk.append([_agrees(r, p, number, p.attribute) for r, p in zip(readings, plays, strict=True)])
        if number == CHUNKS_BEFORE - 1:
            for reading, play in zip(readings, plays, strict=True):
                tally.add(
                    "old attribute read before the switch", play.seed, _agrees(reading, play, number, play.attribute)
                )
            shown.append(frames[:, -1])
        if number in ends:
            for reading, play in zip(readings, plays, strict=True):
                _count(tally, reading, play, number, f"{ends[number]:g} s")
            shown.append(frames[:, -1])
        if len(after) == SWITCH_CHUNKS and len(steady) == STEADY_CHUNKS:
            _jump(tally, seeds, torch.cat(steady, dim=1), torch.cat(after, dim=1))
            _fine(tally, judges, plays, steady[-1], torch.cat(after, dim=1))
            steady, after = [], []
    for index, play in enumerate(plays):
        reached = next((n + 1 for n, row in enumerate(by_chunk) if row[index]), None)
        tally.add(f"changed attribute never read in {WATCHED_CHUNKS} chunks", play.seed, reached is None)
        if reached is not None:
            tally.add("chunks until the changed attribute is read", play.seed, reached)
    show("switches", torch.stack(shown, dim=1))
    return tally.figures()


def _count(tally: Tally, reading: Reading, play: Play, number: int, when: str) -> None:
    """One reading so long after a switch."""
    group, wanted = play.group, play.at(number)
    tally.add(f"{group}: new {play.attribute} {when}", play.seed, _agrees(reading, play, number, play.attribute))
    tally.add(f"{group}: new attribute of any kind {when}", play.seed, _agrees(reading, play, number, play.attribute))
    kept = [_agrees(reading, play, number, name) for name in NAMES if name != play.attribute]
    tally.add(f"{group}: what was not changed {when}", play.seed, all(kept))
    if wanted.weather != "clear":
        tally.add(f"{group}: {wanted.intensity} weather {when}", play.seed, _agrees(reading, play, number, "weather"))
    tally.add(f"{group}: subject there {when}", play.seed, reading.subject is not None)
    tally.add(f"{group}: subject kind {when}", play.seed, reading.subject == wanted.subject)
    tally.add(f"{group}: subject colour {when}", play.seed, reading.colour == wanted.colour)
    same = _same_subject(reading, play, number)
    tally.add(f"{group}: same subject {when}", play.seed, same)
    if group != SEEN:
        tally.add(f"{group}: same subject, {wanted.colour} {wanted.subject} {when}", play.seed, same)


def _jump(tally: Tally, seeds: Sequence[int], steady: Tensor, after: Tensor) -> None:
    """The largest change from frame to frame at a switch; mean of pixels, 0 to 1."""
    usual = _changes(steady).median(dim=1).values  # [B]
    jump = _changes(torch.cat([steady[:, -1:], after], dim=1)).amax(dim=1)
    tally.add_all("largest change from frame to frame", seeds, jump.tolist())
    tally.add_all("largest change over the clip's usual", seeds, (jump / usual.clamp(min=1e-4)).tolist())
    tally.add_all("usual change from frame to frame", seeds, usual.tolist())


def _changes(frames: Tensor) -> Tensor:
    """frames [B, T, 3, H, W] → mean changes from frame to frame [B, T - 1]."""
    return torch.stack([(b - a).abs().mean((1, 2, 3)) for a, b in pairwise(frames.unbind(1))], 1)


def _fine(tally: Tally, judges: Judges, plays: Sequence[Play], last: Tensor, after: Tensor) -> None:
    """Frames until the changed attribute is first read, among the clips that get there in SWITCH_CHUNKS."""
    path = torch.cat([last[:, -WINDOW:], after], dim=1)
    count = after.shape[1]
    reached: list[int | None] = [None] * len(plays)
    for end in range(FINE_STRIDE, count + 1, FINE_STRIDE):
        readings = judges.read(path[:, end : end + WINDOW])
        for index, (reading, play) in enumerate(zip(readings, plays, strict=True)):
            if reached[index] is None and _agrees(reading, play, CHUNKS_BEFORE, play.attribute):
                reached[index] = end
    for play, frames in zip(plays, reached, strict=True):
        if frames is not None:
            tally.add("frames until the changed attribute is read", play.seed, frames)


def ask_moments(source: Source, judges: Judges, plays: Sequence[Play], show: Show) -> dict[str, Figure]:
    """Figures of plays in which a momentary event begins at CHUNKS_BEFORE: seen while it lasts, and false alarms in as
    many chunks before it."""
    during = range(CHUNKS_BEFORE, CHUNKS_BEFORE + MOMENT_CHUNKS)
    before = range(CHUNKS_BEFORE - MOMENT_CHUNKS, CHUNKS_BEFORE)
    said: dict[bool, list[Counter[str]]] = {False: [Counter() for _ in plays], True: [Counter() for _ in plays]}
    shown: list[Tensor] = []
    for number, frames in watch(source, {*before, *during}):
        for windows in torch.unflatten(frames, 1, (-1, WINDOW)).unbind(1):
            for names, reading in zip(said[number in during], judges.read(windows), strict=True):
                names.update(reading.moments)
        if number in during:
            shown += [frames[:, 1], frames[:, 5]]
    tally = Tally()
    for play, quiet, eventful in zip(plays, said[False], said[True], strict=True):
        alarms, names = _often(quiet), _often(eventful)
        moment = play.at(CHUNKS_BEFORE).moment
        tally.add(f"{moment} seen while it lasts", play.seed, moment in names)
        tally.add("moments seen while they last", play.seed, moment in names)
        tally.add("another moment seen meanwhile", play.seed, bool(names - {moment}))
        tally.add("a moment seen where there is none", play.seed, bool(alarms))
    show("moments", torch.stack(shown, dim=1))
    return tally.figures()


def _often(said: Counter[str]) -> set[str]:
    """The moments that were read in enough windows."""
    return {name for name, count in said.items() if count >= READ_OFTEN}


def ask_series(source: Source, judges: Judges, plays: Sequence[Play], count: int, show: Show) -> dict[str, Figure]:
    """Figures of plays with `count` changes, read before the next one: identity, and what was asked for."""
    ends = {number * CHUNKS_BETWEEN + CHUNKS_BETWEEN - 1: number for number in range(count + 1)}
    tally = Tally()
    shown: list[Tensor] = []
    for number, frames in watch(source, ends):
        shown.append(frames[:, -1])
        for reading, play in zip(judges.read(frames[:, -WINDOW:]), plays, strict=True):
            way = "subject named" if play.named else "subject not named again"
            same = _same_subject(reading, play, number)
            tally.add(f"{way}: same after {ends[number]} changes", play.seed, same)
            if ends[number]:
                tally.add(f"{way}: same, mean of all changes", play.seed, same)
                for name in NAMES:
                    tally.add(f"{way}: {name} read", play.seed, _agrees(reading, play, number, name))
    show("series", torch.stack(shown, dim=1))
    return tally.figures()


def ask_steady(
    source: Source, judges: Judges, plays: Sequence[Play], seconds: float, show: Show
) -> dict[str, dict[str, Figure]]:
    """Figures by second of plays in which nothing changes."""
    samples = {FIRST_CHUNK}
    count = int(seconds / SAMPLE_SECONDS)
    samples |= {chunk_at(SAMPLE_SECONDS * number) for number in range(1, count + 1)}
    made: dict[str, dict[str, Figure]] = {}
    shown: list[Tensor] = []
    for number, frames in watch(source, samples):
        tally = Tally()
        for reading, play in zip(judges.read(frames[:, -WINDOW:]), plays, strict=True):
            right = [_agrees(reading, play, number, name) for name in NAMES]
            for name, one in zip(NAMES, right, strict=True):
                tally.add(name, play.seed, one)
            tally.add("setting, time and weather", play.seed, all(right))
            tally.add("subject there", play.seed, reading.subject is not None)
            tally.add("same subject", play.seed, _same_subject(reading, play, number))
        made[f"{(number + 1) * FRAMES_PER_CHUNK / FRAMES_PER_SECOND:g} s"] = tally.figures()
        shown.append(frames[:, -1])
    show("steady", torch.stack(shown, dim=1))
    return made


def _agrees(reading: Reading, play: Play, number: int, attribute: str) -> bool:
    return bool(getattr(reading, attribute) == getattr(play.at(number), attribute))


def _same_subject(reading: Reading, play: Play, number: int) -> bool:
    wanted = play.at(number)
    return reading.subject == wanted.subject and reading.colour == wanted.colour
