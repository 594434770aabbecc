"""Train the judges on renders of the world, and on nothing else.

    PYTHONPATH=engine:bridge:kernels:. python -m tests.judges.train --seconds 90 --out tests/judges/weights

`--judges moments` trains that one alone and leaves the others' files as they are; a CPU needs about 20 minutes for it.
What they reach is printed by `tests.judges.accuracy`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

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
from tests.judges.augment import augment
from tests.judges.moments import MomentWindows, render_moments
from tests.judges.networks import AttributeReader, MomentReader, SubjectDetector, load_weights, save_weights
from tests.judges.reader import DETECTOR_FILE, MOMENTS_FILE, READER_FILE
from tests.judges.windows import Windows, render_windows

JUDGES = ("attributes", "moments")
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
USES = 3
"""How often a rendered window is shown, each time with other faults."""
SAVE_SECONDS = 60.0


def reader_loss(reader: AttributeReader, windows: Windows) -> Tensor:
    """Cross-entropies of the three attributes, added up."""
    logits = reader(windows.frames)
    return (
        F.cross_entropy(logits.setting.float(), windows.setting)
        + F.cross_entropy(logits.time.float(), windows.time)
        + F.cross_entropy(logits.weather.float(), windows.weather)
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


def moments_loss(reader: MomentReader, windows: MomentWindows) -> Tensor:
    """Cross-entropy of every moment that has a right answer, added up over moments."""
    answered = ~windows.moments.isnan()
    truth = windows.moments.nan_to_num()
    each = F.binary_cross_entropy_with_logits(reader(windows.frames).float(), truth, weight=answered.float())
    return len(windows.moments[0]) * each


class Shown(Protocol):
    """Windows of either kind."""

    frames: Tensor

    def take(self, rows: Tensor) -> Self: ...


Judge = TypeVar("Judge", bound=nn.Module)
Kind = TypeVar("Kind", Windows, MomentWindows)


class Training(Generic[Judge, Kind]):
    """One judge with its average and optimiser."""

    def __init__(self, judge: Judge, loss: Callable[[Judge, Kind], Tensor]) -> None:
        self.judge = judge
        self.average = AveragedWeights(judge, decay=0.995)
        self._loss: Callable[[Judge, Kind], Tensor] = loss
        self._optimizer = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=0.02)

    def step(self, windows: Kind, share: float) -> Tensor:
        """One step at this share of the peak learning rate → the loss, on the device."""
        for group in self._optimizer.param_groups:
            group["lr"] = LEARNING_RATE * share
        with torch.autocast(windows.frames.device.type, torch.bfloat16):
            loss = self._loss(self.judge, windows)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        clip_gradients(self.judge.parameters(), 1.0)
        self._optimizer.step()
        self.average.update()
        return loss.detach()

    def save(self, path: Path) -> None:
        """Write the averaged weights."""
        live = {name: parameter.detach().clone() for name, parameter in self.judge.named_parameters()}
        self.average.copy_to(self.judge)
        save_weights(self.judge, path)
        with torch.no_grad():
            for name, parameter in self.judge.named_parameters():
                parameter.copy_(live[name])


class Trainer:
    """Some judges, trained one kind of window after the other."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._device = torch.device(options.device)
        self._faults = torch.Generator(self._device).manual_seed(options.seed + 1)

    def train_attributes(self, seconds: float) -> None:
        """The reader of attributes and the detector of the subject, which look at the same windows."""
        reader = Training(self._begun(AttributeReader(), READER_FILE), reader_loss)
        detector = Training(self._begun(SubjectDetector(), DETECTOR_FILE), detector_loss)

        def save() -> None:
            reader.save(self._options.out / READER_FILE)
            detector.save(self._options.out / DETECTOR_FILE)

        for windows, share in self._shown(Windows, render_windows, seconds, save):
            self._note("reader, detector", reader.step(windows, share), detector.step(windows, share))

    def train_moments(self, seconds: float) -> None:
        """The reader of moments."""
        reader = Training(self._begun(MomentReader(), MOMENTS_FILE), moments_loss)
        path = self._options.out / MOMENTS_FILE
        for windows, share in self._shown(MomentWindows, render_moments, seconds, lambda: reader.save(path)):
            self._note("moments", reader.step(windows, share))

    def _begun(self, judge: Judge, file: str) -> Judge:
        """A fresh judge on the device, or one that goes on from its file."""
        if self._options.go_on and (self._options.out / file).exists():
            load_weights(judge, self._options.out / file)
        return judge.to(self._device)

    def _shown(
        self,
        kind: type[Kind],
        paint: Callable[[int, torch.Generator, torch.device], Kind],
        seconds: float,
        save: Callable[[], None],
    ) -> Iterator[tuple[Kind, float]]:
        """Batches with faults, and the share of the learning rate, until the time is over; saves now and then."""
        options, device = self._options, self._device
        self._budget, self._steps, saved = TimeBudget(seconds), 0, 0.0
        clips = torch.Generator().manual_seed(options.seed + 2)
        rendered = MadeAhead(lambda: paint(options.clips, clips, device).tensors(), device)
        while not self._budget.spent:
            pool = kind(*rendered.take())
            for order in (torch.randperm(len(pool.frames), device=device) for _ in range(USES)):
                for rows in torch.split(order, options.batch):
                    windows = pool.take(rows)
                    windows = replace(windows, frames=augment(windows.frames, self._faults))
                    yield windows, warmup_cosine(self._steps, self._budget.fraction, WARMUP_STEPS)
                    self._steps += 1
            if self._budget.elapsed > saved + SAVE_SECONDS:
                saved = self._budget.elapsed
                save()
        rendered.close()
        save()
        print(f"{self._steps} steps", flush=True)

    def _note(self, name: str, *losses: Tensor) -> None:
        if self._steps % 100 == 0:
            values = "  ".join(f"{loss.item():.3f}" for loss in losses)
            print(f"{self._budget.elapsed:6.1f} s  step {self._steps}  {name} {values}", flush=True)


def train(options: argparse.Namespace) -> None:
    """Train the judges that are asked for until the seconds are over, and save them."""
    check_writable(options.out)
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    trainer = Trainer(options)
    asked = options.judges.split(",")
    if "attributes" in asked:
        trainer.train_attributes(options.seconds / len(asked))
    if "moments" in asked:
        trainer.train_moments(options.seconds / len(asked))


def read_options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.judges.train")
    parser.add_argument("--seconds", type=float, default=180.0, help="wall seconds, shared by what is trained")
    parser.add_argument("--judges", default=",".join(JUDGES), help="which (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--go-on", action="store_true", help="from the weights that lie in the folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=64, help="clips rendered together, two or four windows each")
    parser.add_argument("--batch", type=int, default=64, help="windows in a step")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(read_options(sys.argv[1:]))
