"""The sampler against the golden coefficients of LongLive 2.0's schedule and against diffusers' solver."""

import pytest
import torch

from everscene_engine.errors import ConfigError
from everscene_engine.sampler import Interrupted, denoise, make_schedule


@pytest.mark.parametrize(
    ("steps", "timesteps", "sigmas"),
    [
        (4, (999, 937, 833, 624), (0.99979985, 0.93726546, 0.83305540, 0.62468740, 0)),
        (3, (999, 908, 713), (0.99979985, 0.90884280, 0.71397940, 0)),
        (2, (999, 833), (0.99979985, 0.83305540, 0)),
    ],
)
def test_schedule_has_the_published_timesteps_and_levels(
    steps: int, timesteps: tuple[float, ...], sigmas: tuple[float, ...]
) -> None:
    schedule = make_schedule(steps)
    assert schedule.timesteps == timesteps
    assert schedule.sigmas == pytest.approx(sigmas, abs=5e-8)


def test_two_steps_have_the_published_coefficients() -> None:
    assert make_schedule(2).solver[0].predictor == pytest.approx((0.83322215, 0, 0.16677785), abs=1e-8)


def test_three_steps_have_the_published_coefficients() -> None:
    first, second = make_schedule(3).solver
    assert first.predictor == pytest.approx((0.90902475, 0, 0.09097525), abs=1e-8)
    assert second.corrector == pytest.approx((0.90902475, 0, 0.04548763, 0.04548763), abs=1e-8)
    assert second.predictor == pytest.approx((0.78559177, -0.02388038, 0.23828862), abs=1e-8)


def test_four_steps_have_the_published_coefficients() -> None:
    first, second, third = make_schedule(4).solver
    assert first.predictor == pytest.approx((0.93745309, 0, 0.06254691), abs=1e-8)
    assert second.corrector == pytest.approx((0.93745309, 0, 0.03127346, 0.03127346), abs=1e-8)
    assert second.predictor == pytest.approx((0.88881477, -0.01048897, 0.12167421), abs=1e-8)
    assert third.corrector == pytest.approx((0.88881477, -0.00054414, 0.04905817, 0.06267121), abs=1e-8)
    assert third.predictor == pytest.approx((0.74987497, -0.12521415, 0.37533919), abs=1e-8)


@pytest.mark.parametrize("steps", [2, 3, 4, 7])
def test_denoising_equals_the_solver_of_diffusers(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers", reason="the extra 'large' is not installed")
    schedule = make_schedule(steps)
    solver = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, solver_order=2, solver_type="bh2"
    )
    solver.set_timesteps(steps)
    solver.sigmas = torch.tensor(schedule.sigmas)  # its own schedule starts elsewhere; the solver is what is compared
    noise = torch.randn(1, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0))

    def flow(x: torch.Tensor, timestep: float) -> torch.Tensor:
        return torch.sin(3 * x + timestep / 100)

    x = noise
    for index, timestep in enumerate(solver.timesteps):
        x = solver.step(flow(x, schedule.timesteps[index]), timestep, x, return_dict=False)[0]
    torch.testing.assert_close(denoise(flow, noise, schedule), x, atol=2e-5, rtol=0)


def test_interruption_is_asked_before_every_forward() -> None:
    asked: list[int] = []
    called: list[float] = []

    def interrupted() -> bool:
        asked.append(len(called))
        return len(called) == 2

    def flow(x: torch.Tensor, timestep: float) -> torch.Tensor:
        called.append(timestep)
        return x

    with pytest.raises(Interrupted):
        denoise(flow, torch.zeros(2), make_schedule(4), interrupted)
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("steps", [0, 51])
def test_a_number_of_steps_out_of_range_is_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"steps is {steps}"):
        make_schedule(steps)
