"""A picture becomes the first latent frame of a world.

The picture is cut to the stream's proportions around its middle, scaled to its size and encoded as a clip of one frame;
`LatentStream.begin_with` then holds the first latent frame of the first chunk to it while the others are denoised.
"""

import io
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from everscene_engine.autoencoder import Autoencoder
from everscene_engine.errors import ConfigError

MAX_PIXELS = 50_000_000  # a small file can hold a huge picture


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


def read_image(source: Path | bytes, width: int, height: int) -> Tensor:
    """A picture file, or its bytes, as pixels [1, 3, height, width] in −1..1.

    Turned upright by its EXIF tag, transparency laid on black, cut to the proportions around the middle, scaled.
    Raises ConfigError for what is no picture, or one of more than 50 million pixels.
    """
    name = "the image" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ConfigError(f"{name} is {opened.width}×{opened.height}; the rule is at most {MAX_PIXELS} pixels")
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{name} cannot be read as a picture: {error}") from error
    black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
    fitted = ImageOps.fit(
        Image.alpha_composite(black, upright).convert("RGB"), (width, height), Image.Resampling.LANCZOS
    )
    pixels = torch.from_numpy(np.asarray(fitted, dtype=np.float32).copy())  # [H, W, 3]
    return pixels.permute(2, 0, 1)[None] / 127.5 - 1.0
