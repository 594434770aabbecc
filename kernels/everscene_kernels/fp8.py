"""FP8 linears: E4M3 on both sides, one float32 scale for each row of activations and each output channel of weights.

E4M3 has three bits of mantissa and ends at 448, so a row's scale is max|row| / 448, and the row is multiplied by the
scale's inverse (rounded to float32: dividing would cost a GPU more than reading the row does) and rounded to nearest,
ties to even. The product leaves both scales outside the sum:

    out[r, o] = activation_scale[r] · weight_scale[o] · Σ_k a[r, k] · w[o, k]         summed in float32 or wider

Ada and Hopper GPUs (compute capability 8.9 and up) do this on their matrix units through torch._scaled_mm; its fast
accumulation keeps fewer bits of the running sum. Elsewhere the same numbers are multiplied in float32.

NaN becomes 0; an infinity becomes the row's largest finite magnitude. A row without a finite number but 0 becomes 0.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from everscene_kernels.nvfp4 import AMAX_TINY, E4M3_MAX, divided

FIRST_CAPABILITY = (8, 9)
MULTIPLE = 16  # torch._scaled_mm takes inner and outer sizes of whole 16s


@dataclass(frozen=True)
class FP8Rows:
    """A matrix in E4M3 with a scale a row: value = values · scales.

    values: float8_e4m3fn [R, C]. scales: float32 [R, 1], above 0.
    """

    values: Tensor
    scales: Tensor

    def __post_init__(self) -> None:
        assert self.values.dtype == torch.float8_e4m3fn and self.values.dim() == 2
        assert self.scales.dtype == torch.float32 and self.scales.shape == (self.values.shape[0], 1)

    def dequantize(self) -> Tensor:
        """float32 [R, C]."""
        return self.values.float() * self.scales


def quantize_rows(x: Tensor) -> FP8Rows:
    """x [R, C], floating point, in E4M3 with a scale a row. A weight [out, in] gets one for each output channel.

    Raises ValueError for a tensor that is no floating-point matrix.
    """
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"FP8 rows are made of a floating-point matrix, not of {x.dtype} {tuple(x.shape)}")
    wide = x.detach().float()
    finite = torch.where(wide.abs() < math.inf, wide.abs(), 0.0)
    amax = finite.amax(1, keepdim=True) if x.shape[1] else torch.zeros(x.shape[0], 1, device=x.device)  # [R, 1]
    live = amax >= AMAX_TINY
    scales = divided(torch.where(live, amax, 1.0), E4M3_MAX)
    held = torch.where(live & ~wide.isnan(), wide, 0.0)
    return FP8Rows(scaled(held, 1.0 / scales), scales)


def e4m3(x: Tensor) -> Tensor:
    """In E4M3, ties to even; what is larger than its largest number becomes that."""
    return x.float().clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def scaled(wide: Tensor, inverses: Tensor) -> Tensor:
    """float32 [R, C] in E4M3, given 1 / the rows' scales [R, 1]: the rest of quantising by rows."""
    return e4m3(wide * inverses)


def multiply_reference(rows: FP8Rows, weight: FP8Rows, bias: Tensor | None = None) -> Tensor:
    """rows [R, in] times weight [out, in], plus bias [out]: sum, scales and bias in float32, [R, out]."""
    out = (rows.values.float() @ weight.values.float().t()) * rows.scales * weight.scales.t()
    return out if bias is None else out + bias.float()


def multiply(rows: FP8Rows, weight: FP8Rows, bias: Tensor | None = None) -> Tensor:
    """The same in bfloat16, bias too: on a GPU on its FP8 units, which it must have for these sizes (`has_fp8_units`),
    accumulated fast; on a CPU `multiply_reference`, rounded once."""
    if not rows.values.is_cuda:
        return multiply_reference(rows, weight, bias).to(torch.bfloat16)
    out: Tensor = torch._scaled_mm(
        rows.values,
        weight.values.t(),
        scale_a=rows.scales,
        scale_b=weight.scales.t(),
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return out


def linear_fp8_reference(x: Tensor, weight: FP8Rows, bias: Tensor | None = None) -> Tensor:
    """x [..., in] quantised by row, times weight [out, in], plus bias [out]; [..., out] in x's dtype.

    Sum, scales and bias in float32; rounded once, at the end.
    """
    out = multiply_reference(quantize_rows(x.reshape(-1, x.shape[-1])), weight, bias)
    return out.to(x.dtype).reshape(*x.shape[:-1], weight.values.shape[0])


def has_fp8_units(device: torch.device, inner: int, outer: int) -> bool:
    """Whether torch._scaled_mm multiplies FP8 rows of these sizes on the device's matrix units."""
    if device.type != "cuda" or inner % MULTIPLE or outer % MULTIPLE:
        return False
    return torch.cuda.get_device_capability(device) >= FIRST_CAPABILITY


def linear_fp8(x: Tensor, weight: FP8Rows, bias: Tensor | None = None) -> Tensor:
    """As `linear_fp8_reference`, on the GPU's FP8 units where there are any and the sizes are multiples of 16.

    There the result is rounded through bfloat16, and the sum is accumulated fast. Elsewhere this is the reference: the
    same quantised numbers multiplied in float32, slower than bfloat16 but right.
    """
    outer, inner = weight.values.shape
    if not has_fp8_units(x.device, inner, outer):
        return linear_fp8_reference(x, weight, bias)
    rows = quantize_rows(x.reshape(-1, inner))
    out = multiply(rows, weight, None if bias is None else bias.to(torch.bfloat16))
    return out.to(x.dtype).reshape(*x.shape[:-1], outer)
