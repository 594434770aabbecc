import pytest
import torch
from torch import Tensor

from everscene_kernels.nvfp4 import dequantize, quantize
from everscene_kernels.nvfp4_weighted import block_moments, quantize_weighted


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unlike(rows: int, columns: int, seed: int = 1) -> Tensor:
    """Inputs whose columns are of many sizes and go together in pairs."""
    x = randn(rows, columns, seed=seed) * torch.exp(1.5 * randn(columns, seed=seed + 1))
    x[:, 1::2] += x[:, 0::2][:, : x[:, 1::2].shape[1]]
    return x


def test_moments_are_the_products_of_the_columns_of_a_block() -> None:
    x = randn(30, 41)
    moments = block_moments(x)
    assert moments.shape == (3, 16, 16)
    torch.testing.assert_close(moments[1], x[:, 16:32].t() @ x[:, 16:32])
    assert not moments[2, 9:].any() and not moments[2, :, 9:].any()


def test_the_outputs_of_new_inputs_err_less() -> None:
    weight, x, new = randn(64, 96), unlike(400, 96), unlike(400, 96)
    new = new[torch.randperm(400, generator=torch.Generator().manual_seed(7))] + 0.3 * randn(400, 96, seed=9)
    exact = new @ weight.t()

    def error(held: Tensor) -> float:
        return float((new @ held.t() - exact).norm() / exact.norm())

    plain = error(dequantize(quantize(weight)))
    assert error(dequantize(quantize_weighted(weight, block_moments(x)))) < 0.9 * plain


def test_with_equal_and_independent_inputs_and_two_scales_it_is_the_rule_mse() -> None:
    weight = randn(20, 64)
    moments = torch.eye(16).expand(4, 16, 16)
    found, wanted = quantize_weighted(weight, moments, (1.0, 1.5)), quantize(weight, "mse")
    same = found.scales.float() == wanted.scales.float()
    assert same.float().mean() > 0.97  # the two divide in another order: a scale between two E4M3 may go either way
    assert (dequantize(found) - weight).square().sum() <= 1.001 * (dequantize(wanted) - weight).square().sum()


@pytest.mark.parametrize("shape", [(3, 5), (1, 16), (7, 50)])
def test_any_width_is_held(shape: tuple[int, int]) -> None:
    weight = randn(*shape)
    weight[0] = 0.0
    held = quantize_weighted(weight, block_moments(randn(40, shape[1])))
    assert held.shape == shape and not dequantize(held)[0].any()
    assert (dequantize(held) - weight).abs().max() <= 0.3 * weight.abs().max()


def test_nothing_but_zeros_stays_so() -> None:
    assert not dequantize(quantize_weighted(torch.zeros(4, 32), torch.zeros(2, 16, 16))).any()


def test_moments_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"moments of 32 columns are \[2, 16, 16\]"):
        quantize_weighted(randn(4, 32), torch.zeros(3, 16, 16))
