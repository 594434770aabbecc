"""What each format costs in accuracy and bits: `python -m everscene_kernels.report [FILE.safetensors …]`.

Prints Markdown. Without files: Gaussian numbers, seed 0. With files: the linears of their transformer blocks (queries,
keys, values and outputs of both attentions, and the two of the feed-forward network), which are the ones that are
quantised. The relative error is ‖x̂ − x‖ / ‖x‖; over several matrices, of all of them together. Runs on the CPU, with
the definitions.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from everscene_kernels.fp8 import quantize_rows
from everscene_kernels.nvfp4 import RULES, dequantize, quantize
from everscene_kernels.nvfp4_kv import allocate_slots, read_slot, write_slot
from everscene_kernels.nvfp4_linear import linear_nvfp4_both

LINEAR = re.compile(r"blocks\.\d+\.((?:self|cross)_attn\.[qkvo]|ffn\.[02])\.weight$")
Format = Callable[[Tensor], tuple[Tensor, float]]


def formats() -> dict[str, Format]:
    """By name: a matrix → (what the format makes of it, bits for each number)."""

    def fp8(x: Tensor) -> tuple[Tensor, float]:
        rows = quantize_rows(x)
        return rows.dequantize(), 8 * (rows.values.nbytes + rows.scales.nbytes) / x.numel()

    def nvfp4(rule: str) -> Format:
        def convert(x: Tensor) -> tuple[Tensor, float]:
            held = quantize(x, rule)  # type: ignore[arg-type]  # one of RULES
            return dequantize(held), held.bits_per_value

        return convert

    named: dict[str, Format] = {"FP8, a scale a row": fp8}
    return named | {f"NVFP4 `{rule}`": nvfp4(rule) for rule in RULES}


def linears(files: Iterable[Path]) -> dict[str, list[Tensor]]:
    """The matrices of the files' transformer blocks in float32, by their place in the block."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  safe_open is no dictionary
                if place := LINEAR.search(name):
                    found[place[1]].append(tensors.get_tensor(name).float())
    return dict(sorted(found.items()))


def error_and_bits(matrices: Iterable[Tensor], convert: Format) -> tuple[float, float]:
    """(relative error, bits for each number) over all matrices together."""
    wrong = total = bits = count = 0.0
    for x in matrices:
        back, each = convert(x)
        wrong += (back - x).double().square().sum().item()
        total += x.double().square().sum().item()
        bits += each * x.numel()
        count += x.numel()
    return (wrong / total) ** 0.5, bits / count


def print_table(places: dict[str, list[Tensor]]) -> None:
    """Errors in percent: a row for each format, a column for each place, and over all."""
    every = [x for matrices in places.values() for x in matrices]
    columns = {"all": every} | (places if len(places) > 1 else {})
    print("| format | bits a number |", *(f" {name} |" for name in columns), sep="")
    print("|---" * (2 + len(columns)), "|", sep="")
    for name, convert in formats().items():
        measured = [error_and_bits(matrices, convert) for matrices in columns.values()]
        print(f"| {name} | {measured[0][1]:.3f} |", *(f" {100 * error:.2f} |" for error, _bits in measured), sep="")


def print_products() -> None:
    """Relative error of a product of two Gaussian matrices with both sides in NVFP4, for each rule."""
    x, weight = torch.randn(256, 1024), torch.randn(512, 1024)
    exact = x @ weight.t()
    print("\n| both sides of a product | error, % |\n|---|---|")
    for rule in RULES:
        out = linear_nvfp4_both(x, quantize(weight, rule), rule=rule)
        print(f"| `{rule}` | {100 * ((out - exact).norm() / exact.norm()).item():.2f} |")


def print_kv() -> None:
    """A slot of 1024 tokens × 8 heads × 64: keys with and without a standing offset, plain and smoothed."""
    k = torch.randn(1024, 8, 64)
    print("\n| keys | error plain, % of the spread | smoothed |\n|---|---|---|")
    for offset in (0.0, 1.0, 4.0):
        keys, errors = k + offset * torch.randn(8, 64), []
        for smooth in (False, True):
            kept = allocate_slots(1, 1024, 8, 64, torch.device("cpu"), smooth=smooth)
            write_slot(kept, 0, keys)
            out = torch.empty_like(keys)
            read_slot(kept, 0, out)
            errors.append(100 * ((out - keys).norm() / k.norm()).item())
        print(f"| offset of {offset:g} times their spread | {errors[0]:.2f} | {errors[1]:.2f} |")


def main() -> None:
    """Prints the tables that docs/numerics.md quotes."""
    parser = argparse.ArgumentParser(prog="python -m everscene_kernels.report", description="what the formats cost")
    parser.add_argument("files", nargs="*", type=Path, help="safetensors with a transformer; none: Gaussian numbers")
    files: list[Path] = parser.parse_args().files
    torch.manual_seed(0)
    if not files:
        print_table({"all": [torch.randn(1024, 1024)]})
        print_products()
        print_kv()
        return
    places = linears(files)
    if not places:
        parser.error(f"no linear of a transformer block in {', '.join(map(str, files))}")
    print(f"{sum(len(found) for found in places.values())} matrices\n")
    print_table(places)


if __name__ == "__main__":
    main()
