"""The matrix products of one block, with the formats of their weights and of the rows that they take."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_engine.eight_bit import value_scale
from everscene_engine.stored_linear import StoredLinear
from everscene_engine.transformer import Attention, Block
from everscene_kernels import fp8, fused_triton, nvfp4_triton, nvfp4_weights
from everscene_kernels.fp8 import FP8Rows, quantize_rows
from everscene_kernels.fused import Affine
from everscene_kernels.nvfp4 import NVFP4Tensor
from everscene_kernels.nvfp4_linear import multiply, operand

Rows = Tensor | FP8Rows | NVFP4Tensor
Linear = nn.Linear | StoredLinear


class FourBit:
    """Matrices in NVFP4, decoded as one at each call: into FP8 rows, or into bfloat16."""

    def __init__(self, weights: Sequence[NVFP4Tensor], fp8: bool) -> None:
        self._weights = weights
        scales = [nvfp4_weights.fp8_scales(weight) for weight in weights] if fp8 else []
        self._inverses = [1.0 / one for one in scales]
        self._all_scales = torch.cat(scales) if fp8 else None
        self._shape = (sum(weight.shape[0] for weight in weights), weights[0].shape[1])

    def __call__(self) -> Rows:
        dtype = torch.bfloat16 if self._all_scales is None else torch.uint8
        out = torch.empty(self._shape, dtype=dtype, device=self._weights[0].values.device)
        first = 0
        for index, weight in enumerate(self._weights):
            part = out[first : first + weight.shape[0]]
            if self._all_scales is None:
                nvfp4_weights.dequantize(weight, torch.bfloat16, part)
            else:
                nvfp4_weights.fp8_values(weight, self._inverses[index], part)
            first += weight.shape[0]
        return out if self._all_scales is None else FP8Rows(out.view(torch.float8_e4m3fn), self._all_scales)


def _weight(linears: Sequence[Linear], fp8: bool) -> "Rows | FourBit":
    held = [linear.stored if isinstance(linear, StoredLinear) else linear.weight for linear in linears]
    four = [weight for weight in held if isinstance(weight, NVFP4Tensor)]
    eight = [weight for weight in held if isinstance(weight, FP8Rows)]
    if four:
        return FourBit(four, fp8)
    if eight:
        return FP8Rows(
            torch.cat([one.values.view(torch.uint8) for one in eight]).view(torch.float8_e4m3fn),
            torch.cat([one.scales for one in eight]),
        )
    plain = torch.cat([weight for weight in held if isinstance(weight, Tensor)])
    return quantize_rows(plain) if fp8 else plain


class Product:
    """Rows [R, in] times weights [out, in], one below the other, plus bias: in bfloat16, or in FP8 where rows come so.

    Weights stored in NVFP4 are decoded before each product, into what it wants.
    """

    def __init__(self, linears: Sequence[Linear], fp8: bool) -> None:
        self.fp8 = fp8
        self._bias = torch.cat([linear.bias for linear in linears])
        self._weight: Rows | FourBit = _weight(linears, fp8)

    def __call__(self, rows: Rows) -> Tensor:
        weight = self._weight() if isinstance(self._weight, FourBit) else self._weight
        assert not isinstance(weight, NVFP4Tensor)
        if isinstance(weight, Tensor):
            assert isinstance(rows, Tensor)
            return F.linear(rows, weight, self._bias)
        assert isinstance(rows, FP8Rows)
        return fp8.multiply(rows, weight, self._bias)

    def rows(self, x: Rows, gelu: bool = False) -> Rows:
        """x [R, in] as this product wants it, after GELU with `gelu`."""
        if isinstance(x, FP8Rows):
            return x if self.fp8 else _wide(x)
        assert isinstance(x, Tensor)
        if self.fp8:
            return fused_triton.quantize_rows(x, gelu)
        return F.gelu(x, approximate="tanh") if gelu else x


class FourBitProduct:
    """Rows [R, in] times weights [out, in], one below the other, plus bias, both sides in NVFP4.

    Activations are quantised to the range that a calibration met where there was one, else to their own, which takes
    another reading of them.
    """

    def __init__(self, linears: Sequence[Linear]) -> None:
        stored = [linear for linear in linears if isinstance(linear, StoredLinear)]
        self._bias = torch.cat([linear.bias for linear in linears])
        self._weight = operand([linear.stored for linear in stored if isinstance(linear.stored, NVFP4Tensor)])
        ranges = [linear.input_amax for linear in stored if linear.input_amax is not None]
        self._amax = torch.cat(ranges).amax(0, keepdim=True) if ranges else None

    def __call__(self, rows: Rows) -> Tensor:
        four = rows if isinstance(rows, NVFP4Tensor) else self._quantized(rows, gelu=False)
        return multiply(four, self._weight, self._bias)

    def rows(self, x: Rows, gelu: bool = False) -> Rows:
        """x [R, in] as this product wants it, after GELU with `gelu`."""
        return x if isinstance(x, NVFP4Tensor) else self._quantized(x, gelu)

    def _quantized(self, x: Tensor | FP8Rows, gelu: bool) -> NVFP4Tensor:
        wide = _wide(x) if isinstance(x, FP8Rows) else x
        return (nvfp4_triton.quantize_gelu if gelu else nvfp4_triton.quantize)(wide, amax=self._amax)


def _wide(rows: FP8Rows) -> Tensor:
    return rows.values.to(torch.bfloat16) * rows.scales.to(torch.bfloat16)


class FastLayer:
    """The products and weights of one block, taken from it."""

    def __init__(self, block: Block, fp8: bool, four: bool = False) -> None:
        """fp8: multiply in FP8; four: both sides in NVFP4, in which the weights are held."""

        def product(*linears: Linear) -> Product | FourBitProduct:
            return FourBitProduct(linears) if four else Product(linears, fp8)

        own, cross = block.self_attn, block.cross_attn
        self.qkv = product(own.q, own.k, own.v)
        self.value_scale = value_scale(own.v.weight, own.v.bias)
        self.norms = torch.stack([own.norm_q.weight, own.norm_k.weight])  # [2, D]
        self.out = product(own.o)
        self.before_cross = Affine(block.norm3.weight, block.norm3.bias)
        self.cross_q = product(cross.q)
        self.cross_norm = cross.norm_q.weight
        self.cross_out = product(cross.o)
        up, down = block.ffn[0], block.ffn[2]
        assert isinstance(up, Linear) and isinstance(down, Linear)
        self.up, self.down = product(up), product(down)
        for attention, names in ((own, "qkvo"), (cross, "qo")):
            _drop(attention, names)
        block.ffn = nn.Sequential()


def _drop(attention: Attention, names: str) -> None:
    for name in names:
        delattr(attention, name)
