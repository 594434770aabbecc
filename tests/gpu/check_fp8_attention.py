"""What FP8 self-attention costs on real activations: those of `pocket`, whose weights are in the package.

    PYTHONPATH=engine:bridge:kernels python tests/gpu/check_fp8_attention.py [--chunks N] [--prompts A B …]

Runs on a CPU as well: the rounding is done here in float32, as the kernels do it (queries and keys to E4M3, values
times their layer's scale, probabilities 256 times as large), for the two kinds of output: bfloat16 as our kernel gives
it, and E4M3 as cuDNN gives it on Hopper. Prints two JSON lines: `layers`, ‖found − wanted‖ / ‖wanted‖ of attention over
a full window by layer, on the same queries, keys and values; `chunks`, the same of latents when all of a stream's
attention over a full window is in FP8, and of a stream from other noise beside it.
"""

import argparse
import json
from collections import defaultdict
from statistics import median
from typing import Any

import torch
from torch import Tensor

from everscene_engine.attention import attend
from everscene_engine.bench_run import relative_error
from everscene_engine.eight_bit import value_scale
from everscene_engine.kv_cache import CachedAttention
from everscene_engine.pocket import load_pocket
from everscene_engine.stream import LatentStream
from everscene_kernels.attention_cudnn import PROBABILITY_SCALE
from everscene_kernels.fp8 import e4m3

KINDS = ("bf16 output", "E4M3 output")


def rounded(x: Tensor, factor: float = 1.0) -> Tensor:
    return e4m3(x.float() * factor).float() / factor


def in_fp8(q: Tensor, k: Tensor, v: Tensor, factor: float, kind: str) -> Tensor:
    """Attention of queries [B, R, H, E] over k and v [B, L, H, E]; factor: the values' scale."""
    scores = torch.einsum("brhe,blhe->bhrl", rounded(q), rounded(k)) * q.shape[-1] ** -0.5
    likely = (scores - scores.amax(-1, keepdim=True)).exp()
    summed = torch.einsum("bhrl,blhe->brhe", rounded(likely, PROBABILITY_SCALE), rounded(v, factor))
    out = summed / likely.sum(-1).transpose(1, 2)[..., None]
    return (rounded(out, factor) if kind == "E4M3 output" else out).to(q.dtype)


class Watched:
    """A forward's self-attention, measured where it sees the whole cache; replaced there by FP8 if `kind` says so."""

    def __init__(self, inner: CachedAttention, factors: list[float], kind: str | None, found: Any) -> None:
        self._inner, self._factors, self._kind, self._found = inner, factors, kind, found

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._inner.keep(layer, k, v)
        keys, values = self._inner.seen(layer)
        wanted = attend(q, keys, values)
        if not self._inner.sees_all:
            return wanted
        if self._kind is not None:
            return in_fp8(q, keys, values, self._factors[layer], self._kind)
        for kind in KINDS:
            made = in_fp8(q, keys, values, self._factors[layer], kind)
            self._found[kind, layer].append(relative_error(made, wanted))
        return wanted


def run(prompts: list[str], chunks: int, seed: int, kind: str | None, found: Any) -> list[Tensor]:
    """Latents of a stream whose prompt changes in turn."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_pocket(device, torch.float32)
    blocks = model.transformer.layers()
    factors = [value_scale(block.self_attn.v.weight, block.self_attn.v.bias) for block in blocks]

    def watched(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not isinstance(given[3], CachedAttention):
            return None
        return (*given[:3], Watched(given[3], factors, kind, found), *given[4:])

    model.transformer.register_forward_pre_hook(watched)
    stream = LatentStream(model.transformer, model.stream, seed)
    latents = []
    for number in range(chunks):
        if number * len(prompts) % chunks < len(prompts):
            prompt = prompts[number * len(prompts) // chunks]
            stream.steer(model.transformer.condition(model.text.encode([prompt]).to(device)))
        chunk = stream.generate()
        assert chunk is not None
        latents.append(chunk.latents)
    return latents


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--prompts", nargs="+", default=["harbour, day, clear sky", "harbour, night, heavy storm"])
    options = parser.parse_args()
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    with torch.inference_mode():
        exact = run(options.prompts, options.chunks, 0, None, found)
        layers: dict[str, Any] = {"part": "layers", "attentions": sum(map(len, found.values())) // len(KINDS)}
        for kind in KINDS:
            of_layer = {layer: round(median(each), 4) for (one, layer), each in sorted(found.items()) if one == kind}
            every = [miss for (one, _), each in found.items() if one == kind for miss in each]
            layers[kind] = {"median": round(median(every), 4), "worst": round(max(every), 4), "by_layer": of_layer}
        print(json.dumps(layers), flush=True)
        chunks: dict[str, Any] = {"part": "chunks"}
        for kind in KINDS:
            other = run(options.prompts, options.chunks, 0, kind, found)
            chunks[kind] = [round(relative_error(a, b), 4) for a, b in zip(other, exact, strict=True)]
        other = run(options.prompts, options.chunks, 1, None, defaultdict(list))
        chunks["other noise"] = [round(relative_error(a, b), 4) for a, b in zip(other, exact, strict=True)]
        print(json.dumps(chunks), flush=True)


if __name__ == "__main__":
    main()
