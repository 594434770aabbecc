"""Rotary positions in three dimensions, in analytic form: any position, no table, no length limit.

A head of width E is E/2 complex pairs (2i, 2i+1). The first E/2 − 2·(E/2 // 3) pairs turn with the time position,
the next E/2 // 3 with the row, the last E/2 // 3 with the column. Pair k of an axis with P pairs turns by
position · 10000^(−k/P). Angles are float64, so a stream of weeks has exact ones; cosines and sines are float32.
(The layout of Wan 2.1 and 2.2.)
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from everscene_kernels.launch import has_kernels, on_gpu_of

THETA = 10000.0


class Rotation(NamedTuple):
    """Cosines and sines, each [tokens, E/2] float32 (or [B, tokens, E/2]), that turn queries and keys."""

    cos: Tensor
    sin: Tensor


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """How many complex pairs of a head turn with time, row and column."""
    space = head_dim // 2 // 3
    return head_dim // 2 - 2 * space, space, space


def _angles(positions: Tensor, pairs: int) -> Tensor:
    """positions [...] in float64 -> angles [..., pairs] in float64."""
    exponents = torch.arange(pairs, dtype=torch.float64, device=positions.device) / pairs
    return positions.double()[..., None] * THETA**-exponents


@lru_cache(maxsize=16)
def _space_angles(rows: int, columns: int, head_dim: int, device: torch.device) -> Tensor:
    """Angles of row and column for the tokens of one latent frame, [rows·columns, 2·pairs] float64."""
    _, row_pairs, column_pairs = axis_pairs(head_dim)
    by_row = _angles(torch.arange(rows, device=device), row_pairs)  # [rows, P]
    by_column = _angles(torch.arange(columns, device=device), column_pairs)  # [columns, P]
    return torch.cat(
        [
            by_row[:, None].expand(rows, columns, row_pairs),
            by_column[None].expand(rows, columns, column_pairs),
        ],
        dim=-1,
    ).flatten(0, 1)


def rotation(frames: Tensor, rows: int, columns: int, head_dim: int) -> Rotation:
    """The rotation of the tokens of some latent frames.

    frames: time positions [F] or [B, F], integers or floats, of any size. rows, columns: tokens of a frame.
    Returns cosines and sines [F·rows·columns, E/2] or [B, F·rows·columns, E/2], float32, on the device of frames.
    """
    time = _angles(frames, axis_pairs(head_dim)[0])  # [..., F, Pt]
    space = _space_angles(rows, columns, head_dim, frames.device)  # [n, Ps]
    shape = (*frames.shape, rows * columns)
    angles = torch.cat(
        [
            time[..., None, :].expand(*shape, time.shape[-1]),
            space.expand(*shape, space.shape[-1]),
        ],
        dim=-1,
    ).flatten(-3, -2)  # [..., F·n, E/2]
    return Rotation(angles.cos().float(), angles.sin().float())


def time_shift(frames: float, head_dim: int, device: torch.device) -> Rotation:
    """The rotation that moves keys that were already turned by so many latent frames later, [1, E/2]."""
    time, row, column = axis_pairs(head_dim)
    angles = _angles(torch.full((1,), frames, dtype=torch.float64, device=device), time)
    angles = torch.cat([angles, angles.new_zeros(1, row + column)], dim=-1)
    return Rotation(angles.cos().float(), angles.sin().float())


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """Turn queries or keys [B, tokens, H, E] by `turn`; computed in float32, returned in x's dtype."""
    pairs = torch.unflatten(x.float(), -1, (-1, 2))  # [B, tokens, H, E/2, 2]
    real, imaginary = pairs[..., 0], pairs[..., 1]
    cos, sin = turn.cos[..., None, :], turn.sin[..., None, :]  # [(B,) tokens, 1, E/2]
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def rotate_into(x: Tensor, turn: Rotation, out: Tensor) -> None:
    """Fill out, of x's shape and dtype, with `rotate(x, turn)`, turn [1, E/2]; on a GPU in one pass, the same bits."""
    if _has_kernel(x, out):
        from everscene_kernels import fused_triton

        with on_gpu_of(x):
            fused_triton.turn_keys(x, *turn, out)
    else:
        out.copy_(rotate(x, turn))


def _has_kernel(x: Tensor, out: Tensor) -> bool:
    if x.requires_grad or out.requires_grad:
        return False  # it has no gradient
    return has_kernels(x, out)
