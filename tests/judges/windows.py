"""Windows cut from the world's renders, with what is true of them: what judges learn from and are measured on.

Windows of four frames are cut from clips at random times. Windows in which something is still fading are left out: they
have no right answer.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everscene_engine.training.world.render import render
from everscene_engine.training.world.scene import FRAMES_PER_CHUNK, Tracks, sample_clips
from tests.judges.networks import WINDOW

CHUNKS = 6
WINDOWS_PER_CLIP = 4
WITHOUT_SUBJECT = 0.3
SETTLED = 0.999
"""A mixture is no longer fading when one part of it has this share."""


@dataclass(frozen=True)
class Windows:
    """Frames with what is true of them. N windows."""

    frames: Tensor  # [N, 4, 3, 144, 256] in 0..1
    setting: Tensor  # int64 [N]
    time: Tensor  # int64 [N]
    weather: Tensor  # int64 [N]
    kind: Tensor  # int64 [N], −1 where there is no subject
    colour: Tensor  # int64 [N]

    def tensors(self) -> tuple[Tensor, ...]:
        """The fields in order."""
        return tuple(vars(self).values())

    def take(self, rows: Tensor) -> "Windows":
        """Some of the windows."""
        return Windows(*(tensor[rows] for tensor in self.tensors()))


def render_windows(clips: int, generator: torch.Generator, device: torch.device) -> Windows:
    """Up to WINDOWS_PER_CLIP settled windows from each of so many fresh clips. generator: a CPU generator."""
    clip = sample_clips(clips, FRAMES_PER_CHUNK, CHUNKS, generator, device, held_out=True)
    absent = (torch.rand(clips, generator=generator) < WITHOUT_SUBJECT).to(device)
    cast = replace(clip.world, subject_kind=clip.world.subject_kind.masked_fill(absent, -1))
    shape = (clips, WINDOWS_PER_CLIP)
    chunk = torch.randint(0, CHUNKS, shape, generator=generator)
    # Inside one chunk, so that no window lies across a cut or across the time left out after the sink.
    offset = torch.randint(0, FRAMES_PER_CHUNK - WINDOW + 1, shape, generator=generator)
    first = (chunk * FRAMES_PER_CHUNK + offset).to(device)
    index = (first[..., None] + torch.arange(WINDOW, device=device)).flatten(0, 1)  # [N, 4]
    row = torch.arange(clips, device=device).repeat_interleave(WINDOWS_PER_CLIP)
    times = clip.times[row[:, None], index]
    tracks = Tracks(*(tensor[row[:, None], index] for tensor in vars(clip.tracks).values()))
    kept = settled(tracks).nonzero().flatten()
    world, times, tracks = cast.take(row[kept]), times[kept], tracks.take(kept)
    frames = render(world, times, tracks)
    return Windows(
        frames=frames,
        setting=tracks.setting_to[:, 0],
        time=tracks.time[:, 0].argmax(dim=-1),
        weather=tracks.weather[:, 0].argmax(dim=-1),
        kind=world.subject_kind,
        colour=world.subject_colour,
    )


def settled(tracks: Tracks) -> Tensor:
    """Which windows of tracks [N, 4] show one setting, one time and one weather in all frames: bool [N]."""
    setting = (tracks.setting_mix > SETTLED) | (tracks.setting_from == tracks.setting_to)
    time = tracks.time.amax(dim=-1) > SETTLED
    return (setting & time & (tracks.weather.amax(dim=-1) > SETTLED)).all(dim=1)
