"""Harbour: a headland far off, a lighthouse on its breakwater, boats, a shimmering sea, and the quay."""

import torch
from torch import Tensor

from everscene_engine.training.world.canvas import Canvas, Frames, box, circle, ramp, smooth
from everscene_engine.training.world.land import paint_ground, paint_lamps, paint_ridge, ridge
from everscene_engine.training.world.light import pigment
from everscene_engine.training.world.noise import cells
from everscene_engine.training.world.sky import BODIES, hours
from everscene_engine.training.world.weather import mist_bank, splash_rings

HORIZON, QUAY = 84.0, 119.0
GROUND = 130.0  # where feet stand


def paint_land(canvas: Canvas, frames: Frames) -> None:
    """Paint over the sky, from far to near: headland, sea, boats, quay."""
    _paint_far(canvas, frames)
    _paint_near(canvas, frames)


def _paint_far(canvas: Canvas, frames: Frames) -> None:
    """Everything beyond the quay."""
    shore = canvas.band(54, HORIZON + 1)
    height = ridge(shore, frames, 0.05, 1, 76.0, ((120, 8.0), (44, 3.5)))
    paint_ridge(shore, frames, height, (0.42, 0.50, 0.52), 0.75, HORIZON, mist=0.6, rim=0.3)
    near = ridge(shore, frames, 0.09, 2, 83.0, ((150, 9.0), (37, 2.5)))
    paint_ridge(shore, frames, near, (0.34, 0.44, 0.38), 0.42, HORIZON + 6, mist=0.4, rim=0.35)
    mist_bank(canvas, frames, 60, 96, 0.07, 0.5)
    _sea(canvas.band(HORIZON, QUAY + 2), frames)
    _breakwater(canvas.band(22, 100), frames)
    mist_bank(canvas, frames, 70, 112, 0.2, 0.55)
    _boats(canvas.band(60, 118), frames)
    splash_rings(canvas, frames, HORIZON + 6, QUAY, 0.4)


def _paint_near(canvas: Canvas, frames: Frames) -> None:
    """The quay with its lanterns and bollards."""
    light = frames.light
    quay = canvas.band(QUAY - 2, 144)
    paint_ground(quay, frames, QUAY, (0.58, 0.52, 0.50), (0.80, 0.74, 0.68))
    slab = cells(quay.world(frames, 1.0, 7) + ((quay.y - QUAY) * 0.0).double(), 32.0, frames.seed)
    tone = slab.pick(3, 0.0, 0.16)
    inside = quay.edge(QUAY + 4 - quay.y)
    quay.fill(inside * tone, light.surface((0.30, 0.26, 0.28), 0.0, 0.3, 0.8))
    joint = smooth(1.7, 0.6, (slab.offset.abs() - 16).abs()) * inside
    quay.fill(joint * 0.35, light.surface((0.20, 0.17, 0.20), 0.0, 0.2, 0.5))
    row = smooth(1.5, 0.5, (quay.y - 133.5).abs())
    quay.fill(row * 0.25 + joint * 0, light.surface((0.20, 0.17, 0.20), 0.0, 0.2, 0.5))
    splash_rings(canvas, frames, QUAY + 2, 144, 1.0)
    rail = canvas.band(26, 128)
    post = cells(rail.world(frames, 1.0, 8), 168.0, frames.seed)
    paint_lamps(rail, frames, post, 121.0, 52.0, 5.0)
    _pennant(rail, frames, post.offset)
    bollard = cells(canvas.world(frames, 1.0, 9), 84.0, frames.seed)
    low = canvas.band(106, 126)
    x, y = bollard.offset - 34, low.y
    shape = torch.maximum(low.bar(x, y - 118, 2.6, 5.0), low.bar(x, y - 113, 4.2, 1.9))
    low.fill(shape, light.surface((0.24, 0.24, 0.28), 0.0, 0.3, 0.1))
    low.fill(low.bar(x, y - 112, 4.0, 1.2), light.surface((0.45, 0.45, 0.50), 0.0, 0.9, 0.9))


