"""The waits before an engine that failed is made anew."""

from everscene_bridge.back_off import FIRST_S, LONGEST_S, STEADY_CHUNKS, BackOff


def test_each_failure_is_followed_by_a_longer_wait_up_to_the_longest() -> None:
    back_off, waits = BackOff(), []
    for _ in range(9):
        back_off.failed()
        waits.append(back_off.seconds)
        back_off.tried()
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30] and (waits[0], waits[-1]) == (FIRST_S, LONGEST_S)


def test_an_engine_that_was_steady_is_made_anew_at_once() -> None:
    back_off = BackOff()
    back_off.tried()
    for _ in range(STEADY_CHUNKS):
        back_off.made_a_chunk()
    assert back_off.seconds == FIRST_S


def test_an_engine_that_fails_now_and_then_is_not_steady() -> None:
    back_off = BackOff()
    for _ in range(3):
        back_off.failed()
        back_off.tried()
        for _ in range(STEADY_CHUNKS - 1):
            back_off.made_a_chunk()
    assert back_off.seconds == 8 * FIRST_S
