import math

import pytest
import torch

from everscene_kernels.fp8 import has_fp8_units, linear_fp8, linear_fp8_reference, quantize_rows


def test_each_row_has_its_own_scale_and_reaches_448() -> None:
    x = torch.randn(7, 33) * torch.logspace(-6, 6, 7)[:, None]
    rows = quantize_rows(x)
    assert torch.equal(rows.values.float().abs().amax(1), torch.full((7,), 448.0))
    assert torch.equal(rows.scales[:, 0], x.abs().amax(1) / 448)


def test_a_number_is_off_by_a_sixteenth_at_most() -> None:
    x = torch.randn(64, 256)
    rows = quantize_rows(x)
    # Three bits of mantissa: half a step is 1/16 of the value, or half of 2⁻⁹ below 2⁻⁶; 1e-6 for the division.
    allowed = torch.maximum(x.abs() / 16, rows.scales * 2.0**-10) * (1 + 1e-6)
    assert ((rows.dequantize() - x).abs() <= allowed).all()


def test_the_relative_error_on_gaussian_numbers_is_that_of_three_bits() -> None:
    x = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    error = ((quantize_rows(x).dequantize() - x).norm() / x.norm()).item()
    # A step is 1/8 to 1/16 of the value; evenly filled, its size over √12 is 0.036 to 0.018, near 0.0265 over all.
    assert error == pytest.approx(0.0265, abs=0.001)


def test_rows_of_nothing_and_of_what_is_not_finite() -> None:
    x = torch.zeros(5, 16)
    x[1, :3] = torch.tensor([2.0, math.inf, -math.inf])
    x[2, :2] = torch.tensor([math.nan, 4.0])
    x[3, 0] = math.inf
    x[4, 0] = 1e-40
    back = quantize_rows(x).dequantize()
    assert back[1, :3].tolist() == pytest.approx([2.0, 2.0, -2.0])
    assert back[2, :2].tolist() == pytest.approx([0.0, 4.0])
    assert not back[0].any() and not back[3].any() and not back[4].any()


def test_the_linear_is_the_product_of_the_quantised_matrices() -> None:
    x, weight, bias = torch.randn(2, 5, 48), torch.randn(32, 48), torch.randn(32)
    held = quantize_rows(weight)
    rows = quantize_rows(x.reshape(-1, 48))
    exact = (rows.dequantize().double() @ held.dequantize().double().t() + bias.double()).reshape(2, 5, 32)
    # Float32 sums of 48 products of size up to 10.
    torch.testing.assert_close(linear_fp8_reference(x, held, bias).double(), exact, atol=2e-5, rtol=1e-5)
    assert linear_fp8_reference(x.bfloat16(), held, bias.bfloat16()).dtype == torch.bfloat16


def test_the_linear_is_near_the_one_that_was_not_quantised() -> None:
    x, weight = torch.randn(64, 256), torch.randn(128, 256)
    exact = x @ weight.t()
    error = ((linear_fp8_reference(x, quantize_rows(weight)) - exact).norm() / exact.norm()).item()
    assert error == pytest.approx(0.0265 * math.sqrt(2), abs=0.003)  # both sides quantised, their errors independent


def test_without_fp8_units_the_linear_is_the_reference() -> None:
    x, held, bias = torch.randn(3, 32).bfloat16(), quantize_rows(torch.randn(16, 32)), torch.randn(16).bfloat16()
    assert not has_fp8_units(x.device, 32, 16)
    assert torch.equal(linear_fp8(x, held, bias), linear_fp8_reference(x, held, bias))


def test_sizes_that_are_no_multiple_of_sixteen_are_not_given_to_the_gpu() -> None:
    gpu = torch.device("cuda")
    assert not has_fp8_units(gpu, 33, 16) and not has_fp8_units(gpu, 32, 17)


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="floating-point matrix"):
        quantize_rows(torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match="int32"):
        quantize_rows(torch.zeros(2, 3, dtype=torch.int32))
