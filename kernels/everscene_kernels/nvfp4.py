"""NVFP4: four bits a number, and what it takes to make them enough. This file is the definition; kernels must equal it.

A number is an **E2M1** code: sign, two bits of exponent, one of mantissa. The eight magnitudes are

    code       0    1    2    3    4    5    6    7        (+8: negative)
    value      0   0.5   1   1.5   2    3    4    6

Sixteen neighbours in a row of a matrix are a block, and share one scale in **E4M3** (three bits of mantissa, largest
448, smallest 2⁻⁹). All blocks of a tensor share one scale in **float32**, so that the E4M3 scales use their range:

    value = code · (block scale · tensor scale)         tensor scale = amax / (peak · scale peak)

amax is the largest magnitude of the tensor. 4 + 8/16 = 4.5 bits a number. A *rule* says how a block's scale is found:

- `static_6`: the block's largest magnitude becomes 6, the last code. amax ↔ 6 · 448. The arithmetic is that of
  nvidia-modelopt: the block scale is at least 2⁻⁹, so that a small block beside a large one is not lost.
- `static_4`: it becomes 4. Coarser at the bottom, without the wide gap from 4 to 6. amax ↔ 4 · 448.
- `mse`, `mae`, `abs_max` ("four over six"): both are tried for each block, and the one with the smaller sum of squared
  errors, sum of errors, or largest error is kept; 6 at a tie. A scale for 4 is 1.5 times a scale for 6, so the range
  ends earlier: amax ↔ 6 · 256, and 384 is the largest scale. Block scales below 2⁻¹⁰ of the unit become 0.

Rounding is to nearest, ties to the even code: 0.25 → 0, 0.75 → 1, 1.25 → 1, 1.75 → 2, 2.5 → 2, 3.5 → 4, 5 → 4.

Two codes share a byte: columns 2j and 2j + 1 are the low and the high nibble of byte j.

What the format cannot hold: NaN becomes 0. Magnitudes above amax, infinities among them, become ±amax; amax itself is
taken over the finite numbers, or given by the caller (a calibrated one). −0 becomes 0, but a small negative number may
become the code for −0, as in modelopt. If amax is below 2⁻¹⁰⁰, or nothing is finite, everything becomes 0.

All arithmetic is float32, one rounding per operation and nothing fused, so that a kernel can equal it bit for bit.
Tensor cores read the block scales in another order: `nvfp4_layout.py`.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Rule = Literal["static_6", "static_4", "mse", "mae", "abs_max"]
RULES: tuple[Rule, ...] = get_args(Rule)

BLOCK = 16
E2M1_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E4M3_MAX = 448.0
E4M3_TINY = 2.0**-9  # the smallest positive E4M3
FOUR_OVER_SIX_UNIT = 6.0 * 256.0
AMAX_TINY = 2.0**-100  # an amax below this counts as 0: its reciprocal would overflow

_PEAKS: dict[Rule, float] = {"static_6": 6.0, "static_4": 4.0}


def unit(rule: Rule) -> float:
    """What amax is mapped to: the tensor scale is amax / unit(rule)."""
    return _PEAKS[rule] * E4M3_MAX if rule in _PEAKS else FOUR_OVER_SIX_UNIT


@dataclass(frozen=True)
class NVFP4Tensor:
    """A tensor in NVFP4. R: its rows, all dimensions but the last; C: its columns; W = ceil(C / 16) blocks a row.

    values: uint8 [R, 8·W], two codes a byte, low nibble first. Columns past C are 0.
    scales: float8_e4m3fn [R, W], one for each block of 16.
    amax: float32 [1], the magnitude that the tensor scale stands for.
    shape: of the tensor, (…, C).
    rule: by which it was quantised; sets the tensor scale.
    """

    values: Tensor
    scales: Tensor
    amax: Tensor
    shape: tuple[int, ...]
    rule: Rule

    def __post_init__(self) -> None:
        rows, blocks = rows_and_blocks(self.shape)
        assert self.values.dtype == torch.uint8 and self.values.shape == (rows, blocks * BLOCK // 2)
        assert self.scales.dtype == torch.float8_e4m3fn and self.scales.shape == (rows, blocks)
        assert self.amax.dtype == torch.float32 and self.amax.shape == (1,)

    @property
    def tensor_scale(self) -> Tensor:
        """float32 [1]: amax / unit(rule); 0 for an amax that counts as 0."""
        return divided(torch.where(self.amax < AMAX_TINY, 0.0, self.amax), unit(self.rule))

    @property
    def bits_per_value(self) -> float:
        """Bits held for each number of the tensor, scales and padding included."""
        held = self.values.nbytes + self.scales.nbytes + self.amax.nbytes
        return 8 * held / max(1, math.prod(self.shape))


def rows_and_blocks(shape: tuple[int, ...]) -> tuple[int, int]:
    """(R, W) of a tensor of this shape. Raises ValueError for one with no dimension."""
    if not shape:
        raise ValueError("NVFP4 holds tensors of one dimension or more, and this is a single number")
    return math.prod(shape[:-1]), -(-shape[-1] // BLOCK)


def check_rule(rule: str) -> None:
    """Raises ValueError for a rule that is none."""
    if rule not in RULES:
        raise ValueError(f"no NVFP4 rule {rule!r}: there are {', '.join(RULES)}")


def divided(x: Tensor, number: float) -> Tensor:
    """x / number in one rounding: on a GPU, PyTorch multiplies by the reciprocal of a number that is not there."""
    return x / torch.full((), number, dtype=x.dtype, device=x.device)


def encode_e2m1(y: Tensor) -> Tensor:
    """uint8 codes 0 to 15 of y, of y's shape: nearest, ties to the even code, magnitudes above 5 become 6, NaN 0."""
    magnitude = y.abs()
    code = torch.zeros_like(y, dtype=torch.uint8)
    for low, high in ((0.25, 0.75), (1.25, 1.75), (2.5, 3.5)):  # ties go down at the first, up at the second
        code += (magnitude > low).to(torch.uint8) + (magnitude >= high).to(torch.uint8)
    code += (magnitude > 5.0).to(torch.uint8)
    return code + 8 * (y < 0).to(torch.uint8)


