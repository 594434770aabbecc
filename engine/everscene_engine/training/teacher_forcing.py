"""Teacher forcing: the transformer and the pocket model's text encoder learn together, from clips of the world.

Every step draws clips from the pool and makes of each a sequence [clean ∥ noisy] (`histories.py` says who sees whom).
Each chunk has its own noise level; the loss is the mean square of v − (noise − clean) over the noisy half. Part of the
histories carry noise or the model's own errors, so that a long rollout finds nothing in its past that training lacked.

    python -m everscene_engine.training.teacher_forcing --autoencoder runs/autoencoder/autoencoder.safetensors \\
        --seconds 1100 --out runs/transformer

With `--gpus N` several GPUs train together; `team.py` says how.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from everscene_engine.autoencoder import load_autoencoder
from everscene_engine.config import POCKET_STREAM, POCKET_TRANSFORMER, StreamConfig
from everscene_engine.sampler import make_schedule
from everscene_engine.training.block_by_block import block_runner
from everscene_engine.training.clip_pool import ClipBatch, ClipPool
from everscene_engine.training.flow_step import Step, flow_loss, predict
from everscene_engine.training.histories import Histories, make_histories
from everscene_engine.training.loop import (
    AveragedWeights,
    RunLog,
    TimeBudget,
    check_writable,
    clip_gradients,
    draw_curves,
    warmup_cosine,
)
from everscene_engine.training.team import Team, check_team, train_together
from everscene_engine.training.world.captions import VOCABULARY
from everscene_engine.training.world_model import Optimizer, WorldModel


@dataclass(frozen=True)
class Recipe:
    """The knobs of the stage. Shares are of clips or chunks, 0 to 1.

    batch: clips a step, over all GPUs. chunks: of a clip, the sink among them. pool: clips kept, by each process that
    draws its own. fresh: clips replaced every fresh_every steps (painting many at once costs hardly more than painting
    a few). faded: clips whose history loses its subject to nothing or to another, wholly or in part. sampler_levels:
    chunks whose noise level is one that the few-step sampler visits. own_errors: of the other clips, those whose
    history leans towards the model's own predictions. noisy_history: clips whose history has noise, of at most
    history_noise. average: decay of the averaged weights, a step.
    """

    batch: int = 48
    chunks: int = 8
    pool: int = 6144
    fresh: int = 96
    fresh_every: int = 24
    faded: float = 0.15
    learning_rate: float = 1.2e-3
    warmup_steps: int = 300
    weight_decay: float = 0.01
    average: float = 0.9995
    sampler_levels: float = 0.6
    own_errors: float = 0.6
    noisy_history: float = 0.4
    history_noise: float = 0.25


def draw_noise_levels(
    chunk: Tensor, schedules: list[tuple[float, float]], share: float, shift: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(sigma, timestep) of each latent frame [B, F], one draw for each chunk. chunk: [B, F].

    A share of the chunks gets one of the (σ, timestep) pairs that the sampler visits, the rest σ = shift·u /
    (1 + (shift − 1)·u) for u uniform in 0..1, told as 1000·σ.
    """
    shape = chunk.shape
    u = torch.rand(shape, generator=generator)
    free = shift * u / (1 + (shift - 1) * u)
    pairs = torch.tensor(schedules)
    visited = pairs[torch.randint(0, len(schedules), shape, generator=generator)]
    pick = torch.rand(shape, generator=generator) < share
    sigma = torch.where(pick, visited[..., 0], free)
    timestep = torch.where(pick, visited[..., 1], 1000 * free)
    return sigma.gather(1, chunk), timestep.gather(1, chunk)


