"""Streaming decoders: latents in, frames out, and a state that can be kept and put back.

Every decoder of the house is fed latent frames in the order of time and gives whatever frames they
complete. How many those are is the decoder's own business: the pocket decoder gives four for each, the
Wan decoders one for the very first and four for every later one. A caller counts the frames it gets.

A rollback puts the stream back to an earlier latent frame. The decoder follows with `snapshot`, taken after a
`feed`, and `restore`: fed the same latents again, it gives the same frames again.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from everscene_engine.autoencoder import Autoencoder, Memory
from everscene_kernels.launch import has_kernels

OPAQUE = 255


@dataclass(frozen=True)
class DecoderState:
    """A decoder between two latent frames. Holds its own tensors: nothing that a later `feed` writes into."""

    latent_frames: int
    """Latent frames fed since the last reset."""
    tensors: tuple[Tensor, ...]
    """The decoder's own; empty before the first latent frame."""


class StreamingDecoder(Protocol):
    """What the stream asks of a decoder."""

    @property
    def kind(self) -> str:
        """What tells its states from those of another decoder."""
        ...

    def feed(self, latents: Tensor) -> Tensor:
        """latents [B, F, C, h, w], mean 0 and std 1 → frames [B, T, 3, H, W] in −1..1; the state advances.

        Feeding latent frames one by one or many at once gives the same frames. B stays as it is
        until a reset.
        """
        ...

    def reset(self) -> None:
        """Forget everything: the next latent frame is the first of a stream."""
        ...

    def snapshot(self) -> DecoderState:
        """The state as it is now; later feeding leaves it untouched."""
        ...

    def restore(self, state: DecoderState) -> None:
        """Go back to a snapshot, which stays good for more restores."""
        ...


def kind_of(name: str, network: nn.Module) -> str:
    """The kind of a decoder that is a network: two with as many weights in the same dtype have states alike."""
    weights = list(network.parameters())
    return f"{name}, {sum(weight.numel() for weight in weights)} weights, {weights[0].dtype}"


class PocketDecoder:
    """The pocket autoencoder's decoder as a stream. Its memory is 1.7 MB in float32 at 256×144.

    On a CPU the channels-last layout is the quicker one and the constructor puts the model into it.
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        self._autoencoder = autoencoder
        autoencoder.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._memory: Memory = ()
        self._latent_frames = 0
        self.kind = kind_of("pocket", autoencoder)

    @torch.inference_mode()
    def feed(self, latents: Tensor) -> Tensor:
        """latents [B, F, C, h, w] → frames [B, 4F, 3, H, W] in −1..1, in the weights' dtype.

        Raises ValueError when B, h or w are not those of the latent frames fed since the last reset.
        """
        if self._memory and (held := self._memory[0].shape) != self._memory_shape(latents):
            raise ValueError(
                f"latents {tuple(latents.shape)} do not continue a stream whose memory is {tuple(held)}; "
                "reset the decoder first"
            )
        frames, self._memory = self._autoencoder.decode_from(latents, self._memory or None)
        self._latent_frames += latents.shape[1]
        return frames

    def reset(self) -> None:
        """Forget everything: the next latent frame is the first of a stream."""
        self._memory = ()
        self._latent_frames = 0

    def snapshot(self) -> DecoderState:
        """The state as it is now. A copy: the memory may be a view of a whole chunk's features otherwise."""
        return DecoderState(self._latent_frames, tuple(tensor.clone() for tensor in self._memory))

    def restore(self, state: DecoderState) -> None:
        """Go back to a snapshot. Nothing is copied: every `feed` makes a new memory and leaves the old."""
        self._memory = state.tensors
        self._latent_frames = state.latent_frames

    def _memory_shape(self, latents: Tensor) -> tuple[int, ...]:
        """The first block's memory that these latents would leave behind."""
        batch, _, _, height, width = latents.shape
        return batch, self._autoencoder.config.widths[-1] // 2, height, width


class DecoderElsewhere:
    """A decoder on another device than the latents: they go there, and its frames and its states stay there."""

    def __init__(self, decoder: StreamingDecoder, device: torch.device) -> None:
        """device: where the decoder's weights are."""
        self._decoder = decoder
        self._device = device

    @property
    def kind(self) -> str:
        """The decoder's own."""
        return self._decoder.kind

    def feed(self, latents: Tensor) -> Tensor:
        """As the decoder's own, for latents of any device."""
        queued = self._device.type == "cuda"  # a copy to the host must be there before it is read
        return self._decoder.feed(latents.to(self._device, non_blocking=queued))

    def reset(self) -> None:
        """The decoder's own."""
        self._decoder.reset()

    def snapshot(self) -> DecoderState:
        """The decoder's own."""
        return self._decoder.snapshot()

    def restore(self, state: DecoderState) -> None:
        """As the decoder's own, for a state of any device."""
        tensors = tuple(tensor.to(self._device) for tensor in state.tensors)
        self._decoder.restore(DecoderState(state.latent_frames, tensors))


def decoder_for(latents: torch.device, decoder: StreamingDecoder, device: torch.device) -> StreamingDecoder:
    """A decoder whose weights are on `device`, for latents that are made on another device or on the same."""
    return decoder if device == latents else DecoderElsewhere(decoder, device)


def frames_to_rgba8(frames: Tensor) -> Tensor:
    """Frames in −1..1 to the pixels of the frame ring, on the device where they are.

    frames: [T, 3, H, W] or [1, T, 3, H, W], any float dtype, sRGB; values outside −1..1 are clamped, NaN
    is black. Returns uint8 [T, H, W, 4]: top row first, alpha 255. Raises ValueError for another shape.
    """
    if frames.ndim == 5 and frames.shape[0] == 1:
        frames = frames[0]
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(f"frames {tuple(frames.shape)} must be [T, 3, H, W] or [1, T, 3, H, W]")
    if has_kernels(frames, dtype=None):
        from everscene_kernels import pictures_triton  # the same in one pass

        return pictures_triton.rgba8(frames)
    count, _, height, width = frames.shape
    levels = frames.float().mul(127.5).add_(128.0).nan_to_num_(0.0).clamp_(0.0, 255.0)  # truncation rounds
    pixels = torch.full((count, height, width, 4), OPAQUE, dtype=torch.uint8, device=frames.device)
    pixels[..., :3] = levels.permute(0, 2, 3, 1)
    return pixels
