"""Strokes that several settings share: ridges, pines, round trees, lamps, the ground under the subject."""

import torch
from torch import Tensor

from everscene_engine.training.world.canvas import Canvas, Frames, circle, ramp, smooth
from everscene_engine.training.world.light import Colour, pigment
from everscene_engine.training.world.noise import Cells, layered_noise

Octaves = tuple[tuple[float, float], ...]


def ridge(canvas: Canvas, frames: Frames, parallax: float, salt: int, level: float, octaves: Octaves) -> Tensor:
    """Height of a layer's skyline in every column, float32 [n, 1, 1, W]: level plus noise, in pixels from the top."""
    return level + layered_noise(canvas.world(frames, parallax, salt), frames.seed, salt, octaves)


def slope(height: Tensor, pixel: float) -> Tensor:
    """Rise of a skyline to the right, in pixels per pixel, [n, 1, 1, W]."""
    rise = (height[..., 2:] - height[..., :-2]) / (2 * pixel)
    return torch.cat([rise[..., :1], rise, rise[..., -1:]], -1)


def paint_ridge(
    canvas: Canvas, frames: Frames, height: Tensor, albedo: Colour, depth: float, bottom: float,
    mist: float = 0.5, rim: float = 0.4, frost: float = 0.6, lit: float = 0.4,
) -> None:  # fmt: skip
    """Fill from a skyline down, dissolving into haze towards `bottom`, with a rim of light on its sunny slopes."""
    light = frames.light
    body = light.surface(albedo, depth, lit, frost)
    veil = smooth(bottom - 40, bottom, canvas.y) * (mist * (0.6 + 0.4 * light.fog.clamp(max=1.0)))
    steep = slope(height, canvas.pixel)
    upright = torch.rsqrt(1 + steep * steep)  # a pixel measured down a steep slope is less than a pixel across it
    below = (canvas.y - height) * upright  # [n, 1, h, W], pixels under the skyline
    cover = canvas.edge(-below)
    canvas.fill(cover, torch.lerp(body, light.haze, veil))
    if rim:
        sunny = (0.5 - 0.8 * steep * -light.side).clamp(0.0, 1.0)
        glow = torch.exp(below.clamp(min=0).mul_(-0.25)).mul_(cover)
        canvas.fill(
            glow.mul_(sunny * (rim * (0.35 + 0.65 * light.clear))), light.surface(albedo, depth, 1.3, frost * 1.3)
        )


def sway(frames: Frames, cell: Cells, reach: Tensor) -> Tensor:
    """How far the wind bends a plant sideways, reach: pixels above its foot. [n, 1, h, W]."""
    beat = torch.sin(frames.phase(2.6) + cell.pick(91, 0, 6.28)) + 0.7
    return reach * reach * (0.0042 * frames.light.wind * frames.light.wind * beat)


def paint_pines(
    canvas: Canvas, frames: Frames, cell: Cells, foot: Tensor | float, size: float, albedo: Colour, depth: float,
    jitter: float, level: float = 0.0, veil: float = 0.0,
) -> None:  # fmt: skip
    """One pine in every cell; size: its usual height, jitter: its place in the cell, both in pixels.

    A pine is up to 0.33 sizes wide to either side: with its jitter it must fit into the cell.
    What is below its foot is left to the ground, painted next. veil: haze at the height `level`, thinning upwards.
    """
    light = frames.light
    tall = cell.pick(11, 0.75, 1.2) * size
    half = tall * cell.pick(12, 0.22, 0.28)
    reach = foot - canvas.y
    x = cell.offset - cell.pick(13, -jitter, jitter) - sway(frames, cell, reach)
    part = torch.rsub(reach * (1 / tall), 1.0)  # 0 at the top, 1 at the foot
    tier = torch.remainder(part, 0.25)  # four tiers of branches, each widening downwards
    width = torch.addcmul(half * 0.78, tier, half * 1.2).mul_(part)
    cover = canvas.edge(x.abs() - width)
    body = light.surface(albedo, depth, 0.28, 0.25)
    if veil:
        body = torch.lerp(body, light.haze, ramp(level - 0.5 * size, level, canvas.y) * veil)
    canvas.fill(cover, body)
    sunny = ramp(-0.1, 0.65, x * (light.side / half)) * torch.rsub(tier, 0.6, alpha=1.3)
    canvas.fill(sunny.mul_(cover), light.surface(albedo, depth, 0.95, 0.5))
    white = ramp(0.19, 0.075, tier).mul_(cover).mul_(light.cover * 0.8)
    canvas.fill(white, light.surface((0.95, 0.97, 1.0), depth, 0.75))


