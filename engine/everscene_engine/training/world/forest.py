"""Forest: blue hills, three ranks of trees in mist, great trunks close by, and a path."""

import torch

from everscene_engine.training.world.canvas import Canvas, Frames, smooth
from everscene_engine.training.world.land import (
    paint_ground,
    paint_pines,
    paint_ridge,
    paint_round_trees,
    ridge,
    sway,
)
from everscene_engine.training.world.light import pigment
from everscene_engine.training.world.noise import cells, layered_noise
from everscene_engine.training.world.weather import mist_bank, splash_rings

GROUND = 131.0


def paint_land(canvas: Canvas, frames: Frames) -> None:
    """Paint over the sky, from far to near: hills, ranks of trees, trunks, path."""
    _paint_far(canvas, frames)
    _paint_near(canvas, frames)


def _paint_far(canvas: Canvas, frames: Frames) -> None:
    """Hills and the ranks of trees behind the path."""
    hills = canvas.band(30, 118)
    height = ridge(hills, frames, 0.05, 11, 66.0, ((170, 13.0), (60, 4.0)))
    paint_ridge(hills, frames, height, (0.36, 0.54, 0.52), 0.72, 104, mist=0.6, rim=0.3)
    mist_bank(canvas, frames, 52, 104, 0.08, 0.5)
    for number, (parallax, size, cell_size, foot, depth, albedo) in enumerate(
        (
            (0.12, 30.0, 24.0, 95.0, 0.44, (0.28, 0.50, 0.42)),
            (0.20, 38.0, 30.0, 104.0, 0.27, (0.22, 0.46, 0.34)),
        )
    ):
        band = canvas.band(foot - size * 1.45, foot + 14)
        floor = ridge(band, frames, parallax, 12 + number, foot, ((90, 4.0),))
        for shift in (0, 1, 2):
            world = band.world(frames, parallax, 14 + 2 * number) + shift * cell_size / 3
            cell = cells(world, cell_size, frames.seed + shift)
            paint_pines(band, frames, cell, floor, size, albedo, depth, jitter=2.0, level=foot, veil=0.5)
        paint_ridge(band, frames, floor - 1, albedo, depth, foot + 14, mist=0.45, rim=0.0, lit=0.3)
        mist_bank(canvas, frames, foot - 30, foot + 14, parallax, 0.5)
    band = canvas.band(50, 122)
    floor = ridge(band, frames, 0.42, 18, 113.0, ((80, 3.0),))
    trees = cells(band.world(frames, 0.42, 19), 64.0, frames.seed)
    paint_round_trees(band, frames, trees, floor, 50.0, (0.34, 0.58, 0.26), 0.12)
    paint_ridge(band, frames, floor - 1, (0.26, 0.44, 0.24), 0.10, 130, mist=0.3, rim=0.25, lit=0.35)
    _shafts(canvas.band(0, 118), frames)


def _paint_near(canvas: Canvas, frames: Frames) -> None:
    """Trunks, undergrowth, the path."""
    _trunks(canvas.band(0, 126), frames)
    bank = canvas.band(104, 144)
    top = ridge(bank, frames, 1.0, 22, 119.0, ((70, 2.0),)) - _tufts(bank, frames)
    paint_ground(bank, frames, top, (0.30, 0.46, 0.22), (0.52, 0.68, 0.30))
    centre = ridge(bank, frames, 1.0, 24, 132.0, ((120, 1.2),))
    path = smooth(8.0, 5.6, (bank.y - centre).abs())
    bank.fill(path * 0.92, frames.light.surface((0.62, 0.47, 0.34), 0.0, 0.55, 0.75))
    bank.fill(path * smooth(-2, -6, bank.y - centre) * 0.5, frames.light.surface((0.74, 0.60, 0.42), 0.0, 0.9, 0.9))
    splash_rings(canvas, frames, 124, 142, 1.0)
    _fireflies(canvas.band(70, 132), frames)


