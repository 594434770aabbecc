"""How often the judges are right on fresh renders: the upper bound of every figure that they give.

    PYTHONPATH=engine:bridge:kernels:. python -m tests.judges.accuracy

Three times: on the renders as they are, on renders with the faults that the judges learnt with (`augment.py`), and on
renders that have been through the shipped autoencoder, which is the sharpest picture that the model could show.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from everscene_engine.autoencoder import Autoencoder, load_autoencoder
from everscene_engine.pocket import WEIGHTS as POCKET
from everscene_engine.training.world.names import MOMENTS
from tests.judges.augment import augment
from tests.judges.moments import MomentWindows, render_moments
from tests.judges.reader import AT_ONCE, WEIGHTS, Judges, load
from tests.judges.windows import Windows, render_windows


@torch.inference_mode()
def accuracies(judges: Judges, windows: Windows) -> dict[str, float]:
    """Shares 0..1 of right answers: each attribute, and the subject's where there is one."""
    parts = torch.split(windows.frames, AT_ONCE)
    said = [(judges.reader(part), judges.detector(part)) for part in parts]

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
    return {name: figure.item() for name, figure in figures.items()}


@torch.inference_mode()
def moment_accuracies(judges: Judges, windows: MomentWindows) -> dict[str, float]:
    """Shares 0..1: of the windows in which a moment is to be seen, and of those in which it is not, where it is."""
    seen = torch.cat([judges.moments(part) for part in torch.split(windows.frames, AT_ONCE)]) > 0
    figures = {}
    for number, name in enumerate(MOMENTS):
        truth = windows.moments[:, number]
        figures[f"{name} seen"] = seen[truth == 1, number].float().mean().item()
        figures[f"{name} false alarm"] = seen[truth == 0, number].float().mean().item()
    nothing = (windows.moments == 0).all(dim=1)
    figures["any false alarm"] = seen[nothing].any(dim=1).float().mean().item()
    return figures


@torch.inference_mode()
def through(autoencoder: Autoencoder, frames: Tensor) -> Tensor:
    """Frames [N, 4, 3, H, W] in 0..1 encoded and decoded; each window is shown twice, to be no stream's beginning."""
    parts = []
    for part in torch.split(frames, AT_ONCE):
        twice = torch.cat([part, part], dim=1) * 2 - 1
        made = autoencoder.decode(autoencoder.encode(twice))[:, -part.shape[1] :]
        parts.append((made.float() * 0.5 + 0.5).clamp(0, 1))
    return torch.cat(parts)


def report(title: str, judges: Judges, windows: Windows, moments: MomentWindows) -> None:
    """Print one table."""
    print(title)
    for name, figure in {**accuracies(judges, windows), **moment_accuracies(judges, moments)}.items():
        print(f"  {name:<24}{100 * figure:6.1f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judges", type=Path, default=WEIGHTS, help="folder of the judges' weights")
    parser.add_argument("--weights", type=Path, default=POCKET, help="folder of the model whose autoencoder it is")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clips", type=int, default=256, help="fresh clips for the attributes, and for the moments")
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    device = torch.device(options.device)
    judges = load(options.judges, device)
    autoencoder = load_autoencoder(options.weights / "autoencoder.safetensors", device)
    fresh = torch.Generator().manual_seed(options.seed)
    windows, moments = render_windows(options.clips, fresh, device), render_moments(options.clips, fresh, device)
    faults = torch.Generator(device).manual_seed(options.seed)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "as rendered": lambda frames: frames,
        "with faults": lambda frames: augment(frames, faults),
        "through the autoencoder": lambda frames: through(autoencoder, frames),
    }
    print(f"{len(windows.frames)} windows, {len(moments.frames)} windows for the moments, seed {options.seed}")
    for title, way in ways.items():
        report(
            title,
            judges,
            replace(windows, frames=way(windows.frames)),
            replace(moments, frames=way(moments.frames)),
        )


if __name__ == "__main__":
    main()
