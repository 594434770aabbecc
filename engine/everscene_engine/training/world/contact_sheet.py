"""Many frames on one picture, with labels: for looking."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor


def sheet(frames: Tensor, columns: int, labels: Sequence[str] = (), enlarge: int = 1) -> Image.Image:
    """frames: float [n, 3, H, W], 0 to 1, laid out row by row; labels: one a frame, or none. Returns an RGB image."""
    count, _, height, width = frames.shape
    pixels = (frames.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    height, width = height * enlarge, width * enlarge
    caption = 12 if labels else 0
    rows = -(-count // columns)
    page = Image.new("RGB", (columns * (width + 4) + 4, rows * (height + caption + 4) + 4), (24, 24, 28))
    pen = ImageDraw.Draw(page)
    for number in range(count):
        left = 4 + (number % columns) * (width + 4)
        top = 4 + (number // columns) * (height + caption + 4)
        tile = Image.fromarray(pixels[number])
        page.paste(
            tile.resize((width, height), Image.Resampling.NEAREST) if enlarge > 1 else tile, (left, top + caption)
        )
        if number < len(labels):
            pen.text((left + 2, top), labels[number], fill=(220, 220, 220))
    return page
