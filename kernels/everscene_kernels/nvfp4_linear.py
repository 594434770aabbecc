"""Linears with NVFP4 weights, in plain PyTorch: what a GPU's kernels must agree with.

`linear_nvfp4` holds the weight in four bits and multiplies in the activation's dtype: memory is saved, nothing else.

`linear_nvfp4_both` is what Blackwell's matrix units do (W4A4): the activation is quantised too, with one amax a call,
and the products of code · block scale are summed in float32. Such a product has at most 2 + 4 bits, so the operands
are exact in bfloat16 and the emulation differs from the hardware only in the order of the sum. Both tensor scales are
applied to the sum, the bias after rounding, as LongLive 2.0 does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from everscene_kernels.nvfp4 import BLOCK, NVFP4Tensor, Rule, decode_e2m1, dequantize, quantize, unpack


def linear_nvfp4(x: Tensor, weight: NVFP4Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times weight [out, in] dequantised to x's dtype, plus bias [out]; [..., out] in x's dtype.

    Raises ValueError if weight is no matrix with x's width.
    """
    _check(x, weight)
    return F.linear(x, dequantize(weight, x.dtype), bias)


def linear_nvfp4_both(
    x: Tensor, weight: NVFP4Tensor, bias: Tensor | None = None, rule: Rule = "mse", amax: Tensor | None = None
) -> Tensor:
    """As `linear_nvfp4`, with x in NVFP4 as well, by `rule` and `amax` (None: x's own).

    The rules of x and weight may differ. Raises ValueError if weight is no matrix with x's width.
    """
    _check(x, weight)
    rows = quantize(x.reshape(-1, x.shape[-1]), rule, amax)
    total = scaled_codes(rows) @ scaled_codes(weight).t()  # [R, out]
    out = (total * (rows.tensor_scale * weight.tensor_scale)).to(x.dtype)
    if bias is not None:
        out = out + bias
    return out.reshape(*x.shape[:-1], weight.shape[0])


def scaled_codes(tensor: NVFP4Tensor) -> Tensor:
    """float32 [R, 16·W]: code · block scale, without the tensor scale; each exact in bfloat16."""
    blocks = torch.unflatten(decode_e2m1(unpack(tensor.values)), -1, (-1, BLOCK))
    return (blocks * tensor.scales.float()[..., None]).flatten(-2)


def _check(x: Tensor, weight: NVFP4Tensor) -> None:
    if len(weight.shape) != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"activations {tuple(x.shape)} do not fit a weight {weight.shape}")
