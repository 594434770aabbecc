"""City: three rows of towers whose windows light up in the dark, a park wall, street lamps, the street."""

import torch
from torch import Tensor

from everscene_engine.training.world.canvas import Canvas, Frames, ramp, smooth
from everscene_engine.training.world.land import paint_ground, paint_lamps, paint_ridge, paint_round_trees, ridge
from everscene_engine.training.world.light import Colour, pigment
from everscene_engine.training.world.noise import Cells, cells, uniform
from everscene_engine.training.world.weather import mist_bank, splash_rings

GROUND = 130.0


def paint_land(canvas: Canvas, frames: Frames) -> None:
    """Paint over the sky, from far to near: towers, park, street."""
    _paint_far(canvas, frames)
    _paint_near(canvas, frames)


def _paint_far(canvas: Canvas, frames: Frames) -> None:
    """Towers in three rows, nearer ones lower, larger and clearer."""
    band = canvas.band(20, 104)
    for shift in (0, 1):
        row = cells(band.world(frames, 0.05, 81) + 13 * shift, 26.0, frames.seed + shift)
        _towers(band, frames, row, 26.0, (26.0, 70.0), (0.46, 0.54, 0.66), 0.62, 0.40)
    mist_bank(canvas, frames, 44, 112, 0.06, 0.6)
    band = canvas.band(34, 112)
    for shift in (0, 1):
        row = cells(band.world(frames, 0.12, 83) + 18 * shift, 36.0, frames.seed + 2 + shift)
        _towers(band, frames, row, 36.0, (42.0, 84.0), (0.50, 0.44, 0.52), 0.30, 0.55)
    mist_bank(canvas, frames, 56, 116, 0.13, 0.55)
    band = canvas.band(56, 118)
    for shift in (0, 1):
        row = cells(band.world(frames, 0.28, 85) + 26 * shift, 52.0, frames.seed + 4 + shift)
        _towers(band, frames, row, 52.0, (66.0, 96.0), (0.52, 0.38, 0.36), 0.12, 0.6)
    mist_bank(canvas, frames, 76, 122, 0.3, 0.5)
    trees = canvas.band(76, 124)
    row = cells(trees.world(frames, 0.55, 87), 44.0, frames.seed)
    paint_round_trees(trees, frames, row, 117.0, 27.0, (0.32, 0.52, 0.32), 0.05)
    hedge = ridge(trees, frames, 0.55, 88, 114.0, ((40, 1.5),))
    paint_ridge(trees, frames, hedge, (0.26, 0.42, 0.28), 0.05, 150, mist=0.0, rim=0.3, lit=0.35)


def _paint_near(canvas: Canvas, frames: Frames) -> None:
    """Pavement, kerb and street, with lamps."""
    light = frames.light
    rail = canvas.band(30, 126)
    paint_lamps(rail, frames, cells(rail.world(frames, 1.0, 89), 118.0, frames.seed), 121.0, 50.0, 6.0)
    street = canvas.band(116, 144)
    paint_ground(street, frames, 119.0, (0.56, 0.55, 0.60), (0.80, 0.78, 0.80))
    slab = cells(street.world(frames, 1.0, 90), 26.0, frames.seed)
    walk = street.edge(121.5 - street.y) * street.edge(street.y - 136.0)
    joint = smooth(1.6, 0.6, (slab.offset.abs() - 13).abs()) * walk
    street.fill(joint * 0.32 + walk * slab.pick(1, 0.0, 0.12), light.surface((0.30, 0.29, 0.34), 0.0, 0.3, 0.6))
    road = street.edge(138.0 - street.y)
    street.fill(street.edge((street.y - 137).abs() - 1.2), light.surface((0.84, 0.82, 0.82), 0.0, 0.8, 0.9))
    street.fill(road, light.surface((0.27, 0.27, 0.32), 0.0, 0.35, 0.65))
    dash = cells(street.world(frames, 1.0, 91), 40.0, frames.seed)
    line = street.bar(dash.offset, street.y - 142.0, 11.0, 1.0)
    street.fill(line * 0.85, light.surface((0.95, 0.86, 0.55), 0.0, 0.8, 0.6))
    lamp = cells(street.world(frames, 1.0, 89), 118.0, frames.seed)
    pool = torch.exp(-(((lamp.offset - 6) / 30) ** 2)) * smooth(118, 124, street.y) * smooth(146, 128, street.y)
    street.add(pool * light.lamps * 0.34, pigment((1.0, 0.78, 0.42), street.picture))
    splash_rings(canvas, frames, 121, 144, 1.0)


