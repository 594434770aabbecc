"""From any published file to our own: unwrap, merge, unpack, rename, compare with the network, write."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everscene_engine.errors import CheckpointError, ConfigError
from everscene_engine.models import networks
from everscene_engine.models.containers import Container, read_container
from everscene_engine.models.layout import check_shapes, shapes_of, write_part
from everscene_engine.models.low_rank import merged
from everscene_engine.models.names import renamed, text_name, transformer_name, vae_name
from everscene_engine.models.packed_nvfp4 import unpack_all
from everscene_engine.models.presets import Preset

_TRAINING_ONLY = "dynamic_feature_projection_heads."
TOKENIZER = "tokenizer"


def convert(
    preset: Preset,
    part: str,
    source: Path,
    folder: Path,
    onto: Path | None = None,
    lora_alpha: float | None = None,
    use_ema: bool = False,
) -> list[Path]:
    """Make the part of a preset from a published file and write it into `folder`.

    part: transformer-Nstep, text, tokenizer, vae, lightvae, lightvae2 or tiny. onto: the base that low-rank weights are
    added to. lora_alpha: their strength times their rank; None: as strong as their rank. use_ema: averaged weights.
    Raises CheckpointError naming file and tensor, ConfigError for a part that is none.
    """
    if part == TOKENIZER:
        return _copy_tokenizer(source, folder)
    if part.startswith("transformer-"):
        preset.transformer_part(_steps(part))
    elif part not in _RECIPES:
        raise ConfigError(f"no such part: {part!r}; there is: transformer-Nstep, {TOKENIZER}, {', '.join(_RECIPES)}")
    container = read_container(source, use_ema)
    if part.startswith("transformer-"):
        weights = _with_low_rank(container, source, onto, lora_alpha, use_ema)
        tensors = unpack_all(renamed(weights, transformer_name))
        network, config = networks.transformer(asdict(preset.transformer)), asdict(preset.transformer)
        return _write(folder, part, tensors, network, config, source, torch.bfloat16)
    name_of, config_of, make, dtype = _RECIPES[part]
    kept = {name: tensor for name, tensor in container.weights.items() if not name.startswith(_TRAINING_ONLY)}
    tensors = renamed(kept, name_of)
    if part == "text":
        tensors.pop("encoder.embed_tokens.weight", None)  # another name of shared.weight
    if part == "tiny":
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("decoder.")}
    config = config_of(tensors, str(source))
    return _write(folder, part, tensors, make(config), config, source, dtype)


def _write(
    folder: Path,
    part: str,
    tensors: Mapping[str, Tensor],
    network: nn.Module,
    config: Mapping[str, Any],
    source: Path,
    dtype: torch.dtype | None,
) -> list[Path]:
    wanted = shapes_of(network)
    if part == "text":
        wanted.pop("encoder.embed_tokens.weight", None)
    check_shapes(wanted, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, str(source))
    return write_part(folder, part, {name: tensors[name] for name in wanted}, config, dtype)


def _steps(part: str) -> int:
    text = part.removeprefix("transformer-").removesuffix("step")
    if not text.isdigit():
        raise ConfigError(f"no such part: {part!r}; a transformer's is named transformer-4step")
    return int(text)


def _with_low_rank(
    container: Container, source: Path, onto: Path | None, alpha: float | None, use_ema: bool
) -> dict[str, Tensor]:
    weights = container.weights
    if not weights:
        if onto is None:
            raise CheckpointError(f"{source} holds low-rank weights alone; name the base that they are added to")
        weights = read_container(onto, use_ema).weights
    weights = renamed(weights, transformer_name)
    if not container.low_rank:
        return weights
    rank = next(tensor.shape[0] for name, tensor in container.low_rank.items() if ".lora_A." in name)
    return merged(weights, container.low_rank, rank if alpha is None else alpha)


def _copy_tokenizer(source: Path, folder: Path) -> list[Path]:
    wanted = [path for path in sorted(source.glob("*")) if path.is_file()] if source.is_dir() else []
    if not any(path.name in ("tokenizer.json", "spiece.model") for path in wanted):
        raise CheckpointError(f"{source} is no tokenizer: it has neither tokenizer.json nor spiece.model")
    target = folder / TOKENIZER
    target.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy2(path, target / path.name)) for path in wanted]


_Recipe = tuple[
    Callable[[str], str],
    Callable[[Mapping[str, Tensor], str], dict[str, Any]],
    Callable[[Mapping[str, Any]], nn.Module],
    torch.dtype | None,
]
_VAE: _Recipe = (vae_name, networks.vae_config, networks.vae, None)
_RECIPES: dict[str, _Recipe] = {
    "text": (text_name, networks.text_config, networks.text, torch.bfloat16),
    "vae": _VAE,
    "lightvae": _VAE,
    "lightvae2": _VAE,
    "tiny": (str, networks.tiny_config, networks.tiny, None),
}
