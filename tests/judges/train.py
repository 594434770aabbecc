"""Train the judges on renders of the world.

    PYTHONPATH=engine:bridge:kernels:. python -m tests.judges.train --seconds 90 --out tests/judges/weights

Windows of four frames are cut from training clips at random times. Windows in which something is still fading are
left out: they have no right answer. Whether a moment is to be seen is not taken from the clock but from the picture:
every window with one is painted a second time without it, and the two are compared.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_engine.training.loop import (
    AveragedWeights,
    MadeAhead,
    TimeBudget,
    check_writable,
    clip_gradients,
    warmup_cosine,
)
from everscene_engine.training.world.names import MOMENTS
from everscene_engine.training.world.render import render
from everscene_engine.training.world.scene import Tracks, World, sample_clips
from tests.judges.augment import augment
from tests.judges.networks import WINDOW, AttributeReader, SubjectDetector, save_weights
from tests.judges.reader import AT_ONCE, DETECTOR_FILE, READER_FILE, Judges

FRAMES_PER_CHUNK = 8
CHUNKS = 6
WINDOWS_PER_CLIP = 4
WITHOUT_SUBJECT = 0.3
SETTLED = 0.999
"""A mixture is no longer fading when one part of it has this share."""
SEEN_PIXELS = 16
"""A moment is to be seen when it changes so many pixels of one frame clearly; when it changes none, it is not."""
CLEAR_CHANGE, FAINT_CHANGE = 0.10, 0.03
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
USES = 3
"""How often a rendered window is shown, each time with other faults."""


@dataclass(frozen=True)
class Windows:
    """Frames with what is true of them. N windows."""

    frames: Tensor  # [N, 4, 3, 144, 256] in 0..1
    setting: Tensor  # int64 [N]
    time: Tensor  # int64 [N]
    weather: Tensor  # int64 [N]
    moments: Tensor  # float [N, 4]: 1 seen, 0 not seen, NaN hardly to be seen: no right answer
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
    clip = sample_clips(clips, FRAMES_PER_CHUNK, CHUNKS, generator, device)
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
        moments=seen_moments(frames, world, times, tracks),
        kind=world.subject_kind,
        colour=world.subject_colour,
    )


def settled(tracks: Tracks) -> Tensor:
    """Which windows of tracks [N, 4] show one setting, one time and one weather in all frames: bool [N]."""
    setting = (tracks.setting_mix > SETTLED) | (tracks.setting_from == tracks.setting_to)
    time = tracks.time.amax(dim=-1) > SETTLED
    return (setting & time & (tracks.weather.amax(dim=-1) > SETTLED)).all(dim=1)


def seen_moments(frames: Tensor, world: World, times: Tensor, tracks: Tracks) -> Tensor:
    """For each window and moment 1 where it is to be seen, 0 where not, NaN in between: float32 [N, 4]."""
    seen = torch.zeros(len(frames), len(MOMENTS), device=frames.device)
    rows = (tracks.moments >= 0).flatten(1).any(dim=1).nonzero().flatten()
    if not len(rows):
        return seen
    off = torch.full_like(tracks.moments, -1.0)
    height, width = frames.shape[-2:]
    without = render(world.take(rows), times[rows], replace(tracks, moments=off).take(rows), height, width)
    change = (frames[rows] - without).abs().amax(dim=2)  # [n, 4, H, W]
    clear = (change > CLEAR_CHANGE).sum(dim=(2, 3)).amax(dim=1) >= SEEN_PIXELS
    faint = (change > FAINT_CHANGE).flatten(1).any(dim=1)
    verdict = torch.where(clear, 1.0, torch.where(faint, torch.nan, 0.0))  # [n]
    under_way = (tracks.moments[rows] >= 0).any(dim=1)  # [n, 4]
    seen[rows] = torch.where(under_way, verdict[:, None], 0.0)
    return seen


def reader_loss(reader: AttributeReader, windows: Windows) -> Tensor:
    """Cross-entropies of the three attributes and of every moment that has a right answer, added up."""
    logits = reader(windows.frames)
    answered = ~windows.moments.isnan()
    moments = F.binary_cross_entropy_with_logits(
        logits.moments.float(), windows.moments.nan_to_num(), weight=answered.float()
    )
    return (
        F.cross_entropy(logits.setting.float(), windows.setting)
        + F.cross_entropy(logits.time.float(), windows.time)
        + F.cross_entropy(logits.weather.float(), windows.weather)
        + 2.0 * moments
    )


def detector_loss(detector: SubjectDetector, windows: Windows) -> Tensor:
    """Cross-entropies of presence and, where a subject is present, of its kind and colour, added up."""
    logits = detector(windows.frames)
    present = (windows.kind >= 0).float()
    kind = F.cross_entropy(logits.kind.float(), windows.kind.clamp(min=0), reduction="none")
    colour = F.cross_entropy(logits.colour.float(), windows.colour, reduction="none")
    return F.binary_cross_entropy_with_logits(logits.present.float(), present) + (
        (kind + colour) * present
    ).sum() / present.sum().clamp(min=1.0)


Judge = TypeVar("Judge", bound=nn.Module)


class Training(Generic[Judge]):
    """One judge with its average and optimiser."""

    def __init__(self, judge: Judge, loss: Callable[[Judge, Windows], Tensor]) -> None:
        self.judge = judge
        self.average = AveragedWeights(judge, decay=0.995)
        self._loss = loss
        self._optimizer = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=0.02)

    def step(self, windows: Windows, share: float) -> Tensor:
        """One step at this share of the peak learning rate → the loss, on the device."""
        for group in self._optimizer.param_groups:
            group["lr"] = LEARNING_RATE * share
        with torch.autocast(windows.frames.device.type, torch.bfloat16, enabled=windows.frames.is_cuda):
            loss = self._loss(self.judge, windows)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        clip_gradients(self.judge.parameters(), 1.0)
        self._optimizer.step()
        self.average.update()
        return loss.detach()

    def finish(self) -> Judge:
        """Put the averaged weights in and return the judge, in evaluation mode."""
        self.average.copy_to(self.judge)
        return self.judge.eval()


def train(options: argparse.Namespace) -> Judges:
    """Train both judges until the seconds are over, save them and print how often they are right."""
    budget = TimeBudget(0.85 * options.seconds)
    check_writable(options.out)
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    device = torch.device(options.device)
    reader = Training(AttributeReader().to(device), reader_loss)
    detector = Training(SubjectDetector().to(device), detector_loss)
    faults = torch.Generator(device).manual_seed(options.seed + 1)
    clips = torch.Generator().manual_seed(options.seed + 2)
    rendered = MadeAhead(lambda: render_windows(options.clips, clips, device).tensors(), device)
    steps = 0
    while not budget.spent:
        pool = Windows(*rendered.take())
        for order in (torch.randperm(len(pool.kind), device=device) for _ in range(USES)):
            for rows in torch.split(order, options.batch):
                windows = pool.take(rows)
                windows = replace(windows, frames=augment(windows.frames, faults))
                share = warmup_cosine(steps, budget.fraction, WARMUP_STEPS)
                losses = reader.step(windows, share), detector.step(windows, share)
                if steps % 100 == 0:
                    values = "  ".join(f"{loss.item():.3f}" for loss in losses)
                    print(f"{budget.elapsed:6.1f} s  step {steps}  reader, detector {values}", flush=True)
                steps += 1
    rendered.close()
    judges = Judges(reader.finish(), detector.finish())
    save_weights(judges.reader, options.out / READER_FILE)
    save_weights(judges.detector, options.out / DETECTOR_FILE)
    print(f"{steps} steps")
    fresh = torch.Generator().manual_seed(options.seed + 3)
    windows = render_windows(options.evaluated, fresh, device)
    report("as rendered", accuracies(judges, windows))
    report("with faults", accuracies(judges, replace(windows, frames=augment(windows.frames, faults))))
    return judges


@torch.inference_mode()
def accuracies(judges: Judges, windows: Windows) -> dict[str, float]:
    """Shares 0..1 of right answers: each attribute, moments by recall and false alarm, the subject where present."""
    parts = [slice(k, k + AT_ONCE) for k in range(0, len(windows.frames), AT_ONCE)]
    said = [(judges.reader(windows.frames[p]), judges.detector(windows.frames[p])) for p in parts]

    def right(logits: list[Tensor], truth: Tensor) -> Tensor:
        return (torch.cat(logits).argmax(dim=1) == truth).float()

    present = windows.kind >= 0
    found = torch.cat([d.present for _, d in said]) > 0
    figures = {
        "setting": right([a.setting for a, _ in said], windows.setting).mean(),
        "time": right([a.time for a, _ in said], windows.time).mean(),
        "weather": right([a.weather for a, _ in said], windows.weather).mean(),
        "subject present": (found == present).float().mean(),
        "subject kind": right([d.kind for _, d in said], windows.kind)[present].mean(),
        "subject colour": right([d.colour for _, d in said], windows.colour)[present].mean(),
    }
    seen = torch.cat([a.moments for a, _ in said]) > 0
    for number, name in enumerate(MOMENTS):
        truth = windows.moments[:, number]
        figures[f"{name} seen"] = seen[truth == 1, number].float().mean()
        figures[f"{name} false alarm"] = seen[truth == 0, number].float().mean()
    return {name: figure.item() for name, figure in figures.items()}


def report(title: str, figures: dict[str, float]) -> None:
    """Print one table."""
    print(title)
    for name, figure in figures.items():
        print(f"  {name:<24}{100 * figure:6.1f} %")


def read_options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.judges.train")
    parser.add_argument("--seconds", type=float, default=90.0, help="wall seconds, all included")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=64, help="clips rendered together, four windows each")
    parser.add_argument("--batch", type=int, default=64, help="windows in a step")
    parser.add_argument("--evaluated", type=int, default=256, help="fresh clips that accuracies are measured on")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(read_options(sys.argv[1:]))
