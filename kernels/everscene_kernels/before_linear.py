"""What stands before a quantised linear, with every rounding fixed: LayerNorm with modulation, and GELU.

A kernel that quantises in the same pass must give the codes that quantising afterwards would give. That holds bit for
bit only if both add in the same order and share one exponential. So sums are trees of neighbours over a width padded
to a power of two with zeros, the exponential is a polynomial, and nothing else is used than + − · / √, each rounded
once in float32. F.layer_norm and F.gelu differ from these in the last bit of float32.

Results are rounded to x's dtype where the transformer rounds: after the norm, after 1 + scale, after the product,
after the sum; and after GELU.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from everscene_kernels.nvfp4 import BLOCK, divided, pair_sum

LOG2_E = 1.4426950408889634
LN2_HIGH = 0.693359375  # ln 2 in two parts; this one has so few bits that n · LN2_HIGH is exact
LN2_LOW = -2.12194440e-4
TO_INTEGER = 12582912.0  # 1.5 · 2²³: adding and subtracting it rounds to an integer, ties to even
EXP_TERMS = tuple(1.0 / math.factorial(n) for n in range(7, -1, -1))  # Taylor; |f| ≤ ln 2 / 2, so the rest is < 2⁻²⁷
GELU_CUBIC = 0.044715
GELU_SCALE = 2.0 * math.sqrt(2.0 / math.pi)
EXP_LIMIT = 87.0  # e⁸⁷ and e⁻⁸⁷ are normal float32


def check_dtype(x: Tensor) -> None:
    """Raises ValueError where x is neither bfloat16 nor float32, the two dtypes whose rounding is fixed here."""
    if x.dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"bfloat16 or float32 can be quantised in the same pass, not {x.dtype}")


def exp(z: Tensor) -> Tensor:
    """e^z for float32 z in [−87, 87], within 2 units of the last place; NaN stays NaN."""
    n = (z * LOG2_E + TO_INTEGER) - TO_INTEGER
    f = (z - n * LN2_HIGH) - n * LN2_LOW
    value = torch.full_like(z, EXP_TERMS[0])
    for term in EXP_TERMS[1:]:
        value = value * f + term
    power = (n + TO_INTEGER).view(torch.int32) - 0x4B400000  # the bits of TO_INTEGER: what is left is n
    return value * ((power + 127) << 23).view(torch.float32)


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh form, x · sigmoid(2·√(2/π)·(x + 0.044715·x³)), computed in float32, rounded to x's dtype.

    −inf becomes 0 and NaN stays NaN. Raises ValueError for other dtypes than bfloat16 and float32.
    """
    check_dtype(x)
    wide = x.float()
    z = (wide + wide * wide * wide * GELU_CUBIC) * -GELU_SCALE
    held = torch.where(z > EXP_LIMIT, EXP_LIMIT, torch.where(z < -EXP_LIMIT, -EXP_LIMIT, z))
    y = wide / (1.0 + exp(held))
    return torch.where(z > EXP_LIMIT, 0.0, y).to(x.dtype)


def norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """LayerNorm without weights over the last dimension, then · (1 + scale) + shift; [R, C] in x's dtype.

    x: [R, C] bfloat16 or float32.
    scale, shift: [F, C] of x's dtype; each of their rows serves R / F rows of x in turn (a latent frame's tokens).
    Raises ValueError where these do not fit.
    """
    check_modulation(x, scale, shift)
    rows, columns = x.shape
    width = max(BLOCK, 1 << (columns - 1).bit_length())
    wide = x.float()
    mean = divided(pair_sum(F.pad(wide, (0, width - columns))), columns)  # [R]
    centred = wide - mean[:, None]
    variance = divided(pair_sum(F.pad(centred * centred, (0, width - columns))), columns)
    normed = (centred * (1.0 / torch.sqrt(variance + eps))[:, None]).to(x.dtype)
    per_row = rows // max(1, scale.shape[0])
    scale_rows, shift_rows = scale.repeat_interleave(per_row, 0), shift.repeat_interleave(per_row, 0)
    return normed * (1 + scale_rows) + shift_rows


def check_modulation(x: Tensor, scale: Tensor, shift: Tensor) -> None:
    """Raises ValueError unless x is [R, C], scale and shift are [F, C] of its dtype, and F divides R."""
    check_dtype(x)
    if x.dim() != 2 or x.shape[1] == 0 or scale.dim() != 2 or scale.shape != shift.shape:
        raise ValueError(
            f"x [R, C] with scale and shift [F, C] are wanted, not {x.shape}, {scale.shape}, {shift.shape}"
        )
    if scale.shape[1] != x.shape[1] or scale.shape[0] == 0 or x.shape[0] % scale.shape[0]:
        raise ValueError(f"scale and shift {tuple(scale.shape)} do not divide x {tuple(x.shape)} into latent frames")
    if scale.dtype != x.dtype or shift.dtype != x.dtype:
        raise ValueError(f"x, scale and shift share a dtype, not {x.dtype}, {scale.dtype}, {shift.dtype}")
