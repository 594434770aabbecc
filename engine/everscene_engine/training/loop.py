"""What every training stage shares: a budget of wall time, averaged weights, a log, a way to go on later.

A stage here is bounded by time, not by steps: it is given so many seconds of an accelerator and must come
back with weights. So the learning rate follows the clock, a gradient that is no number costs one step and
not the run, and the place to save into is tried before anything is paid for.
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


class TimeBudget:
    """Wall seconds of a stage, counted from construction.

    `begin` marks the moment when real work starts: compilation takes a minute, and a schedule that had
    run through it would begin with its best part gone.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._start = clock()
        self._began = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since construction."""
        return self._clock() - self._start

    @property
    def spent(self) -> bool:
        """Whether the seconds are over."""
        return self.elapsed >= self.seconds

    @property
    def fraction(self) -> float:
        """0 at `begin`, 1 when the seconds are over; never outside."""
        span = self.seconds - self._began
        return 1.0 if span <= 0 else min(max((self.elapsed - self._began) / span, 0.0), 1.0)

    def begin(self) -> None:
        """Let `fraction` count from now."""
        self._began = self.elapsed


def warmup_cosine(step: int, fraction: float, warmup_steps: int, floor: float = 0.02) -> float:
    """Share of the peak learning rate: linear over the first steps, then half a cosine down to `floor`.

    fraction: how much of the time is over, 0..1.
    """
    rise = min(1.0, (step + 1) / warmup_steps)
    return rise * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * fraction)))


class AveragedWeights:
    """An exponential moving average of a module's parameters, in float32.

    The average is young at first and would remember the random start, so the decay grows with the steps:
    min(decay, (1 + n) / (10 + n)).
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.steps = 0
        self._live = dict(module.named_parameters())
        self.tensors = {name: p.detach().clone().float() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the live parameters."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        live = [self._live[name].detach() for name in self.tensors]
        torch._foreach_lerp_(list(self.tensors.values()), live, 1.0 - decay)
        self.steps += 1

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the parameters of a module of the same make."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self.tensors[name])


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients so that their joint norm is at most `limit`; where it is no finite number, zero
    them all.

    Changes the gradients in place and returns the norm before, a scalar on their device: nothing waits
    for it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    finite = torch.isfinite(norm)
    scale = torch.where(finite, (limit / (norm + 1e-6)).clamp(max=1.0), torch.zeros_like(norm))
    torch._foreach_mul_(gradients, scale)
    for gradient in gradients:
        gradient.masked_fill_(~finite, 0.0)  # NaN times zero is NaN
    return norm


class MadeAhead:
    """Tensors made in a thread of their own, on a CUDA stream of their own, while the network trains.

    Painting the world takes some ten thousand small kernels and waits for the device in places. Done in line, that
    time would be the accelerator's to idle away. On a CPU nothing overlaps: `take` makes them there and then.
    """

    def __init__(self, make: Callable[[], tuple[Tensor, ...]], device: torch.device, depth: int = 2) -> None:
        self._make = make
        self._device = device
        self._pending: deque[Future[tuple[tuple[Tensor, ...], torch.cuda.Event]]] = deque()
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="made-ahead")
            self._pending.extend(self._worker.submit(self._make_aside) for _ in range(depth))

    def take(self) -> tuple[Tensor, ...]:
        """The next tensors, in the order of making; what `make` raises is raised here."""
        if not self._pending:
            return self._make()
        self._pending.append(self._worker.submit(self._make_aside))
        tensors, ready = self._pending.popleft().result()
        current = torch.cuda.current_stream(self._device)
        current.wait_event(ready)
        for tensor in tensors:
            if tensor.is_cuda:
                tensor.record_stream(current)  # their memory is not reused before the trainer is through with it
        return tensors

    @property
    def ready(self) -> bool:
        """Whether `take` would return at once. On a CPU, where nothing is made ahead, always."""
        return not self._pending or self._pending[0].done()

    def close(self) -> None:
        """End the thread, once it has made what it is making."""
        if self._pending:
            self._worker.shutdown(cancel_futures=True)

    def _make_aside(self) -> tuple[tuple[Tensor, ...], torch.cuda.Event]:
        with torch.cuda.stream(self._stream):
            tensors = self._make()
            return tensors, self._stream.record_event()


