"""The fused kernels against their plain definitions: on the GPU if there is one, else in Triton's interpreter."""

import pytest
import torch
from torch import Tensor

from everscene_kernels import fp8, fused
from everscene_kernels.fused import Affine, Modulation

pytest.importorskip("triton", reason="triton is not installed: pip install everscene[kernels] on Linux")

import triton

from everscene_kernels import fused_triton

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
ONE_UNIT = 2.0**-7  # of bfloat16, relative: the order of a sum may move a number across one rounding
FEW = 0.02  # of the numbers may differ at all


def noise(*shape: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    return (spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).bfloat16().to(DEVICE)


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """Equal in nearly all numbers, one unit of bfloat16 apart in the others (near zero: of the row's spread)."""
    found, wanted = found.float(), wanted.float()
    room = ONE_UNIT * wanted.abs() + 2.0**-9 * wanted.std()
    assert ((found - wanted).abs() <= room).all()
    assert (found != wanted).float().mean() < FEW


@pytest.mark.parametrize("columns", [16, 48, 130, 384])
@pytest.mark.parametrize("gated", [True, False])
def test_adding_and_modulated_norm_are_one_pass(columns: int, gated: bool) -> None:
    x, y = noise(12, columns), noise(12, columns, seed=1)
    gate, scale, shift = noise(9, columns, seed=2, spread=0.5).view(3, 3, columns).unbind(1)  # rows of a larger tensor
    wanted_x, wanted = fused.add_norm(x, y, gate if gated else None, Modulation(scale, shift), 1e-6)
    found = fused_triton.add_norm(x, y, gate if gated else None, Modulation(scale, shift), 1e-6, fp8=False)
    assert isinstance(found, Tensor)
    assert torch.equal(x, wanted_x)
    assert_close(found, wanted)


def test_a_norm_with_weights_takes_the_gate_of_each_latent_frame() -> None:
    x, y, gate = noise(12, 48), noise(12, 48, seed=1), noise(3, 48, seed=2)
    after = Affine(noise(48, seed=3), noise(48, seed=4))
    wanted_x, wanted = fused.add_norm(x, y, gate, after, 1e-6)
    found = fused_triton.add_norm(x, y, gate, after, 1e-6, fp8=False)
    assert isinstance(found, Tensor)
    assert torch.equal(x, wanted_x)
    assert_close(found, wanted)


def test_a_norm_alone_leaves_its_rows() -> None:
    x = noise(5, 96)
    before = x.clone()
    after = Affine(noise(96, seed=3), noise(96, seed=4))
    found = fused_triton.add_norm(x, None, None, after, 1e-6, fp8=False)
    assert isinstance(found, Tensor) and torch.equal(x, before)
    assert_close(found, fused.norm(x, after, 1e-6))


def test_fp8_rows_of_a_norm_are_those_of_the_norm_quantised_afterwards() -> None:
    x, scale, shift = noise(6, 80), noise(2, 80, seed=1), noise(2, 80, seed=2)
    after = Modulation(scale, shift)
    normed = fused_triton.add_norm(x, None, None, after, 1e-6, fp8=False)
    found = fused_triton.add_norm(x, None, None, after, 1e-6, fp8=True)
    assert isinstance(normed, Tensor) and isinstance(found, fp8.FP8Rows)
    wanted = fp8.quantize_rows(normed)
    assert torch.equal(found.scales, wanted.scales)
    assert torch.equal(found.values.view(torch.uint8), wanted.values.view(torch.uint8))


def test_fp8_rows_equal_the_definition_bit_for_bit() -> None:
    x = noise(9, 112, spread=3.0)
    x[3] = 0
    x[4, 5] = -0.0
    x[5] *= 1e-3
    found, wanted = fused_triton.quantize_rows(x), fp8.quantize_rows(x)
    assert torch.equal(found.scales, wanted.scales)
    assert torch.equal(found.values.view(torch.uint8), wanted.values.view(torch.uint8))


def test_gelu_goes_straight_into_fp8_rows() -> None:
    x = noise(7, 224, spread=2.0)
    found, wanted = fused_triton.quantize_rows(x, gelu=True), fused.gelu_rows(x)
    assert torch.allclose(found.scales, wanted.scales, rtol=ONE_UNIT)
    differs = found.dequantize() - wanted.dequantize()
    assert differs.norm() < 0.01 * wanted.dequantize().norm()  # FP8 itself is at 0.026


def test_queries_keys_and_values_go_where_they_belong() -> None:
    rows, heads, width = 10, 3, 16
    columns = heads * width
    qkv, weights = noise(rows, 3 * columns), noise(2, columns, seed=1)
    angles = torch.linspace(0, 6, rows * width // 2).view(rows, -1).to(DEVICE)
    q = torch.full((rows, heads, width), torch.nan, dtype=torch.bfloat16, device=DEVICE)
    cache = torch.full((2, 4 * rows, heads, width), torch.nan, dtype=torch.bfloat16, device=DEVICE)
    k, v = cache[0, rows : 2 * rows], cache[1, rows : 2 * rows]
    fused_triton.queries_keys_values(qkv, weights, angles.cos(), angles.sin(), q, k, v, 1e-6)
    for part, made in enumerate((q, k)):
        of = qkv[:, part * columns : (part + 1) * columns]
        assert_close(made, fused.rms_turned(of, weights[part], angles.cos(), angles.sin(), heads, 1e-6))
    assert torch.equal(v, qkv[:, 2 * columns :].unflatten(-1, (heads, width)))
    assert cache[:, :rows].isnan().all() and cache[:, 2 * rows :].isnan().all()


def test_eight_bits_of_queries_keys_and_values_are_those_of_the_bfloat16_ones() -> None:
    rows, heads, width = 6, 2, 16
    columns = heads * width
    qkv, weights = noise(rows, 3 * columns), noise(2, columns, seed=1)
    angles = torch.linspace(0, 6, rows * width // 2).view(rows, -1).to(DEVICE)
    shape = (rows, heads, width)
    plain = [torch.zeros(shape, dtype=torch.bfloat16, device=DEVICE) for _ in range(3)]
    fused_triton.queries_keys_values(qkv, weights, angles.cos(), angles.sin(), *plain, 1e-6)
    kept = [torch.zeros(shape, dtype=torch.bfloat16, device=DEVICE) for _ in range(3)]
    eight = [torch.zeros(shape, dtype=torch.uint8, device=DEVICE).view(torch.float8_e4m3fn) for _ in range(3)]
    scale = torch.tensor([4.0], device=DEVICE)
    to = fused_triton.EightBit(*eight, scale)
    fused_triton.queries_keys_values(qkv, weights, angles.cos(), angles.sin(), *kept, 1e-6, to)
    assert torch.equal(kept[1], plain[1]) and torch.equal(kept[2], plain[2])
    for made, wanted in zip(eight, (plain[0], plain[1], 4 * plain[2]), strict=True):
        assert torch.equal(made.view(torch.uint8), wanted.float().to(torch.float8_e4m3fn).view(torch.uint8))


def test_rms_norm_alone_turns_nothing() -> None:
    x, weight = noise(8, 90), noise(90, seed=1)
    assert_close(fused_triton.rms(x, weight, 1e-6), fused.rms_turned(x, weight, None, None, 1, 1e-6).flatten(1))


def test_what_does_not_fit_is_refused() -> None:
    x = noise(6, 32)
    with pytest.raises(ValueError, match="float32"):
        fused_triton.quantize_rows(x.float())
    with pytest.raises(ValueError, match=r"\(4, 32\) does not go with rows \(6, 32\)"):
        fused_triton.add_norm(x, None, None, Modulation(noise(4, 32), noise(4, 32)), 1e-6, fp8=False)
    with pytest.raises(ValueError, match="a gate of 3 latent frames does not go with a scale of 2"):
        fused_triton.add_norm(x, x, noise(3, 32), Modulation(noise(2, 32), noise(2, 32)), 1e-6, fp8=False)
    with pytest.raises(ValueError, match="must lie together"):
        fused_triton.quantize_rows(noise(32, 6).t())
