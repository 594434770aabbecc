"""Linears with NVFP4 weights, in plain PyTorch: what a GPU's kernels must agree with.

`linear_nvfp4` holds the weight in four bits and multiplies in the activation's dtype: memory is saved, nothing else.

`linear_nvfp4_both` is what Blackwell's matrix units do (W4A4): the activation is quantised too, with one amax a call,
and the products of code · block scale are summed in float32. Such a product has at most 2 + 4 bits, so the operands
are exact in bfloat16 and the emulation differs from the hardware only in the order of the sum. Both tensor scales are
applied to the sum, the bias after rounding, as LongLive 2.0 does.

`multiply` is the same product on such matrix units, through torch._scaled_mm. It has never run on one: tests put in
torch's place what its description says that it computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from everscene_kernels.nvfp4 import BLOCK, NVFP4Tensor, Rule, decode_e2m1, dequantize, quantize, unpack
from everscene_kernels.nvfp4_layout import swizzle, unswizzle

FIRST_CAPABILITY = (10, 0)
"""Of GPUs whose matrix units multiply NVFP4."""
MULTIPLE = 32
"""Inner sizes that they take are whole 32s: 16 bytes of codes."""


@dataclass(frozen=True)
class Operand:
    """Weights, one below the other, as the matrix units take them.

    codes: uint8 [out, in / 2]. scales: float8_e4m3fn, flat in the order of tiles. tensor_scales: float32 [out], one for
    each column of the product, since every weight has its own.
    """

    codes: Tensor
    scales: Tensor
    tensor_scales: Tensor


def operand(weights: Sequence[NVFP4Tensor]) -> Operand:
    """Weights [out, in] of one inner size. Raises ValueError for an inner size that is no multiple of 32."""
    inner = weights[0].shape[1]
    if inner % MULTIPLE or any(weight.shape[1] != inner for weight in weights):
        raise ValueError(f"the matrix units take inner sizes of whole 32s, one for all, not {inner}")
    scales = torch.cat([weight.scales.view(torch.uint8) for weight in weights]).view(torch.float8_e4m3fn)
    return Operand(
        torch.cat([weight.values for weight in weights]),
        swizzle(scales),
        torch.cat([weight.tensor_scale.expand(weight.shape[0]) for weight in weights]),
    )


def multiply(rows: NVFP4Tensor, weight: Operand, bias: Tensor) -> Tensor:
    """rows [R, in] times weights, plus bias [out], in the bias's dtype: [R, out]. On a CPU, emulated."""
    total = (_on_matrix_units if rows.values.is_cuda else _emulated)(rows, weight)
    return (total.float() * (rows.tensor_scale * weight.tensor_scales)).to(bias.dtype) + bias


def _emulated(rows: NVFP4Tensor, weight: Operand) -> Tensor:
    scales = unswizzle(weight.scales, weight.codes.shape[0], rows.scales.shape[1]).float()
    codes = torch.unflatten(decode_e2m1(unpack(weight.codes)), -1, (-1, BLOCK)) * scales[..., None]
    return scaled_codes(rows) @ codes.flatten(-2).t()


def _on_matrix_units(rows: NVFP4Tensor, weight: Operand) -> Tensor:
    """Σ code · block scale of both sides, bfloat16 [R, out]."""
    four = torch.float4_e2m1fn_x2
    out: Tensor = torch._scaled_mm(
        rows.values.view(four),
        weight.codes.view(four).t(),
        scale_a=swizzle(rows.scales),
        scale_b=weight.scales,
        out_dtype=torch.bfloat16,
    )
    return out


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
