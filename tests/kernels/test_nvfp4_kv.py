import pytest
import torch
from torch import Tensor

from everscene_kernels import nvfp4_kv
from everscene_kernels.nvfp4 import dequantize, quantize
from everscene_kernels.nvfp4_kv import KVSlots, allocate_slots, quantize_kv, read_slot, view_slot, write_slot

CPU = torch.device("cpu")


def keys(tokens: int, seed: int = 0) -> Tensor:
    return torch.randn(tokens, 3, 32, generator=torch.Generator().manual_seed(seed)).bfloat16()


def read(kept: KVSlots, slot: int, tokens: int) -> Tensor:
    out = torch.full((tokens, 3, 32), float("nan"), dtype=torch.bfloat16)
    read_slot(kept, slot, out)
    return out


def test_keys_share_one_amax_and_each_head_of_a_token_is_a_row() -> None:
    k = keys(5)
    held = quantize_kv(k)
    assert held.values.shape == (15, 16) and held.amax.item() == k.abs().max().item()
    assert torch.equal(dequantize(held), dequantize(quantize(k.reshape(15, 32))).reshape(5, 3, 32))


def test_a_slot_gives_back_what_was_quantised_into_it() -> None:
    kept = allocate_slots(3, 6, 3, 32, CPU)
    for slot in range(3):
        write_slot(kept, slot, keys(6, slot) * 10**slot)
    for slot in range(3):
        assert torch.equal(read(kept, slot, 6), dequantize(quantize_kv(keys(6, slot) * 10**slot), torch.bfloat16))


def test_a_slot_that_was_never_written_reads_as_zero() -> None:
    assert not read(allocate_slots(2, 6, 3, 32, CPU, smooth=True), 1, 6).any()


def test_a_short_chunk_fills_and_reads_the_head_of_its_slot() -> None:
    kept = allocate_slots(2, 6, 3, 32, CPU)
    for tokens in (4, 0):
        write_slot(kept, 1, keys(tokens))
        assert torch.equal(read(kept, 1, tokens), dequantize(quantize_kv(keys(tokens)), torch.bfloat16))
    assert not read(kept, 0, 6).any()


def test_writing_again_replaces_a_slot_in_place() -> None:
    kept = allocate_slots(2, 6, 3, 32, CPU, smooth=True)
    places = [part.data_ptr() for part in (kept.values, kept.scales, kept.amax)]
    write_slot(kept, 0, keys(6, 1) * 100 + 50)
    write_slot(kept, 0, keys(6, 2))
    fresh = allocate_slots(1, 6, 3, 32, CPU, smooth=True)
    write_slot(fresh, 0, keys(6, 2))
    assert torch.equal(read(kept, 0, 6), read(fresh, 0, 6))
    assert [part.data_ptr() for part in (kept.values, kept.scales, kept.amax)] == places


def test_a_view_of_a_slot_shares_its_memory() -> None:
    kept = allocate_slots(2, 6, 3, 32, CPU)
    view = view_slot(kept, 1, 4)
    write_slot(kept, 1, keys(4))
    assert torch.equal(dequantize(view), dequantize(quantize_kv(keys(4))))


def test_slots_take_three_and_a_half_times_less_than_bfloat16() -> None:
    bf16 = 2 * 4 * 7040 * 24 * 128
    assert bf16 / allocate_slots(4, 7040, 24, 128, torch.device("meta")).nbytes > 3.55
    assert bf16 / allocate_slots(4, 7040, 24, 128, torch.device("meta"), smooth=True).nbytes > 3.55


def test_smoothing_keeps_keys_with_a_standing_offset_better() -> None:
    k = keys(64) + 20 * torch.randn(3, 32, generator=torch.Generator().manual_seed(9)).bfloat16()
    errors = []
    for smooth in (False, True):
        kept = allocate_slots(1, 64, 3, 32, CPU, smooth=smooth)
        write_slot(kept, 0, k)
        out = torch.empty(64, 3, 32)
        read_slot(kept, 0, out)
        errors.append((out - k.float()).norm().item())
    assert errors[1] < errors[0] / 5  # the offset is 20 times the rest, and a block's error goes with its largest


def test_smoothing_does_not_move_scores_of_one_slot_against_another() -> None:
    query = torch.randn(3, 32, generator=torch.Generator().manual_seed(3))
    offset = torch.full((3, 32), 4.0)
    plain, smooth = (allocate_slots(2, 64, 3, 32, CPU, smooth=smooth) for smooth in (False, True))
    exact = []
    for slot in range(2):
        k = keys(64, slot).float() + (2 * slot - 1) * offset
        exact.append((k * query).sum(-1).mean(0))
        for kept in (plain, smooth):
            write_slot(kept, slot, k)
    between = []
    for kept in (plain, smooth):
        slots = torch.empty(2, 64, 3, 32)
        for slot in range(2):
            read_slot(kept, slot, slots[slot])
        mean = (slots * query).sum(-1).mean(1)  # [slot, H]
        between.append(((mean[1] - mean[0]) - (exact[1] - exact[0])).abs().max().item())
    spread = (exact[1] - exact[0]).abs().max().item()
    assert between[1] < 0.02 * spread  # a mean that is not put back would be off by the whole spread
    assert between[0] < 0.05 * spread


def test_what_does_not_fit_a_slot_is_refused() -> None:
    kept = allocate_slots(2, 6, 3, 32, CPU)
    with pytest.raises(ValueError, match="up to 6 tokens"):
        write_slot(kept, 0, keys(7))
    with pytest.raises(ValueError, match=r"\[3, 32\]"):
        read_slot(kept, 0, torch.empty(6, 3, 16))
    with pytest.raises(ValueError, match="no slot 2"):
        write_slot(kept, 2, keys(6))
    with pytest.raises(ValueError, match="multiple of 16 channels"):
        allocate_slots(2, 6, 3, 24, CPU)
    with pytest.raises(ValueError, match="tokens, H, E"):
        quantize_kv(torch.zeros(4, 32))


@pytest.mark.parametrize("smooth", [False, True])
def test_the_kernels_write_and_read_a_slot_as_the_definition_does(
    smooth: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Triton's interpreter, as on a GPU."""
    triton = pytest.importorskip("triton", reason="triton is not installed: pip install everscene[kernels] on Linux")
    if not triton.knobs.runtime.interpret:
        pytest.skip("Triton's interpreter is off")
    kept = [allocate_slots(2, 6, 3, 32, CPU, smooth=smooth) for _ in range(2)]
    out = []
    angles = torch.linspace(0.0, 9.0, 16)[None]
    for slots, fused in zip(kept, (False, True), strict=True):
        monkeypatch.setattr(nvfp4_kv, "_fused", lambda x, fused=fused: fused)
        write_slot(slots, 1, keys(5))
        turned = torch.full((5, 3, 32), float("nan"), dtype=torch.bfloat16)
        read_slot(slots, 1, turned, (angles.cos(), angles.sin()))
        out.append((read(slots, 1, 5), turned))
    assert torch.equal(out[0][0], out[1][0])
    assert torch.equal(out[0][1], out[1][1]) and not torch.equal(*out[0])
    assert torch.equal(kept[0].values, kept[1].values)
