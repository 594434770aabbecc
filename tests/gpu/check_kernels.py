"""The kernels on a real GPU: that they give what their definitions give, and how far from the floor they are.

    PYTHONPATH=engine:bridge:kernels python tests/gpu/check_kernels.py [--only NAME…]

Prints a JSON line for each part. Equality: bit for bit with the plain definitions at the 5B's sizes (NVFP4, FP8 rows),
or the relative error where a sum has another order. Times: median of 20, beside the bytes that must be read and written
over the bandwidth of a plain copy in the same run, or TFLOP/s. A part that fails says so and the next one goes on.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from everscene_engine.attention import attend
from everscene_engine.bench_machine import clocks, machine
from everscene_engine.bench_run import relative_error
from everscene_engine.rope import rotate, time_shift
from everscene_engine.stopwatch import Stopwatch
from everscene_kernels import attention_cudnn, attention_triton, before_linear, fp8, fused, nvfp4, nvfp4_kv
from everscene_kernels import fused_triton as fast
from everscene_kernels import nvfp4_norm_triton as four_norm
from everscene_kernels import nvfp4_triton as four
from everscene_kernels import nvfp4_weights as weights
from everscene_kernels.attention_triton import Tile
from everscene_kernels.fused import Affine, Modulation

TOKENS, KEYS, HEADS, WIDTH = 7040, 28160, 24, 128
DIM, INNER, FRAMES = 3072, 14336, 8
TILES = [Tile(128, 128, 8, 3), Tile(128, 128, 8, 2), Tile(128, 64, 8, 3), Tile(128, 64, 4, 3), Tile(64, 128, 4, 3),
         Tile(128, 128, 4, 2), Tile(128, 256, 8, 2)]  # fmt: skip
E4M3_NAN = 0x7F
Result = dict[str, Any]

device = torch.device("cuda")
watch = Stopwatch(device)
bandwidth = 0.0  # bytes a millisecond


def noise(*shape: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return (spread * torch.randn(*shape, device=device, generator=generator)).bfloat16()


def timed(work: Callable[[], object], moved: int) -> Result:
    """Milliseconds, and times the floor of moving so many bytes."""
    ms = watch.each(work, repeat=20, cold=True)
    floor = moved / bandwidth
    return {"ms": round(ms, 4), "floor_ms": round(floor, 4), "times_the_floor": round(ms / floor, 2)}


def copy_bandwidth() -> Result:
    global bandwidth
    source = torch.randn(2**29, device=device)  # 2 GiB, many times the L2
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / watch.each(lambda: target.copy_(source), repeat=10)
    return {"tb_per_s": round(bandwidth / 1e9, 3), **machine(device)}


def nvfp4_slots() -> Result:
    """A chunk's keys, one layer: what the clean pass quantises and every forward reads back."""
    x = noise(TOKENS * HEADS, WIDTH)
    definition = nvfp4.quantize(x)
    made = four.quantize(x)
    same = torch.equal(made.values, definition.values) and torch.equal(
        made.scales.view(torch.uint8), definition.scales.view(torch.uint8)
    )
    out = torch.empty_like(x)
    packed = made.values.nbytes + made.scales.nbytes
    return {
        "codes_and_scales_equal": same,
        "numbers_equal": torch.equal(four.dequantize(made), nvfp4.dequantize(definition, torch.bfloat16)),
        "quantise": timed(lambda: four.quantize(x, out=made), 2 * x.nbytes + packed),
        "quantise_known_amax": timed(lambda: four.quantize(x, amax=definition.amax, out=made), x.nbytes + packed),
        "quantise_static_6": timed(lambda: four.quantize(x, "static_6", definition.amax), x.nbytes + packed),
        "dequantise": timed(lambda: four.dequantize(made, out=out), x.nbytes + packed),
    }


def nvfp4_fused() -> Result:
    x, scale, shift = noise(TOKENS, DIM), noise(FRAMES, DIM, seed=1), noise(FRAMES, DIM, seed=2)
    wanted = nvfp4.quantize(before_linear.norm_modulate(x, scale, shift, 1e-6))
    made = four_norm.quantize_norm(x, scale, shift, 1e-6)
    inner = noise(880, INNER)
    gelu, of_gelu = four.quantize_gelu(inner), nvfp4.quantize(before_linear.gelu_tanh(inner))
    packed = made.values.nbytes + made.scales.nbytes
    return {
        "norm_equal": torch.equal(made.values, wanted.values),
        "gelu_equal": torch.equal(gelu.values, of_gelu.values),
        "norm": timed(lambda: four_norm.quantize_norm(x, scale, shift, 1e-6, out=made), 2 * x.nbytes + packed),
    }


