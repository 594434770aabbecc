"""NVFP4 weights to E4M3 rows in one pass: what `nvfp4_weights.fp8_rows` defines, bit for bit, its scales given.

CPU tensors need TRITON_INTERPRET=1 before triton is imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from everscene_kernels import nvfp4
from everscene_kernels.fused_triton import _e4m3
from everscene_kernels.launch import check_launch
from everscene_kernels.nvfp4 import BLOCK, NVFP4Tensor
from everscene_kernels.nvfp4_triton import (
    WORDS,
    _block_scales,
    _e2m1_value,
    _word_places,
    _words,
)


@triton.jit
def _nvfp4_to_fp8_kernel(
    values, scales, amax, inverses, out, unit, columns, words,
    width: tl.constexpr, N: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    word = (tl.program_id(0) * N + tl.arange(0, N))[:, None]
    mask = word < words
    codes = tl.load(values + word, mask=mask, other=0)
    scale = _block_scales(scales, amax, unit, word, mask)
    inverse = tl.load(inverses + word // (2 * width), mask=mask, other=1.0)
    wide = _e2m1_value(codes, 4 * tl.arange(0, 8)[None, :]) * scale * inverse
    at, there = _word_places(word, columns, width, WHOLE)
    tl.store(out + at, _e4m3(wide), mask=mask & there)


def fp8_values(weight: NVFP4Tensor, inverses: Tensor, out: Tensor) -> None:
    """Fill out, uint8 [R, C] contiguous, with E4M3 of the weight's numbers times their row's number, float32 [R, 1].

    Raises ValueError for an out of another size, and for CPU tensors outside the interpreter.
    """
    check_launch(weight.values)
    if tuple(out.shape) != weight.shape or out.dtype != torch.uint8 or not out.is_contiguous():
        raise ValueError(f"out must be contiguous uint8 {weight.shape}, not {out.dtype} {tuple(out.shape)}")
    width, words = weight.scales.shape[1], 2 * weight.scales.numel()
    if words:
        _nvfp4_to_fp8_kernel[(triton.cdiv(words, WORDS),)](
            _words(weight), weight.scales.view(torch.uint8), weight.amax, inverses, out, nvfp4.unit(weight.rule),
            weight.shape[-1], words, width, WORDS, weight.shape[-1] % BLOCK == 0, enable_fp_fusion=False,
        )  # fmt: skip
