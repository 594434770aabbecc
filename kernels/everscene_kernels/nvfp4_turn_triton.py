"""NVFP4 keys, dequantised and turned by RoPE in one pass: a sink that is presented later (`nvfp4_kv.read_slot`).

The two numbers that RoPE turns are neighbours, and neighbours share a byte: its low nibble is the real part, its high
nibble the imaginary one. Rounded to bfloat16 before the turn and after it, as the two steps one after the other.

CPU tensors need TRITON_INTERPRET=1 before triton is imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from everscene_kernels import nvfp4
from everscene_kernels.launch import check_launch
from everscene_kernels.nvfp4 import NVFP4Tensor
from everscene_kernels.nvfp4_triton import (
    WORDS,
    _bf16_bits,
    _block_scales,
    _e2m1_value,
    _rounded,
    _words,
)


@triton.jit
def _nvfp4_turned_kernel(
    values, scales, amax, cos, sin, out, unit, words, width: tl.constexpr, N: tl.constexpr, BF16: tl.constexpr
):
    word = (tl.program_id(0) * N + tl.arange(0, N))[:, None]
    mask = word < words
    codes = tl.load(values + word, mask=mask, other=0)
    scale = _block_scales(scales, amax, unit, word, mask)
    number = tl.arange(0, 4)[None, :]
    real = _rounded(_e2m1_value(codes, 8 * number) * scale, BF16)  # [N, 4]
    imaginary = _rounded(_e2m1_value(codes, 8 * number + 4) * scale, BF16)
    pair = (word % (2 * width)) * 4 + number
    c = tl.load(cos + pair, mask=mask, other=0.0)
    s = tl.load(sin + pair, mask=mask, other=0.0)
    turned, other = real * c - imaginary * s, real * s + imaginary * c
    at = word.to(tl.int64) * 4 + number
    if BF16:
        both = (_bf16_bits(turned) & 0xFFFF) | (_bf16_bits(other) << 16)  # a word of two
        tl.store(out + at, both, mask=mask)
    else:
        tl.store(out + 2 * at, turned, mask=mask)
        tl.store(out + 2 * at + 1, other, mask=mask)


def dequantize_turned(tensor: NVFP4Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Fill out, of the tensor's shape, contiguous, bfloat16 or float32, with its numbers turned by RoPE.

    tensor: heads [.., E], E a multiple of 16. cos, sin: float32 [1, E/2], the same for each head of each token. Raises
    ValueError where these do not fit, and for CPU tensors outside the interpreter.
    """
    check_launch(tensor.values)
    columns, width, words = tensor.shape[-1], tensor.scales.shape[1], 2 * tensor.scales.numel()
    if tuple(out.shape) != tensor.shape or not out.is_contiguous() or cos.numel() * 2 != columns or columns % 16:
        raise ValueError(f"heads {tensor.shape} do not fit {tuple(out.shape)} turned by {tuple(cos.shape)}")
    if words:
        bf16 = out.dtype == torch.bfloat16
        _nvfp4_turned_kernel[(triton.cdiv(words, WORDS),)](
            _words(tensor), tensor.scales.view(torch.uint8), tensor.amax, cos.contiguous(), sin.contiguous(),
            out.view(torch.int32) if bf16 else out, nvfp4.unit(tensor.rule), words, width, WORDS, bf16,
            enable_fp_fusion=False,
        )  # fmt: skip
