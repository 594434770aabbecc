import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from everscene_kernels.nvfp4 import (
    BLOCK,
    E2M1_MAGNITUDES,
    RULES,
    NVFP4Tensor,
    Rule,
    decode_e2m1,
    dequantize,
    encode_e2m1,
    pack,
    pair_sum,
    quantize,
    to_e4m3,
    unit,
    unpack,
)

SIXES: tuple[Rule, ...] = ("mse", "mae", "abs_max")


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_error(x: Tensor, rule: Rule) -> float:
    return ((dequantize(quantize(x, rule)) - x).norm() / x.norm()).item()


def test_the_sixteen_codes_have_the_values_of_e2m1() -> None:
    expected = []
    for code in range(16):
        exponent, mantissa = code >> 1 & 3, code & 1
        magnitude = mantissa * 0.5 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1)
        expected.append(-magnitude if code & 8 else magnitude)
    assert decode_e2m1(torch.arange(16, dtype=torch.uint8)).tolist() == expected


def test_a_number_becomes_the_nearest_code_and_a_tie_the_even_one() -> None:
    y = torch.arange(-8 * 64, 8 * 64 + 1) / 64  # all ties among them
    for number, code in zip(y.tolist(), encode_e2m1(y).tolist(), strict=True):
        distances = [abs(abs(number) - magnitude) for magnitude in E2M1_MAGNITUDES]
        nearest = [index for index, distance in enumerate(distances) if distance == min(distances)]
        assert code & 7 == min(nearest, key=lambda index: index % 2)
        assert (code >= 8) == (number < 0)


def test_not_a_number_and_minus_zero_become_code_zero() -> None:
    assert encode_e2m1(torch.tensor([math.nan, -0.0, 0.0])).tolist() == [0, 0, 0]


def test_the_even_column_is_the_low_nibble() -> None:
    assert pack(torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8)).tolist() == [[0x21, 0x0F]]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(pack(unpack(every)), every)


def test_pairs_are_summed_as_a_tree_of_neighbours() -> None:
    x = torch.tensor([1.0, 2.0**-24, 2.0**-24, 2.0**-24])  # from left to right this would stay 1
    assert pair_sum(x).item() == 1.0 + 2.0**-23


def test_scales_round_to_e4m3_and_never_overflow() -> None:
    scales = torch.tensor([0.0, 2.0**-10, 1.5 * 2.0**-10, 2.0**-9, 1.0625, 1.1875, 447.0, 464.0, 1e30])
    assert to_e4m3(scales).tolist() == [0.0, 0.0, 2.0**-9, 2.0**-9, 1.0, 1.25, 448.0, 448.0, 448.0]


@pytest.mark.parametrize(("rule", "amax_to"), [("static_6", 2688), ("static_4", 1792), *((r, 1536) for r in SIXES)])
def test_the_tensor_scale_maps_amax_to_the_rule_s_unit(rule: Rule, amax_to: float) -> None:
    assert unit(rule) == amax_to
    assert quantize(gaussian(4, 32), rule).tensor_scale.item() == pytest.approx(
        gaussian(4, 32).abs().max().item() / amax_to, rel=1e-6
    )


def test_a_block_by_hand() -> None:
    x = torch.tensor([[6.0, -3.0, 2.5, 0.75, 0.25, -0.2, *[0.0] * 10]])
    held = quantize(x, "static_6")
    assert held.scales.float().tolist() == [[448.0]]  # the block that holds amax has the largest scale
    assert unpack(held.values)[0, :6].tolist() == [7, 8 + 5, 4, 2, 0, 8]
    assert dequantize(held)[0, :4].tolist() == pytest.approx([6.0, -3.0, 2.0, 1.0])


def test_four_over_six_takes_the_scale_that_suits_the_block() -> None:
    with_five = torch.tensor([[6.0, 4.5, 4.5, 4.5, *[0.0] * 12]])  # to 4: 4, 3, 3, 3; to 6: 6 and three times 4
    with_four = torch.tensor([[6.0, 4.0, 2.0, 1.0, *[0.0] * 12]])  # on the codes as they are
    for rule in SIXES:
        assert unpack(quantize(with_five, rule).values)[0, :4].tolist() == [6, 5, 5, 5]
        assert unpack(quantize(with_four, rule).values)[0, :4].tolist() == [7, 6, 4, 2]
        assert quantize(with_five, rule).scales.item() == 384
        assert quantize(with_four, rule).scales.item() == 256
        assert torch.equal(dequantize(quantize(with_five, rule)), with_five)


def block_errors(x: Tensor, rule: Rule) -> Tensor:
    return (dequantize(quantize(x, rule)) - x).unflatten(-1, (-1, BLOCK))


def test_each_rule_is_best_in_what_it_measures() -> None:
    x = gaussian(256, 256)
    errors = {rule: block_errors(x, rule) for rule in RULES}
    measures = {
        "mse": lambda e: e.square().sum(-1),
        "mae": lambda e: e.abs().sum(-1),
        "abs_max": lambda e: e.abs().amax(-1),
    }
    for rule, measure in measures.items():
        own = measure(errors[rule])
        for other in SIXES:
            # Choices are made per block among the same two candidates. 1e-6: the measure here sums in another order.
            assert (own <= measure(errors[other]) * (1 + 1e-6) + 1e-12).all()
        assert own.mean() < 0.99 * min(measure(errors[fixed]).mean() for fixed in ("static_6", "static_4"))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("static_6", 0.0951), ("static_4", 0.0982), ("mse", 0.0870), ("mae", 0.0883), ("abs_max", 0.0894)],
)
def test_relative_error_on_gaussian_numbers(rule: Rule, expected: float) -> None:
    # The means of 20 seeds are in the table; the 20 lie within 0.0005 of them, one seed is fixed here, and 0.001 still
    # tells static_6 from static_4 and mse from abs_max.
    assert relative_error(gaussian(512, 512, seed=5), rule) == pytest.approx(expected, abs=0.001)


