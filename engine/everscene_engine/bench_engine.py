"""`everscene bench engine`: how fast a model runs here, at its real size, with random weights.

    python -m everscene_engine.bench_engine --model longlive2-5b --steps 2 --precision fp8 --decoder tiny --chunks 10

Needs neither sockets nor weights. Prints one JSON object a line as each part is done; a part that fails says so and the
next one goes on. `run` makes chunks as a live stream does: one thread denoises; another decodes a chunk, a latent frame
at a time on a CUDA stream of its own, beside the clean pass and the next chunk; a third copies pictures to the host.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from statistics import median
from typing import Any

import torch

from everscene_engine.bench_ceilings import ceilings, floor_ms
from everscene_engine.bench_machine import clocks, machine
from everscene_engine.bench_profile import kernel_times
from everscene_engine.bench_run import World, compare, make_world
from everscene_engine.errors import ConfigError
from everscene_engine.precision import ATTENTIONS, KV_FORMATS, PATHS, PRECISIONS, device_of, eight_bit_kernel
from everscene_engine.random_models import DECODERS


@dataclass(frozen=True)
class BenchOptions:
    """What is measured. Raises ConfigError for a value that cannot be."""

    model: str = "longlive2-5b"
    size: str | None = None  # WIDTHxHEIGHT; None: the model's own
    steps: int | None = None  # denoising steps; None: the model's own
    precision: str = "bf16"  # of the linears
    kv: str = "bf16"  # the KV cache; or nvfp4, nvfp4-smooth
    attention: str = "bf16"  # self-attention; fp8, or cudnn or triton to choose the FP8 kernel
    path: str = "auto"  # fast, plain; auto: fast on a GPU
    decoder: str = "none"
    chunks: int = 10  # measured, after the window is full
    device: str | None = None  # None: a GPU if there is one
    gpus: int = 1  # that make the stream together; on a CPU: processes
    decoder_device: str | None = None  # None: that of the model
    threads: int | None = None  # of a CPU; None: torch's own number
    seed: int = 0
    graphs: bool = True  # CUDA graphs on the fast path
    profile: bool = True
    ceilings: bool = True
    check: bool = False  # compare a chunk with that of the plain path

    def __post_init__(self) -> None:
        if self.precision == "w4a4" and self.path == "plain":
            raise ConfigError("w4a4 is of the fast path alone; use nvfp4")
        choices = {
            "path": PATHS,
            "precision": PRECISIONS,
            "kv": KV_FORMATS,
            "attention": ATTENTIONS,
            "decoder": DECODERS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(known)}")
        for name in ("chunks", "gpus", "threads"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def place(self) -> torch.device:
        return device_of(self.device)

    @property
    def fast(self) -> bool:
        """Whether the transformer goes the fast path."""
        return self.path == "fast" or (self.path == "auto" and self.place.type == "cuda")


Result = dict[str, Any]


def run(options: BenchOptions) -> Iterator[Result]:
    """Measure part by part; each result has `part` and either figures or `error`, the last one is the summary.

    Raises ConfigError for a model, a size or a decoder that cannot be.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    yield {"part": "machine", **machine(options.place)}
    yield {"part": "options", **{field.name: getattr(options, field.name) for field in fields(options)}}
    began = time.perf_counter()
    world = make_world(options)
    load_s = time.perf_counter() - began
    yield {"part": "model", "load_s": round(load_s, 2), **world.describe()}
    summary: Result = {"part": "summary"}
    parts: list[tuple[str, Callable[[], Result]]] = [
        ("start", lambda: {"load_s": round(load_s, 2), **world.first_chunk()}),
        ("steady", lambda: _steady(world, options.chunks)),
        ("stages", lambda: world.stages()),
    ]
    if options.profile and options.place.type == "cuda":
        parts.append(("profile", lambda: kernel_times(world.one_chunk)))
    if options.ceilings:
        parts.append(("ceilings", lambda: _ceilings(world)))
    if options.check:
        parts.append(("check", lambda: compare(options)))
    try:
        for name, work in parts:
            result = _guarded(name, work)
            summary |= {key: value for key, value in result.items() if key in _SUMMARY}
            yield result
    finally:
        world.close()
    yield _with_ratio(summary)


_SUMMARY = ("fps", "denoise_fps", "first_frame_s", "memory_gb", "floor_ms", "forward_ms", "error")


def _guarded(name: str, work: Callable[[], Result]) -> Result:
    try:
        return {"part": name, **work()}
    except Exception as problem:  # noqa: BLE001 - time on a GPU is short: say what broke and measure the rest
        traceback.print_exc()
        return {"part": name, "error": f"{type(problem).__name__}: {problem}"[:500]}


def _steady(world: World, chunks: int) -> Result:
    world.fill_window()
    alone, each = world.timed_chunks(chunks, decode=False)
    result: Result = {
        "chunks": chunks,
        "frames_a_chunk": world.frames_a_chunk,
        "denoise_chunk_ms": round(median(each), 2),
        "denoise_fps": round(chunks * world.frames_a_chunk / alone, 2),
        "chunk_ms": [round(ms, 1) for ms in each],
    }
    if world.decoder is not None:
        world.timed_chunks(2, decode=True)  # the decoder's own warm-up
        both, each = world.timed_chunks(chunks, decode=True)
        result["fps"] = round(chunks * world.frames_a_chunk / both, 2)
        result["with_decoder_chunk_ms"] = [round(ms, 1) for ms in each]
    return result | {"memory_gb": world.memory(), **clocks(world.device)}


def _ceilings(world: World) -> Result:
    options = world.options
    eight = eight_bit_kernel(options.attention)
    found = ceilings(world.preset.transformer, world.config, world.text_rows, world.device, world.dtype, eight)
    floors = {"plain": floor_ms(found, "plain", "plain"), "fp8 products": floor_ms(found, "fp8", "plain")}
    if eight is not None:
        floors["fp8 products and attention"] = floor_ms(found, "fp8", "fp8")
    attention = "plain" if eight is None else "fp8"
    floor = floor_ms(found, "plain" if options.precision == "bf16" else "fp8", attention)
    return {
        "each": [ceiling.plain() for ceiling in found],  # measured on one GPU; several share all of it out evenly
        "floors_ms": {name: round(ms / options.gpus, 2) for name, ms in floors.items()},
        "floor_ms": round(floor / options.gpus, 2),
    }


def _with_ratio(summary: Result) -> Result:
    """The summary with how many times its floor, at its own precision, a forward takes."""
    floor, forward = summary.get("floor_ms"), summary.get("forward_ms")
    if floor and forward:
        summary["times_the_floor"] = round(forward / floor, 3)
    return summary


def parse(arguments: list[str]) -> BenchOptions:
    """Options from a command line; each field of BenchOptions is one, flags as --graphs and --no-graphs."""
    parser = argparse.ArgumentParser(prog="everscene_engine.bench_engine", description=__doc__.split("\n")[0])
    for field in fields(BenchOptions):
        flag = "--" + field.name.replace("_", "-")
        if field.type is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            kind = int if field.name in ("steps", "chunks", "gpus", "threads", "seed") else str
            parser.add_argument(flag, type=kind, default=field.default)
    return BenchOptions(**vars(parser.parse_args(arguments)))


def main() -> int:
    """Entry point: prints JSON lines; 1 if the options cannot be."""
    try:
        for result in run(parse(sys.argv[1:])):
            print(json.dumps(result), flush=True)
    except ConfigError as problem:
        print(f"everscene bench engine: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
