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
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from everscene_engine.attention import MaskedAttention, SelfAttention
from everscene_engine.autoencoder import load_autoencoder
from everscene_engine.checkpoint import load_pocket_transformer, save_pocket_transformer
from everscene_engine.config import POCKET_STREAM, POCKET_TRANSFORMER, StreamConfig, TransformerConfig
from everscene_engine.rope import rotation
from everscene_engine.sampler import make_schedule
from everscene_engine.text import PocketTextConfig, PocketTextEncoder
from everscene_engine.training.clip_pool import ClipBatch, ClipPool
from everscene_engine.training.histories import Histories, make_histories, sees
from everscene_engine.training.loop import (
    AveragedWeights,
    RunLog,
    TimeBudget,
    check_writable,
    clip_gradients,
    draw_curves,
    warmup_cosine,
)
from everscene_engine.training.world.captions import VOCABULARY
from everscene_engine.transformer import WanTransformer

BLOCK = 128  # tokens of a block of FlexAttention's mask


@dataclass(frozen=True)
class Recipe:
    """The knobs of the stage. Shares are of clips or chunks, 0 to 1.

    batch: clips a step. chunks: of a clip, the sink among them. pool: clips kept. fresh: clips replaced every
    fresh_every steps (painting many at once costs hardly more than painting a few).
    sampler_levels: chunks whose noise level is one that the few-step sampler visits. own_errors: clips whose history
    leans towards the model's own predictions. noisy_history: clips whose history has noise, of at most history_noise.
    """

    batch: int = 48
    chunks: int = 8
    pool: int = 6144
    fresh: int = 96
    fresh_every: int = 8
    learning_rate: float = 1.2e-3
    warmup_steps: int = 300
    weight_decay: float = 0.01
    sampler_levels: float = 0.6
    own_errors: float = 0.6
    noisy_history: float = 0.4
    history_noise: float = 0.25


class WorldModel(nn.Module):
    """The two networks that learn together."""

    def __init__(self, transformer: WanTransformer, text: PocketTextEncoder) -> None:
        super().__init__()
        self.transformer = transformer
        self.text = text


@dataclass(frozen=True)
class Step:
    """What one step feeds the networks, on the training device.

    clean, noisy: [B, F, C, h, w]. sigma: [B, F] noise levels, timestep: the same as the network is told.
    target: noise − clean. position, chunk: [B, F]. words: [B, R, L]. prompts: [B, 2F] rows for [clean ∥ noisy].
    trained: [B, F] float.
    """

    clean: Tensor
    noisy: Tensor
    sigma: Tensor
    timestep: Tensor
    target: Tensor
    position: Tensor
    chunk: Tensor
    words: Tensor
    prompts: Tensor
    trained: Tensor


def draw_noise_levels(
    chunk: Tensor, schedules: list[tuple[float, float]], share: float, shift: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(sigma, timestep) of each latent frame [B, F], one draw for each chunk.

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
    chunk = histories.chunk
    visited = [pair for steps in (2, 4) for pair in _visited(steps, stream.shift)]
    sigma, timestep = draw_noise_levels(chunk, visited, recipe.sampler_levels, stream.shift, generator)
    clips, frames = chunk.shape
    lean = torch.rand(clips, 1, generator=generator) * (torch.rand(clips, 1, generator=generator) < recipe.own_errors)
    grain = torch.rand(clips, frames, generator=generator).gather(1, chunk) * recipe.history_noise
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
        chunk=chunk.to(device),
        words=batch.words,
        prompts=torch.cat([histories.clean_prompt, histories.prompt], dim=1).to(device),
        trained=histories.trained.to(device).float(),
    )


def _visited(steps: int, shift: float) -> list[tuple[float, float]]:
    schedule = make_schedule(steps, shift)
    return list(zip(schedule.sigmas[:-1], schedule.timesteps, strict=True))


def predict(model: WorldModel, step: Step, attention: SelfAttention, stream: StreamConfig) -> Tensor:
    """The flow of the noisy half, [B, F, C, h, w]."""
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
    flow: Tensor = model.transformer(both, timesteps, turn, attention, text)
    return flow[:, frames:]


class BlockMaskedAttention:
    """FlexAttention with a block mask: blocks in which nobody is seen cost nothing. For CUDA, compiled."""

    def __init__(self, mask: BlockMask) -> None:
        self._mask = mask

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = q.to(v.dtype), k.to(v.dtype)
        out = flex_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), block_mask=self._mask)
        assert isinstance(out, Tensor)
        return out.transpose(1, 2)


def dense_mask(chunk: Tensor, frame_tokens: int, window_chunks: int) -> Tensor:
    """The rule as a bool mask [B, 1, tokens, tokens] for [clean ∥ noisy]: for small sizes and as the reference."""
    frames = chunk.shape[1]
    both = torch.cat([chunk, chunk], dim=1)
    noisy = (torch.arange(2 * frames, device=chunk.device) >= frames)[None]
    seen = sees(both[:, :, None], both[:, None], noisy[:, :, None], noisy[:, None], window_chunks)  # [B, 2F, 2F]
    return seen.repeat_interleave(frame_tokens, 1).repeat_interleave(frame_tokens, 2)[:, None]


