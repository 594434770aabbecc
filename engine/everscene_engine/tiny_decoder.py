"""A tiny decoder for the latents of Wan: the TAEHV family (https://github.com/madebyollin/taehv), as a stream.

Plain 2D convolutions over single frames. What ties a frame to the one before it is the memory block: it sees, beside
its own input, the input that it was given one frame earlier. Three stages each double the picture; two of them also
make two frames of one, so a latent frame becomes four frames. The first three frames of a stream are of no use (the
Wan VAEs give one frame for the first latent frame) and are dropped.

Module names are those of the published files `taew2_1` and `taew2_2`; widths, the number of blocks and the kind of
block (plain, or the wide kind of 1×1 and grouped 3×3 convolutions) are read from the tensors' shapes. Latents go in as
the denoiser makes them, mean 0 and deviation 1. Inside, time is folded into the batch, outermost, as in `autoencoder`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_engine.decoder import DecoderState, kind_of
from everscene_engine.errors import CheckpointError
from everscene_kernels.launch import has_kernels

FIRST_BLOCK = 3  # its place among the modules; before it: a clamp, a convolution, a rectifier
LATENT_BOUND = 3.0
FRAMES_PER_LATENT = 4


@dataclass(frozen=True)
class TinyStage:
    """width: channels. blocks: memory blocks. group_width: channels that the second convolution of a block sees at
    once. wide: the wide kind of block. grow: frames made of one. out: channels handed to the next stage."""

    width: int
    blocks: int
    group_width: int
    wide: bool
    grow: int
    out: int


@dataclass(frozen=True)
class TinyDecoderConfig:
    """channels: latent channels. stages: coarse to fine. patch: pixels folded into channels along each side."""

    channels: int
    stages: tuple[TinyStage, ...]
    patch: int

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], source: str) -> "TinyDecoderConfig":
        """The configuration of a published file from its tensors. Raises CheckpointError."""
        stages: list[TinyStage] = []
        place = FIRST_BLOCK
        while f"decoder.{place}.conv.0.weight" in tensors:
            first = tensors[f"decoder.{place}.conv.0.weight"]  # [width, 2·width, k, k]
            second = tensors[f"decoder.{place}.conv.2.weight"]
            blocks = 0
            while f"decoder.{place + blocks}.conv.0.weight" in tensors:
                blocks += 1
            place += blocks
            grow = _need(tensors, f"decoder.{place + 1}.conv.weight", source)  # [grow·width, width, 1, 1]
            out = _need(tensors, f"decoder.{place + 2}.weight", source)  # [out, width, 3, 3]
            wide = first.shape[-1] == 1
            times = grow.shape[0] // grow.shape[1]
            stages.append(TinyStage(first.shape[0], blocks, second.shape[1], wide, times, out.shape[0]))
            place += 3
        last = _need(tensors, f"decoder.{place + 1}.weight", source)  # [3·patch², width, 3, 3]
        config = cls(
            _need(tensors, "decoder.1.weight", source).shape[1], tuple(stages), round((last.shape[0] / 3) ** 0.5)
        )
        if config.frames_per_latent != FRAMES_PER_LATENT:
            raise CheckpointError(f"{source} makes {config.frames_per_latent} frames of a latent frame; Wan's are 4")
        return config

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "TinyDecoderConfig":
        """The inverse of `as_plain`."""
        return cls(plain["channels"], tuple(TinyStage(**stage) for stage in plain["stages"]), plain["patch"])

    def as_plain(self) -> dict[str, Any]:
        """As mappings, lists and numbers."""
        return asdict(self)

    @property
    def frames_per_latent(self) -> int:
        """Frames made of a latent frame, but of the first."""
        count = 1
        for stage in self.stages:
            count *= stage.grow
        return count


class MemoryBlock(nn.Module):
    """relu(x + convolutions of x and of the x before it)."""

    def __init__(self, stage: TinyStage) -> None:
        super().__init__()
        width, groups = stage.width, stage.width // stage.group_width
        if stage.wide:
            layers = [
                nn.Conv2d(2 * width, width, 1),
                nn.Conv2d(width, width, 3, padding=1, groups=groups),
                nn.Conv2d(width, width, 1),
                nn.Conv2d(width, width, 3, padding=1, groups=groups),
            ]
        else:
            layers = [nn.Conv2d(2 * width if i == 0 else width, width, 3, padding=1) for i in range(3)]
        spaced = [part for layer in layers for part in (layer, nn.ReLU())]
        self.conv = nn.Sequential(*spaced[:-1])

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """x and the frames one earlier, both [T·B, c, h, w]."""
        joined = torch.cat([x, before], dim=1)
        if not has_kernels(x):
            return F.relu(x + self.conv(joined))
        convs = [part for part in self.conv if isinstance(part, nn.Conv2d)]
        for conv in convs:
            joined = _rectified(joined, conv, x if conv is convs[-1] else None)
        return joined


class Grow(nn.Module):
    """Makes several frames of one by a 1×1 convolution; a frame's channels lie together, the earlier frame first."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(width, width * times, 1, bias=False)

    def forward(self, x: Tensor, clips: int) -> Tensor:
        """[T·B, c, h, w] → [times·T·B, c, h, w], time outermost; channels stay together in memory."""
        grown: Tensor = self.conv(x)
        if self.times == 1:
            return grown
        count, channels, height, width = grown.shape
        shape = (count * self.times, channels // self.times, height, width)
        out = torch.empty(shape, dtype=grown.dtype, device=grown.device, memory_format=torch.channels_last)
        frames = torch.unflatten(torch.unflatten(grown, 1, (self.times, -1)), 0, (-1, clips))  # [T, B, times, c, h, w]
        torch.unflatten(out, 0, (-1, self.times, clips)).copy_(frames.transpose(1, 2))
        return out


class TinyDecoderNetwork(nn.Module):
    """The modules in a row, at the places that the published names give them."""

    def __init__(self, config: TinyDecoderConfig) -> None:
        super().__init__()
        self.config = config
        parts: list[nn.Module] = [
            nn.Identity(),  # the clamp, which has no weights
            nn.Conv2d(config.channels, config.stages[0].width, 3, padding=1),
            nn.ReLU(),
        ]
        for stage in config.stages:
            parts += [MemoryBlock(stage) for _ in range(stage.blocks)]
            parts.append(nn.Upsample(scale_factor=2))
            parts.append(Grow(stage.width, stage.grow))
            parts.append(nn.Conv2d(stage.width, stage.out, 3, padding=1, bias=False))
        parts += [nn.ReLU(), nn.Conv2d(config.stages[-1].out, 3 * config.patch**2, 3, padding=1)]
        self.decoder = nn.ModuleList(parts)

    def forward(self, latents: Tensor, clips: int, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """latents [F·B, C, h, w], time outermost, and the memory of each block [B, c, h, w], or () at the beginning
        → frames [4F·B, 3, H, W], about 0..1, and memory."""
        x = LATENT_BOUND * torch.tanh(latents / LATENT_BOUND)
        remembered = iter(memory)
        kept: list[Tensor] = []
        larger: nn.Module = nn.Identity()
        for part in self.decoder:
            if isinstance(part, MemoryBlock):
                last = next(remembered) if memory else torch.zeros_like(x[:clips])
                kept.append(x[-clips:])
                x = part(x, torch.cat([last, x[:-clips]]) if len(x) > clips else last)
            elif isinstance(part, nn.Upsample):
                larger = part
            elif isinstance(part, Grow):  # a 1×1 convolution comes to the same before doubling: a quarter of the work
                x = _doubled(part.conv(x), part.times) if clips == 1 and has_kernels(x) else larger(part(x, clips))
            else:
                x = part(x)
        return F.pixel_shuffle(x, self.config.patch), tuple(kept)


class TinyDecoder:
    """A `decoder.StreamingDecoder` around the network."""

    def __init__(self, network: TinyDecoderNetwork) -> None:
        self._network = network
        network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._memory: tuple[Tensor, ...] = ()
        self._latent_frames = 0
        self.kind = kind_of("tiny", network)

    @torch.inference_mode()
    def feed(self, latents: Tensor) -> Tensor:
        """latents [B, F, C, h, w] → frames [B, T, 3, H, W] in −1..1: one for the first latent frame, four for each
        later one. Raises ValueError for another channel count, or when B, h or w change without a reset."""
        clips, _, channels, height, width = latents.shape
        if channels != self._network.config.channels:
            raise ValueError(f"latents have {channels} channels; this decoder takes {self._network.config.channels}")
        if self._memory and (held := self._memory[0].shape) != (clips, held[1], height, width):
            raise ValueError(f"latents {tuple(latents.shape)} do not continue the stream; reset the decoder first")
        folded = latents.transpose(0, 1).flatten(0, 1).to(self._network.decoder[1].weight.dtype)  # type: ignore[arg-type]
        frames, memory = self._network(folded, clips, self._memory)
        self._memory = tuple(tensor.clone() for tensor in memory)  # not a view that keeps a whole chunk alive
        frames = torch.unflatten(frames, 0, (-1, clips)).transpose(0, 1)  # [B, T, 3, H, W]
        if self._latent_frames == 0:
            frames = frames[:, FRAMES_PER_LATENT - 1 :]
        self._latent_frames += latents.shape[1]
        return frames.mul(2).sub(1).clamp(-1.0, 1.0)

    def reset(self) -> None:
        """Forget everything: the next latent frame is the first of a stream."""
        self._memory = ()
        self._latent_frames = 0

    def snapshot(self) -> DecoderState:
        """The state as it is now. Nothing is copied: every `feed` makes a new memory and leaves the old."""
        return DecoderState(self._latent_frames, self._memory)

    def restore(self, state: DecoderState) -> None:
        """Go back to a snapshot."""
        self._latent_frames, self._memory = state.latent_frames, state.tensors


def _rectified(x: Tensor, conv: nn.Conv2d, other: Tensor | None) -> Tensor:
    """relu(conv(x) + other), bias, sum and rectifier in one pass."""
    from everscene_kernels import pictures_triton

    assert conv.bias is not None
    made = _rows(F.conv2d(x, conv.weight, None, padding=conv.padding, groups=conv.groups))
    rows = pictures_triton.biased_relu(made, conv.bias, None if other is None else _rows(other))
    return rows.permute(0, 3, 1, 2)


def _doubled(x: Tensor, times: int) -> Tensor:
    """[T, times·c, h, w] → [times·T, c, 2h, 2w], channels-last, in one pass."""
    from everscene_kernels import pictures_triton

    return pictures_triton.doubled(_rows(x), times).permute(0, 3, 1, 2)


def _rows(x: Tensor) -> Tensor:
    """[T, c, h, w] → [T, h, w, c], as it lies in memory if it is channels-last."""
    return x.permute(0, 2, 3, 1).contiguous()


def _need(tensors: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"{source}: tensor '{name}' is missing")
    return tensors[name]
