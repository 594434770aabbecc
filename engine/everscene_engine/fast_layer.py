"""The matrix products of one block, with the formats of their weights and of the rows that they take."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_engine.eight_bit import value_scale
from everscene_engine.transformer import Attention, Block
from everscene_kernels import fused_triton
from everscene_kernels.fp8 import FP8Rows, quantize_rows
from everscene_kernels.fused import Affine

Rows = Tensor | FP8Rows


class Product:
    """Rows [R, in] times a weight [out, in], plus bias: in bfloat16, or in FP8 where the rows come so."""

    def __init__(self, weight: Tensor, bias: Tensor, fp8: bool) -> None:
        self.fp8 = fp8
        self._weight: Rows = quantize_rows(weight) if fp8 else weight
        self._bias = bias

    def __call__(self, rows: Rows) -> Tensor:
        if isinstance(self._weight, Tensor):
            assert isinstance(rows, Tensor)
            return F.linear(rows, self._weight, self._bias)
        assert isinstance(rows, FP8Rows)
        if not rows.values.is_cuda:
            wide = rows.dequantize() @ self._weight.dequantize().t() + self._bias.float()
            return wide.to(torch.bfloat16)
        out: Tensor = torch._scaled_mm(
            rows.values,
            self._weight.values.t(),
            rows.scales,
            self._weight.scales.t(),
            self._bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return out

    def rows(self, x: Rows, gelu: bool = False) -> Rows:
        """x [R, in] as this product wants it, after GELU with `gelu`."""
        if isinstance(x, FP8Rows):
            return x if self.fp8 else x.values.to(torch.bfloat16) * x.scales.to(torch.bfloat16)
        if self.fp8:
            return fused_triton.quantize_rows(x, gelu)
        return F.gelu(x, approximate="tanh") if gelu else x


class FastLayer:
    """The products and weights of one block, taken from it."""

    def __init__(self, block: Block, fp8: bool) -> None:
        own, cross = block.self_attn, block.cross_attn
        made = [own.q, own.k, own.v]
        self.qkv = Product(torch.cat([part.weight for part in made]), torch.cat([part.bias for part in made]), fp8)
        self.value_scale = value_scale(own.v.weight, own.v.bias)
        self.norms = torch.stack([own.norm_q.weight, own.norm_k.weight])  # [2, D]
        self.out = Product(own.o.weight, own.o.bias, fp8)
        self.before_cross = Affine(block.norm3.weight, block.norm3.bias)
        self.cross_q = Product(cross.q.weight, cross.q.bias, fp8)
        self.cross_norm = cross.norm_q.weight
        self.cross_out = Product(cross.o.weight, cross.o.bias, fp8)
        up, down = block.ffn[0], block.ffn[2]
        assert isinstance(up, nn.Linear) and isinstance(down, nn.Linear)
        self.up, self.down = Product(up.weight, up.bias, fp8), Product(down.weight, down.bias, fp8)
        for attention, names in ((own, "qkvo"), (cross, "qo")):
            _drop(attention, names)
        block.ffn = nn.Sequential()


def _drop(attention: Attention, names: str) -> None:
    for name in names:
        delattr(attention, name)
