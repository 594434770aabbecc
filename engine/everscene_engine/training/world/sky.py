"""The sky: gradient, sun and moon with their glow, stars, and the clouds of the weather."""

from functools import lru_cache, partial

import torch
from torch import Tensor

from everscene_engine.training.world.canvas import Canvas, Frames, circle, on_active, smooth
from everscene_engine.training.world.light import Colour, Light, pigment
from everscene_engine.training.world.tiles import slide

# Dawn's sun, the day's, dusk's, the moon: where it stands, its radius, its colour, and the colour of its glow.
BODIES: tuple[tuple[float, float, float, Colour, Colour], ...] = (
    (46.0, 72.0, 9.0, (1.00, 0.95, 0.84), (0.42, 0.24, 0.12)),
    (198.0, 24.0, 10.0, (1.00, 1.00, 0.92), (0.30, 0.28, 0.20)),
    (208.0, 70.0, 12.0, (1.00, 0.88, 0.52), (0.55, 0.24, 0.02)),
    (64.0, 27.0, 9.5, (0.96, 0.96, 0.88), (0.14, 0.18, 0.28)),
)
# Clouds of a clear sky at each hour: where the light falls on them, and their undersides.
_LIT: tuple[Colour, ...] = ((1.00, 0.87, 0.82), (1.00, 1.00, 1.00), (1.00, 0.60, 0.36), (0.22, 0.28, 0.46))
_UNDER: tuple[Colour, ...] = ((0.74, 0.60, 0.76), (0.68, 0.79, 0.93), (0.50, 0.20, 0.40), (0.07, 0.11, 0.25))


