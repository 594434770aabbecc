"""Read frames with the trained judges: names instead of logits.

judges = load()
for reading in judges.read(windows):      # [B, 4, 3, H, W] in 0..1
    print(reading.setting, reading.weather, reading.subject)
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from everscene_engine.training.world.names import (
    MOMENTS,
    SETTINGS,
    SUBJECT_COLOURS,
    SUBJECTS,
    TIMES,
    WEATHERS,
)
from tests.judges.networks import WINDOW, AttributeReader, MomentReader, SubjectDetector, load_weights

__all__ = ["WINDOW", "Judges", "Reading", "load"]

WEIGHTS = Path(__file__).parent / "weights"
READER_FILE = "attribute_reader.safetensors"
DETECTOR_FILE = "subject_detector.safetensors"
MOMENTS_FILE = "moment_reader.safetensors"
AT_ONCE = 64
"""Windows looked at in one pass."""


@dataclass(frozen=True)
class Reading:
    """What the judges see in four consecutive frames."""

    setting: str
    time: str
    weather: str
    moments: tuple[str, ...]
    subject: str | None
    """None where no subject is seen; then `colour` is None too."""
    colour: str | None


@dataclass(frozen=True)
class Judges:
    """The three networks, in evaluation mode on one device."""

    reader: AttributeReader
    detector: SubjectDetector
    moments: MomentReader

    def to(self, device: torch.device | str) -> "Judges":
        """The same networks, moved there and put into evaluation mode."""
        for network in (self.reader, self.detector, self.moments):
            network.to(device).eval()
        return self

    @torch.inference_mode()
    def read(self, windows: Tensor) -> list[Reading]:
        """windows [B, 4, 3, H, W] in 0..1, sRGB → one reading for each. Raises ValueError for another shape."""
        if windows.ndim != 5 or windows.shape[1:3] != (WINDOW, 3):
            raise ValueError(f"windows {tuple(windows.shape)} must be [B, {WINDOW}, 3, H, W]")
        device = self.reader.head.weight.device
        return [r for part in torch.split(windows, AT_ONCE) for r in self._read_some(part.to(device).float())]

    def _read_some(self, windows: Tensor) -> list[Reading]:
        """Readings of at most AT_ONCE windows, already in place."""
        attributes, subject = self.reader(windows), self.detector(windows)
        said = (attributes.setting, attributes.time, attributes.weather, subject.kind, subject.colour)
        setting, time, weather, kind, colour = (logits.argmax(dim=1).tolist() for logits in said)
        moments = (self.moments(windows) > 0).tolist()
        present = (subject.present > 0).tolist()
        return [
            Reading(
                setting=SETTINGS[setting[b]],
                time=TIMES[time[b]],
                weather=WEATHERS[weather[b]],
                moments=tuple(name for name, seen in zip(MOMENTS, moments[b], strict=True) if seen),
                subject=SUBJECTS[kind[b]] if present[b] else None,
                colour=SUBJECT_COLOURS[colour[b]] if present[b] else None,
            )
            for b in range(len(windows))
        ]


def load(folder: Path = WEIGHTS, device: torch.device | str = "cpu") -> Judges:
    """The trained judges. Raises OSError when the folder holds no weights."""
    judges = Judges(AttributeReader(), SubjectDetector(), MomentReader())
    load_weights(judges.reader, folder / READER_FILE)
    load_weights(judges.detector, folder / DETECTOR_FILE)
    load_weights(judges.moments, folder / MOMENTS_FILE)
    return judges.to(device)
