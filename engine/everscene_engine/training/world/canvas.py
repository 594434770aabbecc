"""The picture being painted, and the few strokes it knows.

Everything is drawn in the units of a 256×144 picture, whatever its real size, from back to front and in place.
A shape is a signed distance in those units (negative inside); `edge` turns it into coverage over one real pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everscene_engine.training.world.light import Light

WIDTH, HEIGHT = 256.0, 144.0


@dataclass(frozen=True)
class Frames:
    """What a painter must know of n frames. All tensors have n rows."""

    seed: Tensor  # int64 [n, 1, 1, 1]: the terrain
    time: Tensor  # float64 [n, 1, 1, 1]: seconds
    camera: Tensor  # float64 [n, 1, 1, 1]: pixels panned, at the nearest layer
    light: Light

    def take(self, rows: Tensor) -> "Frames":
        """The frames numbered by rows, int64 [m]."""
        return Frames(self.seed[rows], self.time[rows], self.camera[rows], self.light.take(rows))

    def phase(self, speed: float, salt: float = 0.0) -> Tensor:
        """An angle that turns at `speed` radians a second, float32 [n, 1, 1, 1] in [0, 2π)."""
        start = (self.seed % 1000).double() * 0.37 + salt
        return torch.remainder(self.time * speed + start, 2 * torch.pi).float()


@dataclass(frozen=True)
class Canvas:
    """A band of rows of n pictures."""

    picture: Tensor  # float32 [n, 3, h, W], painted in place
    x: Tensor  # float32 [1, 1, 1, W] or [n, 1, 1, W]: column centres, 0 to 256
    y: Tensor  # float32 [1, 1, h, 1]: row centres, 0 to 144
    pixel: float  # size of a real pixel in these units

    @staticmethod
    def blank(count: int, height: int, width: int, device: torch.device) -> "Canvas":
        x = ((torch.arange(width, device=device) + 0.5) * (WIDTH / width)).view(1, 1, 1, width)
        y = ((torch.arange(height, device=device) + 0.5) * (HEIGHT / height)).view(1, 1, height, 1)
        return Canvas(torch.zeros(count, 3, height, width, device=device), x, y, HEIGHT / height)

    def band(self, top: float, bottom: float) -> "Canvas":
        """The rows between two heights, sharing memory with this canvas."""
        rows = self.picture.shape[2]
        first = max(0, min(rows - 1, int(top / self.pixel)))
        last = max(first + 1, min(rows, int(-(-bottom // self.pixel))))
        return replace(self, picture=self.picture[:, :, first:last], y=self.y[:, :, first:last])

    def edge(self, distance: Tensor) -> Tensor:
        """Coverage 0 to 1 of a signed distance, anti-aliased over one real pixel."""
        return torch.rsub(distance, 0.5, alpha=1 / self.pixel).clamp_(0.0, 1.0)

    def bar(self, x: Tensor, y: Tensor, half_x: Tensor | float, half_y: Tensor | float) -> Tensor:
        """Coverage of an upright box around the origin; one kernel of full size when x is a row and y a column."""
        return self.edge(x.abs() - half_x) * self.edge(y.abs() - half_y)

    def fill(self, coverage: Tensor, colour: Tensor) -> None:
        """Paint colour ([n, 3, 1 or h, 1 or W]) where coverage ([n, 1, h, W], 0 to 1) says."""
        self.picture.lerp_(colour, coverage)

    def add(self, amount: Tensor, colour: Tensor) -> None:
        """Add light: colour times amount (shapes as in `fill`)."""
        self.picture.addcmul_(amount, colour)

    def world(self, frames: Frames, parallax: float, salt: int = 0) -> Tensor:
        """World x of each column of a layer, float64 [n, 1, 1, W]; nearest layers have parallax 1."""
        return frames.camera * parallax + self.x.double() + salt * 5003.0


def on_active(
    canvas: Canvas, frames: Frames, strength: Tensor, paint: Callable[[Canvas, Frames, Tensor], None]
) -> None:
    """Call paint(canvas, frames, strength) with only those frames whose strength ([n, 1, 1, 1]) is above 0."""
    active = strength.flatten() > 1e-3
    rows = active.nonzero().flatten()
    if rows.numel() == active.numel():
        paint(canvas, frames, strength)
    elif rows.numel():
        x = canvas.x if canvas.x.shape[0] == 1 else canvas.x[rows]
        part = replace(canvas, picture=canvas.picture[rows], x=x)
        paint(part, frames.take(rows), strength[rows])
        canvas.picture.index_copy_(0, rows, part.picture)


def ramp(low: float, high: float, value: Tensor) -> Tensor:
    """Straight from 0 at low to 1 at high; low may be the larger. Two kernels instead of `smooth`'s five."""
    steep = 1 / (high - low)
    return torch.rsub(value, -low * steep, alpha=-steep).clamp_(0.0, 1.0)


def smooth(low: float, high: float, value: Tensor) -> Tensor:
    """Smoothstep from 0 at low to 1 at high; low may be the larger."""
    part = ramp(low, high, value)
    return torch.rsub(part, 3.0, alpha=2.0).mul_(part).mul_(part)


def circle(x: Tensor, y: Tensor, radius: Tensor | float) -> Tensor:
    """Signed distance to a circle around the origin."""
    return torch.sqrt(x * x + y * y) - radius


def ellipse(x: Tensor, y: Tensor, radius_x: float, radius_y: float) -> Tensor:
    """Signed distance, near the outline, to an ellipse around the origin."""
    return (torch.sqrt((x / radius_x) ** 2 + (y / radius_y) ** 2) - 1) * min(radius_x, radius_y)


def box(x: Tensor, y: Tensor, half_x: Tensor | float, half_y: Tensor | float, round_: float = 0.0) -> Tensor:
    """Signed distance to a box around the origin; `round_` rounds its corners."""
    outside_x, outside_y = x.abs() - half_x + round_, y.abs() - half_y + round_
    corner = torch.sqrt(outside_x.clamp(min=0) ** 2 + outside_y.clamp(min=0) ** 2)
    return corner + torch.maximum(outside_x, outside_y).clamp(max=0) - round_


def limb(
    x: Tensor,
    y: Tensor,
    start: tuple[Tensor | float, Tensor | float],
    end: tuple[Tensor | float, Tensor | float],
    radius: float,
    end_radius: float | None = None,
) -> Tensor:
    """Signed distance to a line from start to end with round ends; it tapers when end_radius is given."""
    along_x, along_y = end[0] - start[0], end[1] - start[1]
    from_x, from_y = x - start[0], y - start[1]
    length = along_x * along_x + along_y * along_y + 1e-6
    part = ((from_x * along_x + from_y * along_y) / length).clamp(0.0, 1.0)
    distance = torch.sqrt((from_x - part * along_x) ** 2 + (from_y - part * along_y) ** 2)
    return distance - (radius if end_radius is None else radius + (end_radius - radius) * part)
