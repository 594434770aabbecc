"""NVFP4 on the GPU: Triton kernels that give bit for bit what `nvfp4.py` defines.

Every quantisation reads its input twice, because all blocks share a scale that only the whole tensor knows: once for
amax, once for the codes. A caller that knows amax (a calibrated one) saves the first reading. The two fused kernels
compute what stands before a linear (`before_linear.py`) in both passes and never write it in full.

How equality is kept: divisions and roots are the rounded ones, no product is fused into a sum (`enable_fp_fusion`),
sums are trees of neighbours, and conversions to and from bfloat16, E4M3 and E2M1 are done on the bits: they run
on GPUs without these types and in Triton's interpreter, whose own conversions round otherwise.

All functions take contiguous or strided CUDA tensors. CPU tensors need TRITON_INTERPRET=1 before triton is imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from everscene_kernels import before_linear, nvfp4
from everscene_kernels.nvfp4 import BLOCK, NVFP4Tensor, Rule

TILE = 64  # blocks of 16 in a program of the elementwise kernels

_LOG2_E = tl.constexpr(before_linear.LOG2_E)
_LN2_HIGH = tl.constexpr(before_linear.LN2_HIGH)
_LN2_LOW = tl.constexpr(before_linear.LN2_LOW)
_TO_INTEGER = tl.constexpr(before_linear.TO_INTEGER)
_EXP_LIMIT = tl.constexpr(before_linear.EXP_LIMIT)
_GELU_CUBIC = tl.constexpr(before_linear.GELU_CUBIC)
_GELU_SCALE = tl.constexpr(before_linear.GELU_SCALE)
_C7, _C6, _C5, _C4, _C3, _C2, _C1, _C0 = (tl.constexpr(term) for term in before_linear.EXP_TERMS)
_AMAX_TINY = tl.constexpr(nvfp4.AMAX_TINY)
_UNIT = tl.constexpr(nvfp4.FOUR_OVER_SIX_UNIT)
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _read(pointer, at, mask, BF16: tl.constexpr):
    """float32 from bfloat16 bits (int16) or float32; 0 outside the mask."""
    if BF16:
        bits = tl.load(pointer + at, mask=mask, other=0).to(tl.int32) << 16
        return bits.to(tl.float32, bitcast=True)
    else:
        return tl.load(pointer + at, mask=mask, other=0.0)


@triton.jit
def _bf16_bits(x):
    """float32 → the upper half of the nearest bfloat16's bits, as int32; x is no NaN."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


@triton.jit
def _rounded(x, BF16: tl.constexpr):
    """x rounded to bfloat16, kept as float32; x itself where the dtype is float32."""
    if BF16:
        return tl.where(x == x, (_bf16_bits(x) << 16).to(tl.float32, bitcast=True), x)
    else:
        return x


@triton.jit
def _pair_sum(x, ROWS: tl.constexpr, LOG_WIDTH: tl.constexpr):
    """[ROWS, 2^LOG_WIDTH] → [ROWS], as nvfp4.pair_sum."""
    for step in tl.static_range(LOG_WIDTH):
        even, odd = tl.split(tl.reshape(x, [ROWS, 1 << (LOG_WIDTH - 1 - step), 2]))
        x = even + odd
    return tl.reshape(x, [ROWS])


@triton.jit
def _e4m3_code(scale):
    """float32 in [0, 448] → E4M3 code, int32; nearest, ties to even."""
    bits = scale.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    subnormal = (scale + 16384.0).to(tl.int32, bitcast=True) - 0x46800000  # the last bit of 2^14 is 2^-9
    return tl.where(scale < 0.015625, subnormal, normal)


@triton.jit
def _e4m3_value(code):
    normal = ((code << 20) + (120 << 23)).to(tl.float32, bitcast=True)
    return tl.where(code < 8, code.to(tl.float32) * 0.001953125, normal)


