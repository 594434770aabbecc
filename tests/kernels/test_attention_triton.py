"""Attention kernels against the definition: on the GPU if there is one, else in Triton's interpreter."""

import math

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed: pip install everscene[kernels] on Linux")

import triton

from everscene_kernels.attention_triton import attend, attend_fp8, attend_reference

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
BF16 = 0.01  # relative: operands and probabilities in bfloat16
FP8 = 0.04  # relative: probabilities in E4M3 (0.026 each); operands are exact


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().to(DEVICE)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("tokens", "keys"), [(32, 32), (37, 69), (5, 1)])
def test_every_key_is_seen_once(tokens: int, keys: int) -> None:
    q, k, v = noise(tokens, 2, 16), noise(keys, 2, 16, seed=1), noise(keys, 2, 16, seed=2)
    assert error(attend(q, k, v), attend_reference(q, k, v)) < BF16


def test_a_bias_hides_keys_and_weighs_others() -> None:
    q, k, v = noise(9, 2, 16), noise(20, 2, 16, seed=1), noise(20, 2, 16, seed=2)
    bias = torch.zeros(20, device=DEVICE)
    bias[7], bias[12:] = math.log(500), -math.inf
    assert error(attend(q, k, v, bias), attend_reference(q, k, v, bias)) < BF16
    v[12:] = 1e4
    assert error(attend(q, k, v, bias), attend_reference(q, k, v, bias)) < BF16


def test_keys_and_values_are_read_in_a_larger_tensor() -> None:
    q, cache = noise(7, 2, 16), noise(2, 50, 2, 16, seed=1)
    k, v = cache[0, 10:40], cache[1, 10:40]
    assert error(attend(q, k, v), attend_reference(q, k, v)) < BF16


def test_fp8_attention_is_near_the_definition_on_the_same_numbers() -> None:
    q, k, v = (noise(n, 2, 32, seed=n).to(torch.float8_e4m3fn) for n in (18, 35, 35))
    columns = v.permute(1, 2, 0).contiguous()
    found = attend_fp8(q, k, columns, 0.5, 2.0)
    assert error(found, attend_reference(q, k, v, None, 0.5, 2.0)) < FP8


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="heads of 24"):
        attend(noise(4, 2, 24), noise(4, 2, 24), noise(4, 2, 24))
    with pytest.raises(ValueError, match="k must be"):
        attend(noise(4, 2, 16), noise(4, 2, 16).float(), noise(4, 2, 16))
