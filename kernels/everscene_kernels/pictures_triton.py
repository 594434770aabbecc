"""The steps of `pictures.py` on the GPU, one pass over memory each, in bfloat16.

CPU tensors need TRITON_INTERPRET=1 before triton is imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from everscene_kernels.fused_triton import INTERPRETED, _inverse
from everscene_kernels.launch import check_launch
from everscene_kernels.nvfp4_triton import _rounded

_LOG2_E = tl.constexpr(1.4426950408889634)
_NUMBERS = 4096  # of a program
_NATIVE = tl.constexpr(not INTERPRETED)


@triton.jit
def _store(out, at, wide, mask):
    if _NATIVE:
        tl.store(out + at, wide.to(tl.bfloat16), mask=mask)
    else:  # the interpreter's own conversion cuts off
        tl.store(out + at, _rounded(wide, True).to(tl.bfloat16), mask=mask)


@triton.jit
def _norm_silu_kernel(
    x, gamma, bias, out, rows, columns, root, BIAS: tl.constexpr, N: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    row = (tl.program_id(0) * N + tl.arange(0, N)).to(tl.int64)[:, None]
    column = tl.arange(0, C)[None, :]
    mask = (row < rows) & (column < columns)
    at = row * columns + column
    wide = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        wide += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(wide * wide, axis=1)), 1e-12)
    weight = tl.load(gamma + column, mask=column < columns, other=0.0).to(tl.float32)
    wide = wide * (root / length)[:, None] * weight
    wide = wide * _inverse(1.0 + tl.exp2(wide * -_LOG2_E))
    _store(out, at, wide, mask)


@triton.jit
def _biased_kernel(
    x, other, bias, rows, columns, ADD: tl.constexpr, RELU: tl.constexpr, N: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    row = (tl.program_id(0) * N + tl.arange(0, N)).to(tl.int64)[:, None]
    column = tl.arange(0, C)[None, :]
    mask = (row < rows) & (column < columns)
    at = row * columns + column
    weight = tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)
    wide = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) + weight
    if ADD:
        wide += tl.load(other + at, mask=mask, other=0.0).to(tl.float32)
    _store(x, at, tl.maximum(wide, 0.0) if RELU else wide, mask)


@triton.jit
def _doubled_kernel(x, out, pixels, height, width, parts, columns, N: tl.constexpr, C: tl.constexpr):
    """Pixels program_id(0)·N of part program_id(1)."""
    pixel = (tl.program_id(0) * N + tl.arange(0, N))[:, None]
    part = tl.program_id(1)
    column = tl.arange(0, C)[None, :]
    mask = (pixel < pixels) & (column < columns)
    held = tl.load(x + (pixel.to(tl.int64) * parts + part) * columns + column, mask=mask, other=0.0)
    row = pixel // width
    frame, y = row // height, row % height
    first = ((frame * parts + part).to(tl.int64) * (2 * height) + 2 * y) * (2 * width) + 2 * (pixel - row * width)
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            tl.store(out + (first + down * 2 * width + right) * columns + column, held, mask=mask)


@triton.jit
def _add_grown_kernel(
    x, small, pixels, height, width, columns, narrow, skip,
    TIMES: tl.constexpr, REPEATS: tl.constexpr, N: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """x [pixels, columns] += …; height and width are its own, twice those of `small`; narrow: channels of `small`."""
    pixel = (tl.program_id(0) * N + tl.arange(0, N))[:, None]
    column = tl.arange(0, C)[None, :]
    mask = (pixel < pixels) & (column < columns)
    row = pixel // width
    right, y, frame = pixel - row * width, row % height, row // height + skip
    piece = ((frame % TIMES) * 2 + y % 2) * 2 + right % 2
    source = ((frame // TIMES).to(tl.int64) * (height // 2) + y // 2) * (width // 2) + right // 2
    channel = (column * (4 * TIMES) + piece) // REPEATS
    grown = tl.load(small + source * narrow + channel, mask=mask, other=0.0).to(tl.float32)
    at = pixel.to(tl.int64) * columns + column
    _store(x, at, tl.load(x + at, mask=mask, other=0.0).to(tl.float32) + grown, mask)


@triton.jit
def _level(x):
    """-1..1 → 0..255, NaN → 0."""
    level = x.to(tl.float32) * 127.5 + 128.0
    return tl.minimum(tl.maximum(tl.where(level == level, level, 0.0), 0.0), 255.0).to(tl.int32)


@triton.jit
def _rgba8_kernel(
    x, out, pixels, height, width, of_frame, of_channel, of_row, of_column, N: tl.constexpr
):  # fmt: skip
    pixel = tl.program_id(0) * N + tl.arange(0, N)
    mask = pixel < pixels
    row = pixel // width
    frame, y = row // height, row % height
    at = x + frame.to(tl.int64) * of_frame + y * of_row + (pixel - row * width) * of_column
    red = _level(tl.load(at, mask=mask, other=0.0))
    green = _level(tl.load(at + of_channel, mask=mask, other=0.0))
    blue = _level(tl.load(at + 2 * of_channel, mask=mask, other=0.0))
    tl.store(out + pixel, red | (green << 8) | (blue << 16) | -16777216, mask=mask)  # alpha 255 is the upper byte


def rgba8(frames: Tensor) -> Tensor:
    """Frames [T, 3, H, W] in −1..1, of any float dtype and strides → uint8 [T, H, W, 4], as `frames_to_rgba8`."""
    check_launch(frames)
    count, _, height, width = frames.shape
    out = torch.empty(count, height, width, 4, dtype=torch.uint8, device=frames.device)
    pixels = count * height * width
    _rgba8_kernel[(triton.cdiv(pixels, 1024),)](
        frames, out.view(torch.int32), pixels, height, width, *frames.stride(), 1024, enable_fp_fusion=False
    )  # fmt: skip
    return out


def norm_silu(x: Tensor, gamma: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """pictures.norm_silu of contiguous bfloat16 [T, H, W, C]. out: of its shape, filled and returned; None makes it.

    Raises ValueError for others.
    """
    _check(x)
    columns, rows = x.shape[-1], x.numel() // x.shape[-1]
    out = torch.empty_like(x) if out is None else out
    _check(out)
    each, wide = _tile(columns)
    _norm_silu_kernel[(triton.cdiv(rows, each),)](
        x, gamma, x if bias is None else bias, out, rows, columns, columns**0.5, bias is not None, each, wide
    )  # fmt: skip
    return out


def add_biased(x: Tensor, other: Tensor, bias: Tensor) -> Tensor:
    """pictures.add_biased of contiguous bfloat16 [T, H, W, C], in x's own memory. Raises ValueError for others."""
    return _biased(x, bias, other, relu=False)


