"""Windows with momentary events for the judge of moments: half with one under way, half the same without it.

Whether a moment is to be seen is not taken from the clock but from the picture: every window is painted with and
without it, and the two are compared. Both are shown, so that nothing but the moment itself tells one from the other.
Windows in which something fades are among them: a moment may begin while the weather turns.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everscene_engine.training.world.names import MOMENTS
from everscene_engine.training.world.render import render
from everscene_engine.training.world.scene import (
    FRAMES_PER_CHUNK,
    FRAMES_PER_SECOND,
    MOMENT_CHUNKS,
    Tracks,
    sample_clips,
)
from tests.judges.networks import WINDOW
from tests.judges.windows import CHUNKS

SEEN_PIXELS = 16
"""A moment is to be seen when it changes so many pixels of one frame clearly; when it changes none, it is not."""
CLEAR_CHANGE, FAINT_CHANGE = 0.10, 0.03


@dataclass(frozen=True)
class MomentWindows:
    """Frames with the moments that are to be seen in them. N windows."""

    frames: Tensor  # [N, 4, 3, 144, 256] in 0..1
    moments: Tensor  # float [N, 4]: 1 seen, 0 not seen, NaN hardly to be seen: no right answer

    def tensors(self) -> tuple[Tensor, ...]:
        """The fields in order."""
        return self.frames, self.moments

    def take(self, rows: Tensor) -> "MomentWindows":
        """Some of the windows."""
        return MomentWindows(self.frames[rows], self.moments[rows])


def render_moments(clips: int, generator: torch.Generator, device: torch.device) -> MomentWindows:
    """Two windows of each of so many fresh clips: with a moment under way, and without. generator: a CPU generator."""
    clip = sample_clips(clips, FRAMES_PER_CHUNK, CHUNKS, generator, device, held_out=True)
    chunk = torch.randint(0, CHUNKS, (clips,), generator=generator)
    # Inside one chunk, so that no window lies across a cut or across the time left out after the sink.
    offset = torch.randint(0, FRAMES_PER_CHUNK - WINDOW + 1, (clips,), generator=generator)
    index = (chunk * FRAMES_PER_CHUNK + offset)[:, None].to(device) + torch.arange(WINDOW, device=device)  # [B, 4]
    row = torch.arange(clips, device=device)[:, None]
    times = clip.times[row, index]
    tracks = Tracks(*(tensor[row, index] for tensor in vars(clip.tracks).values()))
    kind = torch.randint(0, len(MOMENTS), (clips,), generator=generator)
    lasts = MOMENT_CHUNKS * FRAMES_PER_CHUNK
    begun = torch.randint(-WINDOW // 2, lasts - WINDOW // 2, (clips,), generator=generator)  # frames ago
    age = (begun[:, None] + torch.arange(WINDOW)) / FRAMES_PER_SECOND  # [B, 4]
    age = torch.where((age >= 0) & (age < lasts / FRAMES_PER_SECOND), age, -1.0)
    ages = torch.full_like(tracks.moments, -1.0)  # [B, 4, M]
    ages[torch.arange(clips), :, kind] = age.to(device)
    frames = render(clip.world, times, replace(tracks, moments=ages))
    without = render(clip.world, times, replace(tracks, moments=torch.full_like(ages, -1.0)))
    moments = torch.zeros(clips, len(MOMENTS), device=device)
    moments[torch.arange(clips), kind] = to_be_seen(frames, without)
    return MomentWindows(torch.cat([frames, without]), torch.cat([moments, torch.zeros_like(moments)]))


def to_be_seen(frames: Tensor, without: Tensor) -> Tensor:
    """For each window [N, 4, 3, H, W] 1 where it differs clearly from the same without a moment, 0 where it does not
    differ, NaN in between: float32 [N]."""
    change = (frames - without).abs().amax(dim=2)  # [N, 4, H, W]
    clear = (change > CLEAR_CHANGE).sum(dim=(2, 3)).amax(dim=1) >= SEEN_PIXELS
    faint = (change > FAINT_CHANGE).flatten(1).any(dim=1)
    return torch.where(clear, 1.0, torch.where(faint, torch.nan, 0.0))