def _sea(canvas: Canvas, frames: Frames) -> None:
    """Water in perspective: waves keep their size in the world, so they shrink towards the horizon."""
    light = frames.light
    near = ((canvas.y - HORIZON) / (QUAY - HORIZON)).clamp(0, 1)  # [1, 1, h, 1]
    scale = 0.10 + 0.62 * near
    deep = light.surface((0.10, 0.42, 0.56), 0.0, 0.55)
    far = torch.lerp(light.sky_low, deep, 0.38)
    water = torch.lerp(torch.lerp(far, light.sky_middle, 0.25 * near), deep, 0.15 + 0.62 * near)
    canvas.fill(torch.ones_like(canvas.y), water)
    rough = 0.5 + 1.1 * light.wind
    world = (canvas.x - 128) / scale  # [1, 1, h, W], pixels at the nearest layer
    depth = 1.0 / scale
    total: Tensor | None = None
    for turn, across, along, speed in ((0.0, 0.055, 4.4, 1.5), (2.0, 0.083, -3.1, 1.9), (4.0, 0.031, 7.3, 1.1)):
        moved = torch.remainder(frames.camera * across, 2 * torch.pi).float() + frames.phase(speed, turn)
        wave = torch.sin(world * across + (depth * along + moved))  # [n, 1, h, W]
        total = wave if total is None else total + wave
    assert total is not None
    crest = ramp(0.8, 1.9, total)
    trough = ramp(-0.7, -1.9, total)
    canvas.fill(trough * (0.30 * rough).clamp(max=0.6), deep * 0.72)
    canvas.fill(
        crest * (0.42 * rough).clamp(max=0.7) * (0.35 + 0.65 * near), torch.lerp(light.sky_low, light.key, 0.25)
    )
    glitter = ramp(-0.9, 1.3, total)
    path, colours = torch.zeros_like(glitter), torch.zeros_like(light.key)
    for (x0, _, radius, colour, _), hour in zip(BODIES, hours(light), strict=True):
        width = radius * (0.7 + 1.5 * near)
        column = torch.exp(-(((canvas.x - x0) / width) ** 2)) * (1 - 0.35 * near)  # [1, 1, h, W]
        path.addcmul_(column, hour * light.disc * (0.35 if x0 == 198.0 else 0.85))
        colours = colours + pigment(colour, path) * hour
    canvas.fill(path.mul_(glitter), colours)
    canvas.fill(smooth(2.4, 0.4, canvas.y - HORIZON) * 0.55, torch.lerp(light.sky_low, light.haze, 0.5))


def _breakwater(canvas: Canvas, frames: Frames) -> None:
    """A mole with a lighthouse, whose beam sweeps when it is dark."""
    light = frames.light
    cell = cells(canvas.world(frames, 0.20, 3), 330.0, frames.seed)
    x, y = cell.offset - cell.pick(1, -40, 40), canvas.y - 91
    stones = 4.6 - 1.1 * torch.sin(x * 0.55) * torch.sin(x * 0.23)
    mole = torch.maximum(-y - stones, torch.maximum(y, x.abs() - 74 + y * 1.6))
    canvas.fill(canvas.edge(mole), light.surface((0.40, 0.37, 0.40), 0.22, 0.35, 0.5))
    canvas.fill(canvas.edge(mole) * smooth(-2.5, -4.5, y), light.surface((0.62, 0.56, 0.54), 0.22, 0.9, 1.0))
    tx, ty = x - 52, y + 4  # the tower's foot
    half = 4.6 + ty * 0.055
    tower = torch.maximum(tx.abs() - half, torch.maximum(ty, -ty - 30))
    cover = canvas.edge(tower)
    canvas.fill(cover, light.surface((0.94, 0.91, 0.88), 0.18, 0.45))
    bands = smooth(0.30, 0.36, torch.remainder(ty / 12 + 0.15, 1.0)) * smooth(
        0.86, 0.80, torch.remainder(ty / 12 + 0.15, 1.0)
    )
    canvas.fill(cover * bands, light.surface((0.86, 0.24, 0.20), 0.18, 0.5))
    canvas.fill(cover * smooth(-0.2, 1.0, tx * light.side / 4.5) * 0.45, light.surface((1.0, 0.94, 0.86), 0.15, 1.1))
    room = canvas.bar(tx, ty + 33, 2.8, 3.2)
    warm = pigment((1.0, 0.92, 0.62), canvas.picture)
    canvas.fill(room, torch.lerp(light.surface((0.55, 0.65, 0.72), 0.18, 0.6), warm, light.lamps))
    roof = torch.maximum(-ty - 41, torch.maximum(ty + 36, tx.abs() - 3.8 * (ty + 41) / 5))
    roof = torch.minimum(roof, box(tx, ty + 30, 4.4, 0.9))
    canvas.fill(canvas.edge(roof), light.surface((0.62, 0.16, 0.16), 0.18, 0.5, 0.5))
    turn = torch.cos(frames.phase(1.3))
    away = torch.sqrt(tx * tx + (ty + 33) ** 2)
    reach = tx * torch.sign(turn)
    spread = (ty + 33).abs() - 1.5 - 0.085 * reach.abs()
    beam = smooth(1.5, -1.5, spread) * smooth(0, 8, reach) * torch.exp(-reach.clamp(min=0) / (20 + 90 * turn.abs()))
    shine = beam * 0.55 * turn.abs() + torch.exp(-away / 6.5) * 0.9
    canvas.add(shine * light.lamps * smooth(164, 120, cell.offset.abs()), warm * 0.8)


