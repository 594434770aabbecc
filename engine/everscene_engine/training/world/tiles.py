"""Small pictures that repeat without a seam, drawn once and then slid over the canvas.

Clouds, stars, rain, flakes, mist: things in great number whose shape does not change. A tile is drawn from random
numbers of its own at the first use, on the scale of the canvas, and kept. Sliding it costs one bilinear lookup.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everscene_engine.training.world.canvas import Canvas

Array = NDArray[np.floating[Any]]


class _Pad:
    """A periodic drawing surface: `near` gives coordinates around a point, wrapped at the borders."""

    def __init__(self, width: int, height: int, pixel: float, channels: int, seed: int) -> None:
        self.width, self.height, self.pixel = width, height, pixel
        columns, rows = round(width / pixel), round(height / pixel)
        self.x = ((np.arange(columns, dtype=np.float32) + 0.5) * (width / columns))[None, :]
        self.y = ((np.arange(rows, dtype=np.float32) + 0.5) * (height / rows))[:, None]
        self.image: Array = np.zeros((channels, rows, columns), np.float32)
        self.random = np.random.default_rng(seed)

    def near(self, x: float, y: float, wrap_y: bool = True) -> tuple[Array, Array]:
        dx = (self.x - x + self.width / 2) % self.width - self.width / 2
        dy = self.y - y
        if wrap_y:
            dy = (dy + self.height / 2) % self.height - self.height / 2
        return dx, dy

    def edge(self, distance: Array, softness: float = 1.0) -> Array:
        cover: Array = np.clip(0.5 - distance / (self.pixel * softness), 0, 1)
        return cover


def _streaks(pad: _Pad, count: int, slope: float, length: tuple[float, float], half_width: float) -> None:
    lean = float(np.hypot(1, slope))
    for _ in range(count):
        x, y = pad.random.uniform(0, pad.width), pad.random.uniform(0, pad.height)
        half = pad.random.uniform(*length) / 2
        dx, dy = pad.near(x, y)
        along, across = (dy + slope * -dx) / lean, (dx + slope * dy) / lean
        distance = np.hypot(np.maximum(np.abs(along) - half, 0), across) - half_width
        fade = 0.45 + 0.55 * np.clip(along / half * 0.5 + 0.5, 0, 1)  # the head is brighter than the tail
        strength = pad.random.uniform(0.6, 1.0)
        np.maximum(pad.image[0], pad.edge(distance) * fade * strength, out=pad.image[0])


def _flakes(pad: _Pad, count: int, radius: tuple[float, float]) -> None:
    for _ in range(count):
        dx, dy = pad.near(pad.random.uniform(0, pad.width), pad.random.uniform(0, pad.height))
        flake = pad.edge(np.hypot(dx, dy) - pad.random.uniform(*radius), 1.4)
        np.maximum(pad.image[0], flake, out=pad.image[0])


def _stars(pad: _Pad, count: int) -> None:
    for _ in range(count):
        dx, dy = pad.near(pad.random.uniform(0, pad.width), pad.random.uniform(0, pad.height))
        size = pad.random.choice([0.75, 0.75, 0.95, 1.3])
        star = np.exp(-((np.hypot(dx, dy) / size) ** 2)) * pad.random.uniform(0.45, 1.0)
        np.maximum(pad.image[0], star, out=pad.image[0])


def _puff(pad: _Pad, x: float, y: float, radius: float, floor: float) -> None:
    """One round lump of cloud over what is there: coverage in channel 0, light from above in channel 1."""
    dx, dy = pad.near(x, y, wrap_y=False)
    cover = pad.edge(np.hypot(dx, dy) - radius, 1.6) * np.clip((floor - pad.y) / 3.0, 0, 1)
    shade = np.clip(0.56 - 0.5 * dy / radius - 0.10 * dx / radius, 0, 1)
    pad.image[1] += (shade - pad.image[1]) * cover
    np.maximum(pad.image[0], cover, out=pad.image[0])


def _cumulus(pad: _Pad, clouds: int, size: float) -> None:
    for number in range(clouds):
        centre = (number + pad.random.uniform(0.2, 0.8)) * pad.width / clouds
        floor = pad.random.uniform(0.45, 0.95) * pad.height
        half = pad.random.uniform(0.6, 1.3) * size
        spots = sorted(pad.random.uniform(-1, 1, 11), key=abs, reverse=True)
        for spot in spots:  # small lumps at the ends first, tall ones in the middle over them
            radius = size * (0.46 - 0.30 * abs(spot)) * pad.random.uniform(0.75, 1.2)
            lift = radius * pad.random.uniform(0.2, 0.9) * (1.25 - abs(spot))
            _puff(pad, centre + spot * half, floor - lift, radius, floor)


def _deck(pad: _Pad, rows: int, size: float) -> None:
    """A ceiling of cloud: rows of lumps, the lower ones smaller and in front."""
    pad.image[0] = np.clip((pad.height * 0.42 - pad.y) / 8, 0, 1)
    pad.image[1] = 0.45
    for row in range(rows):
        part = row / (rows - 1)
        radius = size * (1.25 - 0.65 * part)
        for number in range(int(pad.width / (radius * 1.15))):
            x = (number + pad.random.uniform(0.1, 0.9)) * radius * 1.15
            y = pad.height * (0.02 + 0.62 * part) + pad.random.uniform(-0.25, 0.25) * radius
            _puff(pad, x, y, radius * pad.random.uniform(0.75, 1.25), 1e9)


def _mist(pad: _Pad) -> None:
    """Soft wide banks, 0 to 1: waves of few periods, so the seam is invisible."""
    total = np.zeros(pad.image.shape[1:], np.float32)
    for strength, fx, fy in ((1.0, 1, 1), (0.8, 2, 1), (0.7, 3, 2), (0.45, 5, 3), (0.3, 7, 4)):
        for _ in range(2):
            turn = pad.random.uniform(0, 2 * np.pi, 2)
            wave = np.sin(2 * np.pi * (fx * pad.x / pad.width) + turn[0] + 1.5 * np.sin(2 * np.pi * pad.y / pad.height))
            total += strength * wave * np.sin(2 * np.pi * fy * pad.y / pad.height + turn[1])
    pad.image[0] = np.clip(0.5 + total / 4.5, 0, 1)


def _splashes(pad: _Pad, count: int) -> None:
    """Rings where drops land, four ages in four channels: small and bright, then wide and faint."""
    for channel in range(4):
        for _ in range(count):
            dx, dy = pad.near(pad.random.uniform(0, pad.width), pad.random.uniform(0, pad.height))
            reach = np.hypot(dx, dy * 2.4)
            ring = np.exp(-(((reach - 2.6) / 1.6) ** 2))
            np.maximum(pad.image[channel], ring, out=pad.image[channel])


_SIZES = {  # name: width, height, channels
    "rain": (160, 128, 1),
    "rain_far": (128, 96, 1),
    "storm": (160, 128, 1),
    "storm_far": (128, 96, 1),
    "snow": (160, 128, 1),
    "snow_far": (128, 96, 1),
    "snow_near": (192, 160, 1),
    "stars": (288, 112, 1),
    "clouds": (704, 64, 2),
    "clouds_far": (512, 40, 2),
    "deck": (448, 72, 2),
    "mist": (384, 96, 1),
    "splashes": (96, 32, 4),
}


def _draw(name: str, pad: _Pad) -> None:
    match name:
        case "rain":
            _streaks(pad, 44, 0.16, (9, 14), 1.0)
        case "rain_far":
            _streaks(pad, 40, 0.16, (7, 10), 0.8)
        case "storm":
            _streaks(pad, 62, 0.55, (11, 16), 1.05)
        case "storm_far":
            _streaks(pad, 52, 0.55, (8, 12), 0.85)
        case "snow":
            _flakes(pad, 46, (1.2, 1.7))
        case "snow_far":
            _flakes(pad, 40, (1.0, 1.2))
        case "snow_near":
            _flakes(pad, 34, (1.8, 2.3))
        case "stars":
            _stars(pad, 78)
        case "clouds":
            _cumulus(pad, 5, 34.0)
        case "clouds_far":
            _cumulus(pad, 6, 20.0)
        case "deck":
            _deck(pad, 4, 26.0)
        case "mist":
            _mist(pad)
        case "splashes":
            _splashes(pad, 6)
        case _:
            raise ValueError(f"no tile is named {name!r}; there are {', '.join(_SIZES)}")


@lru_cache(maxsize=96)
def _tile(name: str, pixel: float, device: str) -> Tensor:
    """The tile [1, C, h, w], twice as large each way as its period so that any window of it is whole."""
    width, height, channels = _SIZES[name]
    pad = _Pad(width, height, pixel, channels, seed=sum(map(ord, name)))
    _draw(name, pad)
    columns, rows = pad.image.shape[2], pad.image.shape[1]
    wide = np.pad(pad.image, ((0, 0), (0, rows + 2), (0, round(256 / pixel) + columns // 8 + 2)), mode="wrap")
    return torch.from_numpy(wide)[None].to(device)


def slide(name: str, canvas: Canvas, shift_x: Tensor, shift_y: Tensor | float = 0.0) -> Tensor:
    """Look up a tile under every pixel of the canvas, moved right by shift_x and down by shift_y.

    Shifts: [n, 1, 1, 1] of any size, float64 for long times. Returns float32 [n, C, h, W].
    """
    tile = _tile(name, canvas.pixel, str(canvas.picture.device))
    width, height, _ = _SIZES[name]
    start_x = torch.remainder(-shift_x, width).float()
    down = shift_y if isinstance(shift_y, Tensor) else torch.full_like(shift_x, shift_y)
    start_y = torch.remainder(-down, height).float()
    count, rows, columns = canvas.picture.shape[0], canvas.y.shape[2], canvas.x.shape[3]
    span_x, span_y = tile.shape[3] * canvas.pixel, tile.shape[2] * canvas.pixel
    x = (canvas.x + start_x) * (2 / span_x) - 1  # [n, 1, 1, W]
    y = torch.remainder(canvas.y + start_y, height) * (2 / span_y) - 1  # [n, 1, h, 1]
    grid = torch.stack([x[:, 0].expand(count, rows, columns), y[:, 0].expand(count, rows, columns)], -1)  # [n, h, W, 2]
    return torch.nn.functional.grid_sample(
        tile.expand(count, -1, -1, -1), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
