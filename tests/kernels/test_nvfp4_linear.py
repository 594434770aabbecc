import pytest
import torch
import torch.nn.functional as F

from everscene_kernels.nvfp4 import Rule, dequantize, quantize
from everscene_kernels.nvfp4_linear import linear_nvfp4, linear_nvfp4_both, scaled_codes


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


def test_an_activation_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        linear_nvfp4(torch.randn(4, 16), quantize(torch.randn(8, 32)))
    with pytest.raises(ValueError, match="do not fit"):
        linear_nvfp4_both(torch.randn(4, 16), quantize(torch.randn(16)))
