"""Linears whose weights are held in NVFP4 or FP8, on the plain path."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_engine.errors import ConfigError
from everscene_engine.models import networks
from everscene_engine.stored_linear import StoredLinear, format_of, linears_of, store_linears
from everscene_kernels import nvfp4
from everscene_kernels.fp8 import linear_fp8_reference, quantize_rows
from tests.engine.small import TRANSFORMER, small_transformer


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(50, 24).bfloat16().requires_grad_(False)


def rows() -> Tensor:
    return torch.randn(5, 50, generator=torch.Generator().manual_seed(1)).bfloat16()


def test_a_weight_in_nvfp4_multiplies_as_the_numbers_that_it_holds() -> None:
    plain = linear()
    numbers = nvfp4.dequantize(nvfp4.quantize(plain.weight), torch.bfloat16)
    assert torch.equal(StoredLinear.of(plain, "nvfp4")(rows()), F.linear(rows(), numbers, plain.bias))


def test_a_weight_in_fp8_multiplies_with_rows_in_fp8() -> None:
    plain = linear()
    wanted = linear_fp8_reference(rows(), quantize_rows(plain.weight), plain.bias)
    assert torch.equal(StoredLinear.of(plain, "fp8")(rows()), wanted)


@pytest.mark.parametrize("format", ["nvfp4", "fp8"])
def test_another_dtype_for_the_model_leaves_the_weight_as_it_is(format: str) -> None:
    stored = StoredLinear.of(linear(), format)
    before = stored.state_dict()
    after = stored.float().state_dict()
    assert after["bias"].dtype == torch.float32
    for name in before.keys() - {"bias"}:
        assert after[name].dtype == before[name].dtype and torch.equal(
            after[name].view(torch.uint8), before[name].view(torch.uint8)
        )


def test_ten_linears_of_each_block_are_stored_and_no_others() -> None:
    model = small_transformer()
    assert format_of(model) is None
    named = list(linears_of(model))
    store_linears(model, "nvfp4")
    stored = [name for name, module in model.named_modules() if isinstance(module, StoredLinear)]
    assert len(stored) == 10 * TRANSFORMER.layers and all(name.startswith("blocks.") for name in stored)
    assert format_of(model) == "nvfp4"
    assert sorted(named) == sorted(stored)


def test_weights_take_three_and_a_half_times_less_than_bfloat16() -> None:
    stored = StoredLinear.of(nn.Linear(256, 128, dtype=torch.bfloat16), "nvfp4")
    held = sum(buffer.nbytes for buffer in stored.buffers())
    assert 3.5 * held <= 2 * 256 * 128


@pytest.mark.parametrize("format", ["nvfp4", "fp8"])
def test_a_state_dict_fits_a_model_made_without_weights(format: str) -> None:
    model = small_transformer()
    store_linears(model, format)
    empty = networks.transformer(TRANSFORMER.__dict__, format)
    empty.load_state_dict(model.state_dict(), assign=True)
    x = torch.randn(3, 48)
    assert torch.equal(empty.layers()[1].self_attn.q(x), model.layers()[1].self_attn.q(x))


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="format is 'int4'; weights are stored in nvfp4 or fp8"):
        store_linears(small_transformer(), "int4")
