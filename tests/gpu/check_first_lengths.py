"""What a window of a new length costs the first time: after an interrupt its newest chunk is of any length.

    PYTHONPATH=engine:bridge:kernels python tests/gpu/check_first_lengths.py [--model NAME] [--device D]

For each length of a chunk cut short, the stream goes back to it, is given another prompt (a recache), and makes the
next chunk; then the same for windows with two such chunks, and all of it a second time. A JSON line for each:
milliseconds of recache and denoising as the GPU saw them, and of the whole as the host did. What the first time has
more than the second is what kernels, plans and graphs of new lengths cost. Then `attend`, the attention of one layer
alone: its first and its second call at lengths that nobody has met yet.
"""

import argparse
import json
import time

import torch

from everscene_engine.attention import attend
from everscene_engine.bench_engine import BenchOptions
from everscene_engine.bench_machine import machine
from everscene_engine.bench_run import World, make_world
from everscene_engine.random_live import RandomText
from everscene_engine.stopwatch import Stopwatch


def reacted(world: World, lengths: tuple[int, ...], seed: int) -> dict[str, float]:
    """Chunks cut to these lengths one after the other; what the last reaction took, in ms."""
    stream, config = world.stream, world.stream.config
    weight = stream.transformer.patch_embedding.weight
    prompts = RandomText(stream.transformer.config.text_dim, weight.dtype)
    text = prompts.encode([f"prompt {seed}"]).to(weight.device)
    for _ in range(config.window_chunks + 1):
        stream.generate()
    found: dict[str, float] = {}
    for length in lengths:
        stream.rollback(stream.next_frame - config.chunk_frames + length)
        stream.steer(stream.transformer.condition(text), "recache")
        start = time.perf_counter()
        chunk = stream.generate()
        assert chunk is not None
        found = {stage: round(1000 * chunk.seconds[stage], 1) for stage in ("recache", "denoise")}
        found["host"] = round(1000 * (time.perf_counter() - start), 1)
    return found


def alone(device: torch.device, queries: int, keys: int, heads: int, width: int, dtype: torch.dtype) -> list[float]:
    """The first two calls of one layer's attention, ms on the host until the device is done."""
    watch = Stopwatch(device)
    q, k, v = (torch.randn(1, rows, heads, width, device=device, dtype=dtype) for rows in (queries, keys, keys))
    took = []
    for _ in range(2):
        watch.wait()
        start = time.perf_counter()
        attend(q, k, v)
        watch.wait()
        took.append(round(1000 * (time.perf_counter() - start), 2))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="longlive2-5b")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    cuda = given.device.startswith("cuda")
    options = BenchOptions(
        given.model,
        steps=2,
        precision="fp8" if cuda else "bf16",
        path="fast" if cuda else "plain",
        decoder="none",
        device=given.device,
    )
    print(json.dumps(machine(options.place)), flush=True)
    with torch.inference_mode():
        world = make_world(options)
        world.fill_window()
        stream, config = world.stream, world.stream.config
        whole = config.chunk_frames
        several = [(length,) for length in range(1, whole)] + [(whole - 1, 1), (whole // 2, whole // 2)]
        for again in range(2):
            for lengths in several:
                line = {"lengths": lengths, "time": again + 1, **reacted(world, lengths, again)}
                print(json.dumps(line), flush=True)
        size = stream.transformer.config
        for frames in range(1, whole):
            took = alone(
                options.place,
                frames * config.frame_tokens,
                (4 * whole + frames) * config.frame_tokens,
                size.heads,
                size.head_dim,
                stream.transformer.patch_embedding.weight.dtype,
            )
            print(json.dumps({"attend": frames, "first_and_second_ms": took}), flush=True)
        world.close()


if __name__ == "__main__":
    main()