def _boats(canvas: Canvas, frames: Frames) -> None:
    """Small sailing boats at two distances, rocking with the sea."""
    light = frames.light
    for number, (parallax, water, size, keep) in enumerate(((0.28, 95.0, 0.72, 0.6), (0.46, 107.0, 1.1, 0.55))):
        cell = cells(canvas.world(frames, parallax, 4 + number), 150.0 + 60 * number, frames.seed)
        there = (cell.pick(5) < keep).float()
        rock = torch.sin(frames.phase(1.4) + cell.pick(6, 0, 6.28)) * (0.4 + light.wind)
        x = (cell.offset - cell.pick(7, -30, 30)) / size
        y = (canvas.y - water - rock) / size
        x = x + y * 0.05 * rock
        hull = torch.maximum(torch.maximum(-y - 4.5, y - 1.5), x.abs() - 10 + (y - 0) * 0.9 + 0.02 * x * x)
        mirror = smooth(14, 2, y) * smooth(0, 2, y) * smooth(11, 7, x.abs())
        canvas.fill(mirror * there * 0.35, light.surface((0.20, 0.22, 0.26), 0.1, 0.2))
        mast = canvas.bar(x * size, (y + 15.5) * size, 0.9 * size, 11.5 * size) * there
        canvas.fill(mast, light.surface((0.3, 0.22, 0.2), 0.12))
        main = torch.maximum(torch.maximum(1.2 - x, x - 1.2 - (y + 26) * 0.44), y + 6.5)
        jib = torch.maximum(torch.maximum(x + 1.2, -x - 1.2 - (y + 23) * 0.36), y + 7.5)
        tone: tuple[float, float, float] = (0.96, 0.92, 0.86) if number else (0.92, 0.62, 0.50)
        canvas.fill(canvas.edge(main * size) * there, light.surface(tone, 0.14, 0.85))
        canvas.fill(canvas.edge(jib * size) * there, light.surface(tone, 0.14, 0.45))
        canvas.fill(canvas.edge(hull * size) * there, light.surface((0.30, 0.20, 0.22), 0.12, 0.4, 0.3))
        canvas.fill(
            canvas.edge((hull + 1.4).abs() * size - 0.7) * there * 0.6, light.surface((0.8, 0.7, 0.6), 0.12, 0.8)
        )
        lamp = torch.exp(-(circle(x, y + 7, 0.0) / 3.0)) * there
        canvas.add(lamp * light.lamps, pigment((0.95, 0.72, 0.36), canvas.picture))


def _pennant(canvas: Canvas, frames: Frames, offset: Tensor) -> None:
    """A pennant on every post: it hangs in calm air and lashes in a storm."""
    light = frames.light
    x, y = offset + 1.0, canvas.y - 74
    run = (-x).clamp(0, 24)
    lift = (1.0 - light.wind).clamp(min=0) * 0.62
    wave = torch.sin(run * 0.42 - frames.phase(7.0)) * run * (0.06 + 0.10 * light.wind)
    middle = run * lift + wave
    shape = torch.maximum((y - middle).abs() - 4.4 * (1 - run / 26), torch.maximum(x, -x - 22))
    cover = canvas.edge(shape)
    canvas.fill(cover, light.surface((0.84, 0.28, 0.26), 0.02, 0.65))
    canvas.fill(
        cover * smooth(-0.2, 0.9, torch.sin(run * 0.42 - frames.phase(7.0))) * 0.4,
        light.surface((1, 0.5, 0.4), 0.0, 1.0),
    )
