"""One step of teacher forcing as the networks see it: what it feeds them, the flow they answer with, and its loss.

How clips become a step is `teacher_forcing.py`'s; over how many processes it is computed, `team.py`'s.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from everscene_engine.attention import SelfAttention
from everscene_engine.config import StreamConfig
from everscene_engine.rope import rotation
from everscene_engine.training.block_by_block import BlockRunner, forward, run_block
from everscene_engine.training.world_model import WorldModel


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


@dataclass(frozen=True)
class Part:
    """What a process computes of a step: some of its latent frames (`frames`), as a step of their own, and how their
    tokens see each other and whatever they must see of the others."""

    step: Step
    attention: SelfAttention
    frames: slice

    def placed(self, x: Tensor, frames: int) -> Tensor:
        """[B, own frames, …] where it lies among all latent frames, [B, frames, …]; zeros around it."""
        if x.shape[1] == frames:
            return x
        whole = x.new_zeros(x.shape[0], frames, *x.shape[2:])
        whole[:, self.frames] = x
        return whole


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


def flow_loss(flow: Tensor, step: Step, whole: Step | None = None) -> Tensor:
    """Mean square error over the latent frames that count. whole: the step that this one is a part of; the losses of
    its parts add up to its own."""
    error = (flow.float() - step.target).square().mean((2, 3, 4))  # [B, F]
    return (error * step.trained).sum() / (whole or step).trained.sum()
