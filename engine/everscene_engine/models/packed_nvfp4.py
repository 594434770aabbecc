"""NVFP4 weights as `model_4o6.pt` packs them, made into plain matrices.

A value has four bits: a sign and one of eight magnitudes (E2M1). Sixteen values along a row share a scale in E4M3, the
tensor has one more in float32. Two values lie in a byte, the earlier column in the low half. The scales lie in the
order that tensor cores read them: tiles of 128 rows by 4 scale columns, within a tile first by row modulo 32, then by
row div 32, then by column. With the 4/6 rule a block's largest value is either 4 or 6, and the scales use up to 256 of
E4M3's range, hence the divisor 6 · 256.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from everscene_engine.errors import CheckpointError

BLOCK = 16
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FULL_SCALE = 6 * 256
_SUFFIX = ".quantized_weight_values"
_PARTS = ("values", "scale_factors", "amax", "metadata")


def unpack_all(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Every packed matrix as `NAME.weight` in `dtype`; all other tensors as they are. Raises CheckpointError."""
    result = {name: tensor for name, tensor in tensors.items() if ".quantized_weight_" not in name}
    for name in tensors:
        if name.endswith(_SUFFIX):
            linear = name.removesuffix(_SUFFIX)
            parts = {}
            for part in _PARTS:
                key = f"{linear}.quantized_weight_{part}"
                if key not in tensors:
                    raise CheckpointError(f"'{key}' is missing")
                parts[part] = tensors[key]
            result[f"{linear}.weight"] = _unpack(linear, parts).to(dtype)
    return result


def scale_places(rows: int, columns: int) -> Tensor:
    """Where the scale of (row, scale column) lies in the packed order, [rows, columns] int64; rows a multiple of 128,
    columns of 4."""
    row = torch.arange(rows)[:, None]
    column = torch.arange(columns)[None]
    tile = row // 128 * (columns // 4) + column // 4
    return tile * 512 + row % 32 * 16 + row % 128 // 32 * 4 + column % 4


def _unpack(name: str, parts: Mapping[str, Tensor]) -> Tensor:
    """One matrix [rows, columns] in float32."""
    rows, columns, padded_rows, padded_columns = parts["metadata"].tolist()
    values, scales = parts["values"], parts["scale_factors"]
    if list(values.shape) != [padded_rows, padded_columns // 2]:
        raise CheckpointError(
            f"'{name}{_SUFFIX}' has shape {list(values.shape)}; its metadata say [{padded_rows}, {padded_columns // 2}]"
        )
    if padded_rows % 128 or padded_columns % (4 * BLOCK):
        raise CheckpointError(f"'{name}' is {padded_rows}×{padded_columns}; packed it must be multiples of 128 and 64")
    if scales.numel() != padded_rows * padded_columns // BLOCK:
        wanted = padded_rows * padded_columns // BLOCK
        raise CheckpointError(f"'{name}.quantized_weight_scale_factors' has {scales.numel()} scales, not {wanted}")
    codes = torch.stack([values & 15, values >> 4], dim=-1).flatten(1).long()  # [rows, columns]
    table = torch.tensor([*MAGNITUDES, *(-magnitude for magnitude in MAGNITUDES)])
    places = scale_places(padded_rows, padded_columns // BLOCK)
    by_block = scales.float().flatten()[places] * (parts["amax"].float() / FULL_SCALE)  # [rows, columns / 16]
    return (table[codes] * by_block.repeat_interleave(BLOCK, dim=1))[:rows, :columns]
