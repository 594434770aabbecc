"""`python -m everscene_engine.check_frames --device cuda`: is what leaves the device what was decoded, and how fast?

It needs the engine alone, no sockets. Prints one JSON map a line:
    same      frames that went through the output equal frames copied plainly, bit for bit, while chunks are generated
    overlap   milliseconds of a chunk generated and decoded in turn, and on two threads as the server does it
    copies    milliseconds and GB/s of one 1280×704 frame into a mapped file like the frame ring, registered and not
A part that fails prints `error` and the others go on; the exit code is 1 then, or when pixels differ.
"""

import argparse
import json
import mmap
import queue
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from everscene_engine.decoder import frames_to_rgba8
from everscene_engine.frame_output import frame_output
from everscene_engine.live import LiveEngine
from everscene_engine.load import load
from everscene_engine.port import FrameBlock, GeneratedChunk, put

PROMPTS = ("harbour, day, clear sky", "harbour, night, heavy storm")
HEIGHT, WIDTH = 704, 1280
SLOTS = 8


def check_same(device: str, chunks: int, model: str) -> dict[str, Any]:
    """Frames decoded beside generation, against the same latents decoded alone afterwards and copied plainly."""
    engine = load(model, seed=5, device=device)
    made, blocks = _side_by_side(engine, chunks)
    shape = engine.info.height, engine.info.width
    again = load(model, seed=5, device=device)
    decoder = again._decoder
    differing = 0
    with torch.inference_mode():
        for chunk, block in zip(made, blocks, strict=True):
            plain = [
                frames_to_rgba8(decoder.feed(chunk.latents[:, frame : frame + 1])).cpu().numpy()
                for frame in range(chunk.latent_frames)
            ]
            differing += int((np.concatenate(plain) != block.on_host(*shape)).any(axis=(1, 2, 3)).sum())
    return {"frames": sum(len(block.pixels) for block in blocks), "differing": differing, "ok": differing == 0}


def check_overlap(device: str, chunks: int, model: str) -> dict[str, Any]:
    """Times of a chunk."""
    engine = load(model, seed=5, device=device)
    _begin(engine)
    start = time.perf_counter()
    decode_s = 0.0
    for _ in range(chunks):
        chunk = engine.generate()
        assert chunk is not None
        engine.decode(chunk)
        decode_s += chunk.seconds["decode"]
    in_turn = (time.perf_counter() - start) / chunks
    other = load(model, seed=5, device=device)
    _begin(other)
    start = time.perf_counter()
    _side_by_side(other, chunks, begun=True)
    beside = (time.perf_counter() - start) / chunks
    return {
        "in_turn_ms": round(1e3 * in_turn, 2),
        "side_by_side_ms": round(1e3 * beside, 2),
        "decode_ms": round(1e3 * decode_s / chunks, 2),
        "ok": True,
    }


def check_copies(device: str, repeats: int = 200) -> dict[str, Any]:
    """Times of one frame from the device into a mapped file."""
    place = torch.device(device)
    output = frame_output(place)
    frames = torch.randint(0, 256, (SLOTS, HEIGHT, WIDTH, 4), dtype=torch.uint8, device=place)
    with _mapped(frames.nbytes) as memory:
        slots = memory.reshape(SLOTS, HEIGHT, WIDTH, 4)
        with output.decoding():
            pictures = output.pictures([frames])
        result: dict[str, Any] = {}
        for name in ("registered", "plain"):
            output.unpin()
            registered = name == "registered" and output.pin(memory)
            times = []
            for number in range(repeats):
                slot = number % SLOTS
                start = time.perf_counter()
                put(pictures[slot], slots[slot])
                times.append(time.perf_counter() - start)
            result[name] = {
                "registered": registered,
                "p50_ms": round(1e3 * median(times), 3),
                "max_ms": round(1e3 * max(times[SLOTS:]), 3),
                "gb_per_s": round(frames[0].nbytes / median(times) / 1e9, 2),
            }
        result["ok"] = bool(np.array_equal(slots, frames.cpu().numpy()))
    return result


@contextmanager
def _mapped(size: int) -> Iterator[NDArray[np.uint8]]:
    """A file in memory, as the frame ring is one."""
    folder = Path("/dev/shm")
    with tempfile.TemporaryFile(dir=folder if folder.is_dir() else None) as file:
        file.truncate(size)
        yield np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8)


def _begin(engine: LiveEngine) -> None:
    """Until every slot of the window is in use and every shape was met."""
    engine.steer(PROMPTS[0], "recache")
    for _ in range(12):
        chunk = engine.generate()
        assert chunk is not None
        engine.decode(chunk)


def _side_by_side(
    engine: LiveEngine, chunks: int, begun: bool = False
) -> tuple[list[GeneratedChunk], list[FrameBlock]]:
    """Generate on this thread and decode on another; from the beginning, with a change of prompt halfway, or on from
    where the engine stands (`begun`)."""
    made: list[GeneratedChunk] = []
    blocks: list[FrameBlock] = []
    waiting: queue.Queue[GeneratedChunk | None] = queue.Queue(maxsize=1)

    def decode() -> None:
        while (chunk := waiting.get()) is not None:
            blocks.append(engine.decode(chunk))

    thread = threading.Thread(target=decode)
    thread.start()
    try:
        if not begun:
            engine.steer(PROMPTS[0], "recache")
        for number in range(chunks):
            if number == chunks // 2 and not begun:
                engine.steer(PROMPTS[1], "recache")
            chunk = engine.generate()
            assert chunk is not None
            made.append(chunk)
            waiting.put(chunk)
    finally:
        waiting.put(None)
        thread.join()
    return made, blocks


def main() -> int:
    """Run the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--chunks", type=int, default=24)
    options = parser.parse_args()
    device = str(options.device)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "same": lambda: check_same(device, options.chunks, options.model),
        "overlap": lambda: check_overlap(device, options.chunks, options.model),
        "copies": lambda: check_copies(device),
    }
    bad = 0
    for name, part in parts.items():
        try:
            result = part()
        except Exception as failure:  # noqa: BLE001 — the other parts are worth having
            result = {"ok": False, "error": f"{type(failure).__name__}: {failure}", "trace": traceback.format_exc()}
        bad += not result["ok"]
        print(json.dumps({"check": name, "device": device, "torch": torch.__version__, **result}))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
