"""The slot table against the published simulation of LongLive 2.0's cache, and for any pattern of cuts."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everscene_engine.errors import ConfigError
from everscene_engine.slots import Resident, SlotTable


def run(chunks: int, cuts: Iterable[int] = (), slots: int = 4) -> list[list[int]]:
    """Residents after each chunk; the first chunk and the first of the present shot are pinned."""
    table, seen = SlotTable(slots), []
    shot: Resident | None = None
    for chunk in range(chunks):
        resident = table.open(chunk, 8 * chunk, 8)
        if chunk == 0:
            table.pin(resident)
        elif chunk in cuts:
            if shot is not None:
                table.unpin(shot)
            shot = table.pin(resident)
        seen.append([resident.chunk for resident in table.residents])
    return seen


def test_without_a_cut_the_first_chunk_and_the_latest_stay() -> None:
    assert run(6)[3:] == [[0, 1, 2, 3], [0, 2, 3, 4], [0, 3, 4, 5]]


def test_a_cut_keeps_the_first_chunk_of_its_shot() -> None:
    assert run(9, cuts=[5])[5:] == [[0, 3, 4, 5], [0, 4, 5, 6], [0, 5, 6, 7], [0, 5, 7, 8]]


def test_a_later_cut_lets_the_older_shot_go() -> None:
    assert run(12, cuts=[5, 9])[9:] == [[0, 5, 8, 9], [0, 8, 9, 10], [0, 9, 10, 11]]


@settings(deadline=None)  # a busy machine is no fault of the table
@given(st.sets(st.integers(1, 40)), st.integers(3, 8))
def test_sink_shot_and_latest_chunk_are_always_there(cuts: set[int], slots: int) -> None:
    for chunk, residents in enumerate(run(41, cuts, slots)):
        last_cut = max((cut for cut in cuts if cut <= chunk), default=0)
        assert {0, last_cut, chunk} <= set(residents)
        assert len(residents) == min(chunk + 1, slots)


@settings(deadline=None)  # a busy machine is no fault of the table
@given(st.sets(st.integers(1, 40)), st.integers(3, 8))
def test_two_chunks_never_share_a_slot(cuts: set[int], slots: int) -> None:
    table = SlotTable(slots)
    for chunk in range(41):
        resident = table.open(chunk, chunk, 1)
        if chunk == 0:
            table.pin(resident)
        taken = [resident.slot for resident in table.residents]
        assert len(set(taken)) == len(taken)
        assert all(0 <= slot < slots for slot in taken)


def test_a_dropped_chunk_gives_its_slot_back() -> None:
    table = SlotTable(2)
    first = table.open(0, 0, 1)
    table.drop(first)
    assert table.open(1, 1, 1).slot == first.slot


def test_a_cache_of_one_slot_is_refused() -> None:
    with pytest.raises(ConfigError, match="slots is 1"):
        SlotTable(1)
