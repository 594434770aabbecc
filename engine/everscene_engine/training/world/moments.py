"""Moments: things that begin, last about two seconds and are over. Each is a closed form of its age in seconds."""

import torch
from torch import Tensor

from everscene_engine.training.world.canvas import Canvas, Frames, limb, on_active, smooth
from everscene_engine.training.world.light import Colour, pigment
from everscene_engine.training.world.noise import uniform, value_noise

_BURSTS: tuple[tuple[float, float, float, Colour], ...] = (  # begins at, x, y, colour
    (-0.06, 92.0, 40.0, (1.0, 0.42, 0.30)),
    (0.40, 168.0, 30.0, (0.45, 0.85, 1.0)),
    (0.85, 128.0, 52.0, (1.0, 0.86, 0.36)),
)
_STROKES = (0.0, 0.75, 1.4)  # lightning strikes at these ages


def paint_moments(canvas: Canvas, frames: Frames, ages: Tensor) -> None:
    """Paint what is under way. ages: float32 [n, M] seconds since each began; negative or NaN when it is off."""
    painters = (_lightning, _fireworks, _meteor, _birds)
    heights = (144.0, 104.0, 90.0, 84.0)
    for number, (painter, bottom) in enumerate(zip(painters, heights, strict=True)):
        age = ages[:, number, None, None, None]
        begun = torch.where(age >= 0, age + 1.0, torch.zeros_like(age))  # NaN compares false: off

        def paint(part: Canvas, some: Frames, begun: Tensor, painter=painter) -> None:  # type: ignore[no-untyped-def]
            painter(part, some, begun - 1.0)

        on_active(canvas.band(0, bottom), frames, begun, paint)


def _stroke(age: Tensor) -> tuple[Tensor, Tensor]:
    """Which stroke it is (int64) and how bright (float32, 1 at the strike, flickering out in half a second)."""
    number = torch.zeros_like(age, dtype=torch.int64)
    since = age.clone()
    for later in _STROKES[1:]:
        number += (age >= later).long()
        since = torch.where(age >= later, age - later, since)
    bright = torch.exp(-since * 5.0) * (0.72 + 0.28 * torch.cos(since * 50.0)) * smooth(0.62, 0.45, since)
    return number, bright


def _lightning(canvas: Canvas, frames: Frames, age: Tensor) -> None:
    number, bright = _stroke(age)
    seed = frames.seed * 3 + number
    start = 60 + 136 * uniform(number, seed, 5)
    y = canvas.y.double()
    sway = (value_noise(y / 22, seed, 1) - 0.5) * 54 + (value_noise(y / 8, seed, 2) - 0.5) * 16  # [n, 1, h, 1]
    bolt = start + sway
    fork_at = 34 + 18 * uniform(number, seed, 6)
    way = torch.where(uniform(number, seed, 7) > 0.5, 1.0, -1.0)
    run = (canvas.y - fork_at).clamp(min=0)
    fork = bolt + way * run * 0.75 + (value_noise(y / 9, seed, 3) - 0.5) * 14 * smooth(0, 6, run)
    white = pigment((0.93, 0.92, 1.0), canvas.picture)
    lilac = pigment((0.73, 0.70, 0.98), canvas.picture)
    # The flash lights the sky most, the land a little.
    canvas.fill((0.50 - 0.28 * smooth(60, 110, canvas.y)) * bright, lilac)
    thick = 1.5 - 0.5 * smooth(20, 90, canvas.y)
    away = (canvas.x - bolt).abs()  # [n, 1, h, W]
    branch = (canvas.x - fork).abs() + 30 * smooth(78, 84, canvas.y) + 40 * smooth(1, -1, canvas.y - fork_at)
    ends = smooth(95, 92, canvas.y)
    glow = torch.exp(-away / 8.0) * 0.55 + torch.exp(-branch / 6.0) * 0.25
    # A violet halo shows against a bright sky as well as against a dark one.
    violet = pigment((0.50, 0.40, 0.96), canvas.picture)
    canvas.fill((glow * ends * bright * 1.5).clamp(max=0.9), violet)
    core = torch.maximum(canvas.edge(away - thick), canvas.edge(branch - 0.9))
    canvas.fill(core * ends * (bright * 2.2).clamp(max=1.0), white)


