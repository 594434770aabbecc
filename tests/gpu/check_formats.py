"""What FP8 and NVFP4 cost a large model at its full size with random weights: error, memory and time.

    PYTHONPATH=engine:bridge:kernels python tests/gpu/check_formats.py [--model NAME] [--steps N] [--only NAME…]

Prints a JSON line for each part. `times`: chunks of the formats in turn, and their ratios. `memory`: what the allocator
gives for weights and for the KV cache in each format. `chunks`: ‖found − wanted‖ / ‖wanted‖ of five from the same
noise, against the plain path in bfloat16. `layers`: the linears of the first, middle and last block with the
activations that they meet in a chunk, the output's relative error by kind of linear and format. `calibration` (for
`pocket`, whose weights are real; on any device): NVFP4 weights as they are, and calibrated on other prompts.
A part that fails says so and the next one goes on.
"""

import argparse
import gc
import json
import random
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_engine.bench_engine import BenchOptions
from everscene_engine.bench_machine import clocks, machine
from everscene_engine.bench_run import World, make_world, relative_error
from everscene_engine.models.calibrate import calibrate
from everscene_engine.models.presets import preset
from everscene_engine.pocket import best_dtype, load_pocket
from everscene_engine.random_models import random_transformer
from everscene_engine.stored_linear import linears_of, store_linears
from everscene_engine.stream import LatentStream
from everscene_engine.training.world.captions import prompt_for
from everscene_engine.training.world.scene import random_attributes
from everscene_kernels import nvfp4_weights
from everscene_kernels.fp8 import linear_fp8, quantize_rows
from everscene_kernels.nvfp4_linear import linear_nvfp4_both

ROWS = 1024  # of the activations of a linear, spread over the chunk
CHUNKS = 5  # the window is full at the fourth
ROUNDS, EACH = 5, 4  # of the times: so many turns of so many chunks
FORMATS = [("bf16", "bf16"), ("fp8", "bf16"), ("nvfp4", "bf16"), ("bf16", "nvfp4"), ("fp8", "nvfp4"),
           ("nvfp4", "nvfp4")]  # fmt: skip
Result = dict[str, Any]
Product = Callable[[Tensor, Tensor, Tensor], Tensor]


