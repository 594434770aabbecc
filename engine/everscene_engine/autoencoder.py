"""The pocket model's video autoencoder: four frames in one latent frame, causal, small enough for a CPU.

Time lives in the channels. The four frames of a latent frame, three colours each, are folded with 2×2
pixels into 48 channels at half the picture's size, so that one pass of a plain 2D network encodes or
decodes four frames together, and motion inside the four is ordinary channel arithmetic. No 3D convolution
is needed.

What ties one latent frame to the one before it is the *memory block*: a residual block that sees, beside
its own input, the first half of the channels that the same block was given one latent frame earlier
(zeros at the start). The network learns what to leave in those channels. The idea is that of the TAEHV
family of tiny video decoders (https://github.com/madebyollin/taehv); remembering half of the channels
instead of all of them saves a quarter of the first convolution and half of the state. A block's memory is
its input, never its output, so an error cannot go round in circles: a latent frame reaches as many latent
frames ahead as there are memory blocks, and no further.

Time is folded into the batch with time outermost, [F·B, c, h, w]. Then "one latent frame earlier" is "B
rows earlier", a concatenation along the batch that keeps the channels-last layout, and the same lines
serve training (many latent frames, no memory given) and streaming (one latent frame, memory from the call
before).

Outside this module latents have mean 0 and standard deviation 1 in every channel, as the denoiser wants
them: the statistics are measured at the end of training and applied inside `encode` and `decode`.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from everscene_engine.errors import CheckpointError, ConfigError

COLOURS = 3
FOLD = 2
"""Pixels folded into channels along each side before the first convolution."""

Memory = tuple[Tensor, ...]
"""One tensor [B, width // 2, h, w] per memory block, in the order of the network."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the autoencoder; the defaults are the pocket model's.

    `widths` runs from the finest stage (half of the picture's size) to the coarsest; each stage halves
    the size again. The blocks are counted in the same order for encoder and decoder alike.
    """

    height: int = 144
    width: int = 256
    latent_channels: int = 24
    frames_per_latent: int = 4
    widths: tuple[int, ...] = (48, 64, 96)
    encoder_blocks: tuple[int, ...] = (2, 1, 2)
    decoder_blocks: tuple[int, ...] = (1, 2, 2)
    latent_bound: float = 4.0
    """The decoder squashes raw latents into ±bound by tanh: a wild denoiser cannot drive it far out."""

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.encoder_blocks) == len(self.decoder_blocks) > 0:
            raise ConfigError(
                f"widths {self.widths}, encoder_blocks {self.encoder_blocks} and decoder_blocks "
                f"{self.decoder_blocks} must name the same stages, at least one"
            )
        if any(width < 2 or width % 2 for width in self.widths):
            raise ConfigError(f"widths {self.widths} must be even: half of the channels are remembered")
        if self.latent_channels < 1 or self.frames_per_latent < 1:
            raise ConfigError(
                f"latent_channels {self.latent_channels} and frames_per_latent {self.frames_per_latent} "
                "must be at least 1"
            )
        if self.latent_bound <= 0:
            raise ConfigError(f"latent_bound {self.latent_bound} must be above 0")
        if self.height % self.stride or self.width % self.stride:
            raise ConfigError(f"frame size {self.width}×{self.height} must be a multiple of {self.stride}")

    @property
    def stride(self) -> int:
        """Pixels per latent cell, along each side."""
        return FOLD * (1 << (len(self.widths) - 1))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent frame."""
        return self.latent_channels, self.height // self.stride, self.width // self.stride

    @property
    def folded_channels(self) -> int:
        """Channels of one latent frame's worth of frames, folded."""
        return self.frames_per_latent * COLOURS * FOLD * FOLD


class MemoryBlock(nn.Module):
    """A residual block that also sees half of what it was given one latent frame earlier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.remembered = width // 2
        self.first = nn.Conv2d(width + self.remembered, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        # A block starts as the identity: without normalisation layers this is what keeps early training calm.
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, memory: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        """x [F·B, c, h, w] and the memory [B, c/2, h, w] (None: zeros) → the same shapes, new tensors."""
        kept = x[:, : self.remembered]
        if memory is None:
            memory = torch.zeros_like(kept[:batch])
        before = torch.cat([memory, kept[:-batch]]) if len(x) > batch else memory  # [F·B, c/2, h, w]
        hidden = self.first(F.silu(torch.cat([x, before], dim=1)))
        return x + self.second(F.silu(hidden)), kept[-batch:]


class Encoder(nn.Module):
    """Folded frames to raw latents, one latent frame after another."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.enter = nn.Conv2d(config.folded_channels, config.widths[0], 3, padding=1)
        self.stages = nn.ModuleList(
            nn.ModuleList(MemoryBlock(width) for _ in range(blocks))
            for width, blocks in zip(config.widths, config.encoder_blocks, strict=True)
        )
        self.shrink = nn.ModuleList(
            nn.Conv2d(fine * FOLD * FOLD, coarse, 1) for fine, coarse in pairwise(config.widths)
        )
        self.leave = nn.Conv2d(config.widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, folded: Tensor, batch: int, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """folded [F·B, 48, H/2, W/2], time outermost → raw latents [F·B, C, h, w], and memory."""
        x = self.enter(folded)
        memories = iter(memory) if memory is not None else None
        kept: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            if number:
                x = self.shrink[number - 1](F.pixel_unshuffle(x, FOLD))
            x = _run_stage(stage, x, memories, batch, kept)
        return self.leave(x), tuple(kept)


class Decoder(nn.Module):
    """Raw latents to folded frames, one latent frame after another; the encoder's mirror."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.bound = config.latent_bound
        widths = config.widths[::-1]
        self.enter = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.stages = nn.ModuleList(
            nn.ModuleList(MemoryBlock(width) for _ in range(blocks))
            for width, blocks in zip(widths, config.decoder_blocks[::-1], strict=True)
        )
        self.grow = nn.ModuleList(nn.Conv2d(coarse, fine * FOLD * FOLD, 1) for coarse, fine in pairwise(widths))
        self.leave = nn.Conv2d(widths[-1], config.folded_channels, 3, padding=1)

    def forward(self, latents: Tensor, batch: int, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Raw latents [F·B, C, h, w], time outermost → folded frames [F·B, 48, H/2, W/2], and memory.

        Frames are not clamped.
        """
        x = self.enter(self.bound * torch.tanh(latents / self.bound))
        memories = iter(memory) if memory is not None else None
        kept: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            if number:
                x = F.pixel_shuffle(self.grow[number - 1](x), FOLD)
            x = _run_stage(stage, x, memories, batch, kept)
        return self.leave(x), tuple(kept)


def _run_stage(
    stage: nn.Module, x: Tensor, memories: Iterator[Tensor] | None, batch: int, kept: list[Tensor]
) -> Tensor:
    """Run one stage's blocks: each takes its memory from the iterator and leaves the next in `kept`."""
    assert isinstance(stage, nn.ModuleList)
    for block in stage:
        x, remembered = block(x, None if memories is None else next(memories), batch)
        kept.append(remembered)
    return x


class Autoencoder(nn.Module):
    """Encoder, decoder and the statistics that make latents mean 0, standard deviation 1 outside.

    Tensors come back in the dtype of the weights, whatever the dtype that went in.
    """

    latent_mean: Tensor  # [C], of raw latents
    latent_std: Tensor  # [C]

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or AutoencoderConfig()
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.register_buffer("latent_mean", torch.zeros(self.config.latent_channels))
        self.register_buffer("latent_std", torch.ones(self.config.latent_channels))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.latent_mean.dtype

    def encode(self, frames: Tensor) -> Tensor:
        """frames [B, T, 3, H, W] in −1..1, T a multiple of `frames_per_latent` → latents [B, T/4, C, h, w].

        The first latent frame is encoded as the beginning of a stream: nothing is remembered from before it.
        Raises ValueError for a T, H or W that does not divide.
        """
        raw = self.encode_raw(frames)
        return (raw - self.latent_mean.view(-1, 1, 1)) / self.latent_std.view(-1, 1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """latents [B, F, C, h, w] → frames [B, 4F, 3, H, W] in −1..1, from the beginning of a stream."""
        frames, _ = self.decode_from(latents, None)
        return frames

    def decode_from(self, latents: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """`decode`, going on from the memory of the call before (None: the beginning); and memory."""
        raw = latents.to(self.dtype) * self.latent_std.view(-1, 1, 1) + self.latent_mean.view(-1, 1, 1)
        frames, memory = self.decode_raw(raw, memory)
        return frames.clamp(-1.0, 1.0), memory

    def encode_raw(self, frames: Tensor) -> Tensor:
        """`encode` without the statistics: what the training stage sees."""
        raw, _ = self.encoder(self.fold(frames), frames.shape[0])
        return _unfold_time(raw, frames.shape[0])

    def fold(self, frames: Tensor) -> Tensor:
        """frames [B, T, 3, H, W] → what the encoder is given, [F·B, 48, H/2, W/2], time outermost."""
        per_latent, stride = self.config.frames_per_latent, self.config.stride
        _, count, _, height, width = frames.shape
        if count % per_latent or height % stride or width % stride:
            raise ValueError(
                f"{count} frames of {width}×{height}: the count must be a multiple of {per_latent}, "
                f"the sides of {stride}"
            )
        grouped = torch.unflatten(frames.to(self.dtype), 1, (-1, per_latent))  # [B, F, 4, 3, H, W]
        stacked = grouped.flatten(2, 3).transpose(0, 1).flatten(0, 1)  # [F·B, 12, H, W]
        return F.pixel_unshuffle(stacked, FOLD)

    def decode_raw(self, raw: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Raw latents [B, F, C, h, w] → frames [B, 4F, 3, H, W], and memory.

        Frames are not clamped, so that gradients pass.
        """
        batch, per_latent = raw.shape[0], self.config.frames_per_latent
        folded, memory = self.decoder(raw.transpose(0, 1).flatten(0, 1), batch, memory)
        stacked = F.pixel_shuffle(folded, FOLD)  # [F·B, 12, H, W]
        frames = torch.unflatten(_unfold_time(stacked, batch), 2, (per_latent, COLOURS))  # [B, F, 4, 3, H, W]
        return frames.flatten(1, 2), memory


def _unfold_time(x: Tensor, batch: int) -> Tensor:
    """[F·B, …], time outermost → [B, F, …]."""
    return torch.unflatten(x, 0, (-1, batch)).transpose(0, 1)


def save_autoencoder(model: Autoencoder, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights, in `dtype`, and statistics, in float32, with the config in the safetensors header."""
    statistics = dict(model.named_buffers())
    tensors = {
        name: tensor.detach().to("cpu", torch.float32 if name in statistics else dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(tensors, path, metadata={"config": json.dumps(asdict(model.config))})


def load_autoencoder(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Autoencoder:
    """Read a file of `save_autoencoder`; the model comes in evaluation mode, its convolutions channels-last.

    Raises CheckpointError for a file that cannot be read or is not one of `save_autoencoder`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if "config" not in header:
        raise CheckpointError(f"{path} has no autoencoder config in its header")
    values: dict[str, Any] = json.loads(header["config"])
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    model = Autoencoder(AutoencoderConfig(**settings))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:  # names the tensors that are missing or of another size
        raise CheckpointError(f"{path} does not fit its own config: {error}") from error
    model.requires_grad_(False).to(device, dtype)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval()
