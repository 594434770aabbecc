"""Paint the world at any times: sky, land, moments, subject, weather, in that order.

Every frame is a closed form of (world, time, tracks): no frame depends on another, so any times may be asked for.
The loops run over settings, layers and shapes, never over clips, frames or pixels.
"""

from dataclasses import replace

import torch
from torch import Tensor

from everscene_engine.training.world import city, desert, forest, harbour, mountains
from everscene_engine.training.world.canvas import Canvas, Frames
from everscene_engine.training.world.light import light_of
from everscene_engine.training.world.moments import paint_moments
from everscene_engine.training.world.names import SETTINGS
from everscene_engine.training.world.scene import Tracks, World
from everscene_engine.training.world.sky import paint_sky
from everscene_engine.training.world.subject import paint_subjects, walk_of
from everscene_engine.training.world.weather import paint_weather

_SETTINGS = (harbour, forest, desert, mountains, city)  # in the order of SETTINGS
assert len(_SETTINGS) == len(SETTINGS)


@torch.no_grad()
def render(
    world: World, times: Tensor, tracks: Tracks, height: int = 144, width: int = 256, max_pixels: int | None = None
) -> Tensor:
    """Paint one frame for each clip and time.

    world: B clips. times: float64 [B, T] seconds, in any order, 0 to 1e8. tracks: [B, T]. height, width: pixels of the
    picture, 16:9; drawing is in the units of 256×144 whatever they are. max_pixels: frames are painted in groups of at
    most this many pixels, which bounds memory (about 40 bytes a pixel of the group beside the video itself) and not the
    result; None: 2^27 on a GPU, 2^20 on a CPU.
    Returns float32 [B, T, 3, height, width], sRGB in 0 to 1. Raises ValueError if the shapes do not agree.
    """
    clips, count = times.shape
    if tracks.intensity.shape != times.shape or world.seed.shape != (clips,):
        raise ValueError(f"times is {clips}x{count}, tracks {tuple(tracks.intensity.shape)}, world {len(world.seed)}")
    rows = world.rows(count)
    flat = tracks.flatten()
    moments = times.reshape(-1).double()
    if (
        max_pixels is None
    ):  # few large groups on a GPU, where launching kernels costs; small ones that fit a CPU's cache
        max_pixels = 1 << 27 if times.is_cuda else 1 << 20
    group = max(1, max_pixels // (height * width))
    if group >= clips * count:
        return _paint(rows, moments, flat, height, width).view(clips, count, 3, height, width)
    video = torch.empty(clips * count, 3, height, width, device=times.device)
    for first in range(0, clips * count, group):
        part = slice(first, first + group)
        video[part] = _paint(rows.take(part), moments[part], flat.take(part), height, width)
    return video.view(clips, count, 3, height, width)


def _paint(world: World, time: Tensor, tracks: Tracks, height: int, width: int) -> Tensor:
    """n frames of n one-frame clips: float32 [n, 3, H, W]."""
    world = world.shot(tracks.shot)
    walk = walk_of(world, time)
    light = light_of(tracks.time, tracks.weather, tracks.intensity)
    shape = (-1, 1, 1, 1)
    frames = Frames(world.seed.view(shape), time.view(shape), walk.camera.view(shape), light)
    sky = Canvas.blank(len(time), height, width, time.device)
    paint_sky(sky, frames)
    canvas = Canvas.blank(len(time), height, width, time.device)
    mix = tracks.setting_mix
    feet = torch.zeros_like(mix)
    for number, setting in enumerate(_SETTINGS):
        share = torch.where(tracks.setting_from == number, 1 - mix, 0.0)
        share += torch.where(tracks.setting_to == number, mix, 0.0)
        rows = (share > 1e-4).nonzero().flatten()
        if not rows.numel():
            continue
        part = replace(sky, picture=sky.picture[rows])
        setting.paint_land(part, frames.take(rows))
        canvas.picture.index_add_(0, rows, part.picture.mul_(share[rows].view(shape)))
        feet += share * setting.GROUND
    paint_moments(canvas, frames, tracks.moments)
    paint_subjects(canvas, frames, world.subject_kind, world.subject_colour, walk, feet)
    paint_weather(canvas, frames)
    return canvas.picture.clamp_(0.0, 1.0)