def _towers(
    canvas: Canvas, frames: Frames, cell: Cells, size: float, tops: tuple[float, float], albedo: Colour,
    depth: float, bright: float,
) -> None:  # fmt: skip
    """A tower in every cell: a lit and a shaded side, a roof of its own, windows in rows.

    size: width of a cell; tops: range of the roofs' heights; bright: strength of the lit windows.
    """
    light = frames.light
    half = cell.pick(1, 0.26, 0.42) * size
    top = cell.pick(2, *tops)
    x = cell.offset
    aside = x.abs()
    # A crown and a spire raise the roof in the middle; all of it is one height for each column.
    crown = canvas.edge(aside - half * 0.55) * cell.pick(3, 0.0, 0.14) * size
    spire = canvas.edge(aside - 0.9) * (cell.pick(4) - 0.6).clamp(min=0) * (size * 0.9)
    down = canvas.y - (top - torch.maximum(crown, spire))  # [n, 1, h, W], pixels under the roof
    wall = canvas.edge(aside - half)
    cover = canvas.edge(-down).mul_(wall)
    warm = cell.pick(5, 0.0, 0.28)
    plain, brick = light.surface(albedo, depth, 0.30, 0.15), (albedo[0] * 1.3, albedo[1] * 1.05, albedo[2] * 0.9)
    front = torch.lerp(plain, light.surface(brick, depth, 0.55, 0.1), warm)  # [n, 3, 1, W]
    facing = ramp(0.1, 0.3, x * (light.side / half)) * 0.40
    front = torch.lerp(front, light.surface((0.92, 0.84, 0.80), depth, 0.95, 0.2), facing)
    canvas.fill(cover, front)
    canvas.fill(cover * (ramp(70, 122, canvas.y) * 0.5), light.haze)
    roof = ramp(3.0, 1.6, down).mul_(cover).mul_(light.cover * 0.9)
    canvas.fill(roof, light.surface((0.95, 0.97, 1.0), depth, 0.8))
    _windows(canvas, frames, cell, cover, down, half, depth, bright)


def _windows(
    canvas: Canvas, frames: Frames, cell: Cells, cover: Tensor, down: Tensor, half: Tensor, depth: float, bright: float
) -> None:
    """Windows in rows; about half of them are lit when it is dark."""
    light = frames.light
    step_x, step_y = (5.0, 6.0) if depth > 0.5 else (6.0, 7.5) if depth > 0.2 else (8.0, 10.0)
    column, row = torch.floor(cell.offset / step_x), torch.floor(canvas.y / step_y)
    in_x = (torch.remainder(cell.offset, step_x) - step_x / 2).abs() - step_x * 0.27
    in_y = (torch.remainder(canvas.y, step_y) - step_y / 2).abs() - step_y * 0.26
    whole = (column + 0.5).abs() * step_x + step_x * 0.5 < half  # no window is cut by the corner of its tower
    pane = canvas.edge(in_x) * whole * canvas.edge(in_y)
    pane.mul_(cover).mul_(ramp(1.0, 2.5, down))
    glass = light.surface((0.34, 0.42, 0.54), depth, 0.35)
    canvas.fill(pane * (0.55 - 0.3 * light.night), glass.lerp(light.sky_middle, 0.35))
    key = uniform(cell.index * 64 + column.long(), frames.seed, 95)  # [n, 1, 1, W], one number for each stack
    alight = torch.remainder(key * (row * 7.31 + 13.7), 1.0) < 0.52  # and from it one for each window
    lamp = pigment((1.0, 0.80, 0.42), canvas.picture)
    clearness = torch.exp(-light.density * depth * 0.8)
    canvas.fill(pane.mul_(alight).mul_((light.lamps * clearness * (0.55 + bright * 0.6)).clamp(max=0.95)), lamp)