def check_writable(folder: Path) -> None:
    """Make the folder and write a file into it: better to fail now than after the training. Raises
    OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trial = folder / ".writable"
    trial.write_bytes(b"everscene")
    trial.unlink()


class RunLog:
    """A line of JSON per record, in `log.jsonl`, and the records of this run in memory for the curve."""

    def __init__(self, folder: Path, budget: TimeBudget) -> None:
        self.records: list[dict[str, float | str]] = []
        self._path = folder / "log.jsonl"
        self._budget = budget

    def write(self, event: str, **values: float | str) -> None:
        """Append one record with the seconds since the start, and print it."""
        record: dict[str, float | str] = {"event": event, "seconds": round(self._budget.elapsed, 2), **values}
        self.records.append(record)
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
        print("  ".join(shown), flush=True)

    def series(self, event: str, key: str) -> list[tuple[float, float]]:
        """(seconds, value) of one number in the records of one kind."""
        found = ((r["seconds"], r.get(key)) for r in self.records if r["event"] == event)
        return [(float(x), y) for x, y in found if isinstance(y, float) and math.isfinite(y)]


CURVE_COLOURS = ("#d1495b", "#2e86ab", "#3f7d20", "#edae49", "#6a4c93", "#444444")


def draw_curves(
    series: Mapping[str, Sequence[tuple[float, float]]], path: Path, size: tuple[int, int] = (900, 480)
) -> None:
    """Draw positive numbers over seconds, the values on a logarithmic axis, into a PNG.

    Numbers that are not positive are left out. With nothing to draw the picture is an empty frame.
    """
    shown = {name: [(x, math.log10(y)) for x, y in points if y > 0] for name, points in series.items()}
    everything = [point for points in shown.values() for point in points] or [(0.0, 0.0)]
    left, right = 0.0, max(x for x, _ in everything) or 1.0
    low, high = min(y for _, y in everything), max(y for _, y in everything)
    low, high = (low - 0.5, high + 0.5) if high - low < 1e-6 else (low, high)
    width, height = size
    margin = 56

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        across = margin + (x - left) / (right - left) * (width - 2 * margin)
        return across, height - margin - (y - low) / (high - low) * (height - 2 * margin)

    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for step in range(5):
        level = low + (high - low) * step / 4
        draw.line([place((left, level)), place((right, level))], fill="#dddddd")
        draw.text((4, place((left, level))[1] - 6), f"{10**level:.3g}", fill="#444444")
        second = left + (right - left) * step / 4
        draw.text((place((second, low))[0] - 12, height - margin + 8), f"{second:.0f} s", fill="#444444")
    for number, (name, points) in enumerate(shown.items()):
        colour = CURVE_COLOURS[number % len(CURVE_COLOURS)]
        if len(points) > 1:
            draw.line([place(point) for point in points], fill=colour, width=2)
        draw.text((margin + 8 + 110 * number, 12), name, fill=colour)
    image.save(path)


def save_progress(
    path: Path, module: nn.Module, average: AveragedWeights | None, optimizer: torch.optim.Optimizer
) -> None:
    """Write all that `load_progress` needs to go on: live weights, average if there is one, the optimiser's moments."""
    tensors = {f"live.{name}": tensor for name, tensor in module.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.tensors.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    written = path.with_suffix(".partial")
    save_file(held, written, metadata={"steps": str(average.steps if average else 0)})
    written.replace(path)  # a run killed while saving leaves the save before


def load_progress(
    path: Path, module: nn.Module, average: AveragedWeights | None, optimizer: torch.optim.Optimizer
) -> None:
    """Put a saved run back, in place, on the devices where things are. Raises OSError for a missing file."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        steps = int(file.metadata()["steps"])
    module.load_state_dict({n.removeprefix("live."): t for n, t in tensors.items() if n.startswith("live.")})
    if average is not None:
        average.steps = steps
        for name, tensor in average.tensors.items():
            tensor.copy_(tensors[f"average.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