@triton.jit
def _e2m1_code(y):
    magnitude = tl.abs(y)
    code = (magnitude > 0.25).to(tl.int32) + (magnitude >= 0.75).to(tl.int32)
    code += (magnitude > 1.25).to(tl.int32) + (magnitude >= 1.75).to(tl.int32)
    code += (magnitude > 2.5).to(tl.int32) + (magnitude >= 3.5).to(tl.int32)
    code += (magnitude > 5.0).to(tl.int32)
    return code + 8 * (y < 0.0).to(tl.int32)


@triton.jit
def _e2m1_value(code):
    index = code & 7
    normal = ((index << 22) + (126 << 23)).to(tl.float32, bitcast=True)  # 1, 1.5, 2, 3, 4, 6
    magnitude = tl.where(index < 2, index.to(tl.float32) * 0.5, normal)
    return tl.where(code < 8, magnitude, -magnitude)


@triton.jit
def _finite_max(x):
    """The largest finite magnitude of a tile [N, 16]."""
    magnitude = tl.abs(x)
    return tl.max(tl.max(tl.where(magnitude < _INFINITY, magnitude, 0.0), axis=1), axis=0)


@triton.jit
def _static(x, amax, PEAK: tl.constexpr):
    tensor_scale = tl.div_rn(amax, PEAK * 448.0)
    block_max = tl.max(tl.abs(x), axis=1)
    wanted = tl.div_rn(block_max, tl.zeros_like(block_max) + PEAK * tensor_scale)
    scale = _e4m3_code(tl.minimum(tl.maximum(wanted, 0.001953125), 448.0))
    scale = tl.where(block_max > 0.0, scale, 0)
    divisor = _e4m3_value(scale) * tensor_scale
    y = tl.div_rn(x, tl.zeros_like(x) + tl.where(scale > 0, divisor, 1.0)[:, None])
    return _e2m1_code(y), scale


@triton.jit
def _tried(x, wanted, decode, tensor_scale, ROWS: tl.constexpr, RULE: tl.constexpr):
    scale = _e4m3_code(tl.minimum(wanted, 448.0))
    value = _e4m3_value(scale)
    inverse = tl.div_rn(tl.zeros_like(value) + 1.0, tl.where(scale > 0, decode * value, 1.0))
    codes = tl.where((scale > 0)[:, None], _e2m1_code(x * inverse[:, None]), 0)
    error = tl.abs(x - _e2m1_value(codes) * (value * tensor_scale)[:, None])
    if RULE == "abs_max":
        return codes, scale, tl.max(error, axis=1)
    elif RULE == "mse":
        return codes, scale, _pair_sum(error * error, ROWS, 4)
    else:
        return codes, scale, _pair_sum(error, ROWS, 4)


@triton.jit
def _four_over_six(x, amax, ROWS: tl.constexpr, RULE: tl.constexpr):
    encode = tl.div_rn(tl.zeros_like(amax) + _UNIT, amax)
    decode = tl.div_rn(tl.zeros_like(amax) + 1.0, encode)
    tensor_scale = tl.div_rn(amax, _UNIT)
    block_max = tl.max(tl.abs(x), axis=1)
    for_six = tl.div_rn(block_max, tl.zeros_like(block_max) + 6.0) * encode
    codes_six, six, error_six = _tried(x, for_six, decode, tensor_scale, ROWS, RULE)
    codes_four, four, error_four = _tried(x, for_six * 1.5, decode, tensor_scale, ROWS, RULE)
    better = error_four < error_six
    return tl.where(better[:, None], codes_four, codes_six), tl.where(better, four, six)


@triton.jit
def _write_blocks(x, amax_at, values, scales, block, mask, ROWS: tl.constexpr, RULE: tl.constexpr):
    """Quantise a tile [ROWS, 16] and write codes and scales of its blocks."""
    amax = tl.load(amax_at)
    live = amax >= _AMAX_TINY
    amax = tl.where(live, amax, 1.0)
    x = tl.where(x == x, x, 0.0)
    x = tl.where(x > amax, amax, tl.where(x < -amax, -amax, x))
    x = tl.where(live, x, 0.0)
    if RULE == "static_6":
        codes, scale = _static(x, amax, 6.0)
    elif RULE == "static_4":
        codes, scale = _static(x, amax, 4.0)
    else:
        codes, scale = _four_over_six(x, amax, ROWS, RULE)
    low, high = tl.split(tl.reshape(codes, [ROWS, 8, 2]))
    at = block[:, None] * 8 + tl.arange(0, 8)[None, :]
    tl.store(values + at, (low | (high << 4)).to(tl.uint8), mask=mask[:, None])
    tl.store(scales + block, scale.to(tl.uint8), mask=mask)


