"""What stands between the matrix products of a transformer block: each step as one plain function.

Between two products lie a few elementwise steps over the same rows. Run one by one, each reads and writes all rows;
the kernels of `fused_triton.py` read them once and write once. These are the definitions that they follow, with the
roundings of the transformer: norms in float32 and rounded once, everything after in the dtype of the rows.

A kernel adds up a row in another order than PyTorch, and may fuse a product into a sum. So both agree to the last bit
of bfloat16 in nearly all numbers, and to one unit of it in the others; the tests say how many.

R: rows (tokens), C: columns (model width), F: latent frames, whose R / F rows share one scale, shift and gate.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from everscene_kernels.fp8 import FP8Rows, e4m3, quantize_rows


class Modulation(NamedTuple):
    """After a norm without weights: · (1 + scale) + shift, each [F, C] in the dtype of the rows."""

    scale: Tensor
    shift: Tensor


class Affine(NamedTuple):
    """A norm with weights: · weight + bias, each [C], in float32 before the one rounding."""

    weight: Tensor
    bias: Tensor


def add_gated(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    """x + y · gate, rounded after the product and after the sum; x and y [R, C], gate [F, C] or None for 1."""
    if gate is None:
        return x + y
    return x + y * gate.repeat_interleave(x.shape[0] // gate.shape[0], 0)


def norm(x: Tensor, after: Modulation | Affine, eps: float) -> Tensor:
    """LayerNorm of rows [R, C] with what comes after it, in x's dtype."""
    width = (x.shape[1],)
    if isinstance(after, Affine):
        return F.layer_norm(x.float(), width, after.weight.float(), after.bias.float(), eps).to(x.dtype)
    rows = x.shape[0] // after.scale.shape[0]
    scale, shift = (part.repeat_interleave(rows, 0) for part in after)
    return F.layer_norm(x.float(), width, eps=eps).to(x.dtype) * (1 + scale) + shift


def add_norm(
    x: Tensor, y: Tensor | None, gate: Tensor | None, after: Modulation | Affine, eps: float
) -> tuple[Tensor, Tensor]:
    """(x + y · gate, its norm): what ends one part of a block and begins the next. y None: x as it is."""
    summed = x if y is None else add_gated(x, y, gate)
    return summed, norm(summed, after, eps)


def turn_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE: neighbours (2i, 2i + 1) of each head turned. x [R, H, E], cos and sin [R, E/2] float32; in x's dtype."""
    real, imaginary = torch.unflatten(x.float(), -1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], -1).flatten(-2).to(x.dtype)


def turn_keys(made: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Keys of a sink that is presented later, and the same in E4M3, which is of the rounded ones.

    made: [B, tokens, H, E]. cos, sin: [1, E/2] float32, the same for each token.
    """
    keys = turn_pairs(made, cos, sin)
    return keys, e4m3(keys)


def rms_turned(x: Tensor, weight: Tensor, cos: Tensor | None, sin: Tensor | None, heads: int, eps: float) -> Tensor:
    """RMS norm of rows [R, C] over the whole width, rounded, times weight [C]; then RoPE. Returns [R, H, E].

    cos None: no RoPE.
    """
    wide = x.float()
    normed = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight
    shaped = torch.unflatten(normed, -1, (heads, -1))
    return shaped if cos is None or sin is None else turn_pairs(shaped, cos, sin)


def gelu_rows(x: Tensor) -> FP8Rows:
    """GELU (tanh form) of rows [R, C], rounded to x's dtype, then in FP8."""
    return quantize_rows(F.gelu(x, approximate="tanh"))
