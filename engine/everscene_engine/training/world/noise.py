"""Random land without end: value noise and cells of world x, in closed form.

A world coordinate is float64, because a camera that has panned for weeks is far from zero and still needs a
hundredth of a pixel. It is one-dimensional (one value per picture column), so its cost is nothing beside the pixels.
Randomness is a multiplicative hash of (seed, cell) into a fixed table: the same on CPU and GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_TABLE_BITS = 16
_ODD = 0x1E3779B97F4A7C15  # any large odd number spreads consecutive cells over the table


@lru_cache(maxsize=8)
def _table(device: torch.device) -> Tensor:
    values = np.random.default_rng(7464).random(1 << _TABLE_BITS, dtype=np.float32)
    return torch.from_numpy(values).to(device)


def uniform(key: Tensor, seed: Tensor, salt: int) -> Tensor:
    """Random float32 in [0, 1), fixed by (key, seed, salt). key, seed: int64, broadcast against each other."""
    mixed = (key + (seed * 7_368_787 + salt * 104_729)) * _ODD
    return _table(mixed.device)[(mixed >> 40) & ((1 << _TABLE_BITS) - 1)]


def value_noise(position: Tensor, seed: Tensor, salt: int) -> Tensor:
    """Smooth noise in [0, 1), one random value per unit of position, quintic in between.

    position: float64 of any shape, in cells; seed: int64, broadcasts. Returns float32.
    """
    cell = torch.floor(position)
    fraction = (position - cell).float()
    index = cell.long()
    left, right = uniform(index, seed, salt), uniform(index + 1, seed, salt)
    return torch.lerp(left, right, fraction**3 * (fraction * (fraction * 6 - 15) + 10))


def layered_noise(position: Tensor, seed: Tensor, salt: int, octaves: Sequence[tuple[float, float]]) -> Tensor:
    """Sum of octaves, each (cell size in pixels, amplitude in pixels), of noise in [-1, 1).

    position: float64 world x in pixels. Returns float32 of the same shape, in pixels.
    """
    total = torch.zeros_like(position, dtype=torch.float32)
    for number, (size, amplitude) in enumerate(octaves):
        noise = value_noise(position / size, seed, salt + 31 * number)
        total.add_(noise, alpha=2 * amplitude).sub_(amplitude)
    return total


@dataclass(frozen=True)
class Cells:
    """A row of cells along world x, seen from every picture column."""

    index: Tensor  # int64 [n, 1, 1, W]: the cell this column lies in
    offset: Tensor  # float32 [n, 1, 1, W]: pixels from the cell's centre
    seed: Tensor  # int64 [n, 1, 1, 1]

    def pick(self, salt: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """A random number of the cell, uniform in [low, high), float32 [n, 1, 1, W]."""
        return torch.rsub(uniform(self.index, self.seed, salt), low, alpha=low - high)


def cells(position: Tensor, size: float, seed: Tensor) -> Cells:
    """Cut world x (float64 pixels, [n, 1, 1, W]) into cells of `size` pixels."""
    index = torch.floor(position / size)
    return Cells(index.long(), (position - (index + 0.5) * size).float(), seed)
