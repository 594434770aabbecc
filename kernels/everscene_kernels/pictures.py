"""What stands between the convolutions of a decoder, on frames whose channels lie together in memory.

Frames are [T, H, W, C] here: a channels-last tensor, seen in the order of its memory.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def norm_silu(x: Tensor, gamma: Tensor, bias: Tensor | None = None) -> Tensor:
    """SiLU of x + bias [C] over the length of its channels times √C · gamma [C]; float32, rounded to x's dtype."""
    wide = x.float() if bias is None else x.float() + bias.float()
    return F.silu(F.normalize(wide, dim=-1) * (x.shape[-1] ** 0.5) * gamma.float()).to(x.dtype)


def add_biased(x: Tensor, other: Tensor, bias: Tensor) -> Tensor:
    """x + bias [C] + other, float32, rounded to x's dtype."""
    return (x.float() + bias.float() + other.float()).to(x.dtype)


def biased_relu(x: Tensor, bias: Tensor, other: Tensor | None = None) -> Tensor:
    """max(0, x + bias [C] + other), in float32, rounded once to x's dtype; other None: 0."""
    wide = x.float() + bias.float()
    return F.relu(wide if other is None else wide + other.float()).to(x.dtype)


def doubled(x: Tensor, parts: int) -> Tensor:
    """Every pixel four times: [T, H, W, parts·C] → [T·parts, 2H, 2W, C]; the channels' parts are frames in turn."""
    apart = torch.unflatten(x, -1, (parts, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)  # [T·parts, H, W, C]
    return apart.repeat_interleave(2, 1).repeat_interleave(2, 2)


def add_grown(x: Tensor, small: Tensor, times: int) -> Tensor:
    """x [T, 2H, 2W, C] + `small` [S, H, W, D] made as large without weights.

    A pixel of `small` is times·2·2 pixels (time, row, column); channel c of the pixel k is channel
    (c·times·4 + k) · D // (C·times·4) of it. T = S·times, or less: then the earliest frames are left out.
    """
    channels, pieces = x.shape[-1], 4 * times
    grown = small.repeat_interleave(channels * pieces // small.shape[-1], dim=-1)
    grown = torch.unflatten(grown, -1, (channels, times, 2, 2)).permute(
        0, 4, 1, 5, 2, 6, 3
    )  # [S, times, H, 2, W, 2, C]
    grown = grown.flatten(4, 5).flatten(2, 3).flatten(0, 1)
    return x + grown[len(grown) - len(x) :]
