"""Desert: mesas on the horizon, dunes with a lit and a shaded side, cacti."""

import torch
from torch import Tensor

from everscene_engine.training.world.canvas import Canvas, Frames, ramp, smooth
from everscene_engine.training.world.land import paint_ground, paint_ridge, ridge, slope
from everscene_engine.training.world.noise import cells, value_noise
from everscene_engine.training.world.weather import mist_bank, splash_rings

GROUND = 130.0


def paint_land(canvas: Canvas, frames: Frames) -> None:
    """Paint over the sky, from far to near: mesas, dunes, cacti."""
    _paint_far(canvas, frames)
    _paint_near(canvas, frames)


def _paint_far(canvas: Canvas, frames: Frames) -> None:
    """Mesas and dunes."""
    for number, (parallax, foot, tall, size, albedo, depth) in enumerate(
        ((0.05, 86.0, 30.0, 62.0, (0.86, 0.52, 0.42), 0.42), (0.10, 92.0, 26.0, 88.0, (0.84, 0.42, 0.28), 0.16))
    ):
        band = canvas.band(foot - tall - 8, 100)
        height = _mesa(band, frames, parallax, 41 + number, foot, tall, size)
        paint_ridge(band, frames, height, albedo, depth, 104, mist=0.45, rim=0.35, frost=0.35)
        strata = smooth(0.2, 0.9, torch.sin(band.y * 0.95 + number)) * band.edge(height + 3 - band.y)
        band.fill(strata * 0.22, frames.light.surface((0.55, 0.28, 0.26), depth, 0.35, 0.3))
        mist_bank(canvas, frames, 58, 100, parallax, 0.5)
    for number, (parallax, level, swing, albedo, depth) in enumerate(
        (
            (0.18, 95.0, 9.0, (0.95, 0.74, 0.52), 0.26),
            (0.32, 105.0, 13.0, (0.96, 0.72, 0.46), 0.14),
            (0.55, 117.0, 15.0, (0.95, 0.68, 0.42), 0.06),
        )
    ):
        band = canvas.band(level - swing - 4, 140)
        height = _crests(band, frames, parallax, 44 + number, level, swing)
        _dune(band, frames, height, albedo, depth)
        mist_bank(canvas, frames, level - 16, level + 16, parallax, 0.4)
    _cacti(canvas.band(58, 124), frames, 0.62, 47, 112.0, 26.0, 130.0, 0.05)


def _paint_near(canvas: Canvas, frames: Frames) -> None:
    """The dune that the subject walks on, with ripples and a cactus now and then."""
    _cacti(canvas.band(50, 126), frames, 0.86, 48, 121.0, 38.0, 210.0, 0.0)
    sand = canvas.band(112, 144)
    top = ridge(sand, frames, 1.0, 49, 120.0, ((90, 2.2),))
    paint_ground(sand, frames, top, (0.96, 0.72, 0.44), (1.0, 0.86, 0.62))
    world = sand.world(frames, 1.0, 50)
    bend = 2.0 * torch.sin(torch.remainder(world * 0.05, 2 * torch.pi).float())
    ripple = smooth(0.35, 1.0, torch.sin((sand.y - top + bend) * 0.95)) * smooth(4, 9, sand.y - top)
    sand.fill(ripple * 0.26, frames.light.surface((0.72, 0.44, 0.28), 0.0, 0.25, 0.85))
    splash_rings(canvas, frames, 124, 144, 1.0)


def _mesa(canvas: Canvas, frames: Frames, parallax: float, salt: int, foot: float, tall: float, size: float) -> Tensor:
    """Skyline of table mountains: noise pressed flat at the top, with steep sides."""
    world = canvas.world(frames, parallax, salt)
    noise = value_noise(world / size, frames.seed, salt)
    step = value_noise(world / (size * 0.37), frames.seed, salt + 3)
    flat = 0.70 * smooth(0.52, 0.57, noise) + 0.30 * smooth(0.62, 0.65, noise) * smooth(0.35, 0.42, step)
    return foot - tall * flat - 5.0 * smooth(0.25, 0.75, noise) - 1.5 * step


def _crests(canvas: Canvas, frames: Frames, parallax: float, salt: int, level: float, swing: float) -> Tensor:
    """Skyline of dunes: long swells that meet in crests, float32 [n, 1, 1, W]."""
    world = canvas.world(frames, parallax, salt)
    swell = 1 - (2 * value_noise(world / (swing * 9.0), frames.seed, salt) - 1).abs()
    small = value_noise(world / (swing * 3.7), frames.seed, salt + 5)
    return level - swing * (0.85 * swell**1.5 + 0.15 * small)


def _dune(canvas: Canvas, frames: Frames, height: Tensor, albedo: tuple[float, float, float], depth: float) -> None:
    """A dune: its face towards the sun is bright, the other lies in shade that runs out in a slanting edge."""
    light = frames.light
    paint_ridge(canvas, frames, height, albedo, depth, 150, mist=0.15, rim=0.0, frost=0.75, lit=0.92)
    away = smooth(-0.06, 0.10, slope(height, canvas.pixel) * -light.side)  # 1 where the slope turns from the light
    below = canvas.y - height
    shade = ramp(20, 1, below).mul_(canvas.edge(-below)).mul_(away)
    canvas.fill(shade * 0.62, light.surface((albedo[0] * 0.84, albedo[1] * 0.74, albedo[2] * 0.88), depth, 0.12, 0.75))
    crest = canvas.edge((below - 0.6).abs() - 0.9) * (1 - 0.8 * away)
    canvas.fill(crest * 0.55, light.surface((1.0, 0.90, 0.70), depth, 1.15, 0.9))


def _cacti(
    canvas: Canvas, frames: Frames, parallax: float, salt: int, foot: float, tall: float, size: float, depth: float
) -> None:
    """A saguaro with two arms in seven of ten cells."""
    light = frames.light
    cell = cells(canvas.world(frames, parallax, salt), size, frames.seed)
    there = (cell.pick(1) < 0.7).float()
    grow = tall / 30
    mirror = torch.where(cell.pick(4) < 0.5, 1.0, -1.0)
    x = (cell.offset - cell.pick(3, -0.25, 0.25) * size) * (mirror / grow)  # [n, 1, 1, W]
    y = (canvas.y - foot) / grow  # [1, 1, h, 1]
    shape = _stem(x, y, 0.0, -27.0, 3.0)
    for side, low, high, thick in ((-8.0, -11.0, -21.0, 2.2), (7.5, -8.0, -16.0, 2.1)):
        shape = torch.minimum(shape, _stem(x - side, y, low, high, thick))
        shape = torch.minimum(shape, _stem(y - low, x, max(side, 0.0), min(side, 0.0), thick))
    cover = canvas.edge(shape * grow).mul_(there)
    canvas.fill(cover, light.surface((0.26, 0.46, 0.30), depth, 0.28, 0.3))
    across = x - torch.where(x < -4.5, -8.0, torch.where(x > 4.5, 7.5, 0.0))  # from the middle of the nearest stem
    sunny = ramp(0.2, 2.2, across * mirror * light.side) * 0.55
    canvas.fill(cover.mul_(sunny), light.surface((0.52, 0.72, 0.40), depth, 1.0, 0.7))


def _stem(across: Tensor, along: Tensor, start: float, end: float, radius: float) -> Tensor:
    """Signed distance to a straight stem with round ends, from start down to end (end < start) along one axis."""
    beyond = along - along.clamp(end, start)
    return torch.sqrt(across * across + beyond * beyond) - radius
