"""LongLive 1.0's sampler, against its published table and rule written down step by step."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everscene_engine.errors import ConfigError
from everscene_engine.sampler import Interrupted, make_renoise_schedule, renoise
from everscene_engine.stream import LatentStream
from tests.engine.small import small_prompt, small_transformer
from tests.engine.test_cuts import SHOTS


def published_table() -> tuple[Tensor, Tensor]:
    """σ and timesteps of the 1000 training steps, shifted by 5."""
    sigmas = torch.linspace(1, 0, 1001, dtype=torch.float64)[:-1]
    sigmas = 5 * sigmas / (1 + 4 * sigmas)
    return sigmas, 1000 * sigmas


def test_four_steps_are_the_published_ones() -> None:
    schedule = make_renoise_schedule(4)
    sigmas, timesteps = published_table()
    places = [1000 - step for step in (1000, 750, 500, 250)]
    assert schedule.sigmas == pytest.approx(sigmas[places].tolist(), abs=1e-12)
    assert schedule.timesteps == pytest.approx(timesteps[places].tolist(), abs=1e-9)
    assert schedule.timesteps == pytest.approx((1000, 937.5, 833.333333, 625), abs=1e-6)


def flow(x: Tensor, timestep: float) -> Tensor:
    return torch.sin(3 * x + timestep / 100)


def noise(step: int) -> Tensor:
    return torch.randn(1, 2, 4, 3, 3, generator=torch.Generator().manual_seed(step))


def test_clean_predictions_are_mixed_with_fresh_noise() -> None:
    schedule = make_renoise_schedule(4)
    x = noise(0).double()
    for step, (sigma, timestep) in enumerate(zip(schedule.sigmas, schedule.timesteps, strict=True)):
        clean = x - sigma * flow(x, timestep)
        if step < 3:
            x = (1 - schedule.sigmas[step + 1]) * clean + schedule.sigmas[step + 1] * noise(step + 1).double()
    torch.testing.assert_close(renoise(flow, noise, schedule), clean.float(), atol=1e-5, rtol=0)


def test_one_step_asks_for_noise_once() -> None:
    asked: list[int] = []

    def counted(step: int) -> Tensor:
        asked.append(step)
        return noise(step)

    renoise(flow, counted, make_renoise_schedule(1))
    assert asked == [0]


def test_interruption_is_asked_before_every_forward() -> None:
    asked: list[int] = []

    def interrupted() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(Interrupted):
        renoise(flow, noise, make_renoise_schedule(4), interrupted)
    assert len(asked) == 3


def test_a_stream_draws_other_noise_for_every_step_and_the_same_again_after_a_rollback() -> None:
    model = small_transformer()
    stream = LatentStream(model, replace(SHOTS, sampler="renoise", steps=3), seed=5)
    stream.steer(small_prompt(model))
    draws = [stream._noise(step) for step in range(3)]
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[1], draws[2])
    first = [stream.generate() for _ in range(3)][-1]
    stream.rollback(4)
    again = stream.generate()
    assert first is not None and again is not None
    torch.testing.assert_close(first.latents, again.latents, atol=1e-5, rtol=0)  # all chunks are still in the cache


@pytest.mark.parametrize("steps", [0, 51])
def test_a_number_of_steps_out_of_range_is_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"steps is {steps}"):
        make_renoise_schedule(steps)
