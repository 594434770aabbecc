"""The steps of `fused.py` on the GPU: one pass over the rows each, and on request FP8 rows straight from registers.

All take bfloat16. A program handles one row: a row of a few thousand numbers fits into the registers of one block of
threads, so it is read once, whatever is computed from it. RoPE reads bfloat16 pairs as one 32-bit word, which is the
complex number that it turns.

CPU tensors need TRITON_INTERPRET=1 before triton is imported.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from everscene_kernels.fp8 import FP8Rows
from everscene_kernels.fused import Affine, Modulation
from everscene_kernels.launch import check_launch
from everscene_kernels.nvfp4_triton import _bf16_bits, _e4m3_code, _rounded

# The interpreter's own conversions round otherwise, or not at all: there, convert on the bits.
INTERPRETED: bool = triton.knobs.runtime.interpret
_NATIVE = tl.constexpr(not INTERPRETED)
_GELU = tl.constexpr(2.0 * 0.7978845608028654 * 1.4426950408889634)  # 2·√(2/π)·log₂e
_CUBIC = tl.constexpr(0.044715)
_LARGEST = tl.constexpr(448.0)
_TINY = tl.constexpr(2.0**-100)
_TURNED_WORDS = 2048  # words of two numbers in a program that turns a sink's keys


@triton.jit
def _bf16(x):
    """x rounded to bfloat16, kept as float32. Not by a conversion back: the compiler would drop the pair of them."""
    if _NATIVE:
        return (x.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return _rounded(x, True)


@triton.jit
def _e4m3(x):
    """float32 → the byte of its E4M3; magnitudes above 448 become 448, which the GPU's own conversion does as well."""
    if _NATIVE:
        return x.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    else:
        held = tl.minimum(tl.maximum(x, -_LARGEST), _LARGEST)
        sign = (held < 0.0) | ((held == 0.0) & (held.to(tl.int32, bitcast=True) < 0))
        return (_e4m3_code(tl.abs(held)) + tl.where(sign, 128, 0)).to(tl.uint8)


@triton.jit
def _inverse(x):
    """1 / x for x of 1 or more, to a unit of the last place."""
    if _NATIVE:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1.0 / x


@triton.jit
def _store_rows(values, out, scales, row, columns, column, mask, FP8: tl.constexpr):
    """A row as it is, or in FP8 with its scale, as fp8.quantize_rows."""
    at = row * columns + column
    if FP8:
        amax = tl.max(tl.where(mask, tl.abs(values), 0.0), axis=0)
        scale = tl.div_rn(tl.where(amax >= _TINY, amax, 1.0), _LARGEST)
        tl.store(out + at, _e4m3(values * tl.div_rn(1.0, scale)), mask=mask)
        tl.store(scales + row, scale)
    else:
        tl.store(out + at, values.to(tl.bfloat16), mask=mask)


