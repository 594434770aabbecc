"""A chunk's noise: of the seed, the chunk's first latent frame and the step alone, so the same whenever it is made."""

from collections.abc import Sequence

import torch
from torch import Tensor

_SEED_STRIDE = 0x9E3779B97F4A7C15  # odd, so that neighbouring seeds and frames share no noise
_STEP_STRIDE = 0xD1B54A32D192ED03  # the same for the steps of a chunk


def drawn(seed: int, frame: int, step: int, shape: Sequence[int]) -> Tensor:
    """Normal noise in float32 on the CPU.

    frame: the chunk's first latent frame. step: of a sampler that adds noise anew before each; else 0.
    """
    place = seed * _SEED_STRIDE + frame + 1 + step * _STEP_STRIDE
    return torch.randn(*shape, generator=torch.Generator().manual_seed(place % 2**63))
