"""Linears whose weights are held in NVFP4 or FP8, and the 300 of a large model (60 of `pocket`) that are.

Held so are the linears of the blocks: queries, keys, values and output of both attentions, and the two of the
feed-forward part. Embeddings, the time projection and the head stay as they are: they are few and feel it most.

On disk and in a state dict, NAME.weight is then

    NAME.weight_values   NVFP4: uint8 [out, ceil(in / 16) · 8]       FP8: float8_e4m3fn [out, in]
    NAME.weight_scales   NVFP4: float8_e4m3fn [out, ceil(in / 16)]   FP8: float32 [out, 1]
    NAME.weight_amax     NVFP4 alone: float32 [1]
    NAME.input_amax      calibrated NVFP4 alone: float32 [1]

A scale is the largest magnitude of its block, row or matrix. An NVFP4 block takes of two scales the one with the
smaller squared error, or with a calibration (`models/calibrate.py`) of many the one with which the linear's output errs
least. input_amax is the largest magnitude that the calibration met: the range of activations in four bits.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_engine.errors import ConfigError
from everscene_engine.transformer import WanTransformer
from everscene_kernels import nvfp4_weights
from everscene_kernels.fp8 import FP8Rows, linear_fp8, quantize_rows
from everscene_kernels.nvfp4 import NVFP4Tensor, Rule, rows_and_blocks
from everscene_kernels.nvfp4_weighted import quantize_weighted

FORMATS = ("nvfp4", "fp8")
RULE: Rule = "mse"
PARTS = (".weight_values", ".weight_scales", ".weight_amax", ".input_amax")  # of tensors that keep their dtype


class Measured(Protocol):
    """What a calibration knows of the linears, by their names (`models.calibrate.Calibration` is one)."""

    @property
    def moments(self) -> dict[str, Tensor]: ...

    @property
    def amax(self) -> dict[str, Tensor]: ...


class StoredLinear(nn.Module):
    """A linear with bias; format: nvfp4 or fp8. Made empty on the meta device; `of` fills it from a plain one."""

    weight_values: Tensor
    weight_scales: Tensor

    input_amax: Tensor | None

    def __init__(self, inner: int, outer: int, format: str, calibrated: bool = False) -> None:
        super().__init__()
        if format not in FORMATS:
            raise ConfigError(f"format is {format!r}; weights are stored in {' or '.join(FORMATS)}")
        if calibrated and format != "nvfp4":
            raise ConfigError(f"only nvfp4 is calibrated; {format} takes the scales of its rows as they are")
        self.format = format
        self.in_features, self.out_features = inner, outer
        eight = torch.float8_e4m3fn
        _, blocks = rows_and_blocks((outer, inner))
        with torch.device("meta"):
            self.bias = nn.Parameter(torch.empty(outer), requires_grad=False)
            if format == "nvfp4":
                self.register_buffer("weight_values", torch.empty(outer, blocks * 8, dtype=torch.uint8))
                self.register_buffer("weight_scales", torch.empty(outer, blocks, dtype=eight))
                self.register_buffer("weight_amax", torch.empty(1))
                self.register_buffer("input_amax", torch.empty(1) if calibrated else None)
            else:
                self.register_buffer("weight_values", torch.empty(outer, inner, dtype=eight))
                self.register_buffer("weight_scales", torch.empty(outer, 1))

    @classmethod
    def of(
        cls, linear: nn.Linear, format: str, moments: Tensor | None = None, input_amax: Tensor | None = None
    ) -> "StoredLinear":
        """A plain linear's weight, quantised on its device. moments, input_amax: of its inputs, both or none."""
        made = cls(linear.in_features, linear.out_features, format, moments is not None)
        made.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
        if moments is not None:
            four = quantize_weighted(linear.weight.detach(), moments)
            made.weight_values, made.weight_scales, made.weight_amax = four.values, four.scales, four.amax
            made.input_amax = input_amax
        elif format == "nvfp4":
            four = nvfp4_weights.quantize(linear.weight.detach())
            made.weight_values, made.weight_scales, made.weight_amax = four.values, four.scales, four.amax
        else:
            rows = quantize_rows(linear.weight.detach())
            made.weight_values, made.weight_scales = rows.values, rows.scales
        return made

    @property
    def stored(self) -> NVFP4Tensor | FP8Rows:
        """The weight as it is held; shares its memory."""
        if self.format == "fp8":
            return FP8Rows(self.weight_values, self.weight_scales)
        shape = (self.out_features, self.in_features)
        amax: Tensor = self.weight_amax  # type: ignore[assignment]
        return NVFP4Tensor(self.weight_values, self.weight_scales, amax, shape, RULE)

    @property
    def weight(self) -> Tensor:
        """The weight's numbers, [out, in] in the bias's dtype, made anew at each call."""
        held = self.stored
        if isinstance(held, FP8Rows):
            return held.dequantize().to(self.bias.dtype)
        return nvfp4_weights.dequantize(held, self.bias.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """NVFP4: the product in x's dtype. FP8: on the GPU's FP8 units, elsewhere the same numbers in float32."""
        held = self.stored
        if isinstance(held, FP8Rows):
            return linear_fp8(x, held, self.bias)
        return F.linear(x, nvfp4_weights.dequantize(held, x.dtype), self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StoredLinear":
        """Weights go from device to device; only the bias takes another dtype."""
        held = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in held.items():
            setattr(self, name, tensor.to(self.bias.device))
        return self


def store_linears(
    model: WanTransformer, format: str, measured: Measured | None = None, calibrated: bool = False
) -> None:
    """Quantise the linears of the blocks in place, one after the other; a model without weights gets empty ones.

    measured: what a calibration found; calibrated: of empty ones, whether they are to hold what one found.
    Raises ConfigError for a format that is none, or that is not calibrated.
    """
    names = list(linears_of(model))
    for full_name, (parent, name) in zip(names, _places(model), strict=True):
        linear = getattr(parent, name)
        assert isinstance(linear, nn.Linear)
        if linear.weight.is_meta:
            setattr(parent, name, StoredLinear(linear.in_features, linear.out_features, format, calibrated))
        elif measured is None:
            setattr(parent, name, StoredLinear.of(linear, format))
        else:
            moments, amax = measured.moments[full_name], measured.amax[full_name]
            setattr(parent, name, StoredLinear.of(linear, format, moments, amax))


def format_of(model: WanTransformer) -> str | None:
    """In which format the linears of the blocks are stored; None: as plain matrices."""
    for parent, name in _places(model):
        linear = getattr(parent, name)
        return linear.format if isinstance(linear, StoredLinear) else None
    return None


def linears_of(model: WanTransformer) -> dict[str, nn.Module]:
    """The linears of the blocks that can be stored so, by their names in the model."""
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(linear)]: linear for linear in (getattr(*place) for place in _places(model))}


def _places(model: WanTransformer) -> list[tuple[Any, str]]:
    """(module, name of the linear in it) of each."""
    places: list[tuple[Any, str]] = []
    for block in model.layers():
        places += [(part, name) for part in (block.self_attn, block.cross_attn) for name in "qkvo"]
        places += [(block.ffn, "0"), (block.ffn, "2")]
    return places