def test_the_worst_error_is_half_the_widest_gap() -> None:
    # Codes 4 and 6 lie 2 apart: a number is off by 1 scale at most, and a scale is max / 6, rounded up by 1/16 at most.
    x = gaussian(512, 512)
    block_max = x.unflatten(-1, (-1, BLOCK)).abs().amax(-1)
    assert (block_errors(x, "static_6").abs().amax(-1) <= block_max / 6 * 17 / 16 * (1 + 1e-6)).all()


def test_the_relative_error_does_not_depend_on_the_size_of_the_numbers() -> None:
    x = gaussian(64, 64)
    for rule in RULES:
        for factor in (2.0**-60, 2.0**30):
            scaled = quantize(x * factor, rule)
            assert torch.equal(scaled.values, quantize(x, rule).values)


def test_the_codes_of_a_dequantised_tensor_are_its_own() -> None:
    x = gaussian(64, 64).bfloat16()
    once = dequantize(quantize(x, "static_6"))
    assert torch.equal(dequantize(quantize(once, "static_6", amax=quantize(x, "static_6").amax)), once)


@given(
    x=arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(0, 40)), elements=st.floats(width=32)),
    rule=st.sampled_from(RULES),
)
@settings(max_examples=150, deadline=None)
def test_any_numbers_at_all_give_finite_ones_of_the_same_shape(x: np.ndarray, rule: Rule) -> None:
    numbers = torch.from_numpy(x)
    held = quantize(numbers, rule)
    back = dequantize(held)
    amax = held.amax.item()
    assert back.shape == numbers.shape
    assert back.isfinite().all()
    assert (back.abs() <= amax * (1 + 2**-4)).all()  # a scale for 4 may be rounded up: 1/16 at most
    finite = numbers.isfinite()
    assert amax == (numbers[finite].abs().max().item() if finite.any() else 0.0)
    assert (back[numbers.isnan()] == 0).all()
    assert (back[numbers == 0] == 0).all()
    assert (back * torch.where(finite, numbers, 0) >= 0).all()  # no sign turns
    if amax >= 2.0**-100:
        largest = back[numbers.isinf()]
        assert ((largest.abs() / amax - 1).abs() <= 2**-4).all()


def test_numbers_beyond_a_given_amax_become_it() -> None:
    x = torch.tensor([[3.0, -50.0, math.inf, -math.inf, 1.0, *[0.0] * 11]])
    for rule in RULES:
        back = dequantize(quantize(x, rule, amax=torch.tensor([6.0])))
        assert back[0, 1:4].tolist() == pytest.approx([-6.0, 6.0, -6.0])


def test_a_small_block_beside_a_large_one_survives_in_static_6() -> None:
    x = torch.cat([torch.full((1, 16), 1.0), torch.full((1, 16), 1e-6)], dim=1)
    assert dequantize(quantize(x, "static_6"))[0, 16:].abs().min() > 0
    assert dequantize(quantize(x, "mse"))[0, 16:].abs().max() == 0


@pytest.mark.parametrize("shape", [(0,), (1,), (17,), (3, 0), (0, 5), (2, 3, 50)])
def test_any_shape_is_held_and_padded_with_zeros(shape: tuple[int, ...]) -> None:
    held = quantize(torch.ones(shape))
    assert dequantize(held).shape == shape
    padding = unpack(held.values)[:, shape[-1] :]
    assert not padding.any()


def test_a_wide_tensor_holds_four_and_a_half_bits_a_number() -> None:
    assert quantize(gaussian(256, 256)).bits_per_value == pytest.approx(4.5, abs=0.001)


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(ValueError, match="no NVFP4 rule 'best'"):
        quantize(torch.ones(4, 16), "best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="int64"):
        quantize(torch.ones(4, 16, dtype=torch.int64))
    with pytest.raises(ValueError, match="single number"):
        quantize(torch.tensor(1.0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_static_6_is_the_tensor_of_nvidia_modelopt(dtype: torch.dtype) -> None:
    name = "modelopt.torch.quantization.qtensor"
    modelopt = pytest.importorskip(name, reason="nvidia-modelopt is not installed: pip install everscene[quantize]")
    x = gaussian(512, 256) * torch.exp(3 * gaussian(512, 1, seed=1))
    x[3] *= 1e-9  # scales at their floor
    x[4] = 0.0
    x = x.to(dtype)
    theirs, scales, tensor_scale = modelopt.NVFP4QTensor.quantize(x.clone(), 16)  # takes the magnitude in place
    ours: NVFP4Tensor = quantize(x, "static_6")
    assert torch.equal(ours.values, theirs._quantized_data)
    assert torch.equal(ours.tensor_scale, tensor_scale.reshape(1))
    zeros = x.unflatten(-1, (-1, BLOCK)).abs().amax(-1) == 0
    assert torch.equal(ours.scales.float()[~zeros], scales.float()[~zeros])  # of zeros they make 1, we 0
    back = theirs.dequantize(torch.float32, scale=scales, double_scale=tensor_scale, block_sizes={-1: 16})
    assert torch.equal(dequantize(ours), back)
