"""NVFP4 on the GPU: Triton kernels that give bit for bit what `nvfp4.py` defines.

Every quantisation reads its input twice, because all blocks share a scale that only the whole tensor knows: once for
amax, once for the codes. A caller that knows amax (a calibrated one) saves the first reading. Where GELU stands before
(`before_linear.py`) it is computed in both passes and never written; `nvfp4_norm_triton.py` does so with a norm.

How equality is kept: divisions and roots are the rounded ones, no product is fused into a sum (`enable_fp_fusion`),
sums are trees of neighbours, and conversions to and from bfloat16, E4M3 and E2M1 are done on the bits: they run
on GPUs without these types and in Triton's interpreter, whose own conversions round otherwise.

How they come near the speed of memory: neighbours share a byte, so a kernel holds the even and the odd columns of a
block as two tensors [blocks, 8], and packing is one operation; eight codes are read as one 32-bit word. And an E2M1
magnitude is what a float32 has at the top of its mantissa and the bottom of its exponent, 2¹²⁶ times smaller.

All functions take contiguous or strided CUDA tensors. CPU tensors need TRITON_INTERPRET=1 before triton is imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from everscene_kernels import before_linear, nvfp4
from everscene_kernels.launch import check_launch
from everscene_kernels.nvfp4 import BLOCK, NVFP4Tensor, Rule

TILE = 128  # blocks of 16 in a program that quantises
WORDS = 512  # words of eight codes in a program that dequantises
_READS = tl.constexpr(4)  # tiles that a program looks through for amax

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
_NATIVE = tl.constexpr(not triton.knobs.runtime.interpret)
_UP = tl.constexpr(2.0**126)
_DOWN = tl.constexpr(2.0**-126)


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
    """float32 → the bits of the nearest bfloat16 in the lower half of an int32; x is no NaN."""
    if _NATIVE:
        return x.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32)
    else:
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
    """[ROWS, 2^LOG_WIDTH] → [ROWS], as nvfp4.pair_sum: a sum of two has one order alone."""
    for step in tl.static_range(LOG_WIDTH):
        x = tl.sum(tl.reshape(x, [ROWS, 1 << (LOG_WIDTH - 1 - step), 2]), axis=2)
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
def _e2m1_nearest(y):
    """The magnitude of the E2M1 nearest to y: adding and taking away a number whose last bit is the step at y."""
    held = tl.minimum(tl.abs(y), 6.0)
    exponent = tl.maximum(held.to(tl.int32, bitcast=True) & 0x7F800000, 127 << 23)
    step = (exponent + (22 << 23)).to(tl.float32, bitcast=True)
    return (held + step) - step


@triton.jit
def _e2m1_code(y, magnitude):
    """The code of y, whose nearest magnitude this is."""
    return ((magnitude * _DOWN).to(tl.int32, bitcast=True) >> 22) | tl.where(y < 0.0, 8, 0)


@triton.jit
def _e2m1_value(word, place):
    """float32 of the code that begins at bit `place` of a word."""
    code = word >> place
    return (((code & 7) << 22) | ((code & 8) << 28)).to(tl.float32, bitcast=True) * _UP


@triton.jit
def _finite_max(even, odd):
    """The larger finite magnitude of pairs, 0 where there is none."""
    even, odd = tl.abs(even), tl.abs(odd)
    return tl.maximum(tl.where(even < _INFINITY, even, 0.0), tl.where(odd < _INFINITY, odd, 0.0))


@triton.jit
def _raise_to(maximum, found):
    """Raise *maximum, the bits of a float32 that is 0 or more, to the largest of a tile [N, 8]."""
    tl.atomic_max(maximum, tl.max(tl.max(found, axis=1), axis=0).to(tl.int32, bitcast=True))


@triton.jit
def _block_max(even, odd):
    return tl.max(tl.maximum(tl.abs(even), tl.abs(odd)), axis=1)


@triton.jit
def _static(even, odd, amax, PEAK: tl.constexpr):
    tensor_scale = tl.div_rn(amax, PEAK * 448.0)
    block_max = _block_max(even, odd)
    wanted = tl.div_rn(block_max, tl.zeros_like(block_max) + PEAK * tensor_scale)
    scale = _e4m3_code(tl.minimum(tl.maximum(wanted, 0.001953125), 448.0))
    scale = tl.where(block_max > 0.0, scale, 0)
    divisor = tl.zeros_like(even) + tl.where(scale > 0, _e4m3_value(scale) * tensor_scale, 1.0)[:, None]
    even, odd = tl.div_rn(even, divisor), tl.div_rn(odd, divisor)
    return even, odd, _e2m1_nearest(even), _e2m1_nearest(odd), scale


@triton.jit
def _error(x, magnitude, scale):
    return tl.abs(tl.abs(x) - magnitude * scale[:, None])


@triton.jit
def _tried(even, odd, wanted, decode, tensor_scale, ROWS: tl.constexpr, RULE: tl.constexpr):
    """Blocks over this scale, the magnitudes nearest to them, the scale's code, and the error of each block."""
    scale = _e4m3_code(tl.minimum(wanted, 448.0))
    value = _e4m3_value(scale)
    inverse = tl.div_rn(tl.zeros_like(value) + 1.0, tl.where(scale > 0, decode * value, 1.0))
    inverse = tl.where(scale > 0, inverse, 0.0)[:, None]
    y_even, y_odd = even * inverse, odd * inverse
    near_even, near_odd = _e2m1_nearest(y_even), _e2m1_nearest(y_odd)
    error_even, error_odd = _error(even, near_even, value * tensor_scale), _error(odd, near_odd, value * tensor_scale)
    if RULE == "abs_max":
        error = tl.max(tl.maximum(error_even, error_odd), axis=1)
    elif RULE == "mse":
        error = _pair_sum(error_even * error_even + error_odd * error_odd, ROWS, 3)
    else:
        error = _pair_sum(error_even + error_odd, ROWS, 3)
    return y_even, y_odd, near_even, near_odd, scale, error


