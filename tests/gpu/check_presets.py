"""Each large model at its full size with random weights: that it loads, runs, and takes the memory that it should.

    PYTHONPATH=engine:bridge:kernels python tests/gpu/check_presets.py [--folder DIR] [--only memory|load]

`memory`: 10 chunks of each preset on each path, what the allocator says beside the sum of weights and cache. `load`:
the 5B written as our own files to DIR (10 GB), then read as bytes, and loaded to the GPU; the ratio of both. A part
that fails says so and the next one goes on.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from everscene_engine.bench_engine import BenchOptions
from everscene_engine.bench_machine import machine
from everscene_engine.bench_run import make_world
from everscene_engine.models import networks
from everscene_engine.models.layout import load_into, read_header, write_part
from everscene_engine.models.presets import preset
from everscene_engine.random_models import random_transformer

CHUNKS = 10
BLOCK = 2**26
# In 10⁹ bytes of bfloat16: weights, and keys and values of four slots; the 5B's are longlive.md's of section 10.
EXPECTED = {"longlive2-5b": (10.0, 10.38), "longlive-1.3b": (2.84, 3.45)}
Result = dict[str, Any]


def memory(model: str, path: str, precision: str) -> Result:
    """Ten chunks, and what they took."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    world = make_world(BenchOptions(model, path=path, precision=precision))
    weights, cache = EXPECTED[model]
    start = time.perf_counter()
    finite = True
    for _ in range(CHUNKS):
        chunk = world.stream.generate()
        assert chunk is not None
        finite = finite and bool(torch.isfinite(chunk.latents).all())
    torch.cuda.synchronize()
    return {
        "model": model,
        "path": path,
        "precision": precision,
        "finite": finite,
        "seconds": round(time.perf_counter() - start, 2),
        "expected_weights_and_cache_gb": round(weights + cache, 2),
        "allocated_gb": round((torch.cuda.memory_allocated() - before) / 1e9, 2),
        "peak_gb": round((torch.cuda.max_memory_allocated() - before) / 1e9, 2),
        **world.describe(),
    }


def load(folder: Path) -> Result:
    """The 5B from our own files, which are in the page cache as after a first start."""
    chosen = preset("longlive2-5b")
    device = torch.device("cuda")
    start = time.perf_counter()
    made = random_transformer(chosen, device, torch.bfloat16)
    config = asdict(chosen.transformer)
    paths = write_part(folder, "transformer-2step", made.state_dict(), config, torch.bfloat16)
    wrote = time.perf_counter() - start
    del made
    buffer = bytearray(BLOCK)
    reads, loads = [], []
    for _ in range(2):
        start = time.perf_counter()
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        reads.append(round(time.perf_counter() - start, 3))
        gc.collect()
        torch.cuda.empty_cache()
        network = networks.transformer(config)
        start = time.perf_counter()
        load_into(network, read_header(folder, "transformer-2step"), device, torch.bfloat16)
        torch.cuda.synchronize()
        loads.append(round(time.perf_counter() - start, 3))
        del network
    size = sum(path.stat().st_size for path in paths)
    return {
        "gb": round(size / 1e9, 2),
        "wrote_s": round(wrote, 1),
        "read_s": reads,
        "load_s": loads,
        "ratio": round(min(loads) / min(reads), 2),
    }


def main() -> int:
    """1 if a part failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="where 10 GB can be written; a temporary folder by default")
    parser.add_argument("--only", choices=("memory", "load"))
    options = parser.parse_args()
    print(json.dumps({"part": "machine", **machine(torch.device("cuda"))}), flush=True)
    failed = 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        parts: list[tuple[str, Callable[[], Result]]] = []
        if options.only != "load":
            for model in EXPECTED:
                for path, precision in (("plain", "bf16"), ("fast", "bf16"), ("fast", "fp8")):
                    parts.append(("memory", lambda m=model, p=path, c=precision: memory(m, p, c)))
        if options.only != "memory":
            parts.append(("load", lambda: load(Path(folder))))
        for name, work in parts:
            try:
                print(json.dumps({"part": name, **work()}), flush=True)
            except Exception as problem:  # noqa: BLE001 - time on a GPU is short: say what broke and go on
                traceback.print_exc()
                print(json.dumps({"part": name, "error": f"{type(problem).__name__}: {problem}"[:500]}), flush=True)
                failed = 1
            gc.collect()
    return failed


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())
