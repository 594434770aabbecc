"""A model's transformer with its linears in NVFP4 or FP8, written beside the one that it was made from.

The file is a part like any other (`layout.py`): `FORMAT-transformer-Nstep`, or for `pocket` `FORMAT-transformer`. Its
configuration names the format under `linears`, by which the loader makes the network that it fits, the weights that it
was made from under `made_from`, and where there was a calibration what it was made with under `calibrated`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from everscene_engine.checkpoint import load_pocket_transformer
from everscene_engine.config import TransformerConfig
from everscene_engine.errors import CheckpointError, ConfigError
from everscene_engine.models import networks
from everscene_engine.models.calibrate import CHUNKS, Calibration, calibrate
from everscene_engine.models.layout import fingerprint, fingerprint_of, has_part, load_into, read_header, write_part
from everscene_engine.models.presets import Preset
from everscene_engine.pocket import WEIGHTS, best_dtype
from everscene_engine.precision import device_of
from everscene_engine.stored_linear import FORMATS, store_linears
from everscene_engine.text import TextEncoder
from everscene_engine.transformer import WanTransformer

LINEARS = "linears"
CALIBRATED = "calibrated"
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
    prompts: Sequence[str] | None = None,
    chunks: int = CHUNKS,
) -> list[Path]:
    """Write the preset's transformer with its linears in `format` (nvfp4 or fp8); returns the one file, in a list.

    folder: of the preset's converted weights (unused for `pocket`, whose weights come with the package). out: where to;
    None for `folder`. steps: None for the preset's own. device: where it is done, as "cuda"; None for the CPU. prompts:
    to calibrate NVFP4 with, so many chunks of each; None: without.
    Raises ConfigError, CheckpointError, PromptRejected, GenerationFailed.
    """
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}; it is {' or '.join(FORMATS)}")
    if prompts is not None and format != "nvfp4":
        raise ConfigError(f"only nvfp4 is calibrated; {format} takes the scales of its rows as they are: no prompts")
    part = plain_part(preset, steps)
    place = device_of(device or "cpu")
    config = {**asdict(preset.transformer), LINEARS: format}
    text: TextEncoder
    if preset.shipped:
        plain, text = load_pocket_transformer(WEIGHTS, steps or preset.stream.steps)
        config[MADE_FROM] = fingerprint_of(plain.state_dict())
        model = plain.to(place, torch.bfloat16)
    else:
        if not has_part(folder, part):
            raise CheckpointError(f"no {part} weights in {folder}; {preset.how_to_get(part)}")
        model = networks.transformer(asdict(preset.transformer))
        source = read_header(folder, part)
        load_into(model, source, place, torch.bfloat16)
        config[MADE_FROM] = fingerprint(source)
    measured: Calibration | None = None
    if prompts is not None:
        if not preset.shipped:
            from everscene_engine.models.large import load_text  # imports what the text encoder needs

            text = load_text(folder, place, best_dtype(place), "unload")
        embeddings = [text.encode([prompt]) for prompt in prompts]
        measured = calibrate(model.to(best_dtype(place)), preset.stream, embeddings, steps, chunks)
        model = model.to(torch.bfloat16)
        config[CALIBRATED] = {"prompts": len(prompts), "chunks": chunks, "steps": steps or preset.stream.steps}
    with torch.inference_mode():
        store_linears(model, format, measured)
    return write_part(out or folder, stored_part(part, format), model.state_dict(), config, file_bytes=math.inf)


def check_source(folder: Path, part: str, format: str) -> None:
    """Raise CheckpointError if a stored part was made from other weights than those that lie beside it. (For `pocket`
    there is `check_pocket_source`.)"""
    if part == POCKET_PART:
        return
    made_from = read_header(folder, stored_part(part, format)).config.get(MADE_FROM)
    if made_from is not None and has_part(folder, part) and made_from != fingerprint(read_header(folder, part)):
        raise _made_from_others(folder, part, format)


def check_pocket_source(folder: Path, format: str, plain: WanTransformer) -> None:
    """Raise CheckpointError if a stored part was not made from these weights; what was distilled for another number of
    steps makes them others."""
    made_from = read_header(folder, stored_part(POCKET_PART, format)).config.get(MADE_FROM)
    if made_from != fingerprint_of(plain.state_dict()):
        raise _made_from_others(folder, POCKET_PART, format)


def _made_from_others(folder: Path, part: str, format: str) -> CheckpointError:
    return CheckpointError(
        f"{folder / stored_part(part, format)} was made from other weights than {part}: "
        f"everscene quantize with --format {format}, and --steps as they are served, makes it anew"
    )


def load_stored(
    config: TransformerConfig, folder: Path, part: str, format: str, device: torch.device, dtype: torch.dtype
) -> WanTransformer:
    """A transformer of a stored part: weights as they are, everything else in `dtype`. Raises CheckpointError."""
    check_source(folder, part, format)
    header = read_header(folder, stored_part(part, format))
    model = networks.transformer(asdict(config), format, CALIBRATED in header.config)
    load_into(model, header, device, dtype)
    return model
