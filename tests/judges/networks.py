"""Three small networks that look at four consecutive frames and name what is in them.

The four frames go in side by side as channels, so that the first convolution sees motion: rain is told from noise
by its fall. The subject is a few pixels tall on a small picture, so its detector keeps a finer map for longer; birds
are two pixels thick, so the reader of moments looks at the sky in its full size. All pool by the maximum as well as by
the mean.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from everscene_engine.training.world.names import (
    MOMENTS,
    SETTINGS,
    SUBJECT_COLOURS,
    SUBJECTS,
    TIMES,
    WEATHERS,
)

WINDOW = 4
"""Frames looked at together."""
INPUT_SIZE = (72, 128)
SKY_SIZE = (108, 256)
SKY_SHARE = 0.75
"""Of a picture's height, from the top: the part in which moments take place."""
GROUPS = 8


@dataclass(frozen=True)
class AttributeLogits:
    """What AttributeReader says, unnormalised."""

    setting: Tensor  # [B, 5]
    time: Tensor  # [B, 4]
    weather: Tensor  # [B, 5]


@dataclass(frozen=True)
class SubjectLogits:
    """What SubjectDetector says, unnormalised. Kind and colour mean nothing where nobody is present."""

    present: Tensor  # [B]
    kind: Tensor  # [B, 3]
    colour: Tensor  # [B, 5]


class Block(nn.Module):
    """A residual block of two convolutions, normalised over groups of channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] → the same shape."""
        return x + self.body(x)  # type: ignore[no-any-return]


class Trunk(nn.Module):
    """Frames to one vector: stages of one block, each half the size of the one before, then mean and maximum."""

    def __init__(self, widths: tuple[int, ...], first_stride: int, size: tuple[int, int] = INPUT_SIZE) -> None:
        """size: rows and columns that frames are scaled to."""
        super().__init__()
        self._size = size
        layers: list[nn.Module] = [nn.Conv2d(3 * WINDOW, widths[0], 5, stride=first_stride, padding=2)]
        for number, width in enumerate(widths):
            if number:
                layers.append(nn.Conv2d(widths[number - 1], width, 3, stride=2, padding=1))
            layers.append(Block(width))
        self.layers = nn.Sequential(*layers, nn.GroupNorm(GROUPS, widths[-1]), nn.SiLU())
        self.features = 2 * widths[-1]

    def forward(self, frames: Tensor) -> Tensor:
        """frames [B, 4, 3, H, W] in 0..1 → features [B, 2·c]."""
        x = self.layers(self._scaled(frames))
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)

    def maps(self, frames: Tensor) -> list[Tensor]:
        """What each stage makes of frames, from fine to coarse, [B, c, h, w] each."""
        x, made = self._scaled(frames), []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, Block):
                made.append(x)
        return made

    def _scaled(self, frames: Tensor) -> Tensor:
        """[B, 4, 3, H, W] in 0..1 → [B, 12, *size], about 0."""
        return (F.interpolate(frames.flatten(1, 2), self._size, mode="area") - 0.5) * 4.0


class AttributeReader(nn.Module):
    """Setting, time and weather of four consecutive frames [B, 4, 3, 144, 256] in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk((24, 48, 80, 96), first_stride=2)
        self.sizes = [len(SETTINGS), len(TIMES), len(WEATHERS)]
        self.head = nn.Linear(self.trunk.features, sum(self.sizes))

    def forward(self, frames: Tensor) -> AttributeLogits:
        """Frames of any height and width are scaled to what the network was trained on."""
        return AttributeLogits(*self.head(self.trunk(frames)).split(self.sizes, dim=1))


class SubjectDetector(nn.Module):
    """Whether a subject is in four consecutive frames [B, 4, 3, 144, 256] in 0..1, which one and of what colour."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk((32, 64, 112), first_stride=2)
        self.sizes = [1, len(SUBJECTS), len(SUBJECT_COLOURS)]
        self.head = nn.Sequential(nn.Linear(self.trunk.features, 128), nn.SiLU(), nn.Linear(128, sum(self.sizes)))

    def forward(self, frames: Tensor) -> SubjectLogits:
        """Frames of any height and width are scaled to what the network was trained on."""
        present, kind, colour = self.head(self.trunk(frames)).split(self.sizes, dim=1)
        return SubjectLogits(present[:, 0], kind, colour)


class MomentReader(nn.Module):
    """Which moments are under way in four consecutive frames [B, 4, 3, 144, 256] in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk((24, 48, 80), first_stride=2, size=SKY_SIZE)
        self.head = nn.Linear(self.trunk.features, len(MOMENTS))

    def forward(self, frames: Tensor) -> Tensor:
        """Logits [B, 4], each on its own. Frames of any height and width are scaled to what it was trained on."""
        sky = frames[..., : max(1, round(SKY_SHARE * frames.shape[-2])), :]
        return self.head(self.trunk(sky))  # type: ignore[no-any-return]


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a judge's weights in bfloat16."""
    save_file({k: v.detach().cpu().bfloat16().contiguous() for k, v in network.state_dict().items()}, path)


def load_weights(network: nn.Module, path: Path) -> None:
    """Read them back into a judge, in place, in the judge's own dtype. Raises OSError for a missing file."""
    with safe_open(path, framework="pt") as file:
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
