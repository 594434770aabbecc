"""The few-step sampler: UniPC of order 2 (bh2) for flow matching, reduced to coefficients known in advance.

A noisy latent is x = (1 − σ)·clean + σ·noise, the network predicts v = noise − clean, so the clean latent it believes
in is m = x − σ·v. σ runs through N values, shifted towards noise, and ends at 0. In between, a predictor of order 1
or 2 steps from m and the m before it, and a corrector mends the sample it started from once the next m is known.
Since σ is fixed, each is a fixed linear combination: computed once here in float64, no solver in the loop.
With λ = ln((1−σ)/σ), h = λ_t − λ_s, α = 1 − σ, e = expm1(−h), r = (λ_before − λ_s)/h:

    predictor 1   x_t = (σ_t/σ_s)·x_s − α_t·e·m_s
    predictor 2   … − α_t·e·½·(m_before − m_s)/r
    corrector 1   x_t = (σ_t/σ_s)·x_s − α_t·e·m_s − α_t·e·½·(m_t − m_s)
    corrector 2   x_t = (σ_t/σ_s)·x_s − α_t·e·m_s − α_t·e·(ρ0·(m_before − m_s)/r + ρ1·(m_t − m_s))

The last step lands on σ = 0, where the sample is m itself. (Zhao et al., UniPC, 2023; the schedule is LongLive 2.0's.)

LongLive 1.0 was trained with another rule: after every step but the last the clean prediction is mixed with fresh
noise, x = (1 − σ')·m + σ'·noise. That is `renoise`, with a schedule of its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from everscene_engine.errors import ConfigError

FIRST_SIGMA = 0.9990000128746033  # 0.999 in float32, before the shift: the first step is not all noise


@dataclass(frozen=True)
class SolverStep:
    """How to go on once the clean prediction m of a step is known.

    corrector: weights of (x before, m two before, m before, m) that replace the sample x, or None at the first step.
    predictor: weights of (x, m before, m) that give the next sample.
    """

    corrector: tuple[float, float, float, float] | None
    predictor: tuple[float, float, float]


@dataclass(frozen=True)
class Schedule:
    """timesteps: what the network is told, one for each step. sigmas: noise levels, one more, the last 0."""

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    solver: tuple[SolverStep, ...]

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def make_schedule(steps: int, shift: float = 5.0) -> Schedule:
    """The schedule of `steps` denoising steps (1 to 50), σ ← shift·σ / (1 + (shift − 1)·σ)."""
    if not 1 <= steps <= 50:
        raise ConfigError(f"steps is {steps}; it must be 1 to 50")
    base = [FIRST_SIGMA * (1 - i / steps) for i in range(steps)]
    shifted = [shift * sigma / (1 + (shift - 1) * sigma) for sigma in base]
    sigmas = tuple(torch.tensor(shifted, dtype=torch.float32).tolist())
    timesteps = tuple(float(math.floor(1000 * sigma)) for sigma in sigmas)
    return Schedule(timesteps, (*sigmas, 0.0), _solver(sigmas))


def _solver(sigmas: tuple[float, ...]) -> tuple[SolverStep, ...]:
    """One entry for each step but the last, whose result is m itself."""
    steps: list[SolverStep] = []
    for i in range(len(sigmas) - 1):
        corrector = None
        if i:
            corrector = _correct(sigmas, i, order=2 if i > 1 else 1)
        steps.append(SolverStep(corrector, _predict(sigmas, i, order=2 if i else 1)))
    return tuple(steps)


def _lambda(sigma: float) -> float:
    return math.log((1 - sigma) / sigma)


def _predict(sigmas: tuple[float, ...], i: int, order: int) -> tuple[float, float, float]:
    """Weights of (x, m before, m) for σ_i → σ_{i+1}."""
    here, there = sigmas[i], sigmas[i + 1]
    h = _lambda(there) - _lambda(here)
    gain = -(1 - there) * math.expm1(-h)
    if order == 1:
        return there / here, 0.0, gain
    r = (_lambda(sigmas[i - 1]) - _lambda(here)) / h
    return there / here, gain * 0.5 / r, gain * (1 - 0.5 / r)


def _correct(sigmas: tuple[float, ...], i: int, order: int) -> tuple[float, float, float, float]:
    """Weights of (x before, m two before, m before, m) for the sample at σ_i."""
    before, here = sigmas[i - 1], sigmas[i]
    h = _lambda(here) - _lambda(before)
    e = math.expm1(-h)
    gain = -(1 - here) * e
    if order == 1:
        return here / before, 0.0, gain * 0.5, gain * 0.5
    r = (_lambda(sigmas[i - 2]) - _lambda(before)) / h
    phi1 = e / -h - 1
    phi2 = phi1 / -h - 0.5
    b1, b2 = phi1 / e, 2 * phi2 / e
    rho0 = (b1 - b2) / (1 - r)  # solves [[1, 1], [r, 1]]·(ρ0, ρ1) = (b1, b2)
    rho1 = b1 - rho0
    return here / before, gain * rho0 / r, gain * (1 - rho0 / r - rho1), gain * rho1


@dataclass(frozen=True)
class RenoiseSchedule:
    """timesteps: what the network is told, one for each step. sigmas: the noise level at each."""

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def make_renoise_schedule(steps: int, shift: float = 5.0) -> RenoiseSchedule:
    """LongLive 1.0's schedule: `steps` even steps down from 1 (1 to 50), shifted; timestep = 1000·σ.

    Four steps are 1000, 750, 500, 250 before the shift, and 1000, 937.5, 833.3, 625 after it.
    """
    if not 1 <= steps <= 50:
        raise ConfigError(f"steps is {steps}; it must be 1 to 50")
    base = [1 - i / steps for i in range(steps)]
    sigmas = tuple(shift * sigma / (1 + (shift - 1) * sigma) for sigma in base)
    return RenoiseSchedule(tuple(1000 * sigma for sigma in sigmas), sigmas)


class Interrupted(Exception):
    """Denoising was asked to stop between two forwards."""


def denoise(
    predict_flow: Callable[[Tensor, float], Tensor],
    noise: Tensor,
    schedule: Schedule,
    interrupted: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Clean latents from noise of any shape.

    predict_flow(x, timestep) is the network; interrupted() is asked before each call of it.
    Computed in float32 whatever the network's dtype; returned in noise's dtype. Raises Interrupted.
    """
    x = noise.float()  # what the network sees
    kept = x  # what the solver goes on from: x, or x as the corrector mended it
    m = m_before = x
    for i, timestep in enumerate(schedule.timesteps):
        if interrupted():
            raise Interrupted
        m_two_before, m_before = m_before, m
        m = x - schedule.sigmas[i] * predict_flow(x.to(noise.dtype), timestep).float()
        if i == schedule.steps - 1:
            break
        step = schedule.solver[i]
        if step.corrector is not None:
            a, b, c, d = step.corrector
            kept = a * kept + b * m_two_before + c * m_before + d * m
        a, b, c = step.predictor
        x = a * kept + b * m_before + c * m
    return m.to(noise.dtype)


def renoise(
    predict_flow: Callable[[Tensor, float], Tensor],
    fresh_noise: Callable[[int], Tensor],
    schedule: RenoiseSchedule,
    interrupted: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Clean latents by LongLive 1.0's rule. fresh_noise(step) gives noise of the latents' shape and dtype, for step 0
    and every later one; all else is as in `denoise`. Raises Interrupted."""
    noise = fresh_noise(0)
    dtype = noise.dtype
    x = noise.float()  # σ is 1 at the first step: nothing but noise
    m = x
    for i, timestep in enumerate(schedule.timesteps):
        if interrupted():
            raise Interrupted
        if i:
            sigma = schedule.sigmas[i]
            x = (1 - sigma) * m + sigma * fresh_noise(i).float()
        m = x - schedule.sigmas[i] * predict_flow(x.to(dtype), timestep).float()
    return m.to(dtype)
