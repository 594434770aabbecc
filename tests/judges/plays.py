"""Plays: what clips are asked to show, chunk by chunk, for every question that is put to a model.

A play belongs to a seed, so that figures can bear error bars; the plays of several seeds run side by side. Unless a
question is about combinations that training holds out, no play asks for one.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from everscene_engine.training.world.captions import prompt_for
from everscene_engine.training.world.names import (
    HELD_OUT_SCENES,
    HELD_OUT_SUBJECTS,
    INTENSITIES,
    MOMENTS,
    SETTINGS,
    TIMES,
    WEATHERS,
    Attributes,
)
from everscene_engine.training.world.scene import MOMENT_CHUNKS, change, random_attributes

NAMES = {"setting": SETTINGS, "time": TIMES, "weather": WEATHERS}
CHUNKS_BEFORE = 12  # 6 s under the first prompt: the window has moved on from the sink
CHUNKS_BETWEEN = 12  # of a series of changes
WORDINGS = ("canonical", "varied")
SEEN, HELD_OUT, HELD_OUT_SUBJECT = "seen", "held-out", "held-out subject, seen scene"


@dataclass(frozen=True)
class Play:
    """One clip: from which chunk on it is asked for what. changes: (chunk, attributes) in order, the first at chunk 0.

    seed: whose figures it counts for. attribute: what the change is about ("" for none). group: SEEN, or what it asks
    for of what training leaves out. named: whether prompts after the first name the subject. wording: of prompts in
    varied words, None for canonical ones.
    """

    seed: int
    changes: tuple[tuple[int, Attributes], ...]
    attribute: str = ""
    group: str = SEEN
    named: bool = True
    wording: int | None = None

    def at(self, chunk: int) -> Attributes:
        """What is asked for at a chunk."""
        return [attributes for first, attributes in self.changes if first <= chunk][-1]

    def prompt(self, chunk: int) -> str:
        """The prompt of a chunk: the same words until the next change."""
        number = sum(first <= chunk for first, _ in self.changes) - 1
        words = None if self.wording is None else random.Random(self.wording + number)
        return prompt_for(self.at(chunk), words, "whole" if self.named or number == 0 else "never")

    def changes_at(self, chunk: int) -> bool:
        """Whether something else is asked for from this chunk on."""
        return any(first == chunk for first, _ in self.changes)


def drawn(rng: random.Random) -> Attributes:
    """Attributes at random, of weather that is not only light."""
    attributes = random_attributes(rng)
    return replace(attributes, intensity=rng.choice(INTENSITIES[1:]))


def varied(plays: Sequence[Play]) -> list[Play]:
    """The same plays in other words: synonyms, free order, and weather of any force, where the play is not of changes
    that draw their own. The words are the same each time, and whether the subject is named again or not."""
    made = []
    for play in plays:
        rng = random.Random(f"{play.seed} {play.changes}")
        force = rng.choice(INTENSITIES)
        changes = play.changes
        if play.attribute or len(changes) == 1:
            changes = tuple((chunk, replace(attributes, intensity=force)) for chunk, attributes in changes)
        made.append(replace(play, changes=changes, wording=rng.getrandbits(62)))
    return made


PAIRS = [(field, a, b) for field, names in NAMES.items() for a, b in permutations(names, 2)]


def switches(seed: int, pairs: int | None = None) -> list[Play]:
    """Every ordered pair of settings, of times and of weathers, the rest at random. pairs: so many of them, drawn."""
    rng = random.Random(seed)
    asked = PAIRS
    if pairs is not None:
        asked = rng.sample(asked, min(pairs, len(asked)))
    return [_switch(rng, seed, field, before, after) for field, before, after in asked]


def held_out_subject_switches(seed: int, clips: int) -> list[Play]:
    """Changes of one attribute between scenes that training shows, with the same subjects in turn."""
    rng = random.Random(seed)
    plays = []
    for number in range(clips):
        subject, colour = HELD_OUT_SUBJECTS[number % len(HELD_OUT_SUBJECTS)]
        plays.append(_switch(rng, seed, *rng.choice(PAIRS), group=HELD_OUT_SUBJECT, subject=subject, colour=colour))
    return plays


def _switch(
    rng: random.Random, seed: int, field: str, before: str, after: str, group: str = SEEN, **given: str
) -> Play:
    while True:
        rest = replace(drawn(rng), **given)
        first, second = replace(rest, **{field: before}), replace(rest, **{field: after})
        if not (first.scene_held_out or second.scene_held_out):
            return Play(seed, ((0, first), (CHUNKS_BEFORE, second)), field, group)


def held_out_switches(seed: int, clips: int) -> list[Play]:
    """Changes of one attribute into a scene that training leaves out, each with one of the subjects of a colour that it
    leaves out, in turn."""
    rng = random.Random(seed)
    asked = [(scene, field) for scene in HELD_OUT_SCENES for field in NAMES]
    plays = []
    for number in range(clips):
        if number % len(asked) == 0:
            rng.shuffle(asked)
        (setting, time, weather), field = asked[number % len(asked)]
        subject, colour = HELD_OUT_SUBJECTS[number % len(HELD_OUT_SUBJECTS)]
        after = Attributes(setting, time, weather, rng.choice(INTENSITIES[1:]), subject, colour)
        others = [replace(after, **{field: name}) for name in NAMES[field]]
        before = rng.choice([one for one in others if not one.scene_held_out])
        plays.append(Play(seed, ((0, before), (CHUNKS_BEFORE, after)), field, HELD_OUT))
    return plays


def moments(seed: int, clips: int) -> list[Play]:
    """Each momentary event in turn, in a world at random, for as long as it lasts."""
    rng = random.Random(seed)
    plays = []
    for number in range(clips):
        calm = drawn(rng)
        eventful = replace(calm, moment=MOMENTS[number % len(MOMENTS)])
        over = CHUNKS_BEFORE + MOMENT_CHUNKS
        plays.append(Play(seed, ((0, calm), (CHUNKS_BEFORE, eventful), (over, calm)), "moment"))
    return plays


def series(seed: int, clips: int, count: int, named: bool) -> list[Play]:
    """Worlds in which `count` things change one after the other, the subject apart."""
    rng = random.Random(seed)
    plays = []
    for _ in range(clips):
        now = drawn(rng)
        changes = [(0, now)]
        for number in range(1, count + 1):
            now = change(rng, now)
            changes.append((number * CHUNKS_BETWEEN, now))
        plays.append(Play(seed, tuple(changes), named=named))
    return plays


def steady(seed: int, clips: int) -> list[Play]:
    """Worlds in which nothing changes."""
    rng = random.Random(seed)
    return [Play(seed, ((0, drawn(rng)),)) for _ in range(clips)]


def prompts(plays: Sequence[Play], chunk: int) -> list[str]:
    """All prompts of a chunk."""
    return [play.prompt(chunk) for play in plays]
