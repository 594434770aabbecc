"""Teacher forcing: the transformer and the pocket model's text encoder learn together, from clips of the world.

Every step draws clips from the pool and makes of each a sequence [clean ∥ noisy] (`histories.py` says who sees whom).
Each chunk has its own noise level; the loss is the mean square of v − (noise − clean) over the noisy half. Part of the
histories carry noise or the model's own errors, so that a long rollout finds nothing in its past that training lacked.

    python -m everscene_engine.training.teacher_forcing --autoencoder runs/autoencoder/autoencoder.safetensors \\
        --seconds 1100 --out runs/transformer
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from everscene_engine.attention import SelfAttention
from everscene_engine.autoencoder import load_autoencoder
from everscene_engine.config import POCKET_STREAM, POCKET_TRANSFORMER, StreamConfig
from everscene_engine.rope import rotation
from everscene_engine.sampler import make_schedule
from everscene_engine.training.block_by_block import BlockRunner, block_runner, forward, run_block
from everscene_engine.training.chunk_attention import ChunkAttention
from everscene_engine.training.clip_pool import ClipBatch, ClipPool
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
from everscene_engine.training.world_model import Optimizer, WorldModel


@dataclass(frozen=True)
class Recipe:
    """The knobs of the stage. Shares are of clips or chunks, 0 to 1.

    batch: clips a step. chunks: of a clip, the sink among them. pool: clips kept. fresh: clips replaced every
    fresh_every steps (painting many at once costs hardly more than painting a few). faded: clips whose history loses
    its subject, wholly or in part. sampler_levels: chunks whose noise level is one that the few-step sampler visits.
    own_errors: of the other clips, those whose history leans towards the model's own predictions. noisy_history: clips
    whose history has noise, of at most history_noise. average: decay of the averaged weights, a step.
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


@dataclass(frozen=True)
class Step:
    """What one step feeds the networks, on the training device.

    clean, noisy: [B, F, C, h, w]. sigma: [B, F] noise levels, timestep: the same as the network is told.
    target: noise − clean. position: [B, F]. lengths: latent frames of each chunk. words: [B, R, L]. prompts: [B, 2F]
    rows for [clean ∥ noisy]. trained: [B, F] float.
    """

    clean: Tensor
    noisy: Tensor
    sigma: Tensor
    timestep: Tensor
    target: Tensor
    position: Tensor
    lengths: tuple[int, ...]
    words: Tensor
    prompts: Tensor
    trained: Tensor


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


def predict(
    model: WorldModel, step: Step, attention: SelfAttention, stream: StreamConfig, run: BlockRunner = run_block
) -> Tensor:
    """The flow of the noisy half, [B, F, C, h, w]. attention: the same for every layer."""
    frames = step.clean.shape[1]
    both = torch.cat([step.clean, step.noisy], dim=1)
    timesteps = torch.cat([torch.zeros_like(step.timestep), step.timestep], dim=1)
    config = model.transformer.config
    turn = rotation(
        torch.cat([step.position, step.position], dim=1),
        stream.latent_height // 2,
        stream.latent_width // 2,
        config.head_dim,
    )
    words = step.words.flatten(0, 1)  # [B·R, L]
    bias = torch.zeros_like(words, dtype=torch.float32).masked_fill(words == 0, -1e4)[:, None, None]
    text = model.transformer.condition_rows(model.text(words), bias)
    rows = (torch.arange(len(step.words), device=words.device)[:, None] * step.words.shape[1] + step.prompts).flatten()
    text = type(text)(
        tuple(k[rows] for k in text.keys), tuple(v[rows] for v in text.values), bias[rows]
    )  # one prompt for each latent frame, [B·2F, L, H, E]
    flow = forward(model.transformer, run, both, timesteps, turn, lambda layer: attention, text)
    return flow[:, frames:]


def flow_loss(flow: Tensor, step: Step) -> Tensor:
    """Mean square error over the latent frames that count."""
    error = (flow.float() - step.target).square().mean((2, 3, 4))  # [B, F]
    return (error * step.trained).sum() / step.trained.sum()


