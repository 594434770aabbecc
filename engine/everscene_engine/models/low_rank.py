"""Low-rank weights (LoRA) are added to the weights that they were trained on, once: W + (alpha / rank) · B · A."""

import re
from collections.abc import Mapping

from torch import Tensor

from everscene_engine.errors import CheckpointError

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""PEFT's names for A [rank, in] and B [out, rank], behind the name of the module."""
_NAME = re.compile(r"(?:base_model\.model\.)?(?:model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")


def merged(weights: Mapping[str, Tensor], low_rank: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The weights with the low-rank ones added, each in its own dtype; the product is computed in float32.

    low_rank: PEFT names, `NAME.lora_A.weight` [rank, in] and `NAME.lora_B.weight` [out, rank]. Raises CheckpointError
    naming a tensor that has no partner, no weight to be added to, or another shape than that.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in low_rank.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise CheckpointError(f"'{name}' is no low-rank tensor: expected NAME.lora_A.weight or NAME.lora_B.weight")
        halves.setdefault(match[1], {})[match[2]] = tensor
    result = dict(weights)
    for name, pair in halves.items():
        target = f"{name}.weight"
        if len(pair) != 2:
            raise CheckpointError(f"'{name}.lora_{'B' if 'A' in pair else 'A'}.weight' is missing")
        if target not in result:
            raise CheckpointError(f"there is no '{target}' for its low-rank weights to be added to")
        down, up, weight = pair["A"].float(), pair["B"].float(), result[target]
        if (up.shape[0], down.shape[1]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
            shapes = f"{list(up.shape)} times {list(down.shape)}"
            raise CheckpointError(f"low-rank weights of '{target}' are {shapes}; it is {list(weight.shape)}")
        result[target] = (weight.float() + (alpha / down.shape[0]) * (up @ down)).to(weight.dtype)
    return result
