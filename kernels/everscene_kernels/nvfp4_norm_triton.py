"""LayerNorm, modulation and quantising to NVFP4 in one kernel: bit for bit what `before_linear` and `nvfp4` define.

A program has one row. It is read once for amax and once for the codes, and never written in between.

The engine does not use it. With `--precision w4a4` rows come from `fused_triton.add_norm`, which in one pass also adds
what came before, and whose sums have another order; `nvfp4_triton.quantize` quantises them. Here the sum would be a
pass of its own, and a few codes would differ.

CPU tensors need TRITON_INTERPRET=1 before triton is imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from everscene_kernels import before_linear, nvfp4
from everscene_kernels.launch import check_launch
from everscene_kernels.nvfp4 import BLOCK, NVFP4Tensor, Rule
from everscene_kernels.nvfp4_triton import (
    _bits,
    _finite_max,
    _outputs,
    _pair_sum,
    _raise_to,
    _read,
    _rounded,
    _write_blocks,
)


@triton.jit
def _of_row(x, row, columns, ROWS: tl.constexpr, BF16: tl.constexpr, WHOLE: tl.constexpr):
    """Even and odd columns [ROWS, 8] of a row of x [R, columns]; 0 outside."""
    pair = tl.arange(0, ROWS)[:, None] * 8 + tl.arange(0, 8)[None, :]
    if WHOLE and BF16:
        word = tl.load(x + row * (columns // 2) + pair, mask=2 * pair < columns, other=0)
        return (word << 16).to(tl.float32, bitcast=True), (word & -65536).to(tl.float32, bitcast=True)
    else:
        at = row * columns + 2 * pair
        return _read(x, at, 2 * pair < columns, BF16), _read(x, at + 1, 2 * pair + 1 < columns, BF16)


@triton.jit
def _modulated(centred, inverse, scale, shift, BF16: tl.constexpr):
    product = _rounded(_rounded(centred * inverse, BF16) * _rounded(1.0 + scale, BF16), BF16)
    return _rounded(product + shift, BF16)


@triton.jit
def _normed(
    x, scale, shift, eps, columns, rows_each,
    ROWS: tl.constexpr, LOG_ROWS: tl.constexpr, BF16: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """before_linear.norm_modulate of this program's row, as pairs [ROWS, 8]; 0 past its columns."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, ROWS)[:, None] * 16 + 2 * tl.arange(0, 8)[None, :]
    even, odd = _of_row(x, row, columns, ROWS, BF16, WHOLE)
    scale_even, scale_odd = _of_row(scale, row // rows_each, columns, ROWS, BF16, WHOLE)
    shift_even, shift_odd = _of_row(shift, row // rows_each, columns, ROWS, BF16, WHOLE)
    total = _row_sum(even, odd, ROWS, LOG_ROWS)
    count = tl.zeros_like(total) + columns
    mean = tl.div_rn(total, count)
    even, odd = tl.where(column < columns, even - mean, 0.0), tl.where(column + 1 < columns, odd - mean, 0.0)
    variance = tl.div_rn(_row_sum(even * even, odd * odd, ROWS, LOG_ROWS), count)
    root = tl.sqrt_rn(variance + eps)
    inverse = tl.div_rn(tl.zeros_like(root) + 1.0, root)
    even = _modulated(even, inverse, scale_even, shift_even, BF16)
    odd = _modulated(odd, inverse, scale_odd, shift_odd, BF16)
    return tl.where(column < columns, even, 0.0), tl.where(column + 1 < columns, odd, 0.0)


@triton.jit
def _row_sum(even, odd, ROWS: tl.constexpr, LOG_ROWS: tl.constexpr):
    """Sum of a row held as pairs [ROWS, 8] in nvfp4.pair_sum's order: a scalar."""
    total = _pair_sum(tl.reshape(_pair_sum(even + odd, ROWS, 3), [1, ROWS]), 1, LOG_ROWS)
    return tl.max(total, axis=0)  # of one number: takes it out of its tensor


@triton.jit
def _norm_amax_kernel(
    x, scale, shift, maximum, eps, columns, rows_each,
    ROWS: tl.constexpr, LOG_ROWS: tl.constexpr, BF16: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    even, odd = _normed(x, scale, shift, eps, columns, rows_each, ROWS, LOG_ROWS, BF16, WHOLE)
    _raise_to(maximum, _finite_max(even, odd))


@triton.jit
def _norm_quantize_kernel(
    x, scale, shift, amax, values, scales, eps, columns, rows_each, width,
    ROWS: tl.constexpr, LOG_ROWS: tl.constexpr, BF16: tl.constexpr, WHOLE: tl.constexpr, RULE: tl.constexpr,
):  # fmt: skip
    even, odd = _normed(x, scale, shift, eps, columns, rows_each, ROWS, LOG_ROWS, BF16, WHOLE)
    of_row = tl.arange(0, ROWS)
    block = tl.program_id(0).to(tl.int64) * width + of_row
    _write_blocks(even, odd, amax, values, scales, block, of_row < width, ROWS, RULE)


def quantize_norm(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    rule: Rule = "mse",
    amax: Tensor | None = None,
    out: NVFP4Tensor | None = None,
) -> NVFP4Tensor:
    """nvfp4.quantize(before_linear.norm_modulate(x, scale, shift, eps), rule, amax), bit for bit, never written.

    x: [R, C]; scale, shift: [F, C]. Raises as `quantize` and as norm_modulate.
    """
    nvfp4.check_rule(rule)
    before_linear.check_modulation(x, scale, shift)
    check_launch(x)
    rows, columns = x.shape
    out = _outputs(tuple(x.shape), x.device, rule, out)
    if rows == 0:
        out.amax.zero_()
        return out
    width = out.scales.shape[1]
    tile = triton.next_power_of_2(width)
    log_tile, bf16 = tile.bit_length() - 1, x.dtype == torch.bfloat16
    whole = columns % BLOCK == 0
    read = [_bits(part) for part in (x, scale, shift)]
    if bf16 and whole:
        read = [part.view(torch.int32) for part in read]
    rows_each = rows // scale.shape[0]
    warps = 4 if tile <= 128 else 8
    if amax is None:
        _norm_amax_kernel[(rows,)](
            *read, out.amax.zero_().view(torch.int32), eps, columns, rows_each, tile, log_tile, bf16,
            whole, enable_fp_fusion=False, num_warps=warps,
        )  # fmt: skip
    else:
        out.amax.copy_(amax.reshape(1))
    _norm_quantize_kernel[(rows,)](
        *read, out.amax, out.values, out.scales.view(torch.uint8), eps, columns, rows_each, width,
        tile, log_tile, bf16, whole, rule, enable_fp_fusion=False, num_warps=warps,
    )  # fmt: skip
    return out
