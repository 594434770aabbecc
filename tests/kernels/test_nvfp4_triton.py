"""The Triton kernels against the definition, bit for bit: on the GPU if there is one, else in Triton's interpreter."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from everscene_kernels import before_linear, nvfp4
from everscene_kernels.nvfp4 import RULES, NVFP4Tensor, Rule

pytest.importorskip("triton", reason="triton is not installed: pip install everscene[kernels] on Linux")

import triton  # the interpreter is chosen in tests/conftest.py
import triton.language as tl

from everscene_kernels import nvfp4_norm_triton, nvfp4_triton
from everscene_kernels.nvfp4_norm_triton import _row_sum
from everscene_kernels.nvfp4_triton import _e2m1_code, _e2m1_nearest, _e4m3_code, _e4m3_value, _pair_sum

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy, about NaN and infinity


def hard(rows: int, columns: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Numbers of many sizes with zeros, infinities, NaN, denormals and ties among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator) * torch.exp(3 * torch.randn(rows, 1, generator=generator))
    x[0] = (torch.arange(columns) % 25 - 12) / 2
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 1e-9, 5.0, 2.5])
    places = torch.randperm(rows * columns, generator=generator)[: rows * columns // 8]
    x.view(-1)[places] = special[torch.arange(len(places)) % len(special)]
    x[rows // 2] = 0.0
    return x.to(dtype).to(DEVICE)


def assert_same(kernel: NVFP4Tensor, definition: NVFP4Tensor) -> None:
    assert torch.equal(kernel.amax, definition.amax)
    assert torch.equal(kernel.scales.view(torch.uint8), definition.scales.view(torch.uint8))
    assert torch.equal(kernel.values, definition.values)
    assert (kernel.shape, kernel.rule) == (definition.shape, definition.rule)


@triton.jit
def _codes_kernel(x, e4m3, back, e2m1, N: tl.constexpr):
    at = tl.arange(0, N)
    code = _e4m3_code(tl.load(x + at))
    tl.store(e4m3 + at, code)
    tl.store(back + at, _e4m3_value(code))
    y = tl.load(x + at)
    tl.store(e2m1 + at, _e2m1_code(y, _e2m1_nearest(y)))


def test_every_code_midpoint_and_neighbour_is_converted_as_torch_does() -> None:
    codes = torch.arange(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middles = (codes[1:] + codes[:-1]) / 2
    exact = torch.cat([codes, middles])
    x = torch.cat([exact, torch.nextafter(exact, torch.tensor(1e9)), torch.nextafter(exact, torch.tensor(0.0))])
    x = torch.nn.functional.pad(x.clamp(max=448), (0, 1024 - len(x))).to(DEVICE)
    e4m3, back, e2m1 = torch.zeros(1024).int().to(DEVICE), torch.zeros_like(x), torch.zeros(1024).int().to(DEVICE)
    _codes_kernel[(1,)](x, e4m3, back, e2m1, 1024)
    expected = x.to(torch.float8_e4m3fn)
    assert torch.equal(e4m3.to(torch.uint8), expected.view(torch.uint8))
    assert torch.equal(back, expected.float())
    assert torch.equal(e2m1.to(torch.uint8), nvfp4.encode_e2m1(x))


@triton.jit
def _sums_kernel(x, blocks, row, ROWS: tl.constexpr, LOG_ROWS: tl.constexpr):
    of_row = tl.arange(0, ROWS)
    tile = tl.load(x + of_row[:, None] * 16 + tl.arange(0, 16)[None, :])
    tl.store(blocks + of_row, _pair_sum(tile, ROWS, 4))
    even = x + of_row[:, None] * 16 + 2 * tl.arange(0, 8)[None, :]
    tl.store(row, _row_sum(tl.load(even), tl.load(even + 1), ROWS, LOG_ROWS))


def test_sums_are_rounded_in_the_order_of_the_definition() -> None:
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    blocks, row = torch.zeros(64, device=DEVICE), torch.zeros(1, device=DEVICE)
    _sums_kernel[(1,)](x, blocks, row, 64, 6)
    assert torch.equal(blocks, nvfp4.pair_sum(x))
    assert torch.equal(row[0], nvfp4.pair_sum(x.flatten()))
    halves = x[:, :8] + x[:, 8:]  # another order gives other bits: the test can tell
    assert not torch.equal(blocks, nvfp4.pair_sum(halves))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantise_and_dequantise_equal_the_definition(rule: Rule, dtype: torch.dtype) -> None:
    x = hard(23, 75, dtype)
    kernel, definition = nvfp4_triton.quantize(x, rule), nvfp4.quantize(x, rule)
    assert_same(kernel, definition)
    for out in (torch.float32, torch.bfloat16):
        assert torch.equal(nvfp4_triton.dequantize(kernel, out), nvfp4.dequantize(definition, out))


@given(
    x=arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(0, 40)), elements=st.floats(width=32)),
    rule=st.sampled_from(RULES),
)
@settings(max_examples=25, deadline=None)
def test_quantise_equals_the_definition_on_any_numbers(x: np.ndarray, rule: Rule) -> None:
    numbers = torch.from_numpy(x).to(DEVICE)
    assert_same(nvfp4_triton.quantize(numbers, rule), nvfp4.quantize(numbers, rule))


@pytest.mark.parametrize(("rule", "dtype"), [("mse", torch.bfloat16), ("static_6", torch.float32)])
def test_gelu_and_quantise_equal_one_after_the_other(rule: Rule, dtype: torch.dtype) -> None:
    x = hard(19, 50, dtype)
    assert_same(nvfp4_triton.quantize_gelu(x, rule), nvfp4.quantize(before_linear.gelu_tanh(x), rule))


@pytest.mark.parametrize("columns", [1, 16, 75, 384])
@pytest.mark.parametrize(("rule", "dtype"), [("mse", torch.bfloat16), ("static_6", torch.float32)])
def test_norm_and_quantise_equal_one_after_the_other(columns: int, rule: Rule, dtype: torch.dtype) -> None:
    x = hard(6, columns, dtype, seed=columns)
    x[1] = torch.linspace(-1, 3, columns)  # one row at least without NaN
    scale, shift = torch.randn(2, 3, columns, device=DEVICE).to(dtype)
    expected = nvfp4.quantize(before_linear.norm_modulate(x, scale, shift, 1e-6), rule)
    assert expected.amax > 0 or columns == 1
    assert_same(nvfp4_norm_triton.quantize_norm(x, scale, shift, 1e-6, rule), expected)


@pytest.mark.parametrize("amax", [0.0, 0.3, 40.0])
def test_a_given_amax_is_used_as_it_is(amax: float) -> None:
    x, given_amax = hard(5, 40, torch.float32), torch.tensor([amax], device=DEVICE)
    assert_same(nvfp4_triton.quantize(x, "mse", given_amax), nvfp4.quantize(x, "mse", given_amax))
    scale = torch.zeros(1, 40, device=DEVICE)
    normed = before_linear.norm_modulate(x, scale, scale, 1e-6)
    fused = nvfp4_norm_triton.quantize_norm(x, scale, scale, 1e-6, "mse", given_amax)
    assert_same(fused, nvfp4.quantize(normed, "mse", given_amax))


def test_a_strided_tensor_of_more_dimensions_is_quantised_by_rows() -> None:
    x = hard(24, 32, torch.bfloat16).reshape(4, 6, 32).transpose(0, 1)
    assert_same(nvfp4_triton.quantize(x), nvfp4.quantize(x))


def test_codes_go_straight_into_tensors_that_are_there() -> None:
    x = hard(4, 32, torch.bfloat16)
    out = nvfp4.quantize(torch.ones(4, 32, device=DEVICE))
    place = out.values.data_ptr()
    assert nvfp4_triton.quantize(x, out=out) is out and out.values.data_ptr() == place
    assert_same(out, nvfp4.quantize(x))
    scratch = torch.full((4, 32), math.nan, device=DEVICE)
    nvfp4_triton.dequantize(out, out=scratch)
    assert torch.equal(scratch, nvfp4.dequantize(out))


def test_what_does_not_fit_is_refused() -> None:
    held = nvfp4.quantize(torch.ones(4, 32, device=DEVICE))
    with pytest.raises(ValueError, match="rule static_6"):
        nvfp4_triton.quantize(torch.ones(4, 32, device=DEVICE), "static_6", out=held)
    with pytest.raises(ValueError, match="float16"):
        nvfp4_triton.quantize_gelu(torch.ones(4, 32, device=DEVICE).half())
    with pytest.raises(ValueError, match="float16"):
        nvfp4_triton.dequantize(held, torch.float16)
    with pytest.raises(ValueError, match="must be contiguous"):
        nvfp4_triton.dequantize(held, out=torch.empty(32, 4, device=DEVICE).t())


COMPILE = """
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from everscene_kernels import nvfp4, nvfp4_norm_triton, nvfp4_triton as kernels
try:
    kernels.quantize(torch.ones(1, 16))