def paint_round_trees(
    canvas: Canvas, frames: Frames, cell: Cells, foot: Tensor | float, size: float, albedo: Colour, depth: float
) -> None:
    """One tree with a round crown in every cell."""
    light = frames.light
    tall = cell.pick(21, 0.8, 1.15) * size
    reach = foot - canvas.y
    x = cell.offset - cell.pick(22, -0.12, 0.12) * size - sway(frames, cell, reach) * 1.3
    y = canvas.y - foot + tall * 0.66
    radius = tall * 0.33
    trunk = canvas.edge(x.abs() - (tall * 0.045 + 0.4)) * canvas.edge(-y)
    canvas.fill(trunk, light.surface((0.36, 0.25, 0.20), depth, 0.3, 0.2))
    crown = circle(x, y, radius)
    for side, low in ((-0.62, 0.30), (0.66, 0.22)):
        crown = torch.minimum(crown, circle(x - side * radius, y - low * radius, radius * 0.68))
    cover = canvas.edge(crown)
    canvas.fill(cover, light.surface(albedo, depth, 0.25, 0.3))
    sunny = ramp(0.9, -0.7, (y - x * (light.side * 0.9)) * (1 / radius))
    canvas.fill(sunny.mul_(cover).mul_(0.75), light.surface(albedo, depth, 1.0, 0.75))


def paint_lamps(
    canvas: Canvas, frames: Frames, cell: Cells, foot: float, tall: float, arm: float, keep: float = 1.0
) -> None:
    """A lamp post in a share `keep` of the cells: post, lantern, and its light when it is dark."""
    light = frames.light
    there = (cell.pick(31) < keep).float()
    x, y = cell.offset, canvas.y - foot
    top = -tall
    post = torch.maximum(canvas.bar(x, y + tall / 2, 1.05, tall / 2), canvas.bar(x, y + 2, 2.2, 2.0))
    post = torch.maximum(post, canvas.bar(x - arm / 2, y - top + 2.5, arm / 2 + 1.0, 1.0))
    canvas.fill(post * there, light.surface((0.17, 0.17, 0.22), 0.02, 0.35, 0.1))
    lamp_x, lamp_y = x - arm, y - top
    warm = pigment((1.0, 0.83, 0.48), canvas.picture)
    glass = canvas.bar(lamp_x, lamp_y - 1.0, 2.4, 3.2) * there
    canvas.fill(glass, torch.lerp(light.surface((0.75, 0.80, 0.84), 0.02, 0.7), warm, light.lamps))
    far_x, far_y = lamp_x * lamp_x, (lamp_y - 1) ** 2
    halo = torch.exp(torch.sqrt(far_x + far_y).mul_(-1 / 7.0)).mul_(0.55)
    halo += torch.exp(far_x / -420) * 0.22 * torch.exp(far_y / -420)
    canvas.add(halo.mul_(there * light.lamps * smooth(60, 40, cell.offset.abs())), warm * 0.8)


def paint_ground(
    canvas: Canvas, frames: Frames, height: Tensor | float, albedo: Colour, edge_albedo: Colour, frost: float = 0.9
) -> None:
    """The strip that the subject walks on, from `height` down: a bright border, darker towards the camera."""
    light = frames.light
    below = canvas.y - height
    near = light.surface(albedo, 0.0, 0.30, frost)
    far = light.surface(albedo, 0.03, 0.85, frost)
    cover = canvas.edge(-below)
    canvas.fill(cover, torch.lerp(far, near, smooth(118, 144, canvas.y)))
    border = ramp(3.2, 1.2, below).mul_(cover)
    canvas.fill(border.mul_(0.8), light.surface(edge_albedo, 0.02, 1.0, frost))
