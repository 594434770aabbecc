"""Blending the conditioning: both ends are the prompts themselves, and every step lies between them."""

import math

import pytest
import torch
from torch import Tensor

from everscene_engine.blend import interpolate, rows_of
from everscene_engine.conditioning import TextEmbedding
from everscene_engine.errors import ConfigError
from everscene_engine.load import load
from everscene_engine.port import Mix, Prompting, goal_of, prompting_from_json

ROWS = {"short": 3, "long": 5}


def encoder(padded_to: int):  # type: ignore[no-untyped-def]
    def encode(prompt: str) -> TextEmbedding:
        generator = torch.Generator().manual_seed(ROWS[prompt])
        tokens = torch.randn(1, ROWS[prompt] + 2, 7, generator=generator)  # two rows that are not read
        return TextEmbedding(tokens, torch.tensor([ROWS[prompt]]), padded_to)

    return encode


def rows(prompting: Prompting, padded_to: int = 0) -> tuple[Tensor, Tensor | None]:
    return rows_of(prompting, encoder(padded_to))


@pytest.mark.parametrize("padded_to", [0, 8])
@pytest.mark.parametrize("path", ["linear", "slerp"])
@pytest.mark.parametrize(("weight", "end"), [(0.0, "long"), (1.0, "short")])
def test_the_ends_of_a_blend_are_the_prompts(padded_to: int, path: str, weight: float, end: str) -> None:
    mixed, bias = rows(Mix("long", "short", weight, path), padded_to)  # type: ignore[arg-type]
    wanted, wanted_bias = rows(end, padded_to)
    if padded_to:  # the rows of the longer one have become the zero rows that the padding stands for
        assert torch.equal(mixed[:, : wanted.shape[1]], wanted)
        assert not mixed[:, wanted.shape[1] :].any()
        assert bias is not None and wanted_bias is not None
        assert bias.exp().sum() == pytest.approx(float(wanted_bias.exp().sum()))
    else:
        assert torch.equal(mixed, wanted)
        assert bias is None and wanted_bias is None


def test_rows_of_the_longer_prompt_fade_by_their_logits() -> None:
    mixed, bias = rows(Mix("short", "long", 0.25))
    assert mixed.shape[1] == 5 and bias is not None
    assert bias[0, 0, 0].tolist() == pytest.approx([0, 0, 0, math.log(0.25), math.log(0.25)])


def test_rows_of_a_padded_model_grow_out_of_zero() -> None:
    mixed, _ = rows(Mix("short", "long", 0.25), padded_to=8)
    assert torch.allclose(mixed[:, 3:5], 0.25 * rows("long")[0][:, 3:5])


def test_a_blend_can_begin_within_another() -> None:
    inner = Mix("short", "long", 0.5)
    halfway, _ = rows(Mix(inner, "short", 0.5))
    assert torch.allclose(halfway[:, :3], torch.lerp(rows(inner)[0][:, :3], rows("short")[0], 0.5))


def test_slerp_goes_evenly_in_angle_and_length() -> None:
    before, after = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    middle = interpolate(before, after, 1 / 3, "slerp")[0]
    assert math.atan2(middle[1], middle[0]) == pytest.approx(math.pi / 6, abs=1e-6)
    assert float(middle.norm()) == pytest.approx(2 + 2 / 3, abs=1e-6)


@pytest.mark.parametrize("after", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
def test_slerp_of_rows_on_one_line_has_no_nan(after: list[float]) -> None:
    assert bool(torch.isfinite(interpolate(torch.tensor([[1.0, 0.0]]), torch.tensor([after]), 0.4, "slerp")).all())


@pytest.mark.parametrize(("weight", "path", "words"), [(1.5, "linear", "from 0 to 1"), (0.5, "arc", "linear, slerp")])
def test_a_mix_that_cannot_be_is_refused(weight: float, path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        rows(Mix("short", "long", weight, path))  # type: ignore[arg-type]


def test_a_mix_goes_through_json() -> None:
    mix = Mix(Mix("a", "b", 0.5), "c", 0.25, "slerp")
    assert prompting_from_json([["a", "b", 0.5, "linear"], "c", 0.25, "slerp"]) == mix
    assert goal_of(mix) == "c" and prompting_from_json("a") == "a"


def test_the_pocket_model_follows_a_blend() -> None:
    before, after = "a red fox trots along the harbour by day", "a red fox trots along the harbour at night, heavy snow"

    def last_latents(prompting: Prompting) -> Tensor:
        engine = load("pocket", steps=1, device="cpu")
        engine.steer(before, "recache")
        engine.generate()
        engine.steer(prompting, "text")
        chunk = engine.generate()
        assert chunk is not None
        latents: Tensor = chunk.latents
        return latents.float()

    start, middle, end = (last_latents(Mix(before, after, weight)) for weight in (0.0, 0.5, 1.0))
    assert torch.equal(start, last_latents(before)) and torch.equal(end, last_latents(after))
    whole = (end - start).norm()
    assert 0 < (middle - start).norm() < whole and 0 < (middle - end).norm() < whole
