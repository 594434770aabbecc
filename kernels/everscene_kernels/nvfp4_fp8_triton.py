"""NVFP4 weights to E4M3 rows in one pass: what `nvfp4_weights.fp8_rows` defines, bit for bit, its scales given.

CPU tensors need TRITON_INTERPRET=1 before triton is imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from everscene_kernels import nvfp4
from everscene_kernels.fused_triton import _e4m3
from everscene_kernels.nvfp4 import NVFP4Tensor
from everscene_kernels.nvfp4_triton import (
    _AMAX_TINY,
    TILE,
    _check_device,
    _e2m1_value,
    _e4m3_value,
    _places,
)


@triton.jit
def _nvfp4_to_fp8_kernel(values, scales, amax, row_scales, out, unit, columns, width, blocks, ROWS: tl.constexpr):
    block = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = block < blocks
    packed = tl.load(
        values + block.to(tl.int64)[:, None] * 8 + tl.arange(0, 8)[None, :], mask=mask[:, None], other=0
    ).to(tl.int32)
    codes = tl.reshape(tl.join(packed & 15, packed >> 4), [ROWS, 16])
    held = tl.load(amax)
    tensor_scale = tl.div_rn(tl.where(held < _AMAX_TINY, 0.0, held), unit)
    scale = _e4m3_value(tl.load(scales + block, mask=mask, other=0).to(tl.int32)) * tensor_scale
    wide = _e2m1_value(codes) * scale[:, None]
    of_row = tl.load(row_scales + block // width, mask=mask, other=1.0)
    at, column = _places(block, columns, width)
    eight = _e4m3(tl.div_rn(wide, tl.zeros_like(wide) + of_row[:, None]))
    tl.store(out + at, eight, mask=mask[:, None] & (column < columns))


def fp8_values(weight: NVFP4Tensor, scales: Tensor, out: Tensor) -> None:
    """Fill out, uint8 [R, C] contiguous, with E4M3 of the weight's numbers over their row's scale, float32 [R, 1].

    Raises ValueError for an out of another size, and for CPU tensors outside the interpreter.
    """
    _check_device(weight.values)
    if tuple(out.shape) != weight.shape or out.dtype != torch.uint8 or not out.is_contiguous():
        raise ValueError(f"out must be contiguous uint8 {weight.shape}, not {out.dtype} {tuple(out.shape)}")
    width, blocks = weight.scales.shape[1], weight.scales.numel()
    if blocks:
        _nvfp4_to_fp8_kernel[(triton.cdiv(blocks, TILE),)](
            weight.values, weight.scales.view(torch.uint8), weight.amax, scales, out, nvfp4.unit(weight.rule),
            weight.shape[-1], width, blocks, TILE, enable_fp_fusion=False,
        )  # fmt: skip
