import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everscene_kernels import nvfp4_linear
from everscene_kernels.nvfp4 import NVFP4Tensor, Rule, decode_e2m1, dequantize, quantize, unpack
from everscene_kernels.nvfp4_linear import linear_nvfp4, linear_nvfp4_both, multiply, operand, scaled_codes


def test_the_plain_linear_is_that_of_the_dequantised_weight() -> None:
    x, bias = torch.randn(2, 5, 50).bfloat16(), torch.randn(24).bfloat16()
    weight = quantize(torch.randn(24, 50))
    expected = F.linear(x, dequantize(weight).bfloat16(), bias)
    assert torch.equal(linear_nvfp4(x, weight, bias), expected)


def test_codes_times_block_scales_are_exact_in_bfloat16() -> None:
    for rule in ("static_6", "mse"):
        codes = scaled_codes(quantize(torch.randn(64, 256) * torch.logspace(-3, 3, 64)[:, None], rule))
        assert torch.equal(codes.bfloat16().float(), codes)


@pytest.mark.parametrize(("rule", "weight_rule"), [("mse", "mse"), ("mse", "static_6"), ("static_6", "abs_max")])
def test_with_both_sides_in_four_bits_the_product_is_that_of_their_numbers(rule: Rule, weight_rule: Rule) -> None:
    x, bias = torch.randn(3, 7, 50), torch.randn(24)
    weight = quantize(torch.randn(24, 50), weight_rule)
    exact = dequantize(quantize(x, rule)).double() @ dequantize(weight).double().t() + bias.double()
    # Float32 sums of 50 products of size up to 10.
    torch.testing.assert_close(linear_nvfp4_both(x, weight, bias, rule).double(), exact, atol=2e-5, rtol=1e-5)


def test_the_bias_is_added_after_rounding() -> None:
    x, weight, bias = torch.randn(4, 32).bfloat16(), quantize(torch.randn(16, 32)), torch.randn(16).bfloat16()
    assert torch.equal(linear_nvfp4_both(x, weight, bias), linear_nvfp4_both(x, weight) + bias)


def test_a_calibrated_amax_bounds_the_activation() -> None:
    x, weight = torch.full((1, 16), 100.0), quantize(torch.eye(16))
    bounded = linear_nvfp4_both(x, weight, amax=torch.tensor([6.0]))
    assert bounded.tolist()[0] == pytest.approx([6.0] * 16)


def weights_of(*outer: int) -> list[NVFP4Tensor]:
    made = [torch.randn(rows, 64, generator=torch.Generator().manual_seed(rows)) * rows for rows in outer]
    return [quantize(one) for one in made]


def scaled_mm_as_described(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, out_dtype: torch.dtype) -> Tensor:
    """torch._scaled_mm of float4_e2m1fn_x2: a by rows, b by columns, scales of blocks of 16 at their closed form."""

    def numbers(codes: Tensor, scales: Tensor) -> Tensor:
        rows, wide = codes.shape[0], codes.shape[1] * 2
        values = decode_e2m1(unpack(codes.contiguous().view(torch.uint8)))
        r, c = torch.arange(rows)[:, None], torch.arange(wide // 16)[None]
        tiles = (wide // 16 + 3) // 4
        assert scales.numel() == (rows + 127) // 128 * 128 * tiles * 4 and scales.is_contiguous()
        at = (r // 128 * tiles + c // 4) * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4
        return values * scales.float()[at].repeat_interleave(16, 1)

    assert a.dtype == b.dtype == torch.float4_e2m1fn_x2 and a.is_contiguous() and b.t().is_contiguous()
    return (numbers(a, scale_a) @ numbers(b.t(), scale_b).t()).to(out_dtype)


@pytest.mark.parametrize("rows", [1, 7, 130])
def test_the_matrix_units_are_given_what_they_are_described_to_take(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weights = quantize(torch.randn(rows, 64, generator=torch.Generator().manual_seed(1))), weights_of(48, 16)
    bias = torch.randn(64, generator=torch.Generator().manual_seed(2))
    emulated = multiply(x, operand(weights), bias)
    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm_as_described)
    monkeypatch.setattr(nvfp4_linear, "_emulated", lambda *operands: nvfp4_linear._on_matrix_units(*operands))
    found = multiply(x, operand(weights), bias)
    assert (found - emulated).norm() < 0.005 * emulated.norm()  # its sums are rounded to bfloat16


def test_several_weights_are_multiplied_as_each_of_them() -> None:
    x, weights = torch.randn(7, 64, generator=torch.Generator().manual_seed(1)), weights_of(48, 16)
    bias = torch.randn(64, generator=torch.Generator().manual_seed(2))
    found = multiply(quantize(x), operand(weights), bias)
    wanted = [linear_nvfp4_both(x, one, b) for one, b in zip(weights, bias.split([48, 16]), strict=True)]
    torch.testing.assert_close(found, torch.cat(wanted, 1))
    with pytest.raises(ValueError, match="inner sizes of whole 32s"):
        operand([quantize(torch.ones(4, 48))])


def test_an_activation_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        linear_nvfp4(torch.randn(4, 16), quantize(torch.randn(8, 32)))
    with pytest.raises(ValueError, match="do not fit"):
        linear_nvfp4_both(torch.randn(4, 16), quantize(torch.randn(16)))
