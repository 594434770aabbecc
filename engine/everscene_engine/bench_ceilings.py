"""The floor of a chunk: its matrix products and its attention alone, each at the best rate that this device gives.

Measured in the same run as the chunk, on random numbers (zeros are quicker), at the model's own shapes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from everscene_engine.attention import attend
from everscene_engine.config import StreamConfig, TransformerConfig
from everscene_engine.stopwatch import Stopwatch
from everscene_kernels.attention_cudnn import CudnnFP8Attention
from everscene_kernels.fp8 import has_fp8_units, multiply, quantize_rows


@dataclass(frozen=True)
class Ceiling:
    """One product or attention of a forward. count: how often a forward has it. flop: of one. ms: by format."""

    name: str
    count: int
    flop: float
    ms: dict[str, float]

    def plain(self) -> dict[str, object]:
        """For JSON: milliseconds and TFLOP/s by format."""
        rates = {kind: round(self.flop / ms / 1e9, 1) for kind, ms in self.ms.items()}
        rounded = {kind: round(ms, 4) for kind, ms in self.ms.items()}
        return {"name": self.name, "count": self.count, "ms": rounded, "tflops": rates}


def ceilings(
    model: TransformerConfig,
    stream: StreamConfig,
    text_rows: int,
    device: torch.device,
    dtype: torch.dtype,
    eight_bit: str | None = None,
) -> list[Ceiling]:
    """What a forward in the steady state consists of, measured. eight_bit: cudnn or triton, FP8 attention as well."""
    tokens = stream.chunk_frames * stream.frame_tokens
    keys = tokens * (stream.window_chunks + 2)
    layers, dim, inner = model.layers, model.dim, model.ffn_dim
    products = [
        ("qkv", layers, dim, 3 * dim),
        ("out, cross q, cross out", 3 * layers, dim, dim),
        ("ffn up", layers, dim, inner),
        ("ffn down", layers, inner, dim),
    ]
    watch = Stopwatch(device)
    found = [
        Ceiling(name, count, 2.0 * tokens * wide * out, _products(watch, tokens, wide, out, device, dtype))
        for name, count, wide, out in products
    ]
    for name, length in (("self-attention", keys), ("cross-attention", text_rows)):
        ms = _attention(watch, tokens, length, model, device, dtype)
        if eight_bit is not None and name == "self-attention":
            ms["fp8"] = _eight_bit_attention(watch, tokens, length, model, device, eight_bit)
        found.append(Ceiling(name, layers, 4.0 * tokens * length * dim, ms))
    return found


def floor_ms(found: list[Ceiling], products: str, attention: str) -> float:
    """Milliseconds of a forward if nothing else took time; a format that was not measured falls back to `plain`."""
    total = 0.0
    for ceiling in found:
        kind = attention if "attention" in ceiling.name else products
        total += ceiling.count * ceiling.ms.get(kind, ceiling.ms["plain"])
    return total


def _products(
    watch: Stopwatch, rows: int, inner: int, outer: int, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    x = torch.randn(rows, inner, device=device, dtype=dtype)
    weight = torch.randn(outer, inner, device=device, dtype=dtype)
    bias = torch.randn(outer, device=device, dtype=dtype)
    ms = {"plain": watch.each(lambda: F.linear(x, weight, bias))}
    if has_fp8_units(device, inner, outer):
        of_x, of_weight = quantize_rows(x), quantize_rows(weight)
        ms["fp8"] = watch.each(lambda: multiply(of_x, of_weight, bias))
    return ms


def _attention(
    watch: Stopwatch, tokens: int, keys: int, model: TransformerConfig, device: torch.device, dtype: torch.dtype
) -> dict[str, float]:
    q = torch.randn(1, tokens, model.heads, model.head_dim, device=device, dtype=dtype)
    k, v = torch.randn(2, 1, keys, model.heads, model.head_dim, device=device, dtype=dtype).unbind(0)
    return {"plain": watch.each(lambda: attend(q, k, v), repeat=5, warm=2)}


def _eight_bit_attention(
    watch: Stopwatch, tokens: int, keys: int, model: TransformerConfig, device: torch.device, kind: str
) -> float:
    from everscene_kernels.attention_triton import attend_fp8  # triton is on machines with a GPU

    shape = (model.heads, model.head_dim)
    q, k, v = (torch.randn(n, *shape, device=device).to(torch.float8_e4m3fn) for n in (tokens, keys, keys))
    if kind == "cudnn":
        made, one = CudnnFP8Attention(tokens, keys, *shape, device), torch.ones(1, device=device)
        return watch.each(lambda: made(q, k, v, one, one), repeat=5, warm=2)
    columns = v.view(torch.uint8).permute(1, 2, 0).contiguous().view(torch.float8_e4m3fn)
    return watch.each(lambda: attend_fp8(q, k, columns, 1.0, 1.0), repeat=5, warm=2)
