"""The kernels between the convolutions of a Wan VAE, against their definitions."""

import pytest
import torch
from torch import Tensor

from everscene_engine.decoder import frames_to_rgba8
from everscene_kernels import pictures

pytest.importorskip("triton", reason="triton is not installed: pip install everscene[kernels] on Linux")

import triton

from everscene_kernels import pictures_triton

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"


def frames(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().to(DEVICE)


@pytest.mark.parametrize("channels", [16, 24, 96])
def test_a_norm_and_its_silu_are_one_pass(channels: int) -> None:
    x, gamma = frames(2, 3, 5, channels), frames(channels, seed=1)
    x[0, 0, 0] = 0.0
    found, wanted = pictures_triton.norm_silu(x, gamma).float(), pictures.norm_silu(x, gamma).float()
    assert ((found - wanted).abs() <= 2.0**-7 * wanted.abs()).all()
    assert (found != wanted).float().mean() < 0.02


def test_a_bias_is_added_before_the_norm_and_the_result_goes_where_it_shall() -> None:
    x, gamma, bias = frames(2, 3, 5, 24), frames(24, seed=1), frames(24, seed=2)
    row = torch.full((4, 3, 5, 24), torch.nan, dtype=torch.bfloat16, device=DEVICE)
    pictures_triton.norm_silu(x, gamma, bias, row[2:])
    wanted = pictures.norm_silu(x, gamma, bias).float()
    assert row[:2].isnan().all()
    assert ((row[2:].float() - wanted).abs() <= 2.0**-7 * wanted.abs()).all()


def test_a_bias_and_a_shortcut_are_added_in_place() -> None:
    x, other, bias = frames(2, 3, 5, 24), frames(2, 3, 5, 24, seed=1), frames(24, seed=2)
    wanted = pictures.add_biased(x, other, bias)
    assert pictures_triton.add_biased(x, other, bias) is x
    assert torch.equal(x, wanted)


@pytest.mark.parametrize("with_other", [True, False])
def test_a_bias_and_a_rectifier_are_one_pass(with_other: bool) -> None:
    x, bias = frames(2, 3, 5, 24), frames(24, seed=2)
    other = frames(2, 3, 5, 24, seed=1) if with_other else None
    wanted = pictures.biased_relu(x, bias, other)
    assert torch.equal(pictures_triton.biased_relu(x, bias, other), wanted)


@pytest.mark.parametrize("parts", [1, 2])
def test_every_pixel_becomes_four(parts: int) -> None:
    x = frames(2, 3, 5, 24 * parts)
    found = pictures_triton.doubled(x, parts)
    assert found.shape == (2 * parts, 6, 10, 24)
    assert torch.equal(found, pictures.doubled(x, parts))


@pytest.mark.parametrize(("narrow", "channels", "times"), [(16, 16, 2), (16, 8, 1), (16, 8, 2)])
@pytest.mark.parametrize("left_out", [0, 1])
def test_a_shortcut_without_weights_is_added_in_place(narrow: int, channels: int, times: int, left_out: int) -> None:
    small, x = frames(3, 2, 3, narrow), frames(3 * times - left_out, 4, 6, channels, seed=1)
    wanted = pictures.add_grown(x, small, times)
    assert pictures_triton.add_grown(x, small, times) is x
    assert torch.equal(x, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_become_pixels_as_they_do_on_a_cpu(dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 7, 3, generator=torch.Generator().manual_seed(0)).to(dtype).permute(0, 3, 1, 2)
    x[0, :, 0, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    wanted = frames_to_rgba8(x)
    assert torch.equal(pictures_triton.rgba8(x.to(DEVICE)).cpu(), wanted)


def test_what_is_no_frame_of_bfloat16_is_refused() -> None:
    with pytest.raises(ValueError, match=r"contiguous bfloat16 \[T, H, W, C\]"):
        pictures_triton.doubled(torch.zeros(1, 2, 2, 8, device=DEVICE), 1)
