"""A sink's keys turned in one pass against the definition: on the GPU if there is one, else in Triton's interpreter."""

import pytest
import torch
from torch import Tensor

from everscene_kernels import fused

pytest.importorskip("triton", reason="triton is not installed: pip install everscene[kernels] on Linux")

import triton

from everscene_kernels import fused_triton

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"


def keys(clips: int, tokens: int, heads: int, width: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(width + tokens)
    return (spread * torch.randn(clips, tokens, heads, width, generator=generator)).bfloat16().to(DEVICE)


def turn(width: int, still: int = 0) -> tuple[Tensor, Tensor]:
    """A turn of all pairs but the last `still`."""
    angles = torch.linspace(1, 300, width // 2)[None]
    angles[:, width // 2 - still :] = 0
    return angles.cos().to(DEVICE), angles.sin().to(DEVICE)


def turn_plainly(made: Tensor, cos: Tensor, sin: Tensor, *places: Tensor) -> None:
    """The definition, put where it belongs."""
    for place, form in zip(places, fused.turn_keys(made, cos, sin), strict=False):
        place.copy_(form)


def bits(x: Tensor) -> Tensor:
    return x.view(torch.int16 if x.dtype == torch.bfloat16 else torch.uint8)


def places(made: Tensor) -> tuple[Tensor, Tensor]:
    """A cache of thrice the tokens, full of NaN, in both forms."""
    clips, tokens, *head = made.shape
    cache = torch.full((clips, 3 * tokens, *head), torch.nan, device=DEVICE)
    return cache.bfloat16(), cache.to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("clips", "tokens", "heads", "width"),
    [(1, 7, 3, 32), (2, 5, 1, 24), (1, 130, 2, 64), (3, 1, 5, 2), (1, 33, 1, 130)],
)
def test_both_forms_equal_the_definition_bit_for_bit_and_nothing_else_is_touched(
    clips: int, tokens: int, heads: int, width: int
) -> None:
    made = keys(clips, tokens, heads, width, spread=3.0)
    found, wanted = places(made), places(made)
    part = slice(tokens, 2 * tokens)
    cos, sin = turn(width, still=width // 3)
    fused_triton.turn_keys(made, cos, sin, *(form[:, part] for form in found))
    turn_plainly(made, cos, sin, *(form[:, part] for form in wanted))
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(bits(a), bits(b))
        assert not a[:, part].float().isnan().any() and a[:, : part.start].float().isnan().all()


def test_large_small_and_negative_zero_keys_equal_the_definition() -> None:
    made = keys(1, 6, 2, 16)
    made[:, 1] *= 1000  # beyond what E4M3 has
    made[:, 2] *= 2.0**-9  # subnormal there
    made[:, 3] *= 2.0**-126  # subnormal in bfloat16
    made[:, 4] = 0.0
    made[:, 5] = -0.0
    found, wanted = places(made), places(made)
    for still in (0, 8):
        fused_triton.turn_keys(made, *turn(16, still), *(form[:, :6] for form in found))
        turn_plainly(made, *turn(16, still), *(form[:, :6] for form in wanted))
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(found, wanted, strict=True))


def test_without_e4m3_the_keys_are_the_same() -> None:
    made = keys(2, 9, 2, 32)
    found, wanted = torch.empty_like(made), torch.empty_like(made)
    fused_triton.turn_keys(made, *turn(32), found)
    turn_plainly(made, *turn(32), wanted)
    assert torch.equal(bits(found), bits(wanted))


def test_no_keys_are_turned_into_none() -> None:
    made = keys(1, 4, 2, 16)[:, :0]
    fused_triton.turn_keys(made, *turn(16), torch.empty_like(made))


def test_what_does_not_fit_is_refused() -> None:
    made = keys(1, 6, 2, 16)
    out, eight = torch.empty_like(made), torch.empty_like(made, dtype=torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="contiguous bfloat16"):
        fused_triton.turn_keys(made.float(), *turn(16), out)
    with pytest.raises(ValueError, match="contiguous bfloat16"):
        fused_triton.turn_keys(made[:, ::2], *turn(16), out[:, ::2])
    with pytest.raises(ValueError, match=r"out must be torch.bfloat16 \(1, 6, 2, 16\), each clip's keys together"):
        fused_triton.turn_keys(made, *turn(16), out[:, :5])
    with pytest.raises(ValueError, match=r"eight must be torch.float8_e4m3fn"):
        fused_triton.turn_keys(made, *turn(16), out, out)
    with pytest.raises(ValueError, match="heads of 16 are turned by 8 cosines and sines"):
        fused_triton.turn_keys(made, *turn(32), out, eight)