def prepare(
    batch: ClipBatch, histories: Histories, recipe: Recipe, stream: StreamConfig, generator: torch.Generator
) -> Step:
    """Put noise on a batch and errors into its history."""
    device = batch.latents.device
    clips = len(batch.latents)
    chunk = histories.chunk.expand(clips, -1)
    visited = [pair for steps in (2, 4) for pair in _visited(steps, stream.shift)]
    sigma, timestep = draw_noise_levels(chunk, visited, recipe.sampler_levels, stream.shift, generator)
    lean = draw_leaning(chunk, batch.faded, recipe.own_errors, generator)
    grain = torch.rand(chunk.shape, generator=generator).gather(1, chunk) * recipe.history_noise
    grain = grain * (torch.rand(clips, 1, generator=generator) < recipe.noisy_history)
    wide = (slice(None), slice(None), None, None, None)
    latents = batch.latents.float()
    noise = torch.randn_like(latents)
    clean = latents + lean.to(device)[wide] * (batch.own.float() - latents)
    clean = clean + grain.to(device)[wide] * torch.randn_like(latents)
    level = sigma.to(device)[wide]
    return Step(
        clean=clean,
        noisy=(1 - level) * latents + level * noise,
        sigma=sigma.to(device),
        timestep=timestep.to(device),
        target=noise - latents,
        position=histories.position.to(device),
        lengths=histories.lengths,
        words=batch.words,
        prompts=torch.cat([histories.clean_prompt, histories.prompt], dim=1).to(device),
        trained=histories.trained.to(device).float(),
    )


def draw_leaning(chunk: Tensor, faded: Tensor, own_errors: float, generator: torch.Generator) -> Tensor:
    """How far each latent frame of the history leans from the truth towards `ClipBatch.own`, [B, F] in 0..1.

    chunk: [B, F]. faded: [B]. A share of the other clips leans by one random amount. In a faded clip the subject loses
    substance from chunk to chunk, from a random amount to another; every other one has a whole subject in its sink.
    """
    clips, frames = chunk.shape
    alike = torch.rand(clips, 1, generator=generator) * (torch.rand(clips, 1, generator=generator) < own_errors)
    ends = torch.rand(clips, 2, generator=generator).sort(dim=1).values.sqrt()  # rather much than little
    rise = chunk / chunk.max().clamp(min=1)
    fading = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * rise
    whole = (chunk == 0) & (torch.rand(clips, 1, generator=generator) < 0.5)
    return torch.where(faded[:, None], fading.masked_fill(whole, 0.0), alike.expand(-1, frames))


def _visited(steps: int, shift: float) -> list[tuple[float, float]]:
    schedule = make_schedule(steps, shift)
    return list(zip(schedule.sigmas[:-1], schedule.timesteps, strict=True))


