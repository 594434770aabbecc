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
# Any large odd numbers spread consecutive cells, seeds and salts over the table.
_ODD, _SEED, _SALT = 0x1E3779B97F4A7C15, 7_368_787, 0x2545F4914F6CDD1D


@lru_cache(maxsize=8)
def _table(device: torch.device) -> Tensor:
    values = np.random.default_rng(7464).random(1 << _TABLE_BITS, dtype=np.float32)
    return torch.from_numpy(values).to(device)


def _spread(key: Tensor, seed: Tensor) -> Tensor:
    """The part of the hash that no salt changes: int64, as wide as key and seed together."""
    return torch.add(key, seed, alpha=_SEED).mul_(_ODD)


def _look_up(spread: Tensor, salt: int) -> Tensor:
    offset = (salt * _SALT + (1 << 63)) % (1 << 64) - (1 << 63)  # wrapped as int64 wraps
    index = (spread + offset).bitwise_right_shift_(40).bitwise_and_((1 << _TABLE_BITS) - 1)
    return _table(spread.device)[index]


def uniform(key: Tensor, seed: Tensor, salt: int) -> Tensor:
    """Random float32 in [0, 1), fixed by (key, seed, salt). key, seed: int64, broadcast against each other."""
    return _look_up(_spread(key, seed), salt)


def value_noise(position: Tensor, seed: Tensor, salt: int) -> Tensor:
    """Smooth noise in [0, 1), one random value per unit of position, quintic in between.

    position: float64 of any shape, in cells; seed: int64, broadcasts. Returns float32.
    """
    cell = torch.floor(position)
    fraction = (position - cell).float()
    index = cell.long()
    left, right = uniform(torch.stack((index, index + 1)), seed, salt)
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
    spread: Tensor  # int64 [n, 1, 1, W]: the cell's hash, before salt

    def pick(self, salt: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """A random number of the cell, uniform in [low, high), float32 [n, 1, 1, W]."""
        number = _look_up(self.spread, salt)
        return number if (low, high) == (0.0, 1.0) else torch.rsub(number, low, alpha=low - high)

    def beside(self, step: int) -> "Cells":
        """The cells `step` places to the right, seen from the same columns; offsets stay those of this cell."""
        index = self.index + step
        return Cells(index, self.offset, self.seed, _spread(index, self.seed))


def cells(position: Tensor, size: float, seed: Tensor) -> Cells:
    """Cut world x (float64 pixels, [n, 1, 1, W]) into cells of `size` pixels."""
    number = torch.floor(position / size)
    index = number.long()
    return Cells(index, (position - (number + 0.5) * size).float(), seed, _spread(index, seed))
