"""Why a thread that shows frames stands still while another makes chunks: who waits, for what, how long.

    PYTHONPATH=engine:bridge:kernels python tests/gpu/check_stalls.py [--model NAME] [--chunks N]

A thread does a hundred times a second what the publisher does: it wakes, copies a frame from the GPU into registered
memory and waits for it. Meanwhile chunks are made, each begun a while after the one before. Each way of making them has
a process of its own, 45 seconds at most, and a JSON line:

    as it is     every forward waits until the GPU has begun the one before
    no wait      the clean pass is queued without that wait, so that three forwards lie in the queue
    long queue   the same, and the driver's queue holds four times as many launches (CUDA_SCALE_LAUNCH_QUEUES)
    no graphs    no wait, kernel by kernel

`late_ms`: how late the thread woke (others held the interpreter or the cores). `copy_ms`: how long a copy took (the
driver or the GPU held it up). `clean_ms` and `chunk_ms`: the host's time for queueing a clean pass, and for a chunk.
A full launch queue is the cause if `no wait` has a long clean pass and as long a copy, and the other three have not.
Long copies in `no graphs` too speak for a lock of the driver at each launch, long `late_ms` for the interpreter's lock.
"""

import argparse
import json
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch

from everscene_engine.bench_engine import BenchOptions
from everscene_engine.bench_machine import machine
from everscene_engine.bench_run import make_world
from everscene_engine.frame_output import GpuOutput
from everscene_engine.host_lead import HostLead

EVERY_S = 0.01
IDLE_S = 0.9  # between chunks, as where content asks for a third of what the GPU could make
SHOWN = 8
SECONDS = 45.0
WAYS = {
    "as it is": {},
    "no wait": {},
    "long queue": {"CUDA_SCALE_LAUNCH_QUEUES": "4x"},
    "no graphs": {},
}  # with the environment of each
BEGAN = time.perf_counter()


class Copier(threading.Thread):
    """Copies frames from the first chunk that is begun until it is told to stop."""

    def __init__(self, device: torch.device, height: int, width: int) -> None:
        super().__init__(daemon=True)
        memory = np.frombuffer(mmap.mmap(-1, height * width * 4), dtype=np.uint8)
        self._place = memory.reshape(height, width, 4)
        self._output = GpuOutput(device, device)
        self.registered = self._output.pin(memory)
        frame = torch.zeros(1, height, width, 4, dtype=torch.uint8, device=device)
        torch.cuda.synchronize(device)
        self._picture = self._output.pictures([frame])[0]
        self.begun: float | None = None  # of the chunk under way
        self.ms: dict[str, list[float]] = {"late": [], "copy": []}
        self.slowest: list[tuple[float, str, float]] = []
        self._failure: BaseException | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            self._copy()
        except BaseException as failure:  # noqa: BLE001 - `stop` raises it where it is seen
            self._failure = failure

    def _copy(self) -> None:
        due = time.perf_counter()
        while not self._stopping.is_set():
            due = max(due + EVERY_S, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
            woke, begun = time.perf_counter(), self.begun
            self._picture.copy_into(self._place)
            done = time.perf_counter()
            if begun is None:
                continue
            for name, seconds in (("late", woke - due), ("copy", done - woke)):
                self.ms[name].append(1000 * seconds)
                self.slowest.append((round(1000 * seconds, 1), name, round(1000 * (woke - begun), 1)))
            self.slowest = sorted(self.slowest, reverse=True)[:SHOWN]

    def stop(self) -> None:
        """End, take the registration back, and raise what the thread ended with."""
        self._stopping.set()
        self.join()
        self._output.unpin()
        if self._failure is not None:
            raise self._failure


class LeadOfDenoising:
    """A host's lead that lets the last forward of a chunk, its clean pass, be queued at once."""

    def __init__(self, lead: HostLead, forwards: int) -> None:
        self._lead = lead
        self._forwards = forwards  # of a chunk, the clean pass with them
        self._asked = 0

    def wait(self) -> None:
        """As HostLead.wait, but before a clean pass."""
        self._asked += 1
        if self._asked % self._forwards:
            self._lead.wait()


class Timed:
    """A function, and how long its last call took on the host."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self.ms = 0.0

    def __call__(self, *arguments: Any, **named: Any) -> None:
        start = time.perf_counter()
        self._function(*arguments, **named)
        self.ms = 1000 * (time.perf_counter() - start)


def watched(options: BenchOptions, way: str) -> dict[str, Any]:
    """What the thread saw while chunks were made."""
    world = make_world(replace(options, graphs=way != "no graphs"))
    stream = world.stream
    if way != "as it is":
        stream._lead = LeadOfDenoising(stream._lead, stream.schedule.steps + 1)  # type: ignore[assignment]
    queueing = Timed(stream._clean_pass)
    stream._clean_pass = queueing  # type: ignore[method-assign]
    world.fill_window()
    copier = Copier(options.place, world.config.height, world.config.width)
    copier.start()
    clean, whole = [], []
    while len(whole) < options.chunks and (not whole or time.perf_counter() - BEGAN < SECONDS - 2 * IDLE_S):
        time.sleep(IDLE_S)
        copier.begun = time.perf_counter()
        chunk = stream.generate()
        whole.append(1000 * (time.perf_counter() - copier.begun))
        assert chunk is not None
        clean.append(queueing.ms)
        world.decode_beside(chunk.latents)
    copier.stop()
    world.close()
    return {
        "way": way,
        "registered": copier.registered,
        "chunks": len(whole),
        "clean_ms": _summary(clean),
        "chunk_ms": _summary(whole),
        **{f"{name}_ms": _summary(values) for name, values in copier.ms.items()},
        "slowest": [{"ms": ms, "what": what, "ms_into_the_chunk": at} for ms, what, at in copier.slowest],
    }


def _summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = -(-95 * len(ordered) // 100) - 1
    return {"median": round(median(ordered), 2), "p95": round(ordered[at], 2), "max": round(ordered[-1], 2)}


def main() -> int:
    """1 if one of the ways failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--model", default="longlive2-5b")
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--way", choices=WAYS, help="this one alone, in this process")
    given = parser.parse_args()
    if given.way is not None:
        options = BenchOptions(given.model, steps=2, precision="fp8", decoder="tiny", chunks=given.chunks)
        with torch.inference_mode():
            print(json.dumps(watched(options, given.way)), flush=True)
        return 0
    print(json.dumps(machine(torch.device("cuda"))), flush=True)
    failed = 0
    for way, environment in WAYS.items():
        command = [sys.executable, __file__, "--model", given.model, "--chunks", str(given.chunks), "--way", way]
        try:
            subprocess.run(command, env=os.environ | environment, timeout=2 * SECONDS, check=True)
        except subprocess.SubprocessError as problem:
            print(json.dumps({"way": way, "error": str(problem)}), flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