def decode_e2m1(code: Tensor) -> Tensor:
    """float32 values of uint8 codes 0 to 15."""
    magnitudes = torch.tensor(E2M1_MAGNITUDES, device=code.device)
    return torch.cat([magnitudes, -magnitudes])[code.int()]


def pack(codes: Tensor) -> Tensor:
    """uint8 codes [..., 2n] → bytes [..., n], the even column in the low nibble."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack(packed: Tensor) -> Tensor:
    """Bytes uint8 [..., n] → codes [..., 2n]."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)


def to_e4m3(scale: Tensor) -> Tensor:
    """Scales (float32, 0 or more) rounded to E4M3 and back to float32; above 448 becomes 448."""
    return scale.clamp(max=E4M3_MAX).to(torch.float8_e4m3fn).float()


def finite_amax(x: Tensor) -> Tensor:
    """float32 [1]: the largest finite magnitude in x, 0 where there is none."""
    wide = x.float().abs().flatten()
    if wide.numel() == 0:
        return torch.zeros(1, device=x.device)
    return torch.where(wide < math.inf, wide, 0.0).amax().reshape(1)  # NaN < inf is false


def pair_sum(x: Tensor) -> Tensor:
    """Sum over the last dimension (a power of two) as a tree of neighbours: one order of rounding everywhere."""
    while x.shape[-1] > 1:
        x = x[..., 0::2] + x[..., 1::2]
    return x[..., 0]


def quantize(x: Tensor, rule: Rule = "mse", amax: Tensor | None = None) -> NVFP4Tensor:
    """x (floating point, any shape with a last dimension) in NVFP4.

    amax: float32 [1], finite; None takes the largest finite magnitude of x.
    Raises ValueError for an unknown rule, or an x that is not floating point or has no dimension.
    """
    check_rule(rule)
    if not x.is_floating_point():
        raise ValueError(f"NVFP4 quantises floating-point tensors, not {x.dtype}")
    shape = tuple(x.shape)
    rows, blocks = rows_and_blocks(shape)
    amax = finite_amax(x) if amax is None else amax.detach().float().reshape(1)
    wide = torch.zeros(rows, blocks * BLOCK, device=x.device)
    wide[:, : shape[-1]] = x.detach().reshape(rows, shape[-1]).float()
    wide = wide.reshape(rows, blocks, BLOCK)  # [R, W, 16]

    live = amax >= AMAX_TINY
    wide = torch.where(live & ~wide.isnan(), wide.clamp(-amax, amax), 0.0)
    safe = torch.where(live, amax, 1.0)
    codes, scales = _static(wide, safe, _PEAKS[rule]) if rule in _PEAKS else _four_over_six(wide, safe, rule)
    return NVFP4Tensor(pack(codes.flatten(1)), scales.to(torch.float8_e4m3fn), amax, shape, rule)


def _static(x: Tensor, amax: Tensor, peak: float) -> tuple[Tensor, Tensor]:
    """Codes [R, W, 16] and scales float32 [R, W] of blocks [R, W, 16] whose largest magnitude becomes `peak`."""
    tensor_scale = divided(amax, peak * E4M3_MAX)
    block_max = x.abs().amax(-1)  # [R, W]
    scale = to_e4m3((block_max / (peak * tensor_scale)).clamp(min=E4M3_TINY))
    scale = torch.where(block_max > 0, scale, 0.0)
    y = x / (scale * tensor_scale)[..., None]  # 0 / 0 is NaN, and NaN is code 0
    return encode_e2m1(y), scale


def _four_over_six(x: Tensor, amax: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Codes and scales as `_static`, each block with the better of the two scales.

    Order of operations as in LongLive 2.0's reference quantiser, so that its published weights come out the same.
    """
    encode = torch.full_like(amax, FOUR_OVER_SIX_UNIT) / amax  # number / tensor would round twice in PyTorch
    decode = 1.0 / encode
    tensor_scale = divided(amax, FOUR_OVER_SIX_UNIT)
    for_six = divided(x.abs().amax(-1), 6.0) * encode  # [R, W]

    def tried(scale: Tensor) -> tuple[Tensor, Tensor]:
        y = x * (1.0 / (decode * scale))[..., None]
        codes = torch.where(scale[..., None] > 0, encode_e2m1(y), 0)
        error = (x - decode_e2m1(codes) * (scale * tensor_scale)[..., None]).abs()
        if rule == "abs_max":
            return codes, error.amax(-1)
        return codes, pair_sum(error * error if rule == "mse" else error)

    six, four = to_e4m3(for_six), to_e4m3(for_six * 1.5)
    (codes_six, error_six), (codes_four, error_four) = tried(six), tried(four)
    better = error_four < error_six  # false where both overflowed
    return torch.where(better[..., None], codes_four, codes_six), torch.where(better, four, six)


def dequantize(tensor: NVFP4Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor's numbers in its own shape: code · (block scale · tensor scale) in float32, then rounded to dtype."""
    scale = tensor.scales.float() * tensor.tensor_scale  # [R, W]
    values = torch.unflatten(decode_e2m1(unpack(tensor.values)), -1, (-1, BLOCK)) * scale[..., None]
    return values.flatten(-2)[:, : tensor.shape[-1]].reshape(tensor.shape).to(dtype)