def nvfp4_weights() -> Result:
    weight = noise(3 * DIM, DIM, spread=0.02)
    made = four.quantize(weight)
    out = torch.empty_like(weight)
    moved = made.values.nbytes + made.scales.nbytes + out.nbytes
    smaller = weight.nbytes / (made.values.nbytes + made.scales.nbytes + made.amax.nbytes)
    inverses, eight = 1.0 / weights.fp8_scales(made), torch.empty_like(weight, dtype=torch.uint8)
    weights.fp8_values(made, inverses, eight)
    decoded = moved - out.nbytes + eight.nbytes
    return {
        "times_smaller": round(smaller, 3),
        "fp8_equal": torch.equal(eight, weights.fp8_rows(made).values.view(torch.uint8)),
        "dequantise": timed(lambda: four.dequantize(made, out=out), moved),
        "to_fp8": timed(lambda: weights.fp8_values(made, inverses, eight), decoded),
    }


def nvfp4_turned() -> Result:
    """A sink's keys, one layer, presented later."""
    kept = nvfp4_kv.allocate_slots(1, TOKENS, HEADS, WIDTH, device)
    nvfp4_kv.write_slot(kept, 0, noise(TOKENS, HEADS, WIDTH))
    angles = 10 * torch.rand(1, WIDTH // 2, device=device)
    turn = (angles.cos(), angles.sin())
    out = torch.empty(TOKENS, HEADS, WIDTH, dtype=torch.bfloat16, device=device)
    nvfp4_kv.read_slot(kept, 0, out)
    wanted = fused.turn_pairs(out, *turn)
    nvfp4_kv.read_slot(kept, 0, out, turn)
    moved = kept.nbytes + out.nbytes
    return {
        "equal": torch.equal(out, wanted),
        "time": timed(lambda: nvfp4_kv.read_slot(kept, 0, out, turn), moved),
    }


def memory_of_a_cache() -> Result:
    """The slots of one layer's keys, from the allocator."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    plain = torch.zeros(4, TOKENS, HEADS, WIDTH, dtype=torch.bfloat16, device=device)
    of_bf16 = torch.cuda.memory_allocated() - before
    del plain
    before = torch.cuda.memory_allocated()
    kept = nvfp4_kv.allocate_slots(4, TOKENS, HEADS, WIDTH, device)
    of_nvfp4 = torch.cuda.memory_allocated() - before
    del kept
    return {"bf16_bytes": of_bf16, "nvfp4_bytes": of_nvfp4, "times_smaller": round(of_bf16 / of_nvfp4, 3)}


def fused_rows() -> Result:
    x, y, gate = noise(TOKENS, DIM), noise(TOKENS, DIM, seed=1), noise(FRAMES, DIM, seed=2, spread=0.1)
    after = Modulation(noise(FRAMES, DIM, seed=3, spread=0.1), noise(FRAMES, DIM, seed=4))
    wanted_x, wanted = fused.add_norm(x, y, gate, after, 1e-6)
    summed = x.clone()
    found = fast.add_norm(summed, y, gate, after, 1e-6, fp8=False)
    assert isinstance(found, Tensor)
    rows = fast.quantize_rows(found)
    definition = fp8.quantize_rows(found)
    inner = noise(TOKENS, INNER)
    small = noise(880, INNER, seed=5)
    gelu, of_gelu = fast.quantize_rows(small, gelu=True), fused.gelu_rows(small)
    affine = Affine(noise(DIM, seed=6), noise(DIM, seed=7))
    gated = x.clone()
    of_gated = fast.add_norm(gated, y, gate, affine, 1e-6, fp8=False)
    assert isinstance(of_gated, Tensor)
    return {
        "sum_equal": torch.equal(summed, wanted_x),
        "sum_before_weights_equal": torch.equal(gated, wanted_x),
        "norm_with_weights_error": relative_error(of_gated, fused.norm(wanted_x, affine, 1e-6)),
        "norm_differs": float((found != wanted).float().mean()),
        "norm_error": relative_error(found, wanted),
        "fp8_rows_equal": torch.equal(rows.values.view(torch.uint8), definition.values.view(torch.uint8))
        and torch.equal(rows.scales, definition.scales),
        "gelu_error": relative_error(gelu.dequantize(), of_gelu.dequantize()),
        "add_norm_bf16": timed(lambda: fast.add_norm(x, y, gate, after, 1e-6, fp8=False), 4 * x.nbytes),
        "add_norm_fp8": timed(lambda: fast.add_norm(x, y, gate, after, 1e-6, fp8=True), 7 * x.nbytes // 2),
        "add_affine_fp8": timed(lambda: fast.add_norm(x, y, None, affine, 1e-6, fp8=True), 7 * x.nbytes // 2),
        "rows_fp8": timed(lambda: fast.quantize_rows(x), 3 * x.nbytes // 2),
        "gelu_fp8": timed(lambda: fast.quantize_rows(inner, gelu=True), 3 * inner.nbytes // 2),
        "rms": timed(lambda: fast.rms(x, affine.weight, 1e-6), 2 * x.nbytes),
    }


def fused_heads() -> Result:
    qkv, weights = noise(TOKENS, 3 * DIM), noise(2, DIM, seed=1)
    angles = 100 * torch.rand(TOKENS, WIDTH // 2, device=device)
    cos, sin = angles.cos(), angles.sin()
    q, k, v = (torch.full((TOKENS, HEADS, WIDTH), torch.nan, device=device).bfloat16() for _ in range(3))
    fast.queries_keys_values(qkv, weights, cos, sin, q, k, v, 1e-6)
    wanted = fused.rms_turned(qkv[:, :DIM], weights[0], cos, sin, HEADS, 1e-6)
    of_keys = fused.rms_turned(qkv[:, DIM : 2 * DIM], weights[1], cos, sin, HEADS, 1e-6)
    eight = [torch.empty_like(q, dtype=torch.float8_e4m3fn) for _ in range(3)]
    to = fast.EightBit(*eight, torch.ones(1, device=device))

    def both() -> None:
        fast.queries_keys_values(qkv, weights, cos, sin, q, k, v, 1e-6, to)

    both()
    return {
        "eight_bits_equal": torch.equal(eight[1].view(torch.uint8), k.to(torch.float8_e4m3fn).view(torch.uint8)),
        "with_eight_bits": timed(both, 13 * qkv.nbytes // 6),
        "queries_error": relative_error(q, wanted),
        "keys_error": relative_error(k, of_keys),
        "values_equal": torch.equal(v.flatten(1), qkv[:, 2 * DIM :]),
        "time": timed(lambda: fast.queries_keys_values(qkv, weights, cos, sin, q, k, v, 1e-6), 2 * qkv.nbytes),
    }


def fused_turn() -> Result:
    """A sink's keys, one layer, presented later: from how they were made into a slot of a cache, and E4M3 beside."""
    made = noise(1, TOKENS, HEADS, WIDTH)
    turn = time_shift(1234, WIDTH, device)
    keys = torch.empty((1, KEYS, HEADS, WIDTH), dtype=torch.bfloat16, device=device)
    eight = torch.empty_like(keys, dtype=torch.uint8).view(torch.float8_e4m3fn)
    place, beside = keys[:, TOKENS : 2 * TOKENS], eight[:, TOKENS : 2 * TOKENS]
    wanted, of_wanted = fused.turn_keys(made, *turn)

    def as_wanted(with_eight: bool) -> bool:
        """Whether a turn fills its places with what it should and leaves all else, NaN before, as it was."""
        keys.fill_(torch.nan)
        eight.view(torch.uint8).fill_(E4M3_NAN)
        expected, of_expected = keys.clone(), eight.view(torch.uint8).clone()
        expected[:, TOKENS : 2 * TOKENS] = wanted
        if with_eight:
            of_expected[:, TOKENS : 2 * TOKENS] = of_wanted.view(torch.uint8)
        fast.turn_keys(made, *turn, place, beside if with_eight else None)
        same = torch.equal(keys.view(torch.int16), expected.view(torch.int16))
        return same and torch.equal(eight.view(torch.uint8), of_expected)

    def plainly() -> None:
        place.copy_(rotate(made, turn))
        beside.copy_(fp8.e4m3(place))

    return {
        "as_wanted": as_wanted(False),
        "as_wanted_with_eight_bits": as_wanted(True),
        "with_eight_bits": timed(lambda: fast.turn_keys(made, *turn, place, beside), 5 * made.nbytes // 2),
        "time": timed(lambda: fast.turn_keys(made, *turn, place), 2 * made.nbytes),
        "plain_with_eight_bits_ms": round(watch.each(plainly, 20, cold=True), 4),
    }


def products() -> Result:
    """FP8 products as the fast path calls them, and bfloat16 beside them: ms and TFLOP/s."""
    found: Result = {}
    for name, inner, outer in (("qkv", DIM, 3 * DIM), ("out", DIM, DIM), ("up", DIM, INNER), ("down", INNER, DIM)):
        x, weight, bias = noise(TOKENS, inner), noise(outer, inner, seed=1, spread=inner**-0.5), noise(outer, seed=2)
        rows, columns = fp8.quantize_rows(x), fp8.quantize_rows(weight)

        def product(rows: Any = rows, columns: Any = columns, bias: Tensor = bias) -> Tensor:
            return fp8.multiply(rows, columns, bias)

        def plain(x: Tensor = x, weight: Tensor = weight, bias: Tensor = bias) -> Tensor:
            return F.linear(x, weight, bias)

        flop = 2.0 * TOKENS * inner * outer
        slow, quick = watch.each(plain, 20, cold=True), watch.each(product, 20, cold=True)
        found[name] = {
            "bf16": [round(slow, 4), round(flop / slow / 1e9)],
            "fp8": [round(quick, 4), round(flop / quick / 1e9)],
            "error": relative_error(product(), plain()),
            "error_from_definition": relative_error(product()[:880], fp8.linear_fp8_reference(x[:880], columns, bias)),
        }
    return found


def cross_attention() -> Result:
    q = noise(TOKENS, HEADS, WIDTH)
    found: Result = {}
    for length in (128, 512):
        k, v = noise(length, HEADS, WIDTH, seed=1), noise(length, HEADS, WIDTH, seed=2)
        bias = torch.zeros(length, device=device)
        bias[length // 2], bias[length // 2 + 1 :] = 6.0, -torch.inf

        def ours(k: Tensor = k, v: Tensor = v, bias: Tensor = bias) -> Tensor:
            return attention_triton.attend(q, k, v, bias)

        def torchs(k: Tensor = k, v: Tensor = v) -> Tensor:
            return attend(q[None], k[None], v[None])

        found[str(length)] = {
            "error": relative_error(ours()[:200], attention_triton.attend_reference(q[:200], k, v, bias)),
            "ms": round(watch.each(ours, cold=True), 4),
            "torch_without_bias_ms": round(watch.each(torchs, cold=True), 4),
        }
    return found


def self_attention() -> Result:
    """Over a full window: cuDNN in bfloat16, our FP8 kernel cut in several ways, cuDNN in FP8."""
    q, k, v = noise(TOKENS, HEADS, WIDTH), noise(KEYS, HEADS, WIDTH, seed=1), noise(KEYS, HEADS, WIDTH, seed=2)
    some = slice(0, 128)
    wanted = attention_triton.attend_reference(q[some], k, v)
    flop = 4.0 * TOKENS * KEYS * HEADS * WIDTH
    found: Result = {"flop": flop}

    def note(name: str, work: Callable[[], Tensor], factor: float = 1.0) -> None:
        try:
            miss = relative_error(work()[some].float() * factor, wanted)
            ms = watch.each(work, repeat=8)
            found[name] = {"ms": round(ms, 3), "tflops": round(flop / ms / 1e9), "error": round(miss, 5)}
        except Exception as problem:  # noqa: BLE001 - say which way does not run, and try the next
            traceback.print_exc()
            found[name] = f"{type(problem).__name__}: {problem}"[:300]

    note("bf16 torch", lambda: attend(q[None], k[None], v[None])[0])
    eight = [part.to(torch.float8_e4m3fn) for part in (q, k, 8 * v)]
    if attention_cudnn.available():
        scale = torch.tensor([8.0], device=device)
        try:
            made = attention_cudnn.CudnnFP8Attention(TOKENS, KEYS, HEADS, WIDTH, device)
            note("fp8 cudnn", lambda: made(eight[0], eight[1], eight[2], scale, 1 / scale), 1 / 8)
        except Exception as problem:  # noqa: BLE001 - as above
            traceback.print_exc()
            found["fp8 cudnn"] = f"{type(problem).__name__}: {problem}"[:300]
    else:
        found["fp8 cudnn"] = "nvidia-cudnn-frontend is not installed"
    columns = eight[2].permute(1, 2, 0).contiguous()
    for tile in TILES:
        note(
            f"fp8 triton {tuple(tile)}",
            lambda tile=tile: attention_triton.attend_fp8(eight[0], eight[1], columns, 1.0, 1 / 8, tile),
        )
    return found


PARTS: list[Callable[[], Result]] = [
    copy_bandwidth, fused_rows, fused_heads, fused_turn, products, self_attention, cross_attention, nvfp4_slots,
    nvfp4_fused, nvfp4_weights, nvfp4_turned, memory_of_a_cache,
]  # fmt: skip


def main() -> int:
    """1 if a part failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", help="names of parts; copy_bandwidth always runs")
    only = parser.parse_args().only
    failed = 0
    for part in PARTS:
        if only and part.__name__ not in only and part is not copy_bandwidth:
            continue
        try:
            print(json.dumps({"part": part.__name__, **part(), **clocks(device)}), flush=True)
        except Exception as problem:  # noqa: BLE001 - time on a GPU is short: say what broke and check the rest
            traceback.print_exc()
            what = f"{type(problem).__name__}: {problem}"[:500]
            print(json.dumps({"part": part.__name__, "error": what}), flush=True)
            failed = 1
        torch.cuda.empty_cache()
    return failed


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())
