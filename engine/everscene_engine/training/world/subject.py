"""The subject: a fox, a robot or a balloon, always in the picture, always readable.

A walker's feet must not slide. While a foot is on the ground it moves backwards under the body exactly as fast as the
ground does, so the phase of the walk is the distance covered divided by the stride. The distance is a closed form:
the camera's pan plus the subject's own slow wandering, whose speed is kept below the pan's so that it never turns.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from everscene_engine.training.world.canvas import Canvas, Frames, box, circle, ellipse, limb, smooth
from everscene_engine.training.world.light import Colour, pigment
from everscene_engine.training.world.names import TRAINED_COLOURS
from everscene_engine.training.world.noise import uniform
from everscene_engine.training.world.scene import World

COLOURS: tuple[Colour, ...] = (
    (0.93, 0.26, 0.16),
    (0.20, 0.46, 0.95),
    (1.00, 0.80, 0.14),
    (0.22, 0.72, 0.34),
    (0.97, 0.97, 0.98),
    (1.00, 0.52, 0.10),
    (0.58, 0.30, 0.85),
    (0.98, 0.50, 0.72),
    (0.10, 0.72, 0.74),
    (0.50, 0.32, 0.18),
    (0.55, 0.57, 0.60),
)
assert len(COLOURS) == len(TRAINED_COLOURS)
_WANDER = 46.0  # pixels to either side of the middle: 32 % to 68 % of the width
_STRIDE = 24.0  # pixels of ground for a whole cycle of the legs
_PATCH = 36.0  # half the width, in pixels, of the part of the picture that is painted


@dataclass(frozen=True)
class Walk:
    """Where camera and subject are, each [n]."""

    camera: Tensor  # float64, pixels panned
    x: Tensor  # float32, the subject's place in the picture
    facing: Tensor  # float32, -1 left or 1 right
    cycle: Tensor  # float32, walked part of the leg cycle, in [0, 1)


def walk_of(world: World, time: Tensor) -> Walk:
    """The closed form of motion. world: n one-frame clips; time: float64 [n] seconds."""
    speed = world.camera_speed.double()
    turn = uniform(world.seed, world.seed, 1).double() * 6.283
    other = uniform(world.seed, world.seed, 2).double() * 6.283
    sway = 0.13
    camera = speed * time + 0.25 * speed / sway * torch.sin(sway * time + turn)
    x = 128 + _WANDER * torch.sin(0.40 * speed.abs() / _WANDER * time + other)
    facing = torch.sign(speed)
    cycle = torch.remainder((camera + x) * facing / _STRIDE, 1.0)
    return Walk(camera, x.float(), facing.float(), cycle.float())


@dataclass(frozen=True)
class _Actor:
    """A subject about to be painted: local coordinates, colours, motion; tensors broadcast to [n, 1, h, w]."""

    canvas: Canvas
    frames: Frames
    x: Tensor  # pixels from the subject, positive where it faces
    y: Tensor  # pixels from its feet, negative above
    coat: Tensor  # [n, 3, 1, 1], in the light of the hour
    white: Tensor  # [n, 1, 1, 1], 1 if the subject is white
    cycle: Tensor
    sun: Tensor  # [n, 1, 1, 1]: side of the light, as the subject faces
    gleam: Tensor  # [n, 3, 1, 1]: the light that falls on the subject, never so dark that it is lost

    def tone(self, colour: Colour) -> Tensor:
        """A colour in the light that falls on the subject."""
        return (pigment(colour, self.coat) * self.gleam).clamp_(max=1.0)

    def outline(self, shape: Tensor) -> None:
        """A border that sets the subject off: dark in bright surroundings, a pale rim in dark ones."""
        light = self.frames.light
        around = light.haze.mean(1, keepdim=True)
        pale = smooth(0.46, 0.30, around)
        dark = self.coat * 0.10 + pigment((0.05, 0.04, 0.08), self.coat)
        bright = torch.lerp(light.key, light.key.new_ones(1, 3, 1, 1), 0.45).clamp(max=1.0)
        self.canvas.fill(self.canvas.edge(shape - 1.3) * (0.85 - 0.05 * pale), torch.lerp(dark, bright * 0.82, pale))


def paint_subjects(canvas: Canvas, frames: Frames, kind: Tensor, colour: Tensor, walk: Walk, feet: Tensor) -> None:
    """Paint each frame's subject. kind, colour: int64 [n]; feet: float32 [n], the height of the ground."""
    tones = feet.new_tensor(COLOURS)
    shape = (-1, 1, 1, 1)
    for number, (painter, top, bottom) in enumerate(
        ((_fox, 88.0, 136.0), (_robot, 86.0, 136.0), (_balloon, 36.0, 104.0))
    ):

        def paint(part: Canvas, some: Frames, data: Tensor, painter: Callable[[_Actor], None] = painter) -> None:
            x, facing, cycle, ground, tint = (data[:, k] for k in range(1, 6))
            columns = part.picture.shape[3]
            half = round(_PATCH / part.pixel)
            middle = (x.view(-1) / part.pixel).long().clamp(half, columns - half)
            index = middle.view(shape) + torch.arange(-half, half, device=x.device)  # [n, 1, 1, w]
            wide = index.expand(-1, 3, part.picture.shape[2], -1)
            patch = replace(part, picture=part.picture.gather(3, wide), x=(index + 0.5) * part.pixel)
            hue = tones[tint.long().view(-1)].view(-1, 3, 1, 1)
            local = (patch.x - x.view(shape)) * facing.view(shape)
            white = (tint == 4).float().view(shape)
            side = some.light.side * facing.view(shape)
            gleam = 0.40 + 0.60 * torch.lerp(some.light.shade, some.light.key, 0.65)
            coat = (hue * gleam).clamp(max=1.0)
            painter(
                _Actor(patch, some, local, patch.y - ground.view(shape), coat, white, cycle.view(shape), side, gleam)
            )
            part.picture.scatter_(3, wide, patch.picture)

        mine = (kind == number).float()
        packed = torch.stack([mine, walk.x, walk.facing, walk.cycle, feet, colour.float()], 1)
        rows = mine.nonzero().flatten()
        if rows.numel():
            band = canvas.band(top, bottom)
            part = replace(band, picture=band.picture[rows])
            paint(part, frames.take(rows), packed[rows])
            band.picture.index_copy_(0, rows, part.picture)


