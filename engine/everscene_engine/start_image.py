"""A picture becomes the first latent frame of a world.

It is encoded as a clip of one frame; `LatentStream.begin_with` then holds the first latent frame of the first chunk to
it while the others are denoised. (`picture.py` cuts and scales it.)
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everscene_engine.autoencoder import Autoencoder


class ImageEncoder(Protocol):
    """What makes a latent frame of a picture. (`wan_vae.WanVAE` is one.)"""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """pixels [1, 3, H, W] in −1..1 → latent frame [1, 1, C, h, w], mean 0, std 1."""
        ...


class PocketImageEncoder:
    """The pocket autoencoder, which encodes four frames together: the picture four times over."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        self._autoencoder = autoencoder

    @torch.inference_mode()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """See `ImageEncoder`."""
        device = self._autoencoder.latent_mean.device
        clip = pixels.to(device)[:, None].expand(-1, self._autoencoder.config.frames_per_latent, -1, -1, -1)
        return self._autoencoder.encode(clip)


def as_tensor(picture: NDArray[np.uint8]) -> Tensor:
    """Pixels [H, W, 3] as [1, 3, H, W] float32 in −1..1."""
    pixels = torch.from_numpy(picture.astype(np.float32))  # [H, W, 3]
    return pixels.permute(2, 0, 1)[None] / 127.5 - 1.0
