"""Small training runs on random clips, alone or as one rank of several."""

import argparse
import os
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from everscene_engine.training import teacher_forcing
from everscene_engine.training.clip_pool import ClipPool
from everscene_engine.training.teacher_forcing import Recipe, Trainer
from everscene_engine.training.team import Team
from everscene_engine.training.world_model import Optimizer, WorldModel
from tests.engine.balanced import SIZES, STREAM

STEPS, SEED = 8, 3  # so many that clips come again, with what was predicted of them in their history
RECIPE = Recipe(batch=2, chunks=5, pool=16, fresh=4, fresh_every=4, warmup_steps=1, own_errors=1.0)


class RandomPool(ClipPool):
    """Latents and words by chance: nothing is rendered. Ten latent frames: two ranks meet within a chunk."""

    def _make(self) -> tuple[Tensor, ...]:
        clips, frames = self._fresh, self._chunks * self._chunk_frames
        latents, own = torch.randn(2, clips, frames, 4, 4, 6, generator=self._making)
        words = torch.randint(1, 20, (clips, self._chunks, 40), generator=self._making)
        prompt = torch.tensor([0, 1, 1, 3, 3]).repeat_interleave(self._chunk_frames).expand(clips, -1)
        gap, is_cut = torch.zeros(clips, dtype=torch.long), torch.zeros(clips, frames, dtype=torch.bool)
        return latents, own, words, prompt, gap, is_cut, torch.arange(clips) < 1


class Steps:
    """A budget of steps in place of seconds."""

    elapsed, fraction = 0.0, 0.5

    def __init__(self, steps: int) -> None:
        self._left = steps

    @property
    def spent(self) -> bool:
        self._left -= 1
        return self._left < 0

    def begin(self) -> None:
        """Nothing is timed."""


class OtherClock(Steps):
    """Of a rank whose clock nobody should ask: it would stop at once, and learn at another rate."""

    fraction, spent = 1.0, True


def start() -> Tensor:
    """The weights that a run begins with."""
    torch.manual_seed(SEED)
    return weights(WorldModel.new(SIZES))


def weights(of: WorldModel) -> Tensor:
    """All of them in a row."""
    return torch.cat([parameter.detach().flatten() for parameter in of.parameters()])


def begun(out: Path, team: Team, muon: bool = True, resume: Path | None = None) -> Trainer:
    """A rank's run before its first step."""
    options = argparse.Namespace(
        out=out, autoencoder=None, resume=resume, device="cpu", seconds=STEPS, seed=SEED, save_every=1e9
    )
    small: dict[str, Any] = {
        "POCKET_STREAM": STREAM,
        "POCKET_TRANSFORMER": SIZES,
        "ClipPool": RandomPool,
        "Optimizer": partial(Optimizer, muon=muon),
        "TimeBudget": OtherClock if team.rank else Steps,
        "load_autoencoder": lambda path, device: SimpleNamespace(config=SimpleNamespace(latent_shape=(4, 4, 6))),
    }
    with patch.multiple(teacher_forcing, **small):
        return Trainer(options, RECIPE, team)


def run(out: Path, team: Team, muon: bool = True) -> None:
    """Train, and leave what a rank has in the end."""
    trainer = begun(out, team, muon)
    trainer.run()
    left = {"steps": trainer.average.steps, "weights": weights(trainer.model), "clips": trainer.pool._latents}
    torch.save(left, out / f"rank{team.rank}.pt")


def lose_a_rank(out: Path, team: Team) -> None:
    """The same, but that rank 1 is killed while rank 0 waits for its gradients."""

    def step(trainer: Trainer, number: int) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    with patch.object(Trainer, "step", step if team.rank else Trainer.step):
        run(out, team)
