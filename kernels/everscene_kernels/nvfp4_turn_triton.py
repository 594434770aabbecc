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
from everscene_kernels.nvfp4 import NVFP4Tensor
from everscene_kernels.nvfp4_triton import (
    _AMAX_TINY,
    TILE,
    _bf16_bits,
    _bits,
    _check_device,
    _e2m1_value,
    _e4m3_value,
    _places,
    _rounded,
)


@triton.jit
def _nvfp4_turned_kernel(
    values, scales, amax, cos, sin, out, unit, columns, width, blocks, ROWS: tl.constexpr, BF16: tl.constexpr
):
    block = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = block < blocks
    byte = tl.arange(0, 8)[None, :]
    packed = tl.load(values + block.to(tl.int64)[:, None] * 8 + byte, mask=mask[:, None], other=0).to(tl.int32)
    held = tl.load(amax)
    tensor_scale = tl.div_rn(tl.where(held < _AMAX_TINY, 0.0, held), unit)
    scale = (_e4m3_value(tl.load(scales + block, mask=mask, other=0).to(tl.int32)) * tensor_scale)[:, None]
    real = _rounded(_e2m1_value(packed & 15) * scale, BF16)  # [ROWS, 8]
    imaginary = _rounded(_e2m1_value(packed >> 4) * scale, BF16)
    pair = (block % width)[:, None] * 8 + byte
    c = tl.load(cos + pair, mask=mask[:, None], other=0.0)
    s = tl.load(sin + pair, mask=mask[:, None], other=0.0)
    turned = tl.join(real * c - imaginary * s, real * s + imaginary * c)
    wide = tl.reshape(turned, [ROWS, 16])
    at, column = _places(block, columns, width)
    written = mask[:, None] & (column < columns)
    if BF16:
        tl.store(out + at, _bf16_bits(wide).to(tl.int16), mask=written)
    else:
        tl.store(out + at, wide, mask=written)


def dequantize_turned(tensor: NVFP4Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Fill out, of the tensor's shape, contiguous, bfloat16 or float32, with its numbers turned by RoPE.

    tensor: heads [.., E], E a multiple of 16. cos, sin: float32 [1, E/2], the same for each head of each token. Raises
    ValueError where these do not fit, and for CPU tensors outside the interpreter.
    """
    _check_device(tensor.values)
    columns, width, blocks = tensor.shape[-1], tensor.scales.shape[1], tensor.scales.numel()
    if tuple(out.shape) != tensor.shape or not out.is_contiguous() or cos.numel() * 2 != columns or columns % 16:
        raise ValueError(f"heads {tensor.shape} do not fit {tuple(out.shape)} turned by {tuple(cos.shape)}")
    if blocks:
        _nvfp4_turned_kernel[(triton.cdiv(blocks, TILE),)](
            tensor.values, tensor.scales.view(torch.uint8), tensor.amax, cos.contiguous(), sin.contiguous(),
            _bits(out), nvfp4.unit(tensor.rule), columns, width, blocks, TILE, out.dtype == torch.bfloat16,
            enable_fp_fusion=False,
        )  # fmt: skip