@triton.jit
def _gelu(x, BF16: tl.constexpr):
    z = (x + x * x * x * _GELU_CUBIC) * -_GELU_SCALE
    held = tl.where(z > _EXP_LIMIT, _EXP_LIMIT, tl.where(z < -_EXP_LIMIT, -_EXP_LIMIT, z))
    n = (held * _LOG2_E + _TO_INTEGER) - _TO_INTEGER
    f = (held - n * _LN2_HIGH) - n * _LN2_LOW
    e = _C7 * f + _C6
    e = e * f + _C5
    e = e * f + _C4
    e = e * f + _C3
    e = e * f + _C2
    e = e * f + _C1
    e = e * f + _C0
    power = (n + _TO_INTEGER).to(tl.int32, bitcast=True) - 0x4B400000
    e = e * ((power + 127) << 23).to(tl.float32, bitcast=True)
    y = tl.div_rn(x, 1.0 + e)
    return _rounded(tl.where(z > _EXP_LIMIT, 0.0, y), BF16)


@triton.jit
def _places(block, columns, width):
    """(offsets [N, 16] into a tensor [R, columns], their columns) of block numbers [N], `width` to a row."""
    row = block // width  # in 32 bits: dividing 64 is slow, and 2^31 blocks are more than a GPU holds
    column = (block - row * width)[:, None] * 16 + tl.arange(0, 16)[None, :]
    return row.to(tl.int64)[:, None] * columns + column, column


@triton.jit
def _tile(x, columns, width, blocks, ROWS: tl.constexpr, BF16: tl.constexpr, GELU: tl.constexpr):
    """A program's blocks of x [R, columns] with `width` blocks a row: (numbers [ROWS, 16], block numbers, mask)."""
    block = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at, column = _places(block, columns, width)
    wide = _read(x, at, (block < blocks)[:, None] & (column < columns), BF16)
    if GELU:
        wide = _gelu(wide, BF16)
    return wide, block.to(tl.int64), block < blocks


@triton.jit
def _amax_kernel(
    x, maxima, columns, width, blocks, ROWS: tl.constexpr, BF16: tl.constexpr, GELU: tl.constexpr
):  # fmt: skip
    wide, _block, _mask = _tile(x, columns, width, blocks, ROWS, BF16, GELU)
    tl.store(maxima + tl.program_id(0), _finite_max(wide))


@triton.jit
def _quantize_kernel(
    x, amax, values, scales, columns, width, blocks,
    ROWS: tl.constexpr, BF16: tl.constexpr, GELU: tl.constexpr, RULE: tl.constexpr,
):  # fmt: skip
    wide, block, mask = _tile(x, columns, width, blocks, ROWS, BF16, GELU)
    _write_blocks(wide, amax, values, scales, block, mask, ROWS, RULE)


@triton.jit
def _normed(
    x, scale, shift, eps, columns, rows_each, ROWS: tl.constexpr, LOG_ROWS: tl.constexpr, BF16: tl.constexpr
):  # fmt: skip
    """before_linear.norm_modulate of this program's row, as blocks [ROWS, 16]; 0 past its columns."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, ROWS)[:, None] * 16 + tl.arange(0, 16)[None, :]
    mask = column < columns
    wide = _read(x, row * columns + column, mask, BF16)
    total = _row_sum(wide, ROWS, LOG_ROWS)
    count = tl.zeros_like(total) + columns
    centred = tl.where(mask, wide - tl.div_rn(total, count), 0.0)
    variance = tl.div_rn(_row_sum(centred * centred, ROWS, LOG_ROWS), count)
    root = tl.sqrt_rn(variance + eps)
    normed = _rounded(centred * tl.div_rn(tl.zeros_like(root) + 1.0, root), BF16)
    of_frame = (row // rows_each) * columns + column
    factor = _rounded(1.0 + _read(scale, of_frame, mask, BF16), BF16)
    product = _rounded(normed * factor, BF16)
    return tl.where(mask, _rounded(product + _read(shift, of_frame, mask, BF16), BF16), 0.0)


@triton.jit
def _row_sum(x, ROWS: tl.constexpr, LOG_ROWS: tl.constexpr):
    """Sum of a row held as blocks [ROWS, 16] in nvfp4.pair_sum's order: a scalar."""
    total = _pair_sum(tl.reshape(_pair_sum(x, ROWS, 4), [1, ROWS]), 1, LOG_ROWS)
    return tl.max(total, axis=0)  # of one number: takes it out of its tensor