def loss_by_level(error: Tensor, sigma: Tensor, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Mean of [B, F] errors of the clean prediction over bands of noise level, for the log. total: adds up the ranks'
    sums."""
    bands = {"low": (0.0, 0.5), "middle": (0.5, 0.9), "high": (0.9, 1.01)}
    sums = []
    for low, high in bands.values():
        where = (sigma >= low) & (sigma < high)
        sums += [(error * where).sum(), where.float().sum()]
    errors, counts = total(torch.stack(sums)).view(-1, 2).unbind(1)
    return dict(zip(bands, (errors / counts.clamp(min=1)).tolist(), strict=True))


class Trainer:
    """One process's run of the stage: networks, pool, optimiser and budget."""

    def __init__(self, options: argparse.Namespace, recipe: Recipe, team: Team) -> None:
        self.options, self.recipe, self.team = options, recipe, team
        self.device = torch.device(options.device)
        self.budget = TimeBudget(options.seconds)
        self.stream: StreamConfig = POCKET_STREAM
        torch.manual_seed(options.seed)
        model = WorldModel.load(options.resume) if options.resume else WorldModel.new(POCKET_TRANSFORMER)
        if model.text.config.vocabulary != VOCABULARY:
            model = model.with_vocabulary(VOCABULARY)
        self.model = model.to(self.device)
        seed = team.seed(options.seed)
        if seed != options.seed:
            torch.manual_seed(seed)  # the same weights, but other noise
        self.batch = team.clips(recipe.batch)
        self.average = AveragedWeights(self.model, decay=recipe.average)
        self.optimizer = Optimizer(self.model, recipe.learning_rate, recipe.weight_decay)
        self.generator = torch.Generator().manual_seed(seed + 1)
        self.pool = ClipPool(
            load_autoencoder(options.autoencoder, self.device),
            model.text,
            recipe.pool,
            recipe.chunks,
            self.stream.chunk_frames,
            self.device,
            seed + 2,
            fresh=recipe.fresh,
            faded=recipe.faded,
        )
        self.log = RunLog(options.out, self.budget)
        self._run = block_runner(self.device)

    def run(self) -> None:
        """Train until the budget is spent; saves on the way and at the end."""
        options = self.options
        while self.pool.filled < 8 * self.batch:
            self.pool.refresh()
        first, last_saved, losses = True, time.monotonic(), []
        step_number = 0
        while not self.team.agree(self.budget.spent):
            losses.append(self.step(step_number))
            if first:
                self.budget.begin()
                first = False
            if step_number % 100 == 0:
                self.report(step_number, torch.stack(losses).mean().item())
                losses = []
            if time.monotonic() - last_saved > options.save_every:
                self.save()
                last_saved = time.monotonic()
            step_number += 1
        self.pool.close()
        self.save()
        if self.team.rank > 0:
            return
        draw_curves(
            {name: self.log.series("step", name) for name in ("loss", "low", "middle", "high")},
            options.out / "curve.png",
        )
        self.log.write("end", steps=float(step_number))

    def step(self, number: int) -> Tensor:
        """One step; returns its loss, on the device."""
        recipe, team = self.recipe, self.team
        fraction = team.agree(self.budget.fraction)
        self._rate = recipe.learning_rate * warmup_cosine(number, fraction, recipe.warmup_steps)
        if number % recipe.fresh_every == 0 and team.agree(self.pool.ready):
            self.pool.refresh()
        batch = self.pool.draw(self.batch)
        histories = make_histories(
            batch.prompt,
            batch.gap,
            self.stream.chunk_frames,
            self.stream.sink_reach or 1,
            self.generator,
            is_cut=batch.is_cut,
        )
        step = prepare(batch, histories, recipe, self.stream, self.generator)
        part = team.part(step, self.stream)
        own = part.step
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            flow = predict(self.model, own, part.attention, self.stream, self._run)
        loss = flow_loss(flow, own, step)
        loss.backward()  # type: ignore[no-untyped-call]
        loss = team.add_up(loss, self.model.parameters())
        clip_gradients(self.model.parameters(), 1.0)
        self.optimizer.step(self._rate)
        self.average.update()
        level = own.sigma[:, :, None, None, None]
        predicted = (own.noisy - level * flow.detach().float()).clamp(-6, 6)
        kept = (own.sigma < 0.95) & (own.trained > 0)
        frames = batch.latents.shape[1]
        self.pool.remember(batch, part.placed(predicted, frames), part.placed(kept, frames))
        latents = batch.latents[:, part.frames].float()
        self._last = (predicted - latents).square().mean((2, 3, 4)), own.sigma
        return loss

    def report(self, number: int, loss: float) -> None:
        levels = loss_by_level(*self._last, self.team.total)
        if self.team.rank == 0:
            self.log.write(
                "step", step=float(number), loss=loss, rate=self._rate, pool=float(self.pool.filled), **levels
            )

    def save(self) -> None:
        """Write the averaged weights as the stream loads them; rank 0 does it for all."""
        if self.team.rank == 0:
            self.model.save(self.options.out, self.average)


def train(options: argparse.Namespace, recipe: Recipe, team: Team) -> None:
    """A process's part of the run, from the first clip to the last step."""
    torch.set_float32_matmul_precision("high")
    Trainer(options, recipe, team).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", type=Path, required=True, help="autoencoder.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, log and curve")
    parser.add_argument("--seconds", type=float, required=True, help="wall time of the run")
    parser.add_argument(
        "--resume", type=Path, help="folder of weights to go on from; it learns the words that they lack"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gpus", type=int, default=1, help="how many train together (on a CPU, how many processes)")
    parser.add_argument(
        "--share", choices=("clips", "sequence"), default="clips", help="what of a step several share out"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds between saves")
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--warmup-steps", type=int, default=Recipe.warmup_steps)
    parser.add_argument("--average", type=float, default=Recipe.average, help="decay of the averaged weights, a step")
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--chunks", type=int, default=Recipe.chunks)
    parser.add_argument("--pool", type=int, default=Recipe.pool)
    parser.add_argument("--fresh", type=int, default=Recipe.fresh)
    parser.add_argument("--faded", type=float, default=Recipe.faded, help="share of clips that lose their subject")
    options = parser.parse_args()
    recipe = Recipe(
        batch=options.batch,
        chunks=options.chunks,
        pool=options.pool,
        fresh=options.fresh,
        faded=options.faded,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup_steps,
        average=options.average,
    )
    device = torch.device(options.device)
    check_team(options.gpus, options.share, recipe.batch, POCKET_TRANSFORMER.heads, device)
    check_writable(options.out)
    train_together(options.gpus, options.share, device, partial(train, options, recipe))


if __name__ == "__main__":
    main()