@triton.jit
def _four_over_six(even, odd, amax, ROWS: tl.constexpr, RULE: tl.constexpr):
    encode = tl.div_rn(tl.zeros_like(amax) + _UNIT, amax)
    decode = tl.div_rn(tl.zeros_like(amax) + 1.0, encode)
    tensor_scale = tl.div_rn(amax, _UNIT)
    block_max = _block_max(even, odd)
    for_six = tl.div_rn(block_max, tl.zeros_like(block_max) + 6.0) * encode
    e6, o6, near_e6, near_o6, six, of_six = _tried(even, odd, for_six, decode, tensor_scale, ROWS, RULE)
    e4, o4, near_e4, near_o4, four, of_four = _tried(even, odd, for_six * 1.5, decode, tensor_scale, ROWS, RULE)
    better = of_four < of_six
    each = better[:, None]
    y_even, y_odd = tl.where(each, e4, e6), tl.where(each, o4, o6)
    return (
        y_even, y_odd, tl.where(each, near_e4, near_e6), tl.where(each, near_o4, near_o6),
        tl.where(better, four, six),
    )  # fmt: skip


@triton.jit
def _held(x, bound):
    """What can be quantised: NaN as 0, within ±bound."""
    return tl.minimum(tl.maximum(tl.where(x == x, x, 0.0), -bound), bound)


@triton.jit
def _write_blocks(even, odd, amax_at, values, scales, block, mask, ROWS: tl.constexpr, RULE: tl.constexpr):
    """Quantise a tile of pairs [ROWS, 8] and write codes and scales of its blocks."""
    amax = tl.load(amax_at)
    live = amax >= _AMAX_TINY
    bound, amax = tl.where(live, amax, 0.0), tl.where(live, amax, 1.0)
    even, odd = _held(even, bound), _held(odd, bound)
    if RULE == "static_6":
        even, odd, near_even, near_odd, scale = _static(even, odd, amax, 6.0)
    elif RULE == "static_4":
        even, odd, near_even, near_odd, scale = _static(even, odd, amax, 4.0)
    else:
        even, odd, near_even, near_odd, scale = _four_over_six(even, odd, amax, ROWS, RULE)
    byte = _e2m1_code(even, near_even) | (_e2m1_code(odd, near_odd) << 4)
    at = block[:, None] * 8 + tl.arange(0, 8)[None, :]
    tl.store(values + at, byte.to(tl.uint8), mask=mask[:, None])
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
def _pairs(x, block, blocks, columns, width, BF16: tl.constexpr, WHOLE: tl.constexpr):
    """Even and odd columns [N, 8] of blocks [N] of x [R, columns], `width` to a row; 0 outside.

    WHOLE: rows are of whole blocks; bfloat16 is then read as words of two.
    """
    pair = tl.arange(0, 8)[None, :]
    mask = (block < blocks)[:, None]
    if WHOLE and BF16:
        word = tl.load(x + block.to(tl.int64)[:, None] * 8 + pair, mask=mask, other=0)
        return (word << 16).to(tl.float32, bitcast=True), (word & -65536).to(tl.float32, bitcast=True)
    else:
        row = block // width  # in 32 bits: dividing 64 is slow, and 2^31 blocks are more than a GPU holds
        column = (block - row * width)[:, None] * 16 + 2 * pair
        at = row.to(tl.int64)[:, None] * columns + column
        return _read(x, at, mask & (column < columns), BF16), _read(x, at + 1, mask & (column + 1 < columns), BF16)