def in_fp8(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear_fp8(x, quantize_rows(weight), bias)


def in_nvfp4_and_bf16(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, nvfp4_weights.dequantize(nvfp4_weights.quantize(weight), x.dtype), bias)


def in_nvfp4_and_fp8(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear_fp8(x, nvfp4_weights.fp8_rows(nvfp4_weights.quantize(weight)), bias)


def in_nvfp4_both(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear_nvfp4_both(x, nvfp4_weights.quantize(weight), bias)


PRODUCTS: dict[str, Product] = {
    "fp8": in_fp8,
    "nvfp4 weights, bf16": in_nvfp4_and_bf16,
    "nvfp4 weights, fp8": in_nvfp4_and_fp8,
    "nvfp4 both": in_nvfp4_both,
}


class Inputs:
    """Some rows of what each linear was last given."""

    def __init__(self, named: dict[str, nn.Linear]) -> None:
        self.rows: dict[str, Tensor] = {}
        self._hooks = [
            linear.register_forward_pre_hook(lambda _, given, name=name: self._take(name, given[0]))
            for name, linear in named.items()
        ]

    def _take(self, name: str, given: Tensor) -> None:
        rows = given.reshape(-1, given.shape[-1])
        self.rows[name] = rows[:: max(1, len(rows) // ROWS)].clone()

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


def layers(options: BenchOptions) -> Result:
    """By kind of linear: the error of its output in each format, over the three blocks together."""
    chosen = preset(options.model)
    model = random_transformer(chosen, options.place, best_dtype(options.place))
    last = len(model.layers()) - 1
    wanted_blocks = {f"blocks.{block}." for block in (0, last // 2, last)}
    named = {name: one for name, one in linears_of(model).items() if any(map(name.startswith, wanted_blocks))}
    inputs = Inputs(named)  # before the prompt goes through the keys and values of cross-attention, once
    world = World(replace(options, path="plain"), chosen, model)
    for _ in range(CHUNKS):
        world.one_chunk()
    inputs.close()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, linear in named.items():
        x, kind = inputs.rows[name], name.split(".", 2)[2]
        exact = F.linear(x.float(), linear.weight.float(), linear.bias.float())
        for form, product in PRODUCTS.items():
            found[form][kind].append(relative_error(product(x, linear.weight, linear.bias), exact))
        found["bf16"][kind].append(relative_error(linear(x), exact))
    table = {
        form: {kind: round(sum(one) / len(one), 5) for kind, one in kinds.items()} for form, kinds in found.items()
    }
    return {"relative_error": table}


def latents_of(world: World) -> list[Tensor]:
    chunks = [world.stream.generate() for _ in range(CHUNKS)]
    return [chunk.latents.float() for chunk in chunks if chunk is not None]


def chunks(options: BenchOptions) -> Result:
    """Each pair of formats on the path that serves it, against bfloat16 on the plain one."""
    wanted = latents_of(make_world(replace(options, path="plain")))
    found: Result = {}
    for precision, kv in FORMATS:
        free()
        made = latents_of(make_world(replace(options, precision=precision, kv=kv)))
        errors = [relative_error(a, b) for a, b in zip(made, wanted, strict=True)]
        found[f"{precision} + {kv} kv"] = [round(each, 5) for each in errors]
    return {"relative_error": found}


def allocated(make: Callable[[], object]) -> int:
    """Bytes that stay allocated for what `make` gives."""
    free()
    before = torch.cuda.memory_allocated()
    held = make()
    free()
    size = torch.cuda.memory_allocated() - before
    del held
    return size


def memory(options: BenchOptions) -> Result:
    """The linears of the blocks, and the cache, from the allocator."""
    chosen = preset(options.model)

    def linears(precision: str) -> Callable[[], object]:
        def make() -> object:
            model = random_transformer(chosen, options.place, torch.bfloat16)
            if precision != "bf16":
                store_linears(model, precision)
            return list(linears_of(model).values())

        return make

    def cache(kv: str) -> Callable[[], object]:
        model = random_transformer(chosen, options.place, torch.bfloat16)

        def make() -> object:
            kept = World(replace(options, kv=kv), chosen, model).stream._cache
            shared = (kept.keys[0].nbytes + kept.values[0].nbytes) if kept.shared else 0
            scratch.append(shared)
            return kept

        return make

    scratch: list[int] = []
    weights = {precision: allocated(linears(precision)) for precision in ("bf16", "fp8", "nvfp4")}
    kept = {kv: allocated(cache(kv)) for kv in ("bf16", "nvfp4")}
    return {
        "linears_bytes": weights,
        "linears_times_smaller": {one: round(weights["bf16"] / weights[one], 3) for one in ("fp8", "nvfp4")},
        "cache_bytes": kept,
        "of_which_scratch_of_one_layer": scratch[-1],
        "cache_times_smaller": round(kept["bf16"] / (kept["nvfp4"] - scratch[-1]), 3),
        "cache_times_smaller_with_scratch": round(kept["bf16"] / kept["nvfp4"], 3),
    }


def times(options: BenchOptions) -> Result:
    """Chunks in turn, so that clocks that drift drift for all; denoising and clean pass, without a decoder."""
    pairs = [("fp8", "bf16"), ("fp8", "nvfp4"), ("fp8", "nvfp4-smooth"), ("nvfp4", "bf16"), ("nvfp4", "nvfp4")]
    worlds = {}
    for precision, kv in pairs:
        world = make_world(replace(options, precision=precision, kv=kv))
        world.fill_window()
        worlds[f"{precision} + {kv} kv"] = world
        free()
    taken: dict[str, list[float]] = {name: [] for name in worlds}
    for _ in range(ROUNDS):
        for name, world in worlds.items():
            seconds, _each = world.timed_chunks(EACH, decode=False)
            taken[name].append(1000 * seconds / EACH)
    ms = {name: median(each) for name, each in taken.items()}
    base = ms["fp8 + bf16 kv"]
    return {
        "chunk_ms": {name: round(each, 2) for name, each in ms.items()},
        "over_fp8_and_bf16_kv": {name: round(each / base, 4) for name, each in ms.items()},
        "rounds_ms": {name: [round(one, 1) for one in each] for name, each in taken.items()},
        **clocks(options.place),
    }


LEARNT = 4  # prompts of the world, to calibrate with
HELD_OUT = ("a red fox in the harbour at night in the snow", "a blue balloon over the city by day in fog",
            "fireworks over the mountains at dusk")  # fmt: skip


def calibration(options: BenchOptions) -> Result:
    """Chunks of prompts that were not calibrated with, against the same model as it is."""
    chosen, place, dtype = preset("pocket"), options.place, best_dtype(options.place)
    chance = random.Random(0)
    learnt = [prompt_for(random_attributes(chance), chance) for _ in range(LEARNT)]
    made: dict[str, list[Tensor]] = {}
    for name in ("exact", "nvfp4", "nvfp4 calibrated"):
        pocket = load_pocket(place, dtype)
        model = pocket.transformer
        if name == "nvfp4":
            store_linears(model, "nvfp4")
        elif name != "exact":
            prompts = [pocket.text.encode([one]) for one in learnt]
            store_linears(model, "nvfp4", calibrate(model, chosen.stream, prompts, chunks=2))
        made[name] = []
        for seed, prompt in enumerate(HELD_OUT):
            stream = LatentStream(model, chosen.stream, 100 + seed)
            stream.steer(model.condition(pocket.text.encode([prompt]).to(place)))
            for _ in range(3):
                chunk = stream.generate()
                assert chunk is not None
                made[name].append(chunk.latents)
    wanted = torch.cat(made["exact"])
    return {name: round(relative_error(torch.cat(found), wanted), 4) for name, found in made.items() if name != "exact"}


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


PARTS: list[Callable[[BenchOptions], Result]] = [times, memory, chunks, layers, calibration]


def main() -> int:
    """1 if a part failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="longlive2-5b")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="*", help="times, memory, chunks, layers, calibration")
    given = parser.parse_args()
    options = BenchOptions(given.model, steps=given.steps, device=given.device)
    print(json.dumps({"part": "machine", **machine(options.place)}), flush=True)
    failed = 0
    for part in PARTS:
        if given.only and part.__name__ not in given.only:
            continue
        if part is calibration and given.model != "pocket":
            continue
        try:
            print(json.dumps({"part": part.__name__, **part(options)}), flush=True)
        except Exception as problem:  # noqa: BLE001 - time on a GPU is short: say what broke and go on
            traceback.print_exc()
            what = f"{type(problem).__name__}: {problem}"[:500]
            print(json.dumps({"part": part.__name__, "error": what}), flush=True)
            failed = 1
        free()
    return failed


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())
