"""A picture of any kind as the pixels that a world can begin with. No torch: the bridge uses it too."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from everscene_engine.errors import ConfigError

MAX_PIXELS = 50_000_000  # a small file can hold a huge picture


def fitted(source: Path | bytes, width: int, height: int) -> NDArray[np.uint8]:
    """A picture file, or its bytes, as pixels [height, width, 3], sRGB, top row first.

    Turned upright by its EXIF tag, transparency laid on black, cut to the proportions around the middle, scaled.
    Raises ConfigError for what is no picture, or one of more than 50 million pixels.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ConfigError(f"{name} is {opened.width}×{opened.height}; the rule is at most {MAX_PIXELS} pixels")
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except UnidentifiedImageError as error:  # which names a buffer by its address
        raise ConfigError(f"{name} cannot be read as a picture: it is of no kind that is known here") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{name} cannot be read as a picture: {error}") from error
    black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
    opaque = Image.alpha_composite(black, upright).convert("RGB")
    return np.array(ImageOps.fit(opaque, (width, height), Image.Resampling.LANCZOS))


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels [H, W, 3] as a PNG file, from which `fitted` at the same size gives them back."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