except ValueError as refusal:
    assert "on a CPU use their definitions" in str(refusal)
else:
    raise AssertionError("a CPU tensor was taken without the interpreter")
pointers = dict(x="*i16", scale="*i16", shift="*i16", out="*i16", values="*u8", scales="*u8")
pointers |= dict(amax="*fp32", maximum="*i32")
numbers = dict(eps="fp32", unit="fp32")
tile = dict(ROWS=64, BF16=True, WHOLE=False)
row = dict(ROWS=16, LOG_ROWS=4, BF16=True, WHOLE=False)
for capability in (90, 120):
    for kernel, constants in [
        (kernels._amax_kernel, dict(tile, GELU=True)),
        (kernels._quantize_kernel, dict(tile, GELU=True, RULE="mse")),
        (kernels._quantize_kernel, dict(tile, GELU=False, RULE="static_6")),
        (nvfp4_norm_triton._norm_quantize_kernel, dict(row, RULE="mse")),
        (kernels._dequantize_kernel, dict(N=512, BF16=True, WHOLE=True, width=8)),
    ]:
        types = {n: "constexpr" if n in constants else pointers.get(n, numbers.get(n, "i32")) for n in kernel.arg_names}
        if kernel is kernels._dequantize_kernel:
            types["values"] = "*i32"
        target = GPUTarget("cuda", capability, 32)
        made = compile(ASTSource(kernel, types, constants), target, dict(enable_fp_fusion=False))
        assert made.asm["cubin"] and "fma." not in made.asm["ptx"], kernel
        print(kernel.__name__, capability)
"""


def test_kernels_compile_for_hopper_and_blackwell_and_fuse_no_product(tmp_path: Path) -> None:
    kernels = Path(nvfp4.__file__).parents[1]
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "PYTHONPATH": str(kernels),
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split("\n")) == 11