@triton.jit
def _norm_amax_kernel(
    x, scale, shift, maxima, eps, columns, rows_each,
    ROWS: tl.constexpr, LOG_ROWS: tl.constexpr, BF16: tl.constexpr,
):  # fmt: skip
    wide = _normed(x, scale, shift, eps, columns, rows_each, ROWS, LOG_ROWS, BF16)
    tl.store(maxima + tl.program_id(0), _finite_max(wide))


@triton.jit
def _norm_quantize_kernel(
    x, scale, shift, amax, values, scales, eps, columns, rows_each, width,
    ROWS: tl.constexpr, LOG_ROWS: tl.constexpr, BF16: tl.constexpr, RULE: tl.constexpr,
):  # fmt: skip
    wide = _normed(x, scale, shift, eps, columns, rows_each, ROWS, LOG_ROWS, BF16)
    of_row = tl.arange(0, ROWS)
    block = tl.program_id(0).to(tl.int64) * width + of_row
    _write_blocks(wide, amax, values, scales, block, of_row < width, ROWS, RULE)


@triton.jit
def _dequantize_kernel(
    values, scales, amax, out, unit, columns, width, blocks, ROWS: tl.constexpr, BF16: tl.constexpr
):  # fmt: skip
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
    at, column = _places(block, columns, width)
    written = mask[:, None] & (column < columns)
    if BF16:
        tl.store(out + at, _bf16_bits(wide).to(tl.int16), mask=written)
    else:
        tl.store(out + at, wide, mask=written)


def quantize(x: Tensor, rule: Rule = "mse", amax: Tensor | None = None, out: NVFP4Tensor | None = None) -> NVFP4Tensor:
    """nvfp4.quantize(x, rule, amax), bit for bit.

    out: tensors of the right sizes, contiguous, that are filled and returned (a slot of a cache, say); None makes them.
    Raises what nvfp4.quantize raises, and ValueError for a CPU tensor outside the interpreter.
    """
    nvfp4.check_rule(rule)
    if not x.is_floating_point():
        raise ValueError(f"NVFP4 quantises floating-point tensors, not {x.dtype}")
    return _quantize_elements(x if x.dtype == torch.bfloat16 else x.float(), rule, amax, out, gelu=False)


