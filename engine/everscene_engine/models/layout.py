"""Our own files: the parts of a model as safetensors that are mapped, checked by their headers, and loaded as they are.

A part is a row of files `PART-1-of-N.safetensors`. Every file names its part and format, the configuration of the
network, and a CRC-32 of each tensor's bytes, by which `verify` finds a damaged one. Loading makes the network on the
meta device, compares names and shapes with the headers, and puts each tensor where it belongs.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from everscene_engine.errors import CheckpointError
from everscene_engine.models.containers import first_lost_tensor
from everscene_engine.stored_linear import PARTS as STORED_PARTS

FORMAT = "everscene-1"
FILE_BYTES = 4 * 2**30
Shape = tuple[int, ...]


@dataclass(frozen=True)
class PartHeader:
    """What the headers of a part's files say. shapes and files: by tensor name; crc: CRC-32 of each tensor's bytes."""

    part: str
    config: dict[str, Any]
    shapes: dict[str, Shape]
    files: dict[str, Path]
    crc: dict[str, int]


def write_part(
    folder: Path,
    part: str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    file_bytes: float | None = None,
) -> list[Path]:
    """Write a part, replacing what was there; holds one file's tensors in memory at a time.

    dtype: None keeps each. file_bytes: a file holds so many bytes of tensors at most, or one tensor; None: FILE_BYTES,
    inf: there is one file. Raises CheckpointError where it cannot be written.
    """
    groups: list[list[str]] = [[]]
    size, most = 0, file_bytes or FILE_BYTES
    for name, tensor in tensors.items():
        bytes_each = (dtype or tensor.dtype).itemsize
        if groups[-1] and size + tensor.numel() * bytes_each > most:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor.numel() * bytes_each
    paths = [folder / f"{part}-{index}-of-{len(groups)}.safetensors" for index in range(1, len(groups) + 1)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{part}-*-of-*.safetensors"):
            old.unlink()
        for path, names in zip(paths, groups, strict=True):
            held = {name: _copy(tensors[name], dtype) for name in names}
            sums = {name: _crc(tensor) for name, tensor in held.items()}
            metadata = {"format": FORMAT, "part": part, "config": json.dumps(config), "crc32": json.dumps(sums)}
            save_file(held, path, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{part} cannot be written to {folder}: {error}") from error
    return paths


def _copy(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor of its own, as the file format wants: no view, no shared memory."""
    return tensor.detach().to("cpu", dtype or tensor.dtype, copy=True).contiguous()


def _crc(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def has_part(folder: Path, part: str) -> bool:
    """Whether there is any file of the part."""
    return any(folder.glob(f"{part}-*-of-*.safetensors"))


def read_header(folder: Path, part: str) -> PartHeader:
    """The headers of a part's files; no tensor is read. Raises CheckpointError naming the file or the tensor."""
    paths = sorted(folder.glob(f"{part}-*-of-*.safetensors"))
    if not paths:
        raise CheckpointError(f"no {part} weights in {folder}")
    count = int(paths[0].stem.rsplit("-", 1)[1])
    if len(paths) != count:
        raise CheckpointError(f"{folder} holds {len(paths)} of the {count} files of {part}")
    header = PartHeader(part, {}, {}, {}, {})
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT or metadata.get("part") != part:
                    raise CheckpointError(f"{path} is no {part} of format {FORMAT}")
                header.config.update(json.loads(metadata["config"]))
                header.crc.update(json.loads(metadata.get("crc32", "{}")))
                for name in file.keys():  # noqa: SIM118 - no mapping
                    header.shapes[name] = tuple(file.get_slice(name).get_shape())
                    header.files[name] = path
        except (OSError, SafetensorError) as error:
            lost = first_lost_tensor(path)
            detail = f": tensor '{lost}' lies past the end of the file" if lost else f": {error}"
            raise CheckpointError(f"{path} is damaged{detail}") from error
    return header


def fingerprint(header: PartHeader) -> str:
    """Tells one set of weights from another by the checksums of its tensors."""
    return _hashed(header.crc)


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """The same of tensors that are in memory, as bfloat16."""
    return _hashed({name: _crc(tensor.to("cpu", torch.bfloat16)) for name, tensor in tensors.items()})


def _hashed(sums: Mapping[str, int]) -> str:
    return hashlib.sha256(repr(sorted(sums.items())).encode()).hexdigest()


def shapes_of(module: nn.Module) -> dict[str, Shape]:
    """Names and shapes of what a network's weights file must hold."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def check_shapes(wanted: Mapping[str, Shape], found: Mapping[str, Shape], source: str) -> None:
    """Raise CheckpointError naming the first tensor that is missing, of another shape, or not wanted."""
    for name, shape in wanted.items():
        if name not in found:
            raise CheckpointError(f"{source}: tensor '{name}' is missing")
        if found[name] != shape:
            raise CheckpointError(
                f"{source}: tensor '{name}' has shape {list(found[name])}; the model wants {list(shape)}"
            )
    for name in found:
        if name not in wanted:
            raise CheckpointError(f"{source}: tensor '{name}' does not belong to the model")


def tensors_in(header: PartHeader, device: torch.device | str = "cpu") -> Iterator[tuple[str, Tensor]]:
    """A part's tensors, one after another, as they are in its files."""
    for path in dict.fromkeys(header.files.values()):
        with safe_open(path, framework="pt", device=str(device)) as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                yield name, file.get_tensor(name)


def check_values(header: PartHeader) -> None:
    """Read every tensor: raise CheckpointError naming the first that is damaged or holds NaN or infinity."""
    for name, tensor in tensors_in(header):
        if name in header.crc and _crc(tensor) != header.crc[name]:
            raise CheckpointError(f"{header.files[name]}: tensor '{name}' is damaged: its checksum differs")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(f"{header.files[name]}: tensor '{name}' holds NaN or infinity")


def load_into(
    module: nn.Module,
    header: PartHeader,
    device: torch.device,
    dtype: torch.dtype,
    also: Mapping[str, str] | None = None,
) -> None:
    """Give a network made on the meta device its weights: on `device`, floats in `dtype`, stored linears as they are.
    Raises CheckpointError.

    also: other names that the network has for a tensor of the files; the tensor is then shared.
    """
    source = str(next(iter(header.files.values())).parent / header.part)
    again = {name: of for name, of in (also or {}).items() if name in shapes_of(module)}
    wanted = {name: shape for name, shape in shapes_of(module).items() if name not in again}
    check_shapes(wanted, header.shapes, source)
    tensors: dict[str, Tensor] = {}
    for name, tensor in tensors_in(header, device):
        keeps = not tensor.is_floating_point() or name.endswith(STORED_PARTS)
        tensors[name] = tensor if keeps else tensor.to(dtype)
    tensors |= {name: tensors[of] for name, of in again.items()}
    module.load_state_dict(tensors, assign=True)
    module.requires_grad_(False).eval()
