"""Attention in one pass over the keys, for short texts in bfloat16 and for long caches in FP8.

softmax(q·kᵀ·scale + bias)·v without the matrix of scores: keys come in blocks, and a running maximum and sum correct
what was added before. In FP8, scores of E4M3 queries and keys are exact products summed in float32, and probabilities
are rounded to E4M3 as well, 2⁸ times too large so that the small ones keep their bits; the sum carries the same factor.

`attend_reference` is the definition, in float32. CPU tensors need TRITON_INTERPRET=1 before triton is imported.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from everscene_kernels.fused_triton import _e4m3
from everscene_kernels.launch import check_launch

_LOG2_E = tl.constexpr(1.4426950408889634)
FP8_SHIFT = 8  # powers of two by which probabilities in E4M3 are kept larger
_MINUS_INFINITY = tl.constexpr(float("-inf"))
_NATIVE = tl.constexpr(not triton.knobs.runtime.interpret)  # the interpreter multiplies no bfloat16


class Tile(NamedTuple):
    """How the kernel is cut: queries and keys of a step, warps, steps of loads in flight."""

    queries: int
    keys: int
    warps: int
    stages: int


SHORT = Tile(64, 64, 4, 3)  # over the rows of a prompt
LONG = Tile(64, 128, 4, 3)  # over a cache
_INTERPRETED = Tile(32, 32, 1, 1)


@triton.jit
def _dot(a, b, total):
    if _NATIVE or a.dtype != tl.bfloat16:
        return tl.dot(a, b, total)
    else:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total)


@triton.jit
def _as(x, kind: tl.constexpr):
    """float32 probabilities in the values' dtype, to nearest: the interpreter's own conversion cuts off."""
    if _NATIVE or kind != tl.float8e4nv:
        return x.to(kind)
    else:
        return _e4m3(x).to(tl.float8e4nv, bitcast=True)


@triton.jit
def _attend_kernel(
    q, k, v, bias, out, factor, out_factor, tokens, keys,
    q_row, q_head, k_row, k_head, v_row, v_column, v_head, out_row, out_head,
    M: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, BIAS: tl.constexpr, SHIFT: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    row = (tl.program_id(0) * M + tl.arange(0, M)).to(tl.int64)
    column = tl.arange(0, WIDTH)
    of_row = (row < tokens)[:, None]
    queries = tl.load(q + row[:, None] * q_row + head * q_head + column[None, :], mask=of_row, other=0.0)
    top = tl.full([M], _MINUS_INFINITY, tl.float32)
    total = tl.zeros([M], tl.float32)
    gathered = tl.zeros([M, WIDTH], tl.float32)
    key = tl.arange(0, N)
    k_at = k + head * k_head + key[None, :].to(tl.int64) * k_row + column[:, None]
    v_at = v + head * v_head + key[:, None].to(tl.int64) * v_row + column[None, :] * v_column
    for start in range(0, keys, N):
        if WHOLE:
            ks = tl.load(k_at)
            vs = tl.load(v_at)
        else:
            ks = tl.load(k_at, mask=(start + key < keys)[None, :], other=0.0)
            vs = tl.load(v_at, mask=(start + key < keys)[:, None], other=0.0)
        scores = _dot(queries, ks, tl.zeros([M, N], tl.float32)) * factor
        if BIAS:
            scores += tl.load(bias + start + key, mask=start + key < keys, other=0.0)[None, :] * _LOG2_E
        if not WHOLE:
            scores = tl.where((start + key < keys)[None, :], scores, _MINUS_INFINITY)
        highest = tl.maximum(top, tl.max(scores, axis=1))
        shrink = tl.exp2(top - highest)
        likely = tl.exp2(scores - (highest - SHIFT)[:, None])
        total = total * shrink + tl.sum(likely, axis=1)
        gathered = _dot(_as(likely, vs.dtype), vs, gathered * shrink[:, None])
        top = highest
        k_at += N * k_row
        v_at += N * v_row
    found = gathered * (out_factor / total)[:, None]
    at = row[:, None] * out_row + head * out_head + column[None, :]
    tl.store(out + at, found.to(tl.bfloat16), mask=of_row)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """q [R, H, E], k and v [L, H, E] in bfloat16, the first key of `bias` [L] float32 finite → [R, H, E] bfloat16.

    Raises ValueError for shapes or dtypes that do not fit; E must be a power of two of 16 or more.
    """
    _check(q, k, v, torch.bfloat16)
    length = k.shape[0]
    if bias is not None and (bias.shape != (length,) or bias.dtype != torch.float32):
        raise ValueError(f"a bias is float32 [{length}], not {bias.dtype} {tuple(bias.shape)}")
    return _run(q, k, v, bias, 1.0, 1.0, SHORT, fp8=False)


def attend_fp8(
    q: Tensor, k: Tensor, v_columns: Tensor, scores_scale: float, values_scale: float, tile: Tile = LONG
) -> Tensor:
    """Attention of E4M3 numbers: q [R, H, E], k [L, H, E], v_columns [H, E, L] (a channel's tokens lie together, as the
    matrix units want them). scores_scale: of q times that of k; values_scale: of v. Returns [R, H, E] bfloat16.

    Raises ValueError as `attend`.
    """
    v = v_columns.permute(2, 0, 1)
    _check(q, k, v, torch.float8_e4m3fn)
    return _run(q, k, v, None, scores_scale, values_scale, tile, fp8=True)


def attend_reference(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scores_scale: float = 1.0, values_scale: float = 1.0
) -> Tensor:
    """The definition in float32: q [R, H, E], k and v [L, H, E] → float32 [R, H, E]."""
    scores = torch.einsum("rhe,lhe->hrl", q.float(), k.float()) * (scores_scale / math.sqrt(q.shape[-1]))
    if bias is not None:
        scores = scores + bias
    return torch.einsum("hrl,lhe->rhe", scores.softmax(-1), v.float()) * values_scale


def _run(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scores_scale: float, values_scale: float, tile: Tile,
    fp8: bool,
) -> Tensor:  # fmt: skip
    tokens, heads, width = q.shape
    out = torch.empty(tokens, heads, width, dtype=torch.bfloat16, device=q.device)
    keys = k.shape[0]
    cut = tile if q.is_cuda else _INTERPRETED
    factor = _LOG2_E.value * scores_scale / math.sqrt(width)
    _attend_kernel[(triton.cdiv(tokens, cut.queries), heads)](
        q, k, v, q if bias is None else bias, out, factor, values_scale, tokens, keys,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(2), v.stride(1),
        out.stride(0), out.stride(1), cut.queries, cut.keys, width, bias is not None,
        FP8_SHIFT if fp8 else 0, keys % cut.keys == 0, num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip
    return out


def _check(q: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype) -> None:
    check_launch(q)
    for name, part in (("q", q), ("k", k), ("v", v)):
        if part.dtype != dtype or part.dim() != 3 or part.shape[1:] != q.shape[1:]:
            raise ValueError(
                f"{name} must be {dtype} [tokens, {q.shape[1]}, {q.shape[2]}], not {part.dtype} {part.shape}"
            )
    width = q.shape[2]
    if width < 16 or width & (width - 1) or k.shape[0] != v.shape[0] or k.shape[0] == 0:
        raise ValueError(f"heads of {width} with {k.shape[0]} keys and {v.shape[0]} values cannot be attended to")
    if q.stride(2) != 1 or k.stride(2) != 1:
        raise ValueError("the channels of a head must lie together")