def block_mask(chunk: Tensor, frame_tokens: int, window_chunks: int) -> BlockMask:
    """The same rule as a FlexAttention block mask.

    A block of 128 tokens lies in a few latent frames, so whether it is seen wholly, in part or not at all follows
    from the rule between latent frames; no mask of tokens is ever made.
    """
    frames = chunk.shape[1]
    both = torch.cat([chunk, chunk], dim=1)
    noisy = (torch.arange(2 * frames, device=chunk.device) >= frames)[None]
    seen = sees(both[:, :, None], both[:, None], noisy[:, :, None], noisy[:, None], window_chunks)  # [B, 2F, 2F]
    tokens = 2 * frames * frame_tokens
    starts = torch.arange(0, tokens, BLOCK, device=chunk.device)
    touched = torch.arange(2 * frames, device=chunk.device) * frame_tokens
    inside = (touched[None] < starts[:, None] + BLOCK) & (touched[None] + frame_tokens > starts[:, None])
    part = inside.float()  # [blocks, 2F]: which latent frames a block lies in
    pairs = torch.einsum("qi,bij,kj->bqk", part, seen.float(), part)  # pairs of latent frames that see each other
    every = part.sum(1)[:, None] * part.sum(1)[None]
    whole = pairs == every
    partly = (pairs > 0) & ~whole

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        query, key = q // frame_tokens, k // frame_tokens
        return sees(both[b, query], both[b, key], query >= frames, key >= frames, window_chunks)

    return BlockMask.from_kv_blocks(*_listed(partly), *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=rule)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """bool [B, q, k] -> how many key blocks each query block has [B, 1, q], and their indices first [B, 1, q, k]."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[:, None], order.int()[:, None].contiguous()


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
        config: TransformerConfig = POCKET_TRANSFORMER
        text = PocketTextEncoder(PocketTextConfig(tuple(VOCABULARY), width=config.text_dim))
        self.model = WorldModel(WanTransformer(config), text).to(self.device)
        zero_outputs(self.model.transformer)
        if options.resume:
            earlier, words = load_pocket_transformer(options.resume)
            self.model.transformer.load_state_dict(earlier.state_dict())
            self.model.text.load_state_dict(words.state_dict())
        self.average = AveragedWeights(self.model, decay=0.9995)
        self.optimizer = Optimizer(self.model, recipe, fused=self.device.type == "cuda")
        self.generator = torch.Generator().manual_seed(options.seed + 1)
        autoencoder = load_autoencoder(options.autoencoder, self.device)
        self.pool = ClipPool(
            autoencoder, text, recipe.pool, recipe.chunks, self.stream.chunk_frames, self.device, options.seed + 2
        )
        self.log = RunLog(options.out, self.budget)
        on_gpu = self.device.type == "cuda"
        self._predict = torch.compile(predict) if on_gpu else predict

    def attention(self, chunk: Tensor) -> SelfAttention:
        """The self-attention of a step, by the fastest way there is on this device."""
        tokens, window = self.stream.frame_tokens, self.stream.window_chunks
        if self.device.type == "cuda":
            return BlockMaskedAttention(block_mask(chunk, tokens, window))
        return MaskedAttention(dense_mask(chunk, tokens, window))

    def run(self) -> None:
        """Train until the budget is spent; saves on the way and at the end."""
        options = self.options
        self.pool.refresh(4 * self.recipe.batch)
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
        if number % recipe.fresh_every == 0:
            self.pool.refresh(recipe.fresh)
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
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            flow = self._predict(self.model, step, self.attention(step.chunk), self.stream)
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
        held = [p.detach().clone() for p in self.model.parameters()]
        self.average.copy_to(self.model)
        save_pocket_transformer(self.model.transformer, self.model.text, self.options.out)
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), held, strict=True):
                parameter.copy_(value)


def zero_outputs(transformer: WanTransformer) -> None:
    """Start with blocks that do nothing and a flow of zero, which trains faster than random ones."""
    nn.init.zeros_(transformer.head.head.weight)
    nn.init.zeros_(transformer.head.head.bias)
    for parameter in transformer.time_projection.parameters():
        nn.init.zeros_(parameter)


class Optimizer:
    """Muon for the matrices of the blocks, AdamW for all else, as one.

    Muon (Jordan et al., 2024) steps along the orthogonalised momentum of a matrix; scaled to the size of an AdamW
    step, so that one learning rate serves both.
    """

    def __init__(self, model: WorldModel, recipe: Recipe, fused: bool) -> None:
        matrices = [p for p in model.transformer.blocks.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        decay = recipe.weight_decay
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=recipe.learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(
                [
                    {"params": [p for p in others if p.ndim >= 2], "weight_decay": decay},
                    {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
                ],
                lr=recipe.learning_rate,
                betas=(0.9, 0.95),
                fused=fused,
            ),
        ]

    def step(self, rate: float) -> None:
        """One step with this learning rate; the gradients are gone afterwards."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)


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
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--chunks", type=int, default=Recipe.chunks)
    parser.add_argument("--pool", type=int, default=Recipe.pool)
    parser.add_argument("--fresh", type=int, default=Recipe.fresh)
    options = parser.parse_args()
    check_writable(options.out)
    torch.set_float32_matmul_precision("high")
    recipe = Recipe(
        batch=options.batch,
        chunks=options.chunks,
        pool=options.pool,
        fresh=options.fresh,
        learning_rate=options.learning_rate,
    )
    Trainer(options, recipe).run()


if __name__ == "__main__":
    main()
