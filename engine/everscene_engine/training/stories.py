"""What is asked of a stream that trains on its own pictures: prompts as a player would change them, without end."""

import random
from dataclasses import replace
from typing import Literal

from everscene_engine.config import CUT_PREFIX
from everscene_engine.training.world.captions import prompt_for
from everscene_engine.training.world.names import MOMENTS, TRAINED_COLOURS, Attributes
from everscene_engine.training.world.scene import MOMENT_CHUNKS, change, random_attributes


class Story:
    """One world's present prompt. It is the same for the same generator."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._attributes = random_attributes(rng, colours=TRAINED_COLOURS)
        self._wording = rng.getrandbits(62)
        self._naming: Literal["always", "mostly"] = "always"  # a world begins with its subject, as clips do
        self._opening = ""
        self._chunks_left = 0  # of the moment

    @property
    def attributes(self) -> Attributes:
        return self._attributes

    @property
    def prompt(self) -> str:
        """In varied wording, which stays until something changes."""
        return self._opening + prompt_for(self._attributes, random.Random(self._wording), self._naming)

    @property
    def without(self) -> str:
        """The same words but for the subject and the moment: what guidance leads away from."""
        plain = replace(self._attributes, moment=None)
        return self._opening + prompt_for(plain, random.Random(self._wording), subject="never")

    def change(self) -> None:
        """Something happens: a change that lasts, or half as often, where there is none, a moment."""
        if self._attributes.moment is None and self._rng.random() < 1 / 3:
            self._attributes = replace(self._attributes, moment=self._rng.choice(MOMENTS))
            self._chunks_left = MOMENT_CHUNKS
        else:
            self._now(change(self._rng, self._attributes))

    def cut(self) -> None:
        """A new shot of other attributes with the same subject."""
        before = self._attributes
        drawn = random_attributes(self._rng, colours=TRAINED_COLOURS)
        self._now(replace(drawn, subject=before.subject, colour=before.colour))
        self._opening = CUT_PREFIX

    def go_on(self) -> bool:
        """A chunk has been made. True if another prompt follows: the words that announce a cut stand for one chunk, a
        moment lasts MOMENT_CHUNKS."""
        over = bool(self._opening)
        self._opening = ""
        if self._attributes.moment is not None:
            self._chunks_left -= 1
            if self._chunks_left == 0:
                self._attributes = replace(self._attributes, moment=None)
                over = True
        return over

    def _now(self, attributes: Attributes) -> None:
        """Tell of this world, in other words."""
        self._attributes = attributes
        self._wording = self._rng.getrandbits(62)
        self._naming = "mostly"
