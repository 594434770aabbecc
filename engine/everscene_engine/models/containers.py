"""Published weights files as plain tensors by name, whatever they are wrapped in.

A `.pt` or `.pth` file is a pickle of tensors in nested mappings: the weights lie under `generator` (or
`generator_ema`), under `model`, `state_dict`, `gen_model`, or at the top; their names may carry the prefix `model.` of
a wrapper and the words that a training framework left in them. A `.safetensors` file is flat; a folder holds several
with an index. Nothing is ever unpickled but tensors and plain values (`weights_only=True`), and pickles are mapped, not
read.
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from everscene_engine.errors import CheckpointError
from everscene_engine.models.pickled import damaged_tensor

_WRAPPERS = ("model", "state_dict", "gen_model", "module")
_TRAINING_WORD = "_fsdp_wrapped_module."
_PREFIX = "model."
_REFUSED = {"longlive_generator_te_nvfp4": "the internal state of TransformerEngine; take the merged bf16 file"}


@dataclass(frozen=True)
class Container:
    """What a file holds: weights by name, and low-rank weights to be added to them (either may be empty)."""

    weights: dict[str, Tensor]
    low_rank: dict[str, Tensor] = field(default_factory=dict)


def read_container(path: Path, use_ema: bool = False) -> Container:
    """The tensors of a published file or folder, prefixes taken off.

    use_ema: take the averaged weights where the file has them. Raises CheckpointError naming the file, and the entry
    that is no tensor.
    """
    if path.is_dir():
        return Container(_stripped(_read_folder(path)))
    if path.suffix == ".safetensors":
        return Container(_stripped(read_safetensors(path)))
    content = _read_pickle(path)
    damaged = damaged_tensor(path)
    if damaged is not None:
        raise CheckpointError(f"{path}: {damaged}")
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds {type(content).__name__}, not tensors by name")
    kind = str(_format_of(content))
    if kind in _REFUSED:
        raise CheckpointError(f"{path} is of the format {kind}: {_REFUSED[kind]}")
    low_rank = _tensors(content["generator_lora"], path) if "generator_lora" in content else {}
    inner = _unwrapped(content, use_ema)
    if inner is content and low_rank:
        return Container({}, low_rank)
    weights = _stripped(_tensors(inner, path))
    if any(".lora_A." in name for name in weights):
        return Container({}, {**low_rank, **weights})
    return Container(weights, low_rank)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError; of a truncated one, naming the first lost tensor."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        lost = first_lost_tensor(path)
        detail = f": tensor '{lost}' lies past the end of the file" if lost else f": {error}"
        raise CheckpointError(f"{path} is damaged{detail}") from error


def first_lost_tensor(path: Path) -> str | None:
    """The first tensor whose bytes a truncated safetensors file no longer has; None when that is not what ails it."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= path.stat().st_size - 8 else {}
    except (OSError, ValueError):
        return None
    room = path.stat().st_size - 8 - length
    places = [(entry["data_offsets"], name) for name, entry in header.items() if name != "__metadata__"]
    return next((name for (_, end), name in sorted(places) if end > room), None)


def _read_folder(path: Path) -> dict[str, Tensor]:
    """All safetensors files of a diffusers folder; its index, if there is one, says which tensors must be there."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{path} holds no .safetensors file")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_safetensors(file)
    for index in path.glob("*.safetensors.index.json"):
        for name, file_name in json.loads(index.read_text())["weight_map"].items():
            if name not in tensors:
                raise CheckpointError(f"{path}: tensor '{name}' is missing; it should be in {file_name}")
    return tensors


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is not there") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds more than tensors and plain values, or is damaged: {error}") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:  # torch's own words for a damaged archive
        what = damaged_tensor(path)
        if what is not None:
            raise CheckpointError(f"{path}: {what}") from error
        raise CheckpointError(f"{path} is damaged or no weights file: {error}") from error


def _format_of(content: Mapping[str, Any]) -> Any:
    metadata = content.get("metadata")
    if isinstance(metadata, Mapping) and "checkpoint_format" in metadata:
        return metadata["checkpoint_format"]
    return content.get("checkpoint_format")


def _unwrapped(content: Mapping[str, Any], use_ema: bool) -> Mapping[str, Any]:
    if use_ema and "generator_ema" in content:
        content = content["generator_ema"]
    elif "generator" in content:
        content = content["generator"]
    elif "generator_ema" in content:
        content = content["generator_ema"]
    while True:
        inner = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            return content
        content = inner


def _tensors(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    plain = (int, float, str, bool, type(None), Mapping, list, tuple)
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif not isinstance(value, plain):
            raise CheckpointError(f"{path}: '{name}' is {type(value).__name__}, not a tensor")
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors where weights are looked for")
    return tensors


def _stripped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {name: name.replace(_TRAINING_WORD, "") for name in tensors}
    if all(name.startswith(_PREFIX) for name in names.values()):
        names = {name: short.removeprefix(_PREFIX) for name, short in names.items()}
    return {names[name]: tensor for name, tensor in tensors.items()}
