"""The mean of low-rank weights is the mean of what they add."""

import pytest
import torch
from torch import Tensor

from everscene_engine.training.average_low_rank import DOWN, UP, average


def change(seed: int, rank: int = 2, name: str = "blocks.0.ffn.0") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name + DOWN: torch.randn(rank, 7, generator=generator),
        name + UP: torch.randn(5, rank, generator=generator),
    }


def added(tensors: dict[str, Tensor]) -> Tensor:
    return tensors["blocks.0.ffn.0" + UP] @ tensors["blocks.0.ffn.0" + DOWN]


def test_with_room_enough_the_mean_is_exact() -> None:
    one, other = change(0), change(1)
    made, lost = average([one, other], rank=4)
    torch.testing.assert_close(added(made), (added(one) + added(other)) / 2)
    assert abs(lost) < 1e-6


def test_a_smaller_rank_says_what_it_leaves_out() -> None:
    one, other = change(0), change(1)
    made, lost = average([one, other], rank=1)
    wanted = (added(one) + added(other)) / 2
    missing = (added(made) - wanted).square().sum() / wanted.square().sum()
    assert lost == pytest.approx(float(missing), abs=1e-5)


def test_weights_of_different_models_have_no_mean() -> None:
    with pytest.raises(ValueError, match="other names"):
        average([change(0), change(1, name="blocks.1.ffn.0")], rank=2)
