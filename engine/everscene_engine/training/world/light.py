"""Light: which colours the hour and the weather give to sky, haze and surfaces.

Every colour was chosen by hand, sRGB 0 to 1, for each pair of weather and time; the mixture follows the weights.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

Colour = tuple[float, float, float]

# For each weather and each of dawn, day, dusk, night: sky at the top, half way down, at the horizon.
_SKY: tuple[tuple[tuple[Colour, Colour, Colour], ...], ...] = (
    (  # clear
        ((0.44, 0.55, 0.80), (0.86, 0.68, 0.78), (1.00, 0.82, 0.68)),
        ((0.15, 0.46, 0.88), (0.40, 0.70, 0.96), (0.80, 0.92, 0.97)),
        ((0.23, 0.14, 0.42), (0.72, 0.26, 0.40), (1.00, 0.58, 0.20)),
        ((0.02, 0.04, 0.14), (0.06, 0.11, 0.29), (0.15, 0.24, 0.46)),
    ),
    (  # rain
        ((0.50, 0.50, 0.60), (0.64, 0.60, 0.67), (0.84, 0.72, 0.71)),
        ((0.42, 0.50, 0.58), (0.56, 0.64, 0.70), (0.72, 0.79, 0.83)),
        ((0.25, 0.20, 0.31), (0.42, 0.30, 0.37), (0.80, 0.48, 0.32)),
        ((0.04, 0.06, 0.11), (0.08, 0.11, 0.18), (0.14, 0.19, 0.28)),
    ),
    (  # storm: purple above, a sick green or the hour's own colour below
        ((0.16, 0.13, 0.25), (0.29, 0.24, 0.35), (0.72, 0.50, 0.52)),
        ((0.12, 0.12, 0.21), (0.21, 0.26, 0.29), (0.42, 0.53, 0.45)),
        ((0.14, 0.08, 0.20), (0.30, 0.14, 0.24), (0.78, 0.34, 0.16)),
        ((0.04, 0.03, 0.09), (0.08, 0.09, 0.15), (0.14, 0.21, 0.23)),
    ),
    (  # snow
        ((0.68, 0.66, 0.76), (0.82, 0.76, 0.82), (0.97, 0.86, 0.84)),
        ((0.66, 0.73, 0.82), (0.78, 0.84, 0.90), (0.90, 0.94, 0.97)),
        ((0.42, 0.35, 0.50), (0.64, 0.48, 0.56), (0.95, 0.68, 0.52)),
        ((0.09, 0.12, 0.22), (0.15, 0.20, 0.32), (0.24, 0.30, 0.44)),
    ),
    (  # fog
        ((0.74, 0.69, 0.75), (0.87, 0.78, 0.79), (0.94, 0.83, 0.80)),
        ((0.74, 0.80, 0.84), (0.83, 0.87, 0.89), (0.89, 0.92, 0.92)),
        ((0.52, 0.40, 0.44), (0.76, 0.54, 0.46), (0.91, 0.66, 0.48)),
        ((0.11, 0.14, 0.22), (0.16, 0.20, 0.29), (0.21, 0.26, 0.35)),
    ),
)
# For each time: light on what faces it, light in the shade.
_KEY: tuple[Colour, ...] = ((1.05, 0.82, 0.74), (1.06, 1.02, 0.94), (1.05, 0.60, 0.36), (0.42, 0.54, 0.84))
_SHADE: tuple[Colour, ...] = ((0.56, 0.52, 0.70), (0.56, 0.66, 0.82), (0.33, 0.22, 0.40), (0.17, 0.21, 0.39))
# For each weather: how much of the key light, of the shade light, of the sun's disc and of its glow is left.
_KEY_LEFT = (1.0, 0.58, 0.30, 0.74, 0.62)
_SHADE_LEFT = (1.0, 0.90, 0.62, 1.08, 1.06)
_DISC_LEFT = (1.0, 0.0, 0.0, 0.0, 0.42)
_GLOW_LEFT = (1.0, 0.22, 0.10, 0.35, 0.60)
_HAZE_DENSITY = (1.0, 1.75, 1.55, 1.9, 5.2)
_GREY = (0.0, 0.38, 0.34, 0.55, 0.25)  # how much colour an overcast sky takes out of the light
_SIDE = (-1.0, 0.45, 1.0, -0.5)


@dataclass(frozen=True)
class Light:
    """The light of n frames: colours [n, 3, 1, 1], the rest [n, 1, 1, 1], all float32."""

    packed: Tensor  # float32 [n, 34, 1, 1]: all that follows, in this order; the rest are views of it
    sky_top: Tensor
    sky_middle: Tensor
    sky_low: Tensor
    haze: Tensor
    key: Tensor
    shade: Tensor
    side: Tensor  # -1: the light comes from the left; 1: from the right
    disc: Tensor  # how much of the sun's or moon's disc is seen
    glow: Tensor
    density: Tensor  # of the haze
    lamps: Tensor  # 0 by day, 1 when every lantern is lit
    dawn: Tensor
    day: Tensor
    dusk: Tensor
    night: Tensor
    clear: Tensor
    rain: Tensor
    storm: Tensor
    snow: Tensor
    fog: Tensor
    cover: Tensor  # of snow on the ground, 0 to 1
    wind: Tensor  # 0.15 in calm air to 1 in a violent storm

    @staticmethod
    def of(packed: Tensor) -> "Light":
        """The named views of a packed light."""
        return Light(packed, *packed.split_with_sizes(_SIZES, 1))

    def take(self, rows: Tensor) -> "Light":
        """The light of some frames: int64 [m]."""
        return Light.of(self.packed[rows])

    def surface(self, albedo: Colour, depth: float, lit: float = 0.5, frost: float = 0.0) -> Tensor:
        """Colour of a surface, [n, 3, 1, 1].

        depth: 0 at the camera to 1 at the horizon; lit: 0 in the shade to 1 facing the light;
        frost: how white it becomes under full snow.
        """
        base = pigment(albedo, self.packed)
        if frost:
            base = torch.lerp(base, pigment(_SNOW, self.packed), self.cover * frost)
        colour = torch.lerp(self.shade, self.key, lit).mul_(base)
        return torch.lerp(self.haze, colour, torch.exp(self.density * -depth)) if depth else colour


_SIZES = (3,) * 6 + (1,) * 16
_SNOW: Colour = (0.93, 0.95, 1.0)


@lru_cache(maxsize=512)
def _constant(colour: Colour, device: torch.device) -> Tensor:
    return torch.tensor(colour, device=device).view(1, 3, 1, 1)


def pigment(colour: Colour, like: Tensor) -> Tensor:
    """A colour as a tensor [1, 3, 1, 1] on the device of `like`; made once, never to be changed in place."""
    return _constant(colour, like.device)


@lru_cache(maxsize=8)
def _tables(device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sky = torch.tensor(_SKY, device=device)  # [5, 4, 3 stops, 3]
    by_time = torch.tensor([_KEY, _SHADE], device=device)  # [2, 4, 3]
    left = torch.tensor([_KEY_LEFT, _SHADE_LEFT, _DISC_LEFT, _GLOW_LEFT, _HAZE_DENSITY, _GREY], device=device)  # [6, 5]
    return sky, by_time, left, torch.tensor(_SIDE, device=device)


def light_of(time: Tensor, weather: Tensor, intensity: Tensor) -> Light:
    """The light for time [n, 4] and weather [n, 5] weights (rows sum to 1) and intensity [n] in 0 to 1."""
    sky, by_time, left, side = _tables(str(time.device))
    force = intensity[:, None]
    # Light rain still makes a grey sky; heavy rain makes all of it.
    mood = weather * (0.80 + 0.22 * force).clamp(max=1.0)
    mood = torch.cat([1 - mood[:, 1:].sum(1, keepdim=True), mood[:, 1:]], 1)
    colours = torch.einsum("nw,nt,wtsc->nsc", mood, time, sky)[..., None, None]  # [n, 3, 3, 1, 1]
    key, shade = torch.einsum("nt,ktc->knc", time, by_time)[..., None, None]
    factors = (mood @ left.T)[..., None, None, None]  # [n, 6, 1, 1, 1]
    key = torch.lerp(key, key.mean(1, keepdim=True), factors[:, 5])
    shade = torch.lerp(shade, shade.mean(1, keepdim=True), factors[:, 5] * 0.5)
    amount = (weather * (0.42 + 0.60 * force))[..., None, None, None]
    hour = time[..., None, None, None]
    haze = torch.lerp(colours[:, 2], colours[:, 1], 0.35)
    dark = hour[:, 3] + 0.55 * hour[:, 2] + 0.30 * hour[:, 0] * (1 - weather[:, 0, None, None, None])
    scalars = (
        (time @ side)[:, None, None, None],
        *factors[:, 2:5].unbind(1),
        (dark + 0.45 * amount[:, 2]).clamp(max=1.0),
        *hour.unbind(1),
        mood[:, 0, None, None, None],
        *amount[:, 1:].unbind(1),
        (amount[:, 3] * 1.45).clamp(max=1.0),
        (0.15 + 0.85 * amount[:, 2] + 0.25 * amount[:, 1] + 0.15 * amount[:, 3]).clamp(max=1.0),
    )
    return Light.of(torch.cat([*colours.unbind(1), haze, key * factors[:, 0], shade * factors[:, 1], *scalars], 1))
