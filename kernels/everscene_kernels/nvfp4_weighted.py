"""A weight in NVFP4 whose block scales suit what it is multiplied by.

A linear's output error is e·x, with e the error of a row of its weight. Over many inputs x its mean square is e·M·eᵀ,
with M the mean of xᵀ·x. Errors of different blocks hardly go together, so each block of 16 takes, of many scales, the
one with the smallest e·M·eᵀ, with the 16 × 16 part of M that belongs to its columns. With M the unit matrix that is the
rule `mse` with more scales than two. Codes, scales and reading are those of `nvfp4.py`: nothing costs more at run time.
(nvidia-modelopt calls its version of this `local_hessian`.)
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from everscene_kernels.nvfp4 import (
    AMAX_TINY,
    BLOCK,
    NVFP4Tensor,
    decode_e2m1,
    divided,
    encode_e2m1,
    finite_amax,
    pack,
    rows_and_blocks,
    to_e4m3,
    unit,
)

FACTORS = tuple(0.75 + step / 16 for step in range(17))
"""What is tried, as multiples of the scale that makes a block's largest magnitude a 6; 1.5 makes it a 4."""


def block_moments(x: Tensor) -> Tensor:
    """Sums of xᵀ·x within each block of columns: x [R, C] → float32 [W, 16, 16]. Columns past C are 0."""
    rows, blocks = rows_and_blocks(tuple(x.shape))
    wide = F.pad(x.float(), (0, blocks * BLOCK - x.shape[1])).view(rows, blocks, BLOCK).transpose(0, 1)  # [W, R, 16]
    return wide.transpose(1, 2) @ wide


def quantize_weighted(weight: Tensor, moments: Tensor, factors: tuple[float, ...] = FACTORS) -> NVFP4Tensor:
    """weight [out, in], floating point and finite, with the block scale that errs least under moments [W, 16, 16].

    The first of equal factors is kept. Raises ValueError for moments that do not fit.
    """
    shape = (weight.shape[0], weight.shape[1])
    rows, blocks = rows_and_blocks(shape)
    if moments.shape != (blocks, BLOCK, BLOCK):
        raise ValueError(f"moments of {shape[1]} columns are [{blocks}, 16, 16], not {list(moments.shape)}")
    wide = F.pad(weight.detach().float(), (0, blocks * BLOCK - shape[1])).view(rows, blocks, BLOCK)
    amax = finite_amax(weight)
    tensor_scale = divided(torch.where(amax < AMAX_TINY, 1.0, amax), unit("mse"))
    for_six = divided(wide.abs().amax(-1), 6.0) / tensor_scale  # [R, W]
    best: Tensor | None = None
    codes = torch.zeros(rows, blocks, BLOCK, dtype=torch.uint8, device=weight.device)
    scales = torch.zeros_like(for_six)
    for factor in factors:
        scale = to_e4m3(for_six * factor)
        step = (scale * tensor_scale)[..., None]
        tried = torch.where(scale[..., None] > 0, encode_e2m1(wide / step), 0)
        wrong = (wide - decode_e2m1(tried) * step).transpose(0, 1)  # [W, R, 16]
        error = ((wrong @ moments) * wrong).sum(-1).t()  # [R, W]
        better = torch.ones_like(error, dtype=torch.bool) if best is None else error < best
        best = error if best is None else torch.where(better, error, best)
        codes = torch.where(better[..., None], tried, codes)
        scales = torch.where(better, scale, scales)
    return NVFP4Tensor(pack(codes.flatten(1)), scales.to(torch.float8_e4m3fn), amax, shape, "mse")
