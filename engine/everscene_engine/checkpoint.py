"""The pocket model's weights on disk: parts as `models.layout` has them, in files small enough to carry.

A matrix may be kept in eight bits: NAME as int8 and NAME.row_scale as float32, value = int8 · scale of its row.

What distillation taught the pocket model for N denoising steps is a part of its own beside them, `low-rank-Nstep`:
matrices of a low rank (LoRA) that are added to the transformer's while it is loaded.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from everscene_engine.config import TransformerConfig
from everscene_engine.errors import CheckpointError
from everscene_engine.models.layout import check_shapes, has_part, read_header, shapes_of, tensors_in, write_part
from everscene_engine.models.low_rank import merged
from everscene_engine.stored_linear import linears_of
from everscene_engine.text import PocketTextConfig, PocketTextEncoder
from everscene_engine.transformer import WanTransformer

SHARD_BYTES = 14 * 2**20
ROW_SCALE = ".row_scale"
FEW_STEPS = 4
"""Up to so many steps run on what was distilled for fewer, where there is nothing of their own, rather than on the
teacher alone, which loses its subject (docs/pocket.md). What a distillation of their own would gain is not measured."""


def pocket_eight_bit(transformer: WanTransformer) -> list[str]:
    """Names of the matrices that the package keeps in eight bits: those of the blocks' linears, and the one that few
    distinct timesteps pass through."""
    return ["time_projection.1.weight", *(f"{name}.weight" for name in linears_of(transformer))]


def save_part(
    folder: Path,
    part: str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, object],
    dtype: torch.dtype,
    eight_bit: Collection[str] = (),
) -> list[Path]:
    """Write one part of a model in files of at most 14 MiB (or one tensor); replaces what was there.

    dtype: of the tensors on disk, but for the matrices named in eight_bit, which become int8 with a scale a row.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu()
        if name in eight_bit:
            scale = value.float().abs().amax(dim=1).clamp(min=1e-12) / 127
            stored[name] = (value.float() / scale[:, None]).round().to(torch.int8)
            stored[name + ROW_SCALE] = scale
        else:
            stored[name] = value.to(dtype)
    return write_part(folder, part, stored, config, file_bytes=SHARD_BYTES)


def load_part(folder: Path, part: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors and configuration of one part. Raises CheckpointError naming what is missing or wrong."""
    if not has_part(folder, part):
        raise CheckpointError(f"no {part} weights in {folder}: expected {part}-1-of-N.safetensors")
    header = read_header(folder, part)
    tensors = dict(tensors_in(header))
    for name in [name for name in tensors if name.endswith(ROW_SCALE)]:
        matrix = name.removesuffix(ROW_SCALE)
        scale = tensors.pop(name)
        if matrix not in tensors or tensors[matrix].shape[:1] != scale.shape:
            raise CheckpointError(f"{folder}/{part}: '{name}' has no matrix of as many rows beside it")
        tensors[matrix] = tensors[matrix].float() * scale[:, None]
    return tensors, header.config


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module of the same make.

    Raises CheckpointError naming the first tensor that is missing, of another shape, or not wanted.
    """
    check_shapes(shapes_of(module), {name: tuple(tensor.shape) for name, tensor in tensors.items()}, source)
    module.load_state_dict(dict(tensors))


def low_rank_part(steps: int) -> str:
    """The name of the part that holds what was distilled for so many denoising steps."""
    return f"low-rank-{steps}step"


def save_pocket_transformer(transformer: WanTransformer, text: PocketTextEncoder, folder: Path) -> None:
    """Write both networks of the pocket model's second stage, in bf16 and eight bits."""
    config = asdict(transformer.config)
    save_part(folder, "transformer", transformer.state_dict(), config, torch.bfloat16, pocket_eight_bit(transformer))
    save_part(folder, "text", text.state_dict(), asdict(text.config), torch.bfloat16)


def save_low_rank(folder: Path, steps: int, tensors: Mapping[str, Tensor], rank: int) -> None:
    """Write low-rank matrices, `NAME.lora_A.weight` and `NAME.lora_B.weight`, for so many denoising steps, in bf16."""
    save_part(folder, low_rank_part(steps), tensors, {"rank": rank, "steps": steps}, torch.bfloat16)


def low_rank_for(folder: Path, steps: int) -> str | None:
    """The part for so many denoising steps: their own, or for up to FEW_STEPS that of the next fewer; None: there is
    none."""
    fewer = range(steps, 0, -1) if steps <= FEW_STEPS else (steps,)
    parts = (low_rank_part(number) for number in fewer)
    return next((part for part in parts if has_part(folder, part)), None)


def load_pocket_transformer(folder: Path, steps: int | None = None) -> tuple[WanTransformer, PocketTextEncoder]:
    """Both networks in float32 on the CPU, in evaluation mode.

    steps: with what was distilled for so many denoising steps, where the folder has it (see `low_rank_for`); None: as
    teacher forcing left the transformer. Raises CheckpointError.
    """
    tensors, config = load_part(folder, "transformer")
    part = None if steps is None else low_rank_for(folder, steps)
    if part is not None:
        low_rank, of_rank = load_part(folder, part)
        tensors = merged(tensors, low_rank, float(str(of_rank["rank"])))
    transformer = WanTransformer(TransformerConfig(**config))  # type: ignore[arg-type]
    fill(transformer, tensors, f"{folder}/transformer")
    tensors, config = load_part(folder, "text")
    vocabulary = tuple(str(word) for word in config.pop("vocabulary"))  # type: ignore[attr-defined]
    text = PocketTextEncoder(PocketTextConfig(vocabulary, **config))  # type: ignore[arg-type]
    fill(text, tensors, f"{folder}/text")
    return transformer.eval().requires_grad_(False), text.eval().requires_grad_(False)