def _tufts(canvas: Canvas, frames: Frames) -> torch.Tensor:
    """Grass along the border of the path: rounded tufts, [n, 1, 1, W] pixels high."""
    world = canvas.world(frames, 1.0, 25)
    return (
        3.2
        * (0.5 + 0.5 * torch.sin((torch.remainder(world * 0.42, 2 * torch.pi)).float()))
        * (0.5 + 0.5 * layered_noise(world, frames.seed, 26, ((23, 1.0),)))
    )


def _trunks(canvas: Canvas, frames: Frames) -> None:
    """Great trunks that leave the picture at the top, under a roof of leaves."""
    light = frames.light
    cell = cells(canvas.world(frames, 0.72, 20), 128.0, frames.seed)
    foot = 119.0
    reach = foot - canvas.y
    x = cell.offset - cell.pick(1, -26, 26) - sway(frames, cell, reach) * 0.16
    width = cell.pick(2, 5.5, 8.5) * (1 - reach * 0.0022) + 9 * torch.exp(-reach.clamp(min=0) / 7.0)
    cover = canvas.edge(x.abs() - width) * canvas.edge(-reach)
    canvas.fill(cover, light.surface((0.34, 0.25, 0.22), 0.03, 0.30, 0.1))
    canvas.fill(
        cover * smooth(0.1, 0.95, x * light.side / width) * 0.7, light.surface((0.62, 0.46, 0.34), 0.03, 1.0, 0.3)
    )
    canvas.fill(cover * smooth(-0.2, -0.95, x * light.side / width) * 0.5, light.surface((0.20, 0.16, 0.18), 0.03, 0.2))
    leaves = canvas.band(0, 44)
    for number, (level, albedo, lit) in enumerate(((17.0, (0.20, 0.42, 0.20), 0.30), (9.0, (0.15, 0.32, 0.17), 0.18))):
        world = leaves.world(frames, 0.72 + 0.12 * number, 28 + number)
        wind = 2.5 * light.wind * torch.sin(frames.phase(2.3, 1.5 * number))
        lobes = torch.sin(torch.remainder(world * (0.21 - 0.05 * number), torch.pi).float() + 0.0).abs()
        edge = level + wind + layered_noise(world, frames.seed, 30 + number, ((75, 12.0), (31, 4.0))) + 5 * lobes
        under = leaves.y - edge
        leaf = leaves.edge(under)
        leaves.fill(leaf, light.surface(albedo, 0.03, lit, 0.35))
        leaves.fill(leaf * smooth(-7, 0, under) * 0.55, light.surface((0.45, 0.62, 0.24), 0.03, 0.9, 0.8))


def _shafts(canvas: Canvas, frames: Frames) -> None:
    """Light that falls slanting through the roof of leaves, when the sun is out."""
    light = frames.light
    lean = canvas.x + canvas.y * 0.55 * light.side  # [n, 1, h, W]
    drift = torch.remainder(frames.camera * 0.5, 600.0 * torch.pi).float()
    wave = torch.sin((lean + drift) * 0.04) + 0.6 * torch.sin((lean + drift) * 0.09 + 1.7)
    shaft = smooth(0.55, 1.5, wave) * smooth(6, 40, canvas.y) * smooth(118, 80, canvas.y)
    canvas.add(shaft * light.clear * 0.16 * (1 - 0.65 * light.night), light.key)


def _fireflies(canvas: Canvas, frames: Frames) -> None:
    """At night, lights that wander and breathe."""
    light = frames.light
    cell = cells(canvas.world(frames, 0.85, 33), 30.0, frames.seed)
    turn = frames.phase(1.0)
    x = cell.offset - 8 * torch.sin(turn + cell.pick(1, 0, 6.28))
    y = canvas.y - cell.pick(2, 88, 122) - 5 * torch.sin(turn * 1.0 + cell.pick(3, 0, 6.28))
    breath = smooth(-0.3, 0.8, torch.sin(frames.phase(1.9) + cell.pick(4, 0, 6.28)))
    away = x * x + y * y
    glow = torch.exp(-away / 2.6) + 0.28 * torch.exp(-away / 30.0)
    strength = light.night * (1 - light.storm) * (1 - light.rain) * (1 - 0.8 * light.snow)
    canvas.add(glow * breath * strength.clamp(min=0), pigment((0.80, 0.95, 0.35), canvas.picture))
