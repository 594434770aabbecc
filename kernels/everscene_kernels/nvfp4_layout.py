"""Block scales in the order tensor cores read them, and the file layout of LongLive 2.0's published NVFP4 weights.

Plain scales are a matrix [R, W]: a row of blocks for each row of the tensor. The matrix units take them in tiles of
128 rows × 4 blocks, 512 bytes each, tiles row by row. Inside a tile, row r = 32·a + b and block c lie at byte
16·b + 4·a + c: 32 lines of 16 bytes, and a line holds the four blocks of rows b, 32 + b, 64 + b and 96 + b. So

    index(r, c) = ((r // 128) · (W / 4) + c // 4) · 512 + (r % 32) · 16 + (r % 128) // 32 · 4 + c % 4

with R padded to a multiple of 128 and W to one of 4, by zeros. cuBLASLt and torch._scaled_mm take this order as it is.

A published linear NAME of weight [out, in] is four tensors:

    NAME.quantized_weight_values         uint8 [out, in / 2]              low nibble: even column
    NAME.quantized_weight_scale_factors  float8_e4m3fn [out · in / 16]    in the order above
    NAME.quantized_weight_amax           float32 [1]
    NAME.quantized_weight_metadata       int32 [4]                        rows, columns, and both padded
"""

import torch
from torch import Tensor

from everscene_kernels.nvfp4 import BLOCK, NVFP4Tensor, Rule

TILE_ROWS = 128
TILE_BLOCKS = 4
PUBLISHED_RULE: Rule = "mse"


def padded(rows: int, blocks: int) -> tuple[int, int]:
    """(rows, blocks) rounded up to whole tiles."""
    return -(-rows // TILE_ROWS) * TILE_ROWS, -(-blocks // TILE_BLOCKS) * TILE_BLOCKS


def swizzle(scales: Tensor) -> Tensor:
    """Plain scales [R, W], one byte each → flat [padded R · padded W] in tile order, of the same dtype."""
    rows, blocks = padded(*scales.shape)
    plain = torch.zeros(rows, blocks, dtype=torch.uint8, device=scales.device)
    plain[: scales.shape[0], : scales.shape[1]] = scales.view(torch.uint8)
    tiles = plain.reshape(rows // 128, 4, 32, blocks // 4, 4)  # [tile row, a, b, tile column, c]
    return tiles.permute(0, 3, 2, 1, 4).flatten().view(scales.dtype)  # [tile row, tile column, b, a, c]


def unswizzle(flat: Tensor, rows: int, blocks: int) -> Tensor:
    """The inverse of `swizzle`: flat scales in tile order → plain [rows, blocks].

    Raises ValueError if flat does not hold the whole tiles that rows × blocks need.
    """
    tall, wide = padded(rows, blocks)
    if flat.numel() != tall * wide:
        raise ValueError(f"{rows} × {blocks} block scales in whole tiles are {tall * wide} bytes, not {flat.numel()}")
    tiles = flat.view(torch.uint8).reshape(tall // 128, wide // 4, 32, 4, 4)  # [tile row, tile column, b, a, c]
    plain = tiles.permute(0, 3, 2, 1, 4).reshape(tall, wide)
    return plain[:rows, :blocks].contiguous().view(flat.dtype)


def unpack_published(values: Tensor, scale_factors: Tensor, amax: Tensor, metadata: Tensor) -> NVFP4Tensor:
    """The four tensors of a published linear (see above) as the weight [rows, columns] that they stand for.

    scale_factors may also come as uint8. The rule of these files is a "four over six" one: amax ↔ 6 · 256.
    Raises ValueError where the four do not fit together.
    """
    if metadata.numel() != 4:
        raise ValueError(f"the metadata of a published linear are four numbers, not {metadata.numel()}")
    rows, columns, tall, wide = (int(n) for n in metadata.flatten())
    if not (0 < rows <= tall and 0 < columns <= wide and wide % BLOCK == 0):
        raise ValueError(f"a published linear of {rows} × {columns}, padded to {tall} × {wide}, cannot be")
    if values.dtype != torch.uint8 or values.numel() != tall * wide // 2:
        raise ValueError(f"{tall} × {wide} codes are {tall * wide // 2} uint8, not {values.numel()} {values.dtype}")
    if scale_factors.dtype not in (torch.uint8, torch.float8_e4m3fn):
        raise ValueError(f"block scales are float8_e4m3fn, not {scale_factors.dtype}")
    if amax.numel() != 1:
        raise ValueError(f"amax is one number, not {amax.numel()}")
    blocks = -(-columns // BLOCK)
    codes = values.reshape(tall, wide // 2)[:rows, : blocks * BLOCK // 2]
    scales = unswizzle(scale_factors.view(torch.float8_e4m3fn).flatten(), tall, wide // BLOCK)[:rows, :blocks]
    return NVFP4Tensor(
        codes.contiguous(), scales.contiguous(), amax.float().reshape(1), (rows, columns), PUBLISHED_RULE
    )


def pack_published(weight: NVFP4Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The inverse of `unpack_published`: (values, scale_factors, amax, metadata), padded to whole tiles.

    Raises ValueError for a tensor that is not a matrix or whose tensor scale is not that of these files.
    """
    if len(weight.shape) != 2 or weight.rule in ("static_6", "static_4"):
        raise ValueError(f"published linears are matrices of a four-over-six rule, not {weight.shape} {weight.rule}")
    rows, columns = weight.shape
    tall, blocks = padded(rows, weight.scales.shape[1])
    values = torch.zeros(tall, blocks * BLOCK // 2, dtype=torch.uint8, device=weight.values.device)
    values[:rows, : weight.values.shape[1]] = weight.values
    metadata = torch.tensor([rows, columns, tall, blocks * BLOCK], dtype=torch.int32, device=values.device)
    return values, swizzle(weight.scales), weight.amax, metadata
