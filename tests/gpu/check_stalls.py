"""Whether making chunks on the host keeps another thread from showing frames: who waits, for what, how long.

    PYTHONPATH=engine:bridge:kernels python tests/gpu/check_stalls.py [--model NAME] [--chunks N]

A thread does a hundred times a second what the publisher does: it wakes, copies a frame from the GPU into registered
memory and waits for it. Meanwhile chunks are made, each begun a while after the one before, as a live stream makes
them; with CUDA graphs and without. A JSON line for each: how late the thread woke (`late_ms`: other threads held the
interpreter or the cores) and how long a copy took (`copy_ms`: the driver or the GPU held it up), p50, p95, max; the
slowest moments with their place in the chunk; and `registered`, whether the copies go by DMA.
"""

import argparse
import json
import mmap
import sys
import threading
import time
from typing import Any

import numpy as np
import torch

from everscene_bridge.stats import Distribution
from everscene_engine.bench_engine import BenchOptions
from everscene_engine.bench_machine import machine
from everscene_engine.bench_run import make_world
from everscene_engine.frame_output import GpuOutput

EVERY_S = 0.01
IDLE_S = 0.9  # between chunks, as where content asks for a third of what the GPU could make
SHOWN = 8


class Copier(threading.Thread):
    """Copies frames until it is told to stop."""

    def __init__(self, device: torch.device, height: int, width: int) -> None:
        super().__init__(daemon=True)
        self._device = device
        memory = np.frombuffer(mmap.mmap(-1, height * width * 4), dtype=np.uint8)
        self._place = memory.reshape(height, width, 4)
        self._output = GpuOutput(device, device)
        self.registered = self._output.pin(memory)
        self._frame = torch.zeros(1, height, width, 4, dtype=torch.uint8, device=device)
        self.begun = 0.0  # of the chunk under way
        self.late, self.copy = Distribution(), Distribution()
        self.slowest: list[tuple[float, str, float]] = []
        self._stopping = threading.Event()

    def run(self) -> None:
        picture = self._output.pictures([self._frame])[0]
        due = time.perf_counter()
        while not self._stopping.is_set():
            due = max(due + EVERY_S, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
            woke = time.perf_counter()
            picture.copy_into(self._place)
            done = time.perf_counter()
            for name, kept, seconds in (("late", self.late, woke - due), ("copy", self.copy, done - woke)):
                kept.add(1000 * seconds)
                self.slowest.append((round(1000 * seconds, 1), name, round(1000 * (woke - self.begun), 1)))
            self.slowest = sorted(self.slowest, reverse=True)[:SHOWN]

    def stop(self) -> None:
        """End, and take the registration back."""
        self._stopping.set()
        self.join()
        self._output.unpin()


def watched(options: BenchOptions) -> dict[str, Any]:
    """What the thread saw while chunks were made."""
    world = make_world(options)
    world.fill_window()
    copier = Copier(options.place, world.config.height, world.config.width)
    copier.start()
    for _ in range(options.chunks):
        time.sleep(IDLE_S)
        copier.begun = time.perf_counter()
        world.timed_chunks(1, decode=True)
    copier.stop()
    found = {name: kept.message() for name, kept in (("late_ms", copier.late), ("copy_ms", copier.copy))}
    return {
        "graphs": options.graphs,
        "registered": copier.registered,
        **{name: {"p50": one.p50, "p95": one.p95, "max": one.max} for name, one in found.items()},
        "slowest": [{"ms": ms, "what": what, "ms_into_the_chunk": at} for ms, what, at in copier.slowest],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--model", default="longlive2-5b")
    parser.add_argument("--chunks", type=int, default=8)
    given = parser.parse_args()
    print(json.dumps(machine(torch.device("cuda"))), flush=True)
    for graphs in (True, False):
        options = BenchOptions(
            given.model, steps=2, precision="fp8", decoder="tiny", chunks=given.chunks, graphs=graphs
        )  # fmt: skip
        print(json.dumps(watched(options)), flush=True)
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())
