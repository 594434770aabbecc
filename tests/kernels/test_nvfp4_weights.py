"""NVFP4 weights made ready for a product: the definition, and the kernel that equals it."""

import pytest
import torch
from torch import Tensor

from everscene_kernels import nvfp4, nvfp4_weights
from everscene_kernels.fp8 import quantize_rows


def weight(rows: int = 7, columns: int = 50, seed: int = 0) -> Tensor:
    spread = torch.logspace(-3, 1, rows)[:, None]
    return spread * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_fp8_rows_are_those_of_the_numbers_that_four_bits_hold() -> None:
    held = nvfp4.quantize(weight())
    wanted = quantize_rows(nvfp4.dequantize(held))
    scales, out = nvfp4_weights.fp8_scales(held), torch.empty(7, 50, dtype=torch.uint8)
    nvfp4_weights.fp8_values(held, 1.0 / scales, out)
    assert torch.equal(scales, wanted.scales)
    assert torch.equal(out, wanted.values.view(torch.uint8))


def test_the_definition_fills_what_it_is_given() -> None:
    held, out = nvfp4_weights.quantize(weight()), torch.empty(7, 50, dtype=torch.bfloat16)
    assert nvfp4_weights.dequantize(held, torch.bfloat16, out) is out
    assert torch.equal(out, nvfp4.dequantize(held, torch.bfloat16))


@pytest.mark.parametrize(("rows", "columns"), [(7, 50), (3, 16), (129, 48)])
def test_the_kernel_equals_the_definition(rows: int, columns: int) -> None:
    pytest.importorskip("triton", reason="triton is not installed: pip install everscene[kernels] on Linux")
    import triton

    from everscene_kernels import nvfp4_fp8_triton

    device = torch.device("cpu" if triton.knobs.runtime.interpret else "cuda")
    x = weight(rows, columns)
    x[0, :16] = 0.0
    held = nvfp4.quantize(x.to(device))
    wanted = nvfp4_weights.fp8_rows(held)
    out = torch.empty(rows, columns, dtype=torch.uint8, device=device)
    nvfp4_fp8_triton.fp8_values(held, 1.0 / wanted.scales, out)
    assert torch.equal(out, wanted.values.view(torch.uint8))
    with pytest.raises(ValueError, match="contiguous uint8"):
        nvfp4_fp8_triton.fp8_values(held, 1.0 / wanted.scales, out[:, 1:])
