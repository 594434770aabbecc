"""Whether a folder holds what a preset needs, whole."""

from dataclasses import asdict
from pathlib import Path

from everscene_engine.errors import CheckpointError
from everscene_engine.models import networks
from everscene_engine.models.convert import TOKENIZER
from everscene_engine.models.layout import check_shapes, check_values, has_part, read_header, shapes_of
from everscene_engine.models.presets import Preset
from everscene_engine.models.quantize import CALIBRATED, LINEARS, POCKET_PART, check_source, stored_part
from everscene_engine.stored_linear import FORMATS

OPTIONAL = ("lightvae", "lightvae2", "tiny")
_MAKERS = {
    "text": networks.text,
    "vae": networks.vae,
    "lightvae": networks.vae,
    "lightvae2": networks.vae,
    "tiny": networks.tiny,
}


def parts_in(preset: Preset, folder: Path) -> tuple[list[str], list[str]]:
    """The parts that are there, and those that are needed and are not; any one of the transformers will do."""
    if preset.shipped:
        return [part for part in (stored_part(POCKET_PART, format) for format in FORMATS) if has_part(folder, part)], []
    plain = [preset.transformer_part(steps) for steps in preset.step_choices]
    transformers = [*plain, *(stored_part(part, format) for format in FORMATS for part in plain)]
    found = [part for part in (*transformers, "text", "vae", *OPTIONAL) if has_part(folder, part)]
    if (folder / TOKENIZER).is_dir():
        found.append(TOKENIZER)
    missing = [part for part in ("text", "vae", TOKENIZER) if part not in found]
    if not any(part in found for part in transformers):
        missing.insert(0, transformers[0])
    return found, missing


def verify_part(preset: Preset, part: str, folder: Path, deep: bool = False) -> int:
    """Compare a part's headers with its network; with `deep`, read every tensor too. Returns the number of tensors.

    Raises CheckpointError naming the first tensor that is missing, extra, misshapen, damaged or not finite.
    """
    header = read_header(folder, part)
    format = next((format for format in FORMATS if part.startswith(f"{format}-")), None)
    if format is not None or part.startswith("transformer-"):
        if header.config.get(LINEARS) != format:
            raise CheckpointError(f"{folder / part} says that its linears are in {header.config.get(LINEARS)}")
        if format is not None:
            check_source(folder, part.removeprefix(f"{format}-"), format)
        wanted = shapes_of(networks.transformer(asdict(preset.transformer), format, CALIBRATED in header.config))
    else:
        wanted = shapes_of(_MAKERS[part](header.config))
    wanted.pop("encoder.embed_tokens.weight", None)  # in the text encoder, another name of shared.weight
    check_shapes(wanted, header.shapes, str(folder / part))
    if deep:
        check_values(header)
    return len(wanted)


def verify(preset: Preset, folder: Path, deep: bool = False) -> dict[str, int]:
    """Verify everything that a folder holds of a preset: tensors by part. Raises CheckpointError as `verify_part`
    does, and for a part that is needed and not there."""
    found, missing = parts_in(preset, folder)
    counts = {part: verify_part(preset, part, folder, deep) for part in found if part != TOKENIZER}
    if missing:
        lacks = ", ".join(missing)
        raise CheckpointError(f"{folder} lacks {lacks}; `everscene models pull {preset.name}` fetches what is missing")
    return counts
