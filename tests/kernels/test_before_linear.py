import math

import pytest
import torch
import torch.nn.functional as F

from everscene_kernels.before_linear import exp, gelu_tanh, norm_modulate


def test_the_exponential_is_right_to_two_units_of_the_last_place() -> None:
    z = torch.linspace(-87, 87, 200_001)
    exact = torch.exp(z.double())
    assert ((exp(z).double() - exact).abs() / exact).max() < 2 * 2.0**-23
    assert exp(torch.tensor([0.0])).item() == 1.0
    assert exp(torch.tensor([math.nan])).isnan().all()


def test_gelu_is_the_tanh_form_in_float32() -> None:
    x = torch.linspace(-12, 12, 200_001)
    exact = F.gelu(x.double(), approximate="tanh")
    # 2⁻²⁰ of the larger of 1 and the result: a few roundings of float32, each 2⁻²⁴ of a value up to 12.
    assert ((gelu_tanh(x).double() - exact).abs() / exact.abs().clamp(min=1)).max() < 2.0**-20


def test_gelu_in_bfloat16_is_rounded_once() -> None:
    x = torch.linspace(-3, 12, 20_001).bfloat16()
    exact = F.gelu(x.double(), approximate="tanh")
    # bfloat16 keeps 8 bits: rounding costs at most 2⁻⁸ of the value; 1 % more for the float32 before it.
    assert (gelu_tanh(x).double() - exact).abs().le(exact.abs() * 2.0**-8 * 1.01 + 1e-30).all()


def test_the_tail_of_gelu_keeps_its_digits() -> None:
    x = torch.linspace(-8, -0.01, 50_001)
    exact = x.double() / (1 + torch.exp(-2 * math.sqrt(2 / math.pi) * (x.double() + 0.044715 * x.double() ** 3)))
    # On the way to the exponent, up to 49, five operations and two constants are rounded by 2⁻²⁴ each.
    assert ((gelu_tanh(x).double() - exact) / exact).abs().max() < 7 * 49 * 2.0**-24


def test_gelu_of_what_is_not_finite() -> None:
    y = gelu_tanh(torch.tensor([math.inf, -math.inf, math.nan, 3e38, -3e38]))
    assert y[:2].tolist() == [math.inf, 0.0] and y[2].isnan() and y[3:].tolist() == [torch.tensor(3e38).item(), 0.0]


@pytest.mark.parametrize("columns", [1, 5, 16, 75, 384])
def test_norm_and_modulation_are_layer_norm_in_float32(columns: int) -> None:
    x = torch.randn(6, columns) * 3 + 1
    scale, shift = torch.randn(2, columns), torch.randn(2, columns)
    exact = F.layer_norm(x.double(), (columns,), eps=1e-6)
    exact = exact * (1 + scale.double().repeat_interleave(3, 0)) + shift.double().repeat_interleave(3, 0)
    # 1e-5: float32 sums of up to 384 numbers near 4, times a modulation of up to 5.
    torch.testing.assert_close(norm_modulate(x, scale, shift, 1e-6).double(), exact, atol=1e-5, rtol=1e-5)


def test_norm_in_bfloat16_rounds_where_the_transformer_does() -> None:
    x = torch.randn(8, 384).bfloat16()
    scale, shift = torch.randn(2, 384).bfloat16(), torch.randn(2, 384).bfloat16()
    normed = F.layer_norm(x.float(), (384,), eps=1e-6).bfloat16()
    expected = normed * (1 + scale.repeat_interleave(4, 0)) + shift.repeat_interleave(4, 0)
    # The norms may differ in the last bit of float32, which turns a rounding to bfloat16 once in some 2¹² numbers.
    assert (norm_modulate(x, scale, shift, 1e-6) != expected).float().mean() < 2e-3


def test_modulation_that_does_not_fit_is_refused() -> None:
    x = torch.zeros(6, 16)
    with pytest.raises(ValueError, match="do not divide x"):
        norm_modulate(x, torch.zeros(4, 16), torch.zeros(4, 16), 1e-6)
    with pytest.raises(ValueError, match="share a dtype"):
        norm_modulate(x, torch.zeros(2, 16).bfloat16(), torch.zeros(2, 16).bfloat16(), 1e-6)
    with pytest.raises(ValueError, match="are wanted"):
        norm_modulate(x[0], torch.zeros(2, 16), torch.zeros(2, 16), 1e-6)
    with pytest.raises(ValueError, match="float16"):
        gelu_tanh(x.half())