@triton.jit
def _amax_kernel(
    x, maximum, columns, width, blocks,
    ROWS: tl.constexpr, BF16: tl.constexpr, GELU: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Raise *maximum to the largest finite magnitude that this program finds."""
    found = tl.zeros([ROWS, 8], tl.float32)
    for step in tl.static_range(_READS):
        block = (tl.program_id(0) * _READS + step) * ROWS + tl.arange(0, ROWS)
        even, odd = _pairs(x, block, blocks, columns, width, BF16, WHOLE)
        if GELU:
            even, odd = _gelu(even, BF16), _gelu(odd, BF16)
        found = tl.maximum(found, _finite_max(even, odd))
    _raise_to(maximum, found)


@triton.jit
def _quantize_kernel(
    x, amax, values, scales, columns, width, blocks,
    ROWS: tl.constexpr, BF16: tl.constexpr, GELU: tl.constexpr, WHOLE: tl.constexpr, RULE: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    even, odd = _pairs(x, block, blocks, columns, width, BF16, WHOLE)
    if GELU:
        even, odd = _gelu(even, BF16), _gelu(odd, BF16)
    _write_blocks(even, odd, amax, values, scales, block.to(tl.int64), block < blocks, ROWS, RULE)


@triton.jit
def _block_scales(scales, amax, unit, word, mask):
    """Scales of the blocks that words [N, 1] of eight codes belong to."""
    held = tl.load(amax)
    tensor_scale = tl.div_rn(tl.where(held < _AMAX_TINY, 0.0, held), unit)
    return _e4m3_value(tl.load(scales + word // 2, mask=mask, other=0).to(tl.int32)) * tensor_scale


@triton.jit
def _word_places(word, columns, width: tl.constexpr, WHOLE: tl.constexpr):
    """(offsets [N, 8] into a tensor [R, columns] of the numbers of words [N, 1], which of them are there)."""
    number = tl.arange(0, 8)[None, :]
    if WHOLE:
        return word.to(tl.int64) * 8 + number, number >= 0
    else:
        row = word // (2 * width)
        column = (word - row * (2 * width)) * 8 + number
        return row.to(tl.int64) * columns + column, column < columns


@triton.jit
def _dequantize_kernel(
    values, scales, amax, out, unit, columns, words,
    width: tl.constexpr, N: tl.constexpr, BF16: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    word = (tl.program_id(0) * N + tl.arange(0, N))[:, None]
    mask = word < words
    codes = tl.load(values + word, mask=mask, other=0)
    scale = _block_scales(scales, amax, unit, word, mask)
    wide = _e2m1_value(codes, 4 * tl.arange(0, 8)[None, :]) * scale
    at, there = _word_places(word, columns, width, WHOLE)
    if BF16:
        tl.store(out + at, _bf16_bits(wide).to(tl.int16), mask=mask & there)
    else:
        tl.store(out + at, wide, mask=mask & there)


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


def dequantize(tensor: NVFP4Tensor, dtype: torch.dtype = torch.bfloat16, out: Tensor | None = None) -> Tensor:
    """nvfp4.dequantize(tensor, dtype), bit for bit.

    dtype: bfloat16 or float32. out: contiguous, of the tensor's shape and dtype, filled and returned; None makes it.
    Raises ValueError for another dtype, for an out that does not fit, and for CPU tensors outside the interpreter.
    """
    check_launch(tensor.values)
    out = torch.empty(tensor.shape, dtype=dtype, device=tensor.values.device) if out is None else out
    if out.dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"NVFP4 is dequantised to bfloat16 or float32 here, not {out.dtype}")
    if tuple(out.shape) != tensor.shape or not out.is_contiguous():
        raise ValueError(f"out must be contiguous and of shape {tensor.shape}, not {tuple(out.shape)}")
    width, words = tensor.scales.shape[1], 2 * tensor.scales.numel()
    if out.numel():
        _dequantize_kernel[(triton.cdiv(words, WORDS),)](
            _words(tensor), tensor.scales.view(torch.uint8), tensor.amax, _bits(out), nvfp4.unit(tensor.rule),
            tensor.shape[-1], words, width, WORDS, out.dtype == torch.bfloat16, tensor.shape[-1] % BLOCK == 0,
            enable_fp_fusion=False,
        )  # fmt: skip
    return out


def _quantize_elements(
    x: Tensor, rule: Rule, amax: Tensor | None, out: NVFP4Tensor | None, gelu: bool
) -> NVFP4Tensor:  # fmt: skip
    check_launch(x)
    out = _outputs(tuple(x.shape), x.device, rule, out)
    blocks, width = out.scales.numel(), out.scales.shape[1]
    if amax is not None:
        out.amax.copy_(amax.reshape(1))
    if blocks == 0:
        if amax is None:
            out.amax.zero_()
        return out
    bf16, whole, read = x.dtype == torch.bfloat16, x.shape[-1] % BLOCK == 0, _bits(x)
    if bf16 and whole:
        read = read.view(torch.int32)
    if amax is None:
        _amax_kernel[(triton.cdiv(blocks, TILE * _READS.value),)](
            read, out.amax.zero_().view(torch.int32), x.shape[-1], width, blocks, TILE, bf16, gelu, whole,
            enable_fp_fusion=False,
        )  # fmt: skip
    _quantize_kernel[(triton.cdiv(blocks, TILE),)](
        read, out.amax, out.values, out.scales.view(torch.uint8), x.shape[-1], width, blocks,
        TILE, bf16, gelu, whole, rule, enable_fp_fusion=False,
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


def _words(tensor: NVFP4Tensor) -> Tensor:
    """Its codes, eight to an int32."""
    return tensor.values.contiguous().view(torch.int32)