def quantize_gelu(
    x: Tensor, rule: Rule = "mse", amax: Tensor | None = None, out: NVFP4Tensor | None = None
) -> NVFP4Tensor:
    """nvfp4.quantize(before_linear.gelu_tanh(x), rule, amax), bit for bit, the activation never written.

    Raises as `quantize`, and ValueError for other dtypes than bfloat16 and float32.
    """
    nvfp4.check_rule(rule)
    before_linear.check_dtype(x)
    return _quantize_elements(x, rule, amax, out, gelu=True)


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
    _check_device(x)
    rows, columns = x.shape
    out = _outputs(tuple(x.shape), x.device, rule, out)
    if rows == 0:
        out.amax.zero_()
        return out
    width = out.scales.shape[1]
    tile = triton.next_power_of_2(width)
    log_tile, bf16 = tile.bit_length() - 1, x.dtype == torch.bfloat16
    read = (_bits(x), _bits(scale), _bits(shift))
    rows_each = rows // scale.shape[0]
    if amax is None:
        maxima = torch.empty(rows, device=x.device)  # [R]
        _norm_amax_kernel[(rows,)](
            *read, maxima, eps, columns, rows_each, tile, log_tile, bf16, enable_fp_fusion=False
        )  # fmt: skip
        torch.amax(maxima, 0, keepdim=True, out=out.amax)
    else:
        out.amax.copy_(amax.reshape(1))
    _norm_quantize_kernel[(rows,)](
        *read, out.amax, out.values, out.scales.view(torch.uint8), eps, columns, rows_each, width,
        tile, log_tile, bf16, rule, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def dequantize(tensor: NVFP4Tensor, dtype: torch.dtype = torch.bfloat16, out: Tensor | None = None) -> Tensor:
    """nvfp4.dequantize(tensor, dtype), bit for bit.

    dtype: bfloat16 or float32. out: contiguous, of the tensor's shape and dtype, filled and returned; None makes it.
    Raises ValueError for another dtype, for an out that does not fit, and for CPU tensors outside the interpreter.
    """
    _check_device(tensor.values)
    out = torch.empty(tensor.shape, dtype=dtype, device=tensor.values.device) if out is None else out
    if out.dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"NVFP4 is dequantised to bfloat16 or float32 here, not {out.dtype}")
    if tuple(out.shape) != tensor.shape or not out.is_contiguous():
        raise ValueError(f"out must be contiguous and of shape {tensor.shape}, not {tuple(out.shape)}")
    width, blocks = tensor.scales.shape[1], tensor.scales.numel()
    if out.numel():
        _dequantize_kernel[(triton.cdiv(blocks, TILE),)](
            tensor.values, tensor.scales.view(torch.uint8), tensor.amax, _bits(out), nvfp4.unit(tensor.rule),
            tensor.shape[-1], width, blocks, TILE, out.dtype == torch.bfloat16, enable_fp_fusion=False,
        )  # fmt: skip
    return out


def _quantize_elements(
    x: Tensor, rule: Rule, amax: Tensor | None, out: NVFP4Tensor | None, gelu: bool
) -> NVFP4Tensor:  # fmt: skip
    _check_device(x)
    out = _outputs(tuple(x.shape), x.device, rule, out)
    blocks, width = out.scales.numel(), out.scales.shape[1]
    if amax is not None:
        out.amax.copy_(amax.reshape(1))
    if blocks == 0:
        if amax is None:
            out.amax.zero_()
        return out
    grid, bf16, read = (triton.cdiv(blocks, TILE),), x.dtype == torch.bfloat16, _bits(x)
    if amax is None:
        maxima = torch.empty(grid[0], device=x.device)
        _amax_kernel[grid](
            read, maxima, x.shape[-1], width, blocks, TILE, bf16, gelu, enable_fp_fusion=False
        )  # fmt: skip
        torch.amax(maxima, 0, keepdim=True, out=out.amax)
    _quantize_kernel[grid](
        read, out.amax, out.values, out.scales.view(torch.uint8), x.shape[-1], width, blocks,
        TILE, bf16, gelu, rule, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def _outputs(shape: tuple[int, ...], device: torch.device, rule: Rule, out: NVFP4Tensor | None) -> NVFP4Tensor:
    if out is None:
        rows, blocks = nvfp4.rows_and_blocks(shape)
        return NVFP4Tensor(
            torch.empty(rows, blocks * BLOCK // 2, dtype=torch.uint8, device=device),
            torch.empty(rows, blocks, dtype=torch.uint8, device=device).view(torch.float8_e4m3fn),
            torch.empty(1, device=device),
            shape,
            rule,
        )
    if out.shape != shape or out.rule != rule or not (out.values.is_contiguous() and out.scales.is_contiguous()):
        raise ValueError(f"out must be contiguous, of shape {shape} and rule {rule}, not {out.shape} and {out.rule}")
    return out


def _bits(x: Tensor) -> Tensor:
    """What the kernels read: bfloat16 as int16, contiguous; a contiguous tensor shares its memory."""
    x = x.detach().contiguous()
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


def _check_device(x: Tensor) -> None:
    if not (x.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError("Triton kernels take CUDA tensors; for the CPU use everscene_kernels.nvfp4, the same numbers")