def biased_relu(x: Tensor, bias: Tensor, other: Tensor | None = None) -> Tensor:
    """pictures.biased_relu of contiguous bfloat16 [T, H, W, C], in x's own memory. Raises ValueError for others."""
    return _biased(x, bias, other, relu=True)


def _biased(x: Tensor, bias: Tensor, other: Tensor | None, relu: bool) -> Tensor:
    for part in (x, x if other is None else other):
        _check(part)
    columns, rows = x.shape[-1], x.numel() // x.shape[-1]
    each, wide = _tile(columns)
    _biased_kernel[(triton.cdiv(rows, each),)](
        x, x if other is None else other, bias, rows, columns, other is not None, relu, each, wide
    )  # fmt: skip
    return x


def doubled(x: Tensor, parts: int) -> Tensor:
    """pictures.doubled of contiguous bfloat16 [T, H, W, parts·C]. Raises ValueError for others."""
    _check(x)
    frames, height, width, channels = x.shape
    columns, pixels = channels // parts, frames * height * width
    out = torch.empty(frames * parts, 2 * height, 2 * width, columns, dtype=x.dtype, device=x.device)
    each, wide = _tile(columns)
    _doubled_kernel[(triton.cdiv(pixels, each), parts)](x, out, pixels, height, width, parts, columns, each, wide)
    return out


def add_grown(x: Tensor, small: Tensor, times: int) -> Tensor:
    """pictures.add_grown of contiguous bfloat16, in x's own memory. Raises ValueError for others."""
    _check(x)
    _check(small)
    frames, height, width, columns = x.shape
    pixels, narrow = frames * height * width, small.shape[-1]
    each, wide = _tile(columns)
    _add_grown_kernel[(triton.cdiv(pixels, each),)](
        x, small, pixels, height, width, columns, narrow, small.shape[0] * times - frames,
        times, columns * 4 * times // narrow, each, wide,
    )  # fmt: skip
    return x


def _tile(columns: int) -> tuple[int, int]:
    """(rows of a program, channels padded to a power of two)"""
    wide = triton.next_power_of_2(columns)
    return max(1, _NUMBERS // wide), wide


def _check(x: Tensor) -> None:
    check_launch(x)
    if x.dtype != torch.bfloat16 or x.dim() != 4 or not x.is_contiguous():
        raise ValueError(f"frames are contiguous bfloat16 [T, H, W, C] here, not {x.dtype} {tuple(x.shape)}")
