"""Weights held in NVFP4, made ready for a product: in bfloat16, or as FP8 rows for the FP8 units of Hopper and Ada.

`fp8_rows` is the definition. Its scales depend on the weight alone, so they are made once (`fp8_scales`), with their
inverses, and every product only decodes: 0.56 bytes a number are read and one is written. On a GPU Triton kernels do
it, bit for bit.
"""

import torch
from torch import Tensor

from everscene_kernels import nvfp4
from everscene_kernels.fp8 import FP8Rows, quantize_rows, scaled
from everscene_kernels.launch import on_gpu_of
from everscene_kernels.nvfp4 import NVFP4Tensor

_FUSED_DTYPES = (torch.bfloat16, torch.float32)


def quantize(weight: Tensor) -> NVFP4Tensor:
    """A weight in NVFP4 under its own amax, each block with the better of two scales (rule `mse`)."""
    if weight.is_cuda and weight.dtype in _FUSED_DTYPES:
        from everscene_kernels import nvfp4_triton  # needs a GPU or Triton's interpreter

        with on_gpu_of(weight):
            return nvfp4_triton.quantize(weight)
    return nvfp4.quantize(weight)


def dequantize(weight: NVFP4Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """The weight's numbers. out: contiguous, of its shape and dtype, filled and returned; None makes it."""
    if weight.values.is_cuda and dtype in _FUSED_DTYPES:
        from everscene_kernels import nvfp4_triton

        with on_gpu_of(weight.values):
            return nvfp4_triton.dequantize(weight, dtype, out)
    made = nvfp4.dequantize(weight, dtype)
    return made if out is None else out.copy_(made)


def fp8_rows(weight: NVFP4Tensor) -> FP8Rows:
    """A weight matrix in E4M3 with a scale for each row: fp8.quantize_rows of its numbers."""
    return quantize_rows(nvfp4.dequantize(weight))


def fp8_scales(weight: NVFP4Tensor) -> Tensor:
    """The scales of `fp8_rows`, float32 [R, 1]."""
    return quantize_rows(dequantize(weight, torch.float32)).scales


def fp8_values(weight: NVFP4Tensor, inverses: Tensor, out: Tensor) -> None:
    """Fill out, uint8 [R, C] contiguous, with the bits of `fp8_rows(weight).values`, given 1 / its scales."""
    if not weight.values.is_cuda:
        out.copy_(scaled(nvfp4.dequantize(weight), inverses).view(torch.uint8))
        return
    from everscene_kernels import nvfp4_fp8_triton

    with on_gpu_of(weight.values):
        nvfp4_fp8_triton.fp8_values(weight, inverses, out)