def _foot(cycle: Tensor, stride: float, lift: float) -> tuple[Tensor, Tensor]:
    """Place of a foot against the hip: half a cycle on the ground moving back, half in the air moving forward."""
    part = torch.remainder(cycle, 1.0)
    air = (part - 0.5).clamp(min=0) * 2
    forward = air * air * (3 - 2 * air)
    x = torch.where(part < 0.5, stride / 4 - part * stride, -stride / 4 + forward * stride / 2)
    return x, -lift * torch.sin(torch.pi * air)


def _legs(
    actor: _Actor,
    hips: tuple[float, ...],
    top: float,
    shifts: tuple[float, ...],
    knees: tuple[float, ...],
    thick: float,
) -> Tensor:
    """All legs at once: signed distances [n, legs, h, w]. hips, knees: pixels forward; shifts: parts of the cycle."""
    hip, shift, knee = _row(hips, actor.x.device), _row(shifts, actor.x.device), _row(knees, actor.x.device)
    foot_x, foot_y = _foot(actor.cycle + shift, _STRIDE, 3.4)  # [n, legs, 1, 1]
    foot_x = foot_x + hip
    bend_x, bend_y = (hip + foot_x) / 2 + knee, (foot_y + top) * 0.5
    upper = limb(actor.x, actor.y, (hip, top), (bend_x, bend_y), thick * 1.25, thick)
    lower = limb(actor.x, actor.y, (bend_x, bend_y), (foot_x, foot_y - thick * 0.8), thick, thick * 0.8)
    paw = limb(actor.x, actor.y, (foot_x, foot_y - 1.2), (foot_x + 1.6, foot_y - 1.2), 1.3)
    return torch.minimum(torch.minimum(upper, lower), paw)


