"""What the air carries in front of the land: rain, flakes, mist, and rings where drops land."""

import torch
from torch import Tensor

from everscene_engine.training.world.canvas import Canvas, Frames, on_active, smooth
from everscene_engine.training.world.tiles import slide

RAIN_SLOPE, STORM_SLOPE = 0.16, 0.55  # sideways pixels for each pixel fallen, as drawn in the tiles


def paint_weather(canvas: Canvas, frames: Frames) -> None:
    """Everything that falls or drifts before the camera."""
    light = frames.light
    on_active(canvas, frames, light.fog, _veil)
    on_active(canvas, frames, light.rain, _rain)
    on_active(canvas, frames, light.storm, _storm)
    on_active(canvas, frames, light.snow, _snow)


def mist_bank(canvas: Canvas, frames: Frames, top: float, bottom: float, parallax: float, strength: float) -> None:
    """A bank of fog between two layers of land, where the weather is foggy."""

    def paint(part: Canvas, some: Frames, fog: Tensor) -> None:
        moved = -some.camera * parallax - some.time * 3.0 + (some.seed % 977).double() + 90 * parallax
        bank = slide("mist", part, moved, torch.full_like(moved, 17 * parallax))
        height = smooth(top, (top + bottom) / 2, part.y) * smooth(bottom, (top + bottom) / 2 + 4, part.y)
        part.fill((bank * 0.9 + 0.15) * height * (fog * strength).clamp(max=1.0), some.light.haze * 1.04)

    on_active(canvas.band(top, bottom), frames, frames.light.fog, paint)


def splash_rings(canvas: Canvas, frames: Frames, top: float, bottom: float, parallax: float) -> None:
    """Rings of drops on water or wet ground between two heights."""

    def paint(part: Canvas, some: Frames, wet: Tensor) -> None:
        rings = slide("splashes", part, -some.camera * parallax, torch.full_like(some.time, top))  # [n, 4, h, W]
        turn = torch.remainder(some.time * 2.5, 1.0).float()
        ages = torch.cat([torch.remainder(turn + 0.25 * k, 1.0) for k in range(4)], 1)
        bright = (1 - ages) * smooth(0.0, 0.12, ages)
        amount = (rings * bright).sum(1, keepdim=True) * wet * smooth(top, top + 3, part.y)
        part.fill((amount * 0.55).clamp(max=0.8), torch.lerp(some.light.sky_low, some.light.haze, 0.3) * 1.12)

    wet = (frames.light.rain + frames.light.storm).clamp(max=1.0)
    on_active(canvas.band(top, bottom), frames, wet, paint)


def _fall(canvas: Canvas, frames: Frames, name: str, speed: float, slope: float, parallax: float) -> Tensor:
    fallen = frames.time * speed
    return slide(name, canvas, -fallen * slope - frames.camera * parallax + (frames.seed % 89).double(), fallen)


def _drop_colour(frames: Frames) -> Tensor:
    return torch.lerp(frames.light.sky_low, frames.light.haze.new_full((1, 3, 1, 1), 0.92), 0.38)


def _rain(canvas: Canvas, frames: Frames, amount: Tensor) -> None:
    colour = _drop_colour(frames)
    far = _fall(canvas, frames, "rain_far", 104.0, RAIN_SLOPE, 0.2)
    canvas.fill(far * (amount * 0.42).clamp(max=0.5), colour)
    near = _fall(canvas, frames, "rain", 160.0, RAIN_SLOPE, 0.5)
    canvas.fill(near * (amount * 0.75).clamp(max=0.8), colour)


def _storm(canvas: Canvas, frames: Frames, amount: Tensor) -> None:
    colour = _drop_colour(frames)
    far = _fall(canvas, frames, "storm_far", 144.0, STORM_SLOPE, 0.2)
    canvas.fill(far * (amount * 0.45).clamp(max=0.55), colour)
    near = _fall(canvas, frames, "storm", 208.0, STORM_SLOPE, 0.5)
    canvas.fill(near * (amount * 0.72).clamp(max=0.8), colour)


def _snow(canvas: Canvas, frames: Frames, amount: Tensor) -> None:
    white = torch.lerp(frames.light.sky_low, frames.light.haze.new_full((1, 3, 1, 1), 1.0), 0.72)
    layers = (("snow_far", 16.0, 0.2, 0.70), ("snow", 26.0, 0.5, 0.95), ("snow_near", 38.0, 0.9, 1.0))
    for number, (name, speed, parallax, strength) in enumerate(layers):
        sway = torch.sin(frames.phase(1.1, number * 2.1)).double() * (3 + 2 * number)
        fallen = frames.time * speed
        moved = sway - fallen * 0.28 - frames.camera * parallax + (frames.seed % 83).double()
        flakes = slide(name, canvas, moved, fallen)
        canvas.fill(flakes * (amount * 1.35 * strength).clamp(max=0.95), white)


def _veil(canvas: Canvas, frames: Frames, amount: Tensor) -> None:
    """A thin breath of fog before everything, thickest half way up."""
    moved = -frames.camera * 0.8 - frames.time * 5.0 + (frames.seed % 71).double()
    bank = slide("mist", canvas, moved, moved * 0)
    height = smooth(20, 84, canvas.y) * (1 - 0.55 * smooth(96, 140, canvas.y))
    canvas.fill((0.16 + 0.34 * bank) * height * amount.clamp(max=1.0) * 0.62, frames.light.haze)
