"""Ways from one prompt to the next: at once, or in a blend.

A blend has a duration in seconds of content, an ease, which says how far it has got when, and a path, which says along
which line the conditioning goes (see `everscene_engine.port.Mix`).
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

from everscene_bridge.protocol import Transition
from everscene_engine.port import BlendPath

Ease = Literal["linear", "cosine"]
BLEND_SECONDS: Final = 2.0
LONGEST_BLEND_S: Final = 600.0


@dataclass(frozen=True)
class Blend:
    """How a blend goes."""

    seconds: float = BLEND_SECONDS  # of content, above 0
    ease: Ease = "cosine"
    path: BlendPath = "linear"

    def weight(self, passed_s: float) -> float:
        """How much of the new prompt there is after so many seconds: 0 to 1."""
        part = min(1.0, max(0.0, passed_s / self.seconds))
        return part if self.ease == "linear" else (1.0 - math.cos(math.pi * part)) / 2.0


DEFAULT_BLEND: Final = Blend()


@dataclass(frozen=True)
class Way:
    """How the picture gets from one prompt to the next. blend: counts with the transition `blend` alone."""

    transition: Transition = "recache"
    blend: Blend = DEFAULT_BLEND


RECACHE: Final = Way()
