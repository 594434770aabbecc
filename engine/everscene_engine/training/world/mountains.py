"""Mountains: snowy peaks, a wooded shore, a lake that mirrors them, and the path along it."""

import torch
from torch import Tensor

from everscene_engine.training.world.canvas import Canvas, Frames, circle, ramp, smooth
from everscene_engine.training.world.land import paint_ground, paint_pines, paint_ridge, ridge
from everscene_engine.training.world.noise import cells, layered_noise
from everscene_engine.training.world.weather import mist_bank, splash_rings

GROUND = 130.0
SHORE = 95.0


def paint_land(canvas: Canvas, frames: Frames) -> None:
    """Paint over the sky, from far to near: peaks, woods, lake, shore."""
    _paint_far(canvas, frames)
    _paint_near(canvas, frames)


def _paint_far(canvas: Canvas, frames: Frames) -> None:
    """Peaks, woods, lake."""
    _peaks(canvas.band(14, SHORE + 1), frames, 0.04, 61, 72.0, 46.0, 0.50, (0.50, 0.54, 0.66))
    mist_bank(canvas, frames, 50, SHORE + 4, 0.05, 0.5)
    _peaks(canvas.band(30, SHORE + 1), frames, 0.09, 62, 86.0, 30.0, 0.26, (0.42, 0.46, 0.56))
    mist_bank(canvas, frames, 62, SHORE + 4, 0.1, 0.5)
    woods = canvas.band(66, SHORE + 1)
    height = ridge(woods, frames, 0.20, 63, 89.0, ((110, 5.0), (37, 1.5)))
    for shift in (0, 1):
        world = woods.world(frames, 0.20, 64) + shift * 6.5
        paint_pines(
            woods,
            frames,
            cells(world, 13.0, frames.seed + shift),
            height + 3,
            15.0,
            (0.20, 0.40, 0.34),
            0.20,
            jitter=1.3,
        )
    paint_ridge(woods, frames, height, (0.20, 0.38, 0.32), 0.20, SHORE + 14, mist=0.35, rim=0.0, lit=0.3)
    _lake(canvas, frames)
    mist_bank(canvas, frames, SHORE - 14, 116, 0.2, 0.5)
    splash_rings(canvas, frames, SHORE + 3, 118, 0.5)


def _paint_near(canvas: Canvas, frames: Frames) -> None:
    """The near shore: pines, grass, the path."""
    trees = canvas.band(44, 124)
    cell = cells(trees.world(frames, 0.78, 66), 96.0, frames.seed)
    sparse = cell.pick(5) < 0.62
    hidden = torch.where(sparse, 0.0, 500.0)
    paint_pines(trees, frames, cell, 119.0 + hidden, 58.0, (0.18, 0.40, 0.32), 0.03, jitter=10.0)
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


def _summits(
    canvas: Canvas, frames: Frames, parallax: float, salt: int, level: float, tall: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The skyline of a range: one peak a cell, the highest flank wins.

    Returns, for each column, the skyline's height, the distance sideways from the peak it belongs to, that peak's
    height, and a random number of the peak, each float32 [n, 1, 1, W].
    """
    size = tall * 1.75
    cell = cells(canvas.world(frames, parallax, salt), size, frames.seed)
    height = away = summit = kind = torch.zeros(0)
    for step in (0, -1, 1):
        other = cell.beside(step)
        aside = cell.offset - step * size - other.pick(salt, -0.32, 0.32) * size
        peak = level - tall * other.pick(salt + 1, 0.25, 1.1)
        steep = torch.where(aside < 0, other.pick(salt + 2, 0.75, 1.05), other.pick(salt + 3, 0.75, 1.05))
        flank = peak + aside.abs() * steep
        if step == 0:
            height, away, summit, kind = flank, aside, peak, other.pick(salt + 4)
            continue
        wins = flank < height
        height = torch.where(wins, flank, height)
        away = torch.where(wins, aside, away)
        summit = torch.where(wins, peak, summit)
        kind = torch.where(wins, other.pick(salt + 4), kind)
    world = canvas.world(frames, parallax, salt)
    rough = layered_noise(world, frames.seed, salt + 9, ((tall * 0.42, tall * 0.07), (tall * 0.19, tall * 0.03)))
    return height + rough, away, summit, kind


def _peaks(
    canvas: Canvas, frames: Frames, parallax: float, salt: int, level: float, tall: float, depth: float,
    albedo: tuple[float, float, float],
) -> None:  # fmt: skip
    """A range of peaks, each with a bright and a shaded flank, and snow above a ragged line."""
    light = frames.light
    height, away, summit, kind = _summits(canvas, frames, parallax, salt, level, tall)
    paint_ridge(canvas, frames, height, albedo, depth, SHORE + 12, mist=0.65, rim=0.0, frost=0.5, lit=0.62)
    inside = canvas.edge((height - canvas.y) * 0.72)
    under = canvas.y - summit  # [n, 1, h, W], pixels below the peak
    # The edge between the flanks zigzags down from the peak.
    bend = tall * 0.10 * torch.sin(under * (5.5 / tall) + kind * 6.28) + under * (kind - 0.5) * 0.35
    turned = smooth(-1.2, 1.2, (away - bend) * -light.side)  # 1 on the flank that faces away from the light
    shade = inside * turned * smooth(tall * 1.9, tall * 0.5, under)
    canvas.fill(shade * 0.68, light.surface((albedo[0] * 0.78, albedo[1] * 0.78, albedo[2]), depth, 0.04, 0.3))
    ragged = tall * 0.10 * torch.sin(away * (9.0 / tall) + kind * 9) + tall * 0.06 * torch.sin(away * (21.0 / tall))
    line = level - tall * 0.42 + ragged + tall * 0.55 * light.cover
    snow = inside * smooth(1.0, -1.0, canvas.y - line)
    canvas.fill(snow * 0.96, light.surface((0.95, 0.97, 1.0), depth * 0.7, 0.92))
    canvas.fill(snow * turned * 0.9, light.surface((0.78, 0.85, 1.0), depth * 0.7, 0.22))


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
    water.fill(ramp(0.9, 1.8, total) * (0.40 * calm).clamp(max=0.6), torch.lerp(light.sky_low, light.sky_middle, 0.3))
    water.fill(ramp(-0.9, -1.8, total) * (0.30 * calm).clamp(max=0.5), deep * 0.8)
    water.fill(smooth(1.8, 0.3, (below - 0.6).abs()) * 0.5, torch.lerp(light.haze, light.sky_low, 0.5))
