"""Mountains: snowy peaks, a wooded shore, a lake that mirrors them, and the path along it."""

import torch
from torch import Tensor

from everscene_engine.training.world.canvas import Canvas, Frames, circle, smooth
from everscene_engine.training.world.land import paint_ground, paint_pines, paint_ridge, ridge, slope
from everscene_engine.training.world.noise import cells, layered_noise, value_noise
from everscene_engine.training.world.weather import mist_bank, splash_rings

GROUND = 130.0
SHORE = 95.0


def paint_far(canvas: Canvas, frames: Frames) -> None:
    """Peaks, woods, lake."""
    _peaks(canvas.band(14, SHORE + 1), frames, 0.04, 61, 60.0, 30.0, 0.58, (0.50, 0.54, 0.66))
    mist_bank(canvas, frames, 50, SHORE + 4, 0.05, 0.5)
    _peaks(canvas.band(30, SHORE + 1), frames, 0.09, 62, 78.0, 22.0, 0.32, (0.42, 0.46, 0.56))
    mist_bank(canvas, frames, 62, SHORE + 4, 0.1, 0.5)
    woods = canvas.band(66, SHORE + 1)
    height = ridge(woods, frames, 0.20, 63, 89.0, ((110, 5.0), (37, 1.5)))
    for shift in (0, 1):
        world = woods.world(frames, 0.20, 64) + shift * 5.5
        paint_pines(woods, frames, cells(world, 11.0, frames.seed + shift), height + 3, 15.0, (0.20, 0.40, 0.34), 0.20)
    paint_ridge(woods, frames, height, (0.20, 0.38, 0.32), 0.20, SHORE + 14, mist=0.35, rim=0.0, lit=0.3)
    _lake(canvas, frames)
    mist_bank(canvas, frames, SHORE - 14, 116, 0.2, 0.5)
    splash_rings(canvas, frames, SHORE + 3, 118, 0.5)


def paint_near(canvas: Canvas, frames: Frames) -> None:
    """The near shore: pines, grass, the path."""
    trees = canvas.band(44, 124)
    cell = cells(trees.world(frames, 0.78, 66), 96.0, frames.seed)
    sparse = cell.pick(5) < 0.62
    hidden = torch.where(sparse, 0.0, 500.0)
    paint_pines(trees, frames, cell, 119.0 + hidden, 58.0, (0.18, 0.40, 0.32), 0.03)
    bank = canvas.band(106, 144)
    top = ridge(bank, frames, 1.0, 68, 118.5, ((60, 2.4), (19, 0.8)))
    paint_ground(bank, frames, top, (0.38, 0.50, 0.30), (0.62, 0.70, 0.40))
    centre = ridge(bank, frames, 1.0, 69, 131.5, ((110, 1.0),))
    path = smooth(7.5, 5.2, (bank.y - centre).abs())
    bank.fill(path * 0.9, frames.light.surface((0.66, 0.60, 0.54), 0.0, 0.6, 0.8))
    rock = cells(bank.world(frames, 1.0, 70), 74.0, frames.seed)
    stone = circle(rock.offset - rock.pick(1, -20, 20), (bank.y - 121.5) * 1.5, rock.pick(2, 3.0, 7.0))
    stone = torch.maximum(stone, bank.y - 124)
    bank.fill(bank.edge(stone), frames.light.surface((0.46, 0.46, 0.50), 0.0, 0.3, 0.3))
    bank.fill(bank.edge(stone) * smooth(121, 117, bank.y), frames.light.surface((0.70, 0.69, 0.70), 0.0, 1.0, 1.0))
    splash_rings(canvas, frames, 124, 142, 1.0)


def _peaks(
    canvas: Canvas, frames: Frames, parallax: float, salt: int, level: float, tall: float, depth: float,
    albedo: tuple[float, float, float],
) -> None:  # fmt: skip
    """A range of sharp peaks: noise folded at its middle, lit on one flank, snow above a ragged line."""
    light = frames.light
    world = canvas.world(frames, parallax, salt)
    folded = torch.zeros_like(world, dtype=torch.float32)
    for number, (size, part) in enumerate(((tall * 3.1, 0.66), (tall * 1.25, 0.24), (tall * 0.5, 0.10))):
        noise = value_noise(world / size, frames.seed, salt + 7 * number)
        folded = folded + part * (1 - (2 * noise - 1).abs())
    height = level + tall * (1.1 - 2.1 * folded)
    paint_ridge(canvas, frames, height, albedo, depth, SHORE + 12, mist=0.65, rim=0.0, frost=0.5, lit=0.42)
    below = canvas.y - height
    inside = canvas.edge(-below)
    # The border between the two flanks runs down from the summit and wanders.
    flank = (slope(height, canvas.pixel) * -light.side * 2.2).clamp(-1, 1) * 0.5 + 0.5  # 1: turned away
    shade = smooth(0.35, 0.7, flank) * smooth(tall * 1.5, tall * 0.2, below)
    canvas.fill(inside * shade * 0.55, light.surface((albedo[0] * 0.8, albedo[1] * 0.8, albedo[2]), depth, 0.05, 0.3))
    ragged = layered_noise(world, frames.seed, salt + 50, ((tall * 0.45, 3.2), (tall * 0.2, 2.0)))
    line = level - tall * 0.10 + ragged + 14 * light.snow
    snow = inside * smooth(1.2, -1.2, canvas.y - line)
    canvas.fill(snow * 0.95, light.surface((0.95, 0.97, 1.0), depth * 0.8, 0.85))
    canvas.fill(snow * shade * 0.8, light.surface((0.80, 0.86, 1.0), depth * 0.8, 0.12))


def _lake(canvas: Canvas, frames: Frames) -> None:
    """A mirror of what stands above the shore, pulled a little sideways by ripples, darker and bluer."""
    light = frames.light
    water = canvas.band(SHORE, 122)
    rows = water.picture.shape[2]
    first = int(SHORE / canvas.pixel)
    below = water.y - SHORE  # 0 at the shore
    source = (first - 1 - (below.flatten() * 1.55 / canvas.pixel)).clamp(min=0).long()
    mirror = canvas.picture[:, :, source]  # [n, 3, h, W]
    deep = light.surface((0.16, 0.40, 0.52), 0.0, 0.5)
    near = smooth(0, 30, below)
    picture = torch.lerp(mirror, deep, 0.22 + 0.34 * near)
    water.picture.copy_(picture[:, :, :rows])
    scale = 0.2 + 0.6 * near
    world = (canvas.x - 128) / scale
    calm = 0.35 + 0.9 * light.wind
    total: Tensor = torch.zeros_like(water.picture[:, :1])
    for across, along, speed in ((0.06, 5.0, 1.1), (0.041, -6.4, 1.5)):
        moved = torch.remainder(frames.camera * across, 2 * torch.pi).float() + frames.phase(speed, along)
        total = total + torch.sin(world * across + (along / scale + moved))
    water.fill(smooth(0.9, 1.9, total) * (0.40 * calm).clamp(max=0.6), torch.lerp(light.sky_low, light.sky_middle, 0.3))
    water.fill(smooth(-0.9, -1.9, total) * (0.30 * calm).clamp(max=0.5), deep * 0.8)
    water.fill(smooth(1.8, 0.3, (below - 0.6).abs()) * 0.5, torch.lerp(light.haze, light.sky_low, 0.5))