@lru_cache(maxsize=64)
def _row(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def _fox(actor: _Actor) -> None:
    x, canvas = actor.x, actor.canvas
    bob = 0.8 * torch.sin(actor.cycle * 4 * torch.pi)
    y = actor.y - bob
    wag = torch.sin(actor.cycle * 2 * torch.pi)
    body = torch.minimum(ellipse(x - 5, y + 13.5, 8.0, 6.2), limb(x, y, (-9.0, -13.5), (6.0, -13.5), 5.0, 5.4))
    neck = limb(x, y, (8.0, -15.5), (14.0, -20.5), 4.6, 4.2)
    head = torch.minimum(ellipse(x - 15.5, y + 21.5, 5.6, 5.0), limb(x, y, (17.0, -20.5), (23.0, -18.4), 3.0, 1.3))
    ears = torch.minimum(
        limb(x, y, (12.6, -24.5), (11.2, -30.5), 2.5, 0.7), limb(x, y, (16.4, -25.0), (16.6, -31.0), 2.5, 0.7)
    )
    bend = -20.5 - 2.2 * wag
    tail = torch.minimum(
        limb(x, y, (-11.0, -14.5), (-19.0, bend + 1), 2.2, 4.4),
        limb(x, y, (-19.0, bend + 1), (-27.5, bend + 3 + wag), 4.4, 1.4),
    )
    # Near hind, near fore, far hind, far fore; legs that cross move together.
    legs = _legs(actor, (-9.0, 8.0, -6.5, 10.5), -11.0, (0.0, 0.5, 0.5, 0.0), (-1.8, 1.0, -1.8, 1.0), 1.85)
    near, far = legs[:, :2].amin(1, keepdim=True), legs[:, 2:].amin(1, keepdim=True)
    trunk = torch.minimum(torch.minimum(body, neck), torch.minimum(head, ears))
    whole = torch.minimum(torch.minimum(trunk, tail), torch.minimum(near, far))
    canvas.fill(canvas.edge(ellipse(x, actor.y - 0.8, 17.0, 2.0)) * 0.35, actor.tone((0.06, 0.05, 0.10)))
    actor.outline(whole)
    coat, dark = actor.coat, actor.coat * 0.62
    cream = torch.lerp(actor.tone((1.0, 0.95, 0.86)), actor.tone((0.80, 0.84, 0.92)), actor.white)
    sock = actor.tone((0.20, 0.13, 0.15))
    canvas.fill(canvas.edge(far), torch.lerp(dark, sock * 0.8, smooth(-6.5, -4.0, actor.y)))
    canvas.fill(canvas.edge(tail), coat * 0.94)
    canvas.fill(canvas.edge(tail) * smooth(-22.0, -24.0, x), cream)
    canvas.fill(canvas.edge(near), torch.lerp(coat * 0.88, sock, smooth(-6.0, -3.5, actor.y)))
    cover = canvas.edge(trunk)
    canvas.fill(cover, coat)
    canvas.fill(cover * smooth(-11.5, -9.0, y) * smooth(14, 8, x), coat * 0.72)
    canvas.fill(canvas.edge(torch.maximum(trunk, ellipse(x - 11.8, y + 14.0, 3.6, 5.4))), cream)
    canvas.fill(canvas.edge(torch.maximum(head, (y + 19.3 - (x - 15) * 0.12) * -1)), cream)
    lit = cover * smooth(-16.0, -18.4, y + 0.0 * x) * smooth(11.0, 7.0, x)
    canvas.fill(lit * 0.45, (coat * 1.25 + 0.08).clamp(max=1.0))
    canvas.fill(canvas.edge(limb(x, y, (12.4, -25.5), (11.4, -28.8), 1.1, 0.5)), sock)
    canvas.fill(canvas.edge(circle(x - 16.8, y + 22.4, 1.25)), actor.tone((0.06, 0.05, 0.08)))
    canvas.fill(canvas.edge(circle(x - 23.6, y + 18.6, 1.5)), actor.tone((0.06, 0.05, 0.08)))


def _robot(actor: _Actor) -> None:
    x, canvas = actor.x, actor.canvas
    y = actor.y + 0.7 * torch.cos(actor.cycle * 4 * torch.pi)
    swing = torch.sin(actor.cycle * 2 * torch.pi)
    legs = _legs(actor, (-0.8, 1.2), -11.0, (0.0, 0.5), (1.2, 1.2), 2.05)
    near, far = legs[:, :1], legs[:, 1:]
    torso = box(x, y + 15.5, 6.6, 6.0, 2.6)
    head = box(x - 0.8, y + 26.0, 6.2, 4.6, 2.4)
    stalk = torch.minimum(limb(x, y, (-1.5, -30.0), (-2.2, -33.5), 0.8), limb(x, y, (0.0, -22.0), (0.5, -20.0), 2.0))
    arm = torch.minimum(
        limb(x, y, (-0.8, -18.5), (-2.0 - 3.5 * swing, -13.5), 1.8),
        limb(x, y, (-2.0 - 3.5 * swing, -13.5), (0.6 - 6.0 * swing, -9.8), 1.6),
    )
    back = limb(x, y, (1.5, -18.5), (1.5 + 5.5 * swing, -11.0), 1.7)
    whole = torch.minimum(torch.minimum(torso, head), torch.minimum(near, far))
    whole = torch.minimum(torch.minimum(whole, stalk), torch.minimum(arm, back))
    canvas.fill(canvas.edge(ellipse(x, actor.y - 0.8, 9.0, 1.8)) * 0.35, actor.tone((0.06, 0.05, 0.10)))
    actor.outline(whole)
    coat, steel = actor.coat, actor.tone((0.42, 0.45, 0.52))
    canvas.fill(canvas.edge(torch.minimum(far, back)), steel * 0.68)
    canvas.fill(canvas.edge(stalk), steel)
    canvas.fill(canvas.edge(near), steel)
    canvas.fill(canvas.edge(torch.minimum(torso, head)), coat)
    canvas.fill(canvas.edge(torch.minimum(torso, head)) * smooth(-0.2, 0.8, -x * actor.sun / 6) * 0.55, coat * 0.62)
    canvas.fill(
        canvas.edge(torch.minimum(torso, head)) * smooth(0.3, 0.9, x * actor.sun / 6) * 0.5,
        (coat * 1.25 + 0.1).clamp(max=1),
    )
    canvas.fill(canvas.edge(box(x, y + 15.0, 3.0, 2.4, 0.8)), actor.tone((0.92, 0.92, 0.95)) * (1 - 0.25 * actor.white))
    canvas.fill(canvas.edge(arm), steel * 0.9)
    canvas.fill(canvas.edge(box(x - 2.8, y + 26.2, 4.0, 2.5, 1.6)), actor.tone((0.07, 0.09, 0.14)))
    eyes = torch.minimum(circle(x - 1.4, y + 26.2, 1.15), circle(x - 4.8, y + 26.2, 1.15))
    cyan = pigment((0.45, 0.95, 1.0), coat)
    canvas.fill(canvas.edge(eyes), cyan)
    blink = smooth(-0.3, 0.3, torch.sin(actor.frames.phase(5.0)))
    lamp = torch.sqrt((x + 2.3) ** 2 + (y + 34.6) ** 2)
    red = pigment((1.0, 0.32, 0.22), coat)
    canvas.fill(canvas.edge(lamp - 1.9), red * (0.55 + 0.45 * blink))
    dark = 0.35 + 0.65 * actor.frames.light.lamps
    canvas.add(torch.exp(-lamp / 4.0) * blink * dark * 0.8, red)
    canvas.add(torch.exp(-circle(x - 3, y + 26, 0.0) / 4.5) * actor.frames.light.lamps * 0.35, cyan)


def _balloon(actor: _Actor) -> None:
    x, canvas, light = actor.x, actor.canvas, actor.frames.light
    y = canvas.y - 92.0 - 4.5 * torch.sin(actor.frames.phase(0.9)) + 0.0 * actor.y
    x = x - 1.0 * torch.sin(actor.frames.phase(0.9, 1.0))
    width = torch.where(
        y < -23.0, torch.sqrt((169.0 - (y + 23.0) ** 2).clamp(min=1.0)), 3.4 + 9.6 * smooth(-6.0, -23.0, y)
    )
    hull = torch.maximum(x.abs() - width, torch.maximum(-36.0 - y, y + 8.5))
    basket = box(x, y + 2.8, 3.6, 2.8, 1.0)
    ropes = torch.minimum(limb(x, y, (-2.9, -9.0), (-3.0, -5.0), 0.75), limb(x, y, (2.9, -9.0), (3.0, -5.0), 0.75))
    actor.outline(torch.minimum(torch.minimum(hull, basket), ropes))
    burn = smooth(-0.4, 0.4, torch.sin(actor.frames.phase(2.2)))
    inner = light.lamps * (0.45 + 0.55 * burn)
    stripe = smooth(-0.25, 0.25, torch.cos(torch.asin((x / width).clamp(-0.99, 0.99)) * 6.0) - 0.45)
    pale = torch.lerp(actor.tone((1.0, 0.95, 0.84)), actor.tone((0.66, 0.73, 0.84)), actor.white)
    warm = pigment((1.0, 0.74, 0.34), canvas.picture)
    cover = canvas.edge(hull)
    canvas.fill(cover, torch.lerp(actor.coat, pale, stripe * 0.95))
    round_ = (x * actor.sun / 13.0).clamp(-1, 1)
    canvas.fill(cover * smooth(0.1, -0.95, round_) * 0.42, actor.coat * 0.45)
    canvas.fill(cover * smooth(0.25, 0.9, round_) * smooth(-12, -24, y) * 0.35, (actor.coat * 1.2 + 0.2).clamp(max=1.0))
    canvas.fill(canvas.edge(ropes), actor.tone((0.30, 0.20, 0.14)))
    canvas.fill(canvas.edge(basket), actor.tone((0.62, 0.40, 0.22)))
    canvas.fill(canvas.edge(basket) * smooth(-4.0, -5.0, y), actor.tone((0.86, 0.64, 0.40)))
    shine = torch.exp(-torch.sqrt(x * x + (y + 10.0) ** 2) / 9.0)
    canvas.add(shine * cover * inner * 0.85, warm)
    flame = ellipse(x, y + 8.0, 1.7, 2.6 + 1.2 * 1.0)
    canvas.fill(
        canvas.edge(flame) * (0.35 + 0.65 * burn),
        warm * 0 + pigment((1.0, 0.88, 0.5), canvas.picture),
    )
    canvas.add(torch.exp(-torch.sqrt(x * x + (y + 8.0) ** 2) / 6.0) * inner * 0.7, warm)
