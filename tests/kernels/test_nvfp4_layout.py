import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everscene_kernels.nvfp4 import dequantize, quantize
from everscene_kernels.nvfp4_layout import pack_published, padded, swizzle, unpack_published, unswizzle


def index(row: int, block: int, blocks: int) -> int:
    """The closed form of the published layout."""
    tile = row // 128 * (blocks // 4) + block // 4
    return tile * 512 + row % 32 * 16 + row % 128 // 32 * 4 + block % 4


@given(rows=st.integers(1, 300), blocks=st.integers(1, 14))
@settings(max_examples=20, deadline=None)
def test_every_scale_lies_where_the_closed_form_says(rows: int, blocks: int) -> None:
    scales = torch.randint(1, 256, (rows, blocks), dtype=torch.uint8)
    tall, wide = padded(rows, blocks)
    flat = torch.zeros(tall * wide, dtype=torch.uint8)
    for row in range(rows):
        for block in range(blocks):
            flat[index(row, block, wide)] = scales[row, block]
    assert torch.equal(swizzle(scales), flat)
    assert torch.equal(unswizzle(flat, rows, blocks), scales)


def test_scales_that_are_no_whole_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="512 bytes, not 500"):
        unswizzle(torch.zeros(500, dtype=torch.uint8), 128, 4)


def test_a_published_linear_is_read_by_its_description() -> None:
    rows, columns = 128, 128
    values = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8)
    factors = torch.randint(0, 0x7F, (rows * columns // 16,), dtype=torch.uint8)  # 0x7F is E4M3's NaN
    amax = torch.tensor([0.75])
    metadata = torch.tensor([rows, columns, rows, columns], dtype=torch.int32)
    weight = dequantize(unpack_published(values, factors.view(torch.float8_e4m3fn), amax, metadata))
    table = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    for row, column in [(0, 0), (0, 1), (5, 16), (33, 17), (127, 127), (64, 66), (100, 31)]:
        nibble = int(values[row, column // 2]) >> (4 * (column % 2)) & 15
        code = table[nibble & 7] * (-1 if nibble & 8 else 1)
        byte = int(factors[index(row, column // 16, columns // 16)])
        scale = 2.0**-9 * byte if byte < 8 else (1 + (byte & 7) / 8) * 2.0 ** ((byte >> 3) - 7)
        assert weight[row, column].item() == pytest.approx(code * scale * 0.75 / 1536, rel=3e-7)


@pytest.mark.parametrize("shape", [(128, 64), (130, 72), (1, 1), (300, 50)])
def test_a_weight_comes_back_from_its_published_form(shape: tuple[int, int]) -> None:
    weight = quantize(torch.randn(shape), "mse")
    values, factors, amax, metadata = pack_published(weight)
    assert values.shape[0] % 128 == 0 and factors.numel() == values.numel() // 8
    back = unpack_published(values, factors, amax, metadata)
    assert torch.equal(dequantize(back), dequantize(weight))
    assert torch.equal(back.scales.view(torch.uint8), weight.scales.view(torch.uint8))


def test_published_tensors_that_do_not_fit_together_are_refused() -> None:
    values, factors, amax, metadata = pack_published(quantize(torch.randn(128, 64)))
    with pytest.raises(ValueError, match="four numbers, not 3"):
        unpack_published(values, factors, amax, metadata[:3])
    with pytest.raises(ValueError, match="codes are 4096 uint8"):
        unpack_published(values[:64], factors, amax, metadata)
    with pytest.raises(ValueError, match="float8_e4m3fn, not"):
        unpack_published(values, factors.float(), amax, metadata)
    with pytest.raises(ValueError, match="whole tiles"):
        unpack_published(values, factors[:256], amax, metadata)
    with pytest.raises(ValueError, match="amax is one number"):
        unpack_published(values, factors, amax.repeat(2), metadata)
    with pytest.raises(ValueError, match="cannot be"):
        unpack_published(values, factors, amax, torch.tensor([200, 64, 128, 64]))


def test_a_static_rule_has_no_published_form() -> None:
    with pytest.raises(ValueError, match="four-over-six"):
        pack_published(quantize(torch.randn(128, 64), "static_6"))
