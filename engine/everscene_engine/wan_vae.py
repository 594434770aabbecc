"""The Wan VAEs as streams: diffusers' `AutoencoderKLWan` is the network, the state that a stream needs is kept here.

Every causal convolution of the decoder remembers the last two frames of its input, in a list in the order in which
the convolutions run. The first latent frame is special: it becomes one frame, and the layers that double time only
take note that it passed. So it is decoded alone; any number of later latent frames can go through together, four
frames each, and the result does not depend on how many did. (Wan 2.1, 2.2 and the pruned 2.2 differ in sizes alone.)
"""

from typing import Any

import torch
from torch import Tensor

from everscene_engine.decoder import DecoderState, kind_of
from everscene_engine.errors import ConfigError
from everscene_kernels.launch import has_kernels

_PASSED = "Rep"  # diffusers' own mark for "the first latent frame passed here"

# Statistics of the latents that the denoisers were trained with, from the published configurations of Wan.
MEAN_16 = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
STD_16 = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
MEAN_48 = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
STD_48 = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip


class WanVAE:
    """A `decoder.StreamingDecoder` and, where the file has an encoder, a `start_image.ImageEncoder`.

    network: a `diffusers.AutoencoderKLWan`. together: how many later latent frames go through the network at once: more
    is quicker and takes as many times the memory. Frames come in the network's dtype.
    """

    def __init__(self, network: Any, together: int = 1, quick: bool | None = None) -> None:
        """quick: whether the decoder takes the fused kernels of `fast_vae`; None: where it can, on a GPU in bfloat16.
        The network is then changed, and decodes one clip at a time."""
        if together < 1:
            raise ConfigError(f"together is {together}; it must be at least 1")
        channels = network.config.z_dim
        known = {16: (MEAN_16, STD_16), 48: (MEAN_48, STD_48)}
        if channels not in known:
            raise ConfigError(f"a Wan VAE has 16 or 48 latent channels, not {channels}")
        self._network = network.eval()
        self._together = together
        weight = network.post_quant_conv.weight
        self._mean, self._std = (
            torch.tensor(values, device=weight.device, dtype=weight.dtype).view(-1, 1, 1, 1)
            for values in known[channels]
        )  # [C, 1, 1, 1]
        self._weight = weight
        self.kind = kind_of("wan", network)
        self._places = sum(type(module).__name__ == "WanCausalConv3d" for module in network.decoder.modules())
        self._quick = has_kernels(weight) if quick is None else quick
        if self._quick:
            from everscene_engine.fast_vae import quicken  # its kernels need Triton

            quicken(network.decoder)
        self.reset()

    @property
    def can_encode(self) -> bool:
        """Whether the file had an encoder."""
        return getattr(self._network, "encoder", None) is not None

    @torch.inference_mode()
    def feed(self, latents: Tensor) -> Tensor:
        """latents [B, F, C, h, w] → frames [B, T, 3, H, W] in −1..1: one for the first latent frame of a stream, four
        for each later one. Raises ValueError when B, h or w are not those fed since the last reset."""
        held = self._memory[0]
        if isinstance(held, Tensor) and (held.shape[0], *held.shape[3:]) != (latents.shape[0], *latents.shape[3:]):
            raise ValueError(f"latents {tuple(latents.shape)} do not continue the stream; reset the decoder first")
        z = (
            latents.transpose(1, 2).to(self._weight.device, self._weight.dtype) * self._std + self._mean
        )  # [B, C, F, h, w]
        x = self._network.post_quant_conv(z)
        if self._quick:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        frames: list[Tensor] = []
        if self._latent_frames == 0:
            frames.append(self._decode(x[:, :, :1], first=True))
            x = x[:, :, 1:]
        frames += [self._decode(part, first=False) for part in x.split(self._together, dim=2) if part.shape[2]]
        self._latent_frames += latents.shape[1]
        return torch.cat(frames, dim=2).transpose(1, 2).clamp(-1.0, 1.0)

    def _decode(self, x: Tensor, first: bool) -> Tensor:
        out: Tensor = self._network.decoder(x, feat_cache=self._memory, feat_idx=[0], first_chunk=first)
        patch = self._network.config.patch_size
        return out if patch is None else _unfold(out, patch)  # [B, 3, T, H, W]

    def reset(self) -> None:
        """Forget everything: the next latent frame is the first of a stream."""
        self._memory: list[Tensor | str | None] = [None] * self._places
        self._latent_frames = 0

    def snapshot(self) -> DecoderState:
        """The state as it is now. Nothing is copied: the network makes new tensors and leaves the old.

        A place that remembers nothing is an empty tensor [0], a layer that only took note of the first latent frame
        is a tensor [1], so that a state is tensors alone.
        """
        if self._latent_frames == 0:
            return DecoderState(0, ())
        return DecoderState(self._latent_frames, tuple(map(_as_tensor, self._memory)))

    def restore(self, state: DecoderState) -> None:
        """Go back to a snapshot, which stays good for more restores."""
        self.reset()
        self._latent_frames = state.latent_frames
        for place, tensor in enumerate(state.tensors):
            if tensor.ndim == 1:
                self._memory[place] = _PASSED if tensor.numel() else None
            else:
                self._memory[place] = tensor

    @torch.inference_mode()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """One picture [1, 3, H, W] in −1..1 as the first latent frame of a stream, [1, 1, C, h, w], mean 0, std 1.

        Raises ConfigError when the file has no encoder.
        """
        if not self.can_encode:
            raise ConfigError("this VAE has no encoder; a start image needs the whole VAE")
        clip = pixels[:, :, None].to(self._weight.device, self._weight.dtype)  # [1, 3, 1, H, W]
        mean: Tensor = self._network.encode(clip).latent_dist.mode()  # [1, C, 1, h, w]
        return ((mean - self._mean) / self._std).transpose(1, 2)


def _as_tensor(held: Tensor | str | None) -> Tensor:
    if isinstance(held, Tensor):
        return held
    return torch.zeros(0 if held is None else 1)


def _unfold(x: Tensor, patch: int) -> Tensor:
    """[B, 3·patch², T, h, w] → [B, 3, T, patch·h, patch·w]; within a colour the column's phase is the slower one."""
    x = torch.unflatten(x, 1, (-1, patch, patch))  # [B, 3, column phase, row phase, T, h, w]
    return x.permute(0, 1, 4, 5, 3, 6, 2).flatten(5, 6).flatten(3, 4)