def _fireworks(canvas: Canvas, frames: Frames, age: Tensor) -> None:
    """Bursts of rays: the angle around the centre is folded so that one ray stands for all."""
    for number, (begins, x0, y0, colour) in enumerate(_BURSTS):
        since = age - begins
        on = smooth(0.0, 0.08, since) * smooth(1.35, 0.75, since)
        spread = 31 * (1 - torch.exp(-3.2 * since.clamp(min=0)))
        drop = 9 * since.clamp(min=0) ** 2
        shift = 14 * (uniform(frames.seed, frames.seed, 40 + number) - 0.5)
        dx, dy = canvas.x - x0 - shift, canvas.y - y0 - drop
        away = torch.sqrt(dx * dx + dy * dy) + 1e-3
        rays = 14
        turn = torch.atan2(dy, dx) * (rays / (2 * torch.pi)) + 0.25 * number
        ray = torch.floor(turn)
        across = (turn - ray - 0.5) * (2 * torch.pi / rays) * away
        reach = spread * (1.0 - 0.28 * torch.remainder(ray, 2))
        behind = reach - away  # pixels behind the ray's head
        head = torch.exp(-((behind / 2.2) ** 2 + (across / 1.7) ** 2))
        trail = torch.exp(-((across / 1.25) ** 2)) * smooth(-1, 1, behind) * torch.exp(-behind.clamp(min=0) / 6.5)
        tone = pigment(colour, canvas.picture)
        flash = torch.exp(-((away / 26) ** 2)) * on * (0.30 + 0.7 * torch.exp(-6 * since.clamp(min=0)))
        canvas.fill((flash * 0.8).clamp(max=0.6), tone * 0.72)
        canvas.fill((torch.maximum(head, trail * 0.85) * on).clamp(max=1.0), torch.lerp(tone, tone * 0 + 1, 0.25))


def _meteor(canvas: Canvas, frames: Frames, age: Tensor) -> None:
    part = age / 1.5
    way = torch.where(frames.seed % 2 == 0, 1.0, -1.0)
    x = 128 + way * (-120 + 215 * part)
    y = 8 + 52 * part
    on = smooth(-0.05, 0.05, part) * smooth(1.15, 0.85, part)
    dx, dy = (canvas.x - x) * way, canvas.y - y
    along, across = -(dx * 0.972 + dy * 0.235), (dy * 0.972 - dx * 0.235)
    tail = 62 * smooth(0.0, 0.25, part) + 6
    width = 2.4 * (1 - along / tail).clamp(0, 1)
    inside = canvas.edge(across.abs() - width) * smooth(-1, 1, along) * (1 - along / tail).clamp(0, 1)
    head = torch.exp(-((along / 3.2) ** 2 + (across / 3.0) ** 2))
    warm = pigment((1.0, 0.97, 0.86), canvas.picture)
    canvas.add(torch.exp(-((dx / 16) ** 2 + (dy / 14) ** 2)) * on * 0.5, warm * 0.8)
    canvas.fill((inside * 0.9 + head).clamp(max=1.0) * on, warm)


def _birds(canvas: Canvas, frames: Frames, age: Tensor) -> None:
    """Nine birds in a loose V, crossing and beating their wings."""
    way = torch.where(frames.seed % 3 == 0, -1.0, 1.0)
    lead_x = 128 + way * (-70 + 100 * age)
    lead_y = 40 - 6 * age + 3 * torch.sin(age * 2)
    on = smooth(-0.10, 0.08, age) * smooth(2.3, 1.95, age)
    # Dark against a bright sky, pale against a dark one: always seen.
    bright = frames.light.sky_middle.mean(1, keepdim=True)
    dark = pigment((0.10, 0.09, 0.14), frames.light.haze)
    pale = pigment((0.86, 0.88, 0.95), frames.light.haze)
    colour = torch.lerp(pale, dark, smooth(0.22, 0.40, bright))
    cover = torch.zeros_like(canvas.picture[:, :1])
    for number in range(9):
        rank, hand = (number + 1) // 2, 1 if number % 2 else -1
        x = lead_x - way * (10.5 * rank)
        y = lead_y + hand * 7.0 * rank * 0.8 + 2 * torch.sin(age * 3 + number)
        beat = torch.sin(age * 13 + number * 1.3) * 3.6 + 0.6
        dx, dy = (canvas.x - x).abs(), canvas.y - y
        wing = limb(dx, dy, (0.0, 0.0), (3.2, -beat * 0.7 - 0.8), 1.25, 1.0)
        tip = limb(dx, dy, (3.2, -beat * 0.7 - 0.8), (6.4, -beat * 0.55), 1.0, 0.7)
        torch.maximum(cover, canvas.edge(torch.minimum(wing, tip)), out=cover)
    canvas.fill(cover * on, colour)