def loss_by_level(error: Tensor, sigma: Tensor) -> dict[str, float]:
    """Mean of [B, F] errors of the clean prediction over bands of noise level, for the log."""
    bands = {"low": (0.0, 0.5), "middle": (0.5, 0.9), "high": (0.9, 1.01)}
    shown = {}
    for name, (low, high) in bands.items():
        where = (sigma >= low) & (sigma < high)
        shown[name] = float((error * where).sum() / where.sum().clamp(min=1))
    return shown


class Trainer:
    """One run of the stage: networks, pool, optimiser and budget."""

    def __init__(self, options: argparse.Namespace, recipe: Recipe) -> None:
        self.options, self.recipe = options, recipe
        self.device = torch.device(options.device)
        self.budget = TimeBudget(options.seconds)
        self.stream: StreamConfig = POCKET_STREAM
        torch.manual_seed(options.seed)
        model = WorldModel.load(options.resume) if options.resume else WorldModel.new(POCKET_TRANSFORMER)
        self.model = model.to(self.device)
        self.average = AveragedWeights(self.model, decay=recipe.average)
        self.optimizer = Optimizer(self.model, recipe.learning_rate, recipe.weight_decay)
        self.generator = torch.Generator().manual_seed(options.seed + 1)
        self.pool = ClipPool(
            load_autoencoder(options.autoencoder, self.device),
            model.text,
            recipe.pool,
            recipe.chunks,
            self.stream.chunk_frames,
            self.device,
            options.seed + 2,
            fresh=recipe.fresh,
            faded=recipe.faded,
        )
        self.log = RunLog(options.out, self.budget)
        self._run = block_runner(self.device)

    def run(self) -> None:
        """Train until the budget is spent; saves on the way and at the end."""
        options = self.options
        while self.pool.filled < 8 * self.recipe.batch:
            self.pool.refresh()
        first, last_saved, losses = True, time.monotonic(), []
        step_number = 0
        while not self.budget.spent:
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
        draw_curves(
            {name: self.log.series("step", name) for name in ("loss", "low", "middle", "high")},
            options.out / "curve.png",
        )
        self.log.write("end", steps=float(step_number))

    def step(self, number: int) -> Tensor:
        """One step; returns its loss, on the device."""
        recipe = self.recipe
        self._rate = recipe.learning_rate * warmup_cosine(number, self.budget.fraction, recipe.warmup_steps)
        if number % recipe.fresh_every == 0 and self.pool.ready:
            self.pool.refresh()
        batch = self.pool.draw(recipe.batch)
        histories = make_histories(
            batch.prompt,
            batch.gap,
            self.stream.chunk_frames,
            self.stream.sink_reach or 1,
            self.generator,
            is_cut=batch.is_cut,
        )
        step = prepare(batch, histories, recipe, self.stream, self.generator)
        attention = ChunkAttention(step.lengths, self.stream.frame_tokens, self.stream.window_chunks)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            flow = predict(self.model, step, attention, self.stream, self._run)
        loss = flow_loss(flow, step)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradients(self.model.parameters(), 1.0)
        self.optimizer.step(self._rate)
        self.average.update()
        level = step.sigma[:, :, None, None, None]
        predicted = (step.noisy - level * flow.detach().float()).clamp(-6, 6)
        self.pool.remember(batch, predicted, (step.sigma < 0.95) & (step.trained > 0))
        self._last = (predicted - batch.latents.float()).square().mean((2, 3, 4)), step.sigma
        return loss.detach()

    def report(self, number: int, loss: float) -> None:
        self.log.write(
            "step",
            step=float(number),
            loss=loss,
            rate=self._rate,
            pool=float(self.pool.filled),
            **loss_by_level(*self._last),
        )

    def save(self) -> None:
        """Write the averaged weights as the stream loads them."""
        self.model.save(self.options.out, self.average)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", type=Path, required=True, help="autoencoder.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, log and curve")
    parser.add_argument("--seconds", type=float, required=True, help="wall time of the run")
    parser.add_argument("--resume", type=Path, help="folder of weights to go on from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
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
    check_writable(options.out)
    torch.set_float32_matmul_precision("high")
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
    Trainer(options, recipe).run()


if __name__ == "__main__":
    main()
