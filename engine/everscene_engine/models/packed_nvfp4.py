"""NVFP4 weights as `model_4o6.pt` packs them, made into matrices; `everscene_kernels.nvfp4_layout` has the format."""

from collections.abc import Mapping

import torch
from torch import Tensor

from everscene_engine.errors import CheckpointError
from everscene_kernels.nvfp4 import dequantize
from everscene_kernels.nvfp4_layout import unpack_published

_SUFFIX = ".quantized_weight_values"
_PARTS = ("values", "scale_factors", "amax", "metadata")


def unpack_all(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Every packed matrix as `NAME.weight` in `dtype`; all other tensors as they are.

    Raises CheckpointError naming a tensor that is missing, or the matrix whose four do not fit together.
    """
    result = {name: tensor for name, tensor in tensors.items() if ".quantized_weight_" not in name}
    for name in tensors:
        if not name.endswith(_SUFFIX):
            continue
        linear = name.removesuffix(_SUFFIX)
        keys = [f"{linear}.quantized_weight_{part}" for part in _PARTS]
        for key in keys:
            if key not in tensors:
                raise CheckpointError(f"'{key}' is missing")
        try:
            packed = unpack_published(*(tensors[key] for key in keys))
        except ValueError as error:
            raise CheckpointError(f"the packed '{linear}.weight' does not fit together: {error}") from error
        result[f"{linear}.weight"] = dequantize(packed, dtype)
    return result