@triton.jit
def _add_norm_kernel(
    x, y, gate, scale, shift, out, scales, eps, columns, rows_each, gate_stride, scale_stride,
    BLOCK: tl.constexpr, ADD: tl.constexpr, GATED: tl.constexpr, AFFINE: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < columns
    frame = row // rows_each
    wide = tl.load(x + row * columns + column, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        added = tl.load(y + row * columns + column, mask=mask, other=0.0).to(tl.float32)
        if GATED:
            added = _bf16(added * tl.load(gate + frame * gate_stride + column, mask=mask, other=0.0).to(tl.float32))
        wide = _bf16(wide + added)
        tl.store(x + row * columns + column, wide.to(tl.bfloat16), mask=mask)
    mean = tl.sum(wide, axis=0) / columns
    centred = tl.where(mask, wide - mean, 0.0)
    root = tl.sqrt(tl.sum(centred * centred, axis=0) / columns + eps)
    normed = centred * (1.0 / root)
    at = column if AFFINE else frame * scale_stride + column
    by = tl.load(scale + at, mask=mask, other=0.0).to(tl.float32)
    plus = tl.load(shift + at, mask=mask, other=0.0).to(tl.float32)
    product = normed * by if AFFINE else _bf16(_bf16(normed) * _bf16(1.0 + by))
    value = _bf16(product + plus)
    _store_rows(value, out, scales, row, columns, column, mask, FP8)


@triton.jit
def _rows_kernel(x, out, scales, columns, BLOCK: tl.constexpr, GELU: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < columns
    wide = tl.load(x + row * columns + column, mask=mask, other=0.0).to(tl.float32)
    if GELU:
        wide = _bf16(wide * _inverse(1.0 + tl.exp2((wide + wide * wide * wide * _CUBIC) * -_GELU)))
    _store_rows(wide, out, scales, row, columns, column, mask, True)


@triton.jit
def _e4m3_pair(real, imaginary):
    """Two numbers as two bytes of E4M3 in an int16, the first in the low one. On a GPU by the one instruction that does
    it: put together from bytes, Triton 3.6 leaves the second number in the first one's upper bits."""
    if _NATIVE:
        return tl.inline_asm_elementwise(
            "cvt.rn.satfinite.e4m3x2.f32 $0, $2, $1;", "=h,f,f", [real, imaginary], dtype=tl.int16, is_pure=True, pack=1
        )
    else:
        return (_e4m3(real).to(tl.int32) | (_e4m3(imaginary).to(tl.int32) << 8)).to(tl.int16)


@triton.jit
def _turned_kernel(
    x, weights, cos, sin, q_out, k_out, v_out, q_eight, k_eight, v_eight, value_scale, eps, parts, pairs, half,
    BLOCK: tl.constexpr, TURN: tl.constexpr, EIGHT: tl.constexpr,
):  # fmt: skip
    """Row program_id(0), part program_id(1) of x [R, parts, pairs], all in words of two bfloat16 (or of two E4M3)."""
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    pair = tl.arange(0, BLOCK)
    mask = pair < pairs
    at = row * pairs + pair
    word = tl.load(x + (row * parts + part) * pairs + pair, mask=mask, other=0)
    real = (word << 16).to(tl.float32, bitcast=True)
    imaginary = (word & -65536).to(tl.float32, bitcast=True)
    if part == 2:
        tl.store(v_out + at, word, mask=mask)
        if EIGHT:
            scale = tl.load(value_scale)
            tl.store(v_eight + at, _e4m3_pair(real * scale, imaginary * scale), mask=mask)
    else:
        square = tl.sum(real * real + imaginary * imaginary, axis=0) / (2 * pairs)
        factor = tl.rsqrt(square + eps)
        weight = tl.load(weights + part * pairs + pair, mask=mask, other=0)
        real = _bf16(_bf16(real * factor) * (weight << 16).to(tl.float32, bitcast=True))
        imaginary = _bf16(_bf16(imaginary * factor) * (weight & -65536).to(tl.float32, bitcast=True))
        if TURN:
            angle = row * half + pair % half
            c = tl.load(cos + angle, mask=mask, other=0.0)
            s = tl.load(sin + angle, mask=mask, other=0.0)
            turned = _bf16(real * c - imaginary * s)
            imaginary = _bf16(real * s + imaginary * c)
            real = turned
        low = real.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        both = low | (imaginary.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32) << 16)
        if part == 0:
            if EIGHT:
                tl.store(q_eight + at, _e4m3_pair(real, imaginary), mask=mask)
            else:
                tl.store(q_out + at, both, mask=mask)
        else:
            tl.store(k_out + at, both, mask=mask)
            if EIGHT:
                tl.store(k_eight + at, _e4m3_pair(real, imaginary), mask=mask)


@triton.jit
def _turn_keys_kernel(
    made, cos, sin, out, eight, rows, out_clip, eight_clip,
    half: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr, EIGHT: tl.constexpr,
):  # fmt: skip
    """Rows (heads of tokens) of clip program_id(1), in words; out_clip, eight_clip: words from a clip to the next.
    Cosines and sines are the same for all rows: a program reads them once."""
    clip = tl.program_id(1).to(tl.int64)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    pair = tl.arange(0, PAIRS)[None, :]
    mask = (row < rows) & (pair < half)
    at = row.to(tl.int64) * half + pair
    c = tl.load(cos + pair, mask=pair < half, other=0.0)  # [1, PAIRS]
    s = tl.load(sin + pair, mask=pair < half, other=0.0)
    word = tl.load(made + clip * rows * half + at, mask=mask, other=0)
    real = (word << 16).to(tl.float32, bitcast=True)
    imaginary = (word & -65536).to(tl.float32, bitcast=True)
    turned = _bf16_bits(real * c - imaginary * s)
    other = _bf16_bits(real * s + imaginary * c)
    tl.store(out + clip * out_clip + at, (turned & 0xFFFF) | (other << 16), mask=mask)
    if EIGHT:
        real = (turned << 16).to(tl.float32, bitcast=True)
        imaginary = (other << 16).to(tl.float32, bitcast=True)
        tl.store(eight + clip * eight_clip + at, _e4m3_pair(real, imaginary), mask=mask)


def add_norm(
    x: Tensor, y: Tensor | None, gate: Tensor | None, after: Modulation | Affine, eps: float, fp8: bool
) -> Tensor | FP8Rows:
    """fused.add_norm: x [R, C] becomes x + y · gate in place; returns its norm, in FP8 rows with `fp8`.

    gate, scale and shift [F, C] may be rows of a larger tensor: only their columns must lie together. Raises
    ValueError for other dtypes than bfloat16, or where shapes do not fit.
    """
    rows, columns = x.shape
    affine = isinstance(after, Affine)
    scale, shift = after
    _check_rows(x, y, gate, None if affine else scale, None if affine else shift)
    out, scales = _outputs(rows, columns, x.device, fp8)
    frames = gate.shape[0] if gate is not None else 1 if affine else scale.shape[0]
    if not affine and scale.shape[0] != frames:
        raise ValueError(f"a gate of {frames} latent frames does not go with a scale of {scale.shape[0]}")
    if scale.stride(-1) != 1 or shift.stride() != scale.stride() or (gate is not None and gate.stride(-1) != 1):
        raise ValueError("scale and shift must lie alike, and columns together")
    block = triton.next_power_of_2(columns)
    _add_norm_kernel[(rows,)](
        x, x if y is None else y, scale if gate is None else gate, scale, shift, out, scales, eps, columns,
        rows // frames, 0 if gate is None else gate.stride(0), scale.stride(0), block, y is not None,
        gate is not None, affine, fp8, num_warps=_warps(block),
    )  # fmt: skip
    return FP8Rows(out.view(torch.float8_e4m3fn), scales) if fp8 else out


def quantize_rows(x: Tensor, gelu: bool = False) -> FP8Rows:
    """fp8.quantize_rows(x) of finite bfloat16 rows [R, C], or fused.gelu_rows(x) with `gelu`."""
    _check_rows(x)
    rows, columns = x.shape
    out, scales = _outputs(rows, columns, x.device, True)
    block = triton.next_power_of_2(columns)
    _rows_kernel[(rows,)](x, out, scales, columns, block, gelu, num_warps=_warps(block))
    return FP8Rows(out.view(torch.float8_e4m3fn), scales)


class EightBit(NamedTuple):
    """Where queries, keys and values go in E4M3, [R, H, E] each; values times `scale`, float32 [1]."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale: Tensor


def queries_keys_values(
    qkv: Tensor,
    weights: Tensor,
    cos: Tensor,
    sin: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eps: float,
    eight: EightBit | None = None,
) -> None:
    """What a fused product gave, as queries, keys and values where they belong.

    qkv [R, 3·C]. q and k [R, H, E], contiguous, are filled with fused.rms_turned of its first two thirds under
    weights [2, C]; v [R, H, E] with the last third. k and v may be places in a cache. cos, sin: [R, E/2] float32.
    eight: E4M3 of the same go there as well, and the queries go nowhere else.
    """
    rows, heads, width = q.shape
    columns = heads * width
    _check_rows(qkv)
    for name, made in (("q", q), ("k", k), ("v", v)):
        if made.shape != q.shape or not made.is_contiguous() or made.dtype != torch.bfloat16:
            held = f"{made.dtype} {tuple(made.shape)}"
            raise ValueError(f"{name} must be contiguous bfloat16 {tuple(q.shape)}, not {held}")
    if qkv.shape != (rows, 3 * columns) or weights.shape != (2, columns) or cos.shape != (rows, width // 2):
        shapes = f"qkv {tuple(qkv.shape)}, weights {tuple(weights.shape)} and cos {tuple(cos.shape)}"
        raise ValueError(f"{shapes} do not fit")
    outs = [part.view(torch.int32) for part in (q, k, v)]
    eights = outs if eight is None else [part.view(torch.int16) for part in eight[:3]]
    block = triton.next_power_of_2(columns // 2)
    _turned_kernel[(rows, 3)](
        _words(qkv), _words(weights), cos.contiguous(), sin.contiguous(), *outs, *eights,
        cos if eight is None else eight.scale, eps, 3, columns // 2, width // 2, block, True, eight is not None,
        num_warps=_warps(block),
    )  # fmt: skip


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """fused.rms_turned(x, weight, None, None, …) without the split into heads: [R, C] → [R, C]."""
    _check_rows(x)
    rows, columns = x.shape
    out = torch.empty_like(x)
    words = [_words(out)] * 6
    block = triton.next_power_of_2(columns // 2)
    _turned_kernel[(rows, 1)](
        _words(x), _words(weight), out, out, *words, out, eps, 1, columns // 2, 1, block, False, False,
        num_warps=_warps(block),
    )  # fmt: skip
    return out


def turn_keys(made: Tensor, cos: Tensor, sin: Tensor, out: Tensor, eight: Tensor | None = None) -> None:
    """fused.turn_keys, bit for bit: fill out with finite bfloat16 keys `made`, turned, and `eight` with their E4M3.

    made, out, eight: [B, tokens, H, E]; out and eight may be places in a cache. The keys of a clip must lie together in
    each, and all of `made`. Raises ValueError where something does not fit.
    """
    check_launch(made)
    if made.dim() != 4 or made.shape[-1] % 2 or made.dtype != torch.bfloat16 or not made.is_contiguous():
        raise ValueError(f"keys are contiguous bfloat16 [B, tokens, H, E], not {made.dtype} {tuple(made.shape)}")
    _check_place("out", out, made, torch.bfloat16)
    if eight is not None:
        _check_place("eight", eight, made, torch.float8_e4m3fn)
    clips, tokens, heads, width = made.shape
    if cos.numel() * 2 != width or sin.numel() * 2 != width:
        raise ValueError(f"heads of {width} are turned by {width // 2} cosines and sines, not by {tuple(cos.shape)}")
    if not made.numel():
        return
    words = _words(out)
    halves = words if eight is None else eight.view(torch.int16)
    pairs = triton.next_power_of_2(width // 2)
    rows_each = max(1, _TURNED_WORDS // pairs)
    _turn_keys_kernel[(triton.cdiv(tokens * heads, rows_each), clips)](
        _words(made), cos.contiguous(), sin.contiguous(), words, halves, tokens * heads, words.stride(0),
        halves.stride(0), width // 2, rows_each, pairs, eight is not None, enable_fp_fusion=False,
    )  # fmt: skip


def _words(x: Tensor) -> Tensor:
    return x.view(torch.int32)


def _warps(block: int) -> int:
    return 4 if block <= 4096 else 8 if block <= 8192 else 16


def _outputs(rows: int, columns: int, device: torch.device, fp8: bool) -> tuple[Tensor, Tensor]:
    out = torch.empty(rows, columns, dtype=torch.uint8 if fp8 else torch.bfloat16, device=device)
    return out, torch.empty(rows if fp8 else 1, 1, device=device)


def _check_rows(x: Tensor, *others: Any) -> None:
    check_launch(x)
    for part in (x, *others):
        if part is None:
            continue
        if part.dtype != torch.bfloat16:
            raise ValueError(f"fused kernels take bfloat16, not {part.dtype}")
        if part.dim() != 2 or (part.shape[1] != x.shape[1]) or x.shape[0] % max(1, part.shape[0]):
            raise ValueError(f"{tuple(part.shape)} does not go with rows {tuple(x.shape)}")
    if not x.is_contiguous() or x.shape[1] % 2:
        raise ValueError(f"rows must lie together and have an even width, not {tuple(x.shape)} {x.stride()}")


def _check_place(name: str, place: Tensor, made: Tensor, dtype: torch.dtype) -> None:
    if place.dtype != dtype or place.shape != made.shape or (len(place) and not place[0].is_contiguous()):
        held = f"{place.dtype} {tuple(place.shape)} {place.stride()}"
        raise ValueError(f"{name} must be {dtype} {tuple(made.shape)}, each clip's keys together, not {held}")
