"""A model's transformer with its linears in NVFP4 or FP8, written beside the one that it was made from.

The file is a part like any other (`layout.py`): `FORMAT-transformer-Nstep`, or for `pocket` `FORMAT-transformer`. Its
configuration names the format under `linears`, by which the loader makes the network that it fits.
"""

from dataclasses import asdict
from pathlib import Path

import torch

from everscene_engine.checkpoint import load_pocket_transformer
from everscene_engine.config import TransformerConfig
from everscene_engine.errors import CheckpointError, ConfigError
from everscene_engine.models import networks
from everscene_engine.models.layout import fingerprint, has_part, load_into, read_header, write_part
from everscene_engine.models.presets import Preset
from everscene_engine.pocket import WEIGHTS
from everscene_engine.stored_linear import FORMATS, store_linears
from everscene_engine.transformer import WanTransformer

LINEARS = "linears"
MADE_FROM = "made_from"
POCKET_PART = "transformer"


def stored_part(part: str, format: str) -> str:
    """The name of a transformer part with its linears in a format."""
    return f"{format}-{part}"


def plain_part(preset: Preset, steps: int | None) -> str:
    """The name of a preset's transformer part for so many steps. Raises ConfigError."""
    return POCKET_PART if preset.shipped else preset.transformer_part(steps)


def precisions_in(preset: Preset, folder: Path, steps: int | None) -> list[str] | None:
    """The precisions that a folder has weights for; None: any, because the plain weights are there (or none at all).

    Raises ConfigError.
    """
    part = plain_part(preset, steps)
    found = [format for format in FORMATS if has_part(folder, stored_part(part, format))]
    return None if has_part(folder, part) or not found else found


def quantize(
    preset: Preset,
    format: str,
    folder: Path,
    out: Path | None = None,
    steps: int | None = None,
    device: str | None = None,
) -> list[Path]:
    """Write the preset's transformer with its linears in `format` (nvfp4 or fp8); returns the files.

    folder: of the preset's converted weights (unused for `pocket`, whose weights come with the package). out: where to;
    None for `folder`. steps: None for the preset's own. device: where it is done, as "cuda"; None for the CPU.
    Raises ConfigError, CheckpointError.
    """
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}; it is {' or '.join(FORMATS)}")
    part = plain_part(preset, steps)
    place = torch.device(device or "cpu")
    config = {**asdict(preset.transformer), LINEARS: format}
    if preset.shipped:
        model = load_pocket_transformer(WEIGHTS)[0].to(place, torch.bfloat16)
    else:
        if not has_part(folder, part):
            raise CheckpointError(f"no {part} weights in {folder}: everscene models pull {preset.name} fetches them")
        model = networks.transformer(asdict(preset.transformer))
        source = read_header(folder, part)
        load_into(model, source, place, torch.bfloat16)
        config[MADE_FROM] = fingerprint(source)
    with torch.inference_mode():
        store_linears(model, format)
    return write_part(out or folder, stored_part(part, format), model.state_dict(), config)


def check_source(folder: Path, part: str, format: str) -> None:
    """Raise CheckpointError if a stored part was made from other weights than those that lie beside it."""
    made_from = read_header(folder, stored_part(part, format)).config.get(MADE_FROM)
    if made_from is not None and has_part(folder, part) and made_from != fingerprint(read_header(folder, part)):
        raise CheckpointError(
            f"{folder / stored_part(part, format)} was made from other weights than {part}: "
            f"everscene quantize with --format {format} makes it anew"
        )


def load_stored(
    config: TransformerConfig, folder: Path, part: str, format: str, device: torch.device, dtype: torch.dtype
) -> WanTransformer:
    """A transformer of a stored part: weights as they are, everything else in `dtype`. Raises CheckpointError."""
    check_source(folder, part, format)
    model = networks.transformer(asdict(config), format)
    load_into(model, read_header(folder, stored_part(part, format)), device, dtype)
    return model