def hours(light: Light) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weights of dawn, day, dusk and night, in the order of BODIES."""
    return light.dawn, light.day, light.dusk, light.night


def paint_sky(canvas: Canvas, frames: Frames) -> None:
    """Fill the whole picture with sky."""
    _gradient(canvas, frames)
    on_active(canvas.band(0, 100), frames, frames.light.night * frames.light.disc, _stars)
    for number, hour in enumerate(hours(frames.light)):
        x, y, radius, colour, _ = BODIES[number]
        band = canvas.band(y - radius - 2, y + radius + 2)

        def paint(
            part: Canvas, _: Frames, strength: Tensor, x: float = x, y: float = y, radius: float = radius,
            colour: Colour = colour, moon: bool = number == 3,
        ) -> None:  # fmt: skip
            face = part.edge(circle(part.x - x, part.y - y, radius))
            tone = pigment(colour, part.picture)
            part.fill(face * strength, tone)
            if moon:
                sea = part.edge(circle(part.x - x + 3, part.y - y - 1.5, 3.4))
                sea = torch.maximum(sea, part.edge(circle(part.x - x - 3.6, part.y - y + 3.2, 2.2)))
                part.fill(sea * strength * 0.35, tone * 0.78)

        on_active(band, frames, hour * frames.light.disc, paint)
    _clouds(canvas, frames)


def _gradient(canvas: Canvas, frames: Frames) -> None:
    light, y = frames.light, canvas.y
    upper = torch.lerp(light.sky_top, light.sky_middle, smooth(-14, 52, y))  # [n, 3, H, 1]
    column = torch.lerp(upper, light.sky_low, smooth(40, 92, y))
    low_sun = light.dawn + light.dusk
    rows, columns = [], []
    for (x0, y0, radius, _, glow), hour in zip(BODIES, hours(light), strict=True):
        tone = pigment(glow, column) * hour * light.glow
        for size, strength in ((radius * 1.9, 0.85), (radius * 5.0, 0.75)):
            rows.append(tone * strength * torch.exp(-(((y - y0) / size) ** 2)))
            columns.append(torch.exp(-(((canvas.x - x0) / (size * 1.15)) ** 2)))
    # A band of light along the horizon while the sun is low.
    rows.append(pigment((0.16, 0.05, 0.0), column) * low_sun * light.glow * smooth(50, 90, y))
    columns.append(torch.ones_like(canvas.x))
    count, _, height, _ = column.shape
    spread = torch.cat(rows, 3).reshape(count, 3 * height, len(rows))  # glow colour per row
    across = torch.cat(columns, 2).reshape(1, len(columns), -1).expand(count, -1, -1)
    glowing = torch.bmm(spread, across).view(count, 3, height, -1)
    torch.add(column, glowing, out=canvas.picture)


def _stars(canvas: Canvas, frames: Frames, strength: Tensor) -> None:
    stars = slide("stars", canvas, -frames.camera * 0.012 + (frames.seed % 997).double())
    fade = strength * smooth(96, 50, canvas.y)
    canvas.add(stars * fade, pigment((0.85, 0.88, 0.92), canvas.picture))


def _clouds(canvas: Canvas, frames: Frames) -> None:
    light = frames.light
    on_active(canvas, frames, light.clear, _fair_clouds)
    still = 1 - light.fog.clamp(max=1.0)
    for amount, pace in ((light.rain + light.snow, 5.0), (light.storm, 18.0)):
        on_active(canvas, frames, (amount * 1.8).clamp(max=1.0) * still, partial(_ceiling, pace=pace))


@lru_cache(maxsize=8)
def _cloud_tones(device: torch.device) -> Tensor:
    return torch.tensor([_LIT, _UNDER], device=device)  # [2, 4, 3]


def _fair_clouds(canvas: Canvas, frames: Frames, strength: Tensor) -> None:
    light = frames.light
    tones = _cloud_tones(canvas.picture.device)
    weights = torch.cat(hours(light), 1).flatten(1)  # [n, 4]
    lit, under = torch.einsum("nt,ktc->knc", weights, tones)[..., None, None]
    for name, top, parallax, speed, veil in (("clouds_far", 46.0, 0.02, 0.8, 0.45), ("clouds", 2.0, 0.05, 1.8, 0.0)):
        band = canvas.band(top, top + (40 if name == "clouds_far" else 64))
        moved = -frames.camera * parallax - frames.time * speed + (frames.seed % 991).double() * 1.7
        cloud = slide(name, band, moved, torch.full_like(moved, top))
        cover, shade = cloud[:, :1], cloud[:, 1:]
        sky = torch.lerp(light.sky_middle, light.sky_low, 0.5)
        colour = torch.lerp(torch.lerp(under, lit, shade), sky, veil)
        band.fill(cover * (0.93 * strength), colour)


def _ceiling(canvas: Canvas, frames: Frames, strength: Tensor, pace: float) -> None:
    """Two sheets of cloud, one behind the other, drifting at `pace` pixels a second."""
    light = frames.light
    drift = frames.time * pace
    contrast = 0.12 + 0.22 * light.storm
    for shift, parallax, way, veil in ((0.0, 0.03, -0.7, 0.0), (13.0, 0.06, -1.0, 0.35)):
        roll = 2.5 * light.storm * torch.sin(frames.phase(0.8, shift))
        band = canvas.band(shift, shift + 72) if shift == 0 else canvas.band(shift + 4, shift + 68)
        moved = -frames.camera * parallax + drift * way + (frames.seed % 983).double() * 1.3 + 170 * shift
        down = (shift + roll if shift else roll * 0).double()
        cloud = slide("deck", band, moved, down)
        cover, shade = cloud[:, :1], cloud[:, 1:]
        base = torch.lerp(light.sky_top, light.sky_middle, 0.55)
        lit = torch.lerp(base, light.sky_low, 0.42)
        dark = base * (1 - contrast * 1.5)
        colour = torch.lerp(torch.lerp(dark, lit, shade), light.sky_middle, veil)
        fade = smooth(78, 40, band.y)
        band.fill(cover * strength * fade * (0.95 - 0.35 * veil), colour)
