"""A clean pass that is left out because somebody is in a hurry: the stream goes on as if it had been made."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, repeat

import pytest
import torch

from everscene_engine.config import StreamConfig
from everscene_engine.stream import LatentStream, Transition
from tests.engine.small import STREAM
from tests.engine.test_recache import LAST, MODEL, NEW, OLD, make_stream


def at_question(number: int) -> Callable[[], bool]:
    """False until it has been asked so many times."""
    answers: Iterator[bool] = chain(repeat(False, number - 1), repeat(True))
    return lambda: next(answers)


@pytest.mark.parametrize("question", [1, 2, 3])
def test_the_chunk_is_the_same_and_its_window_lacks_it(question: int) -> None:
    stream, patient = make_stream(), make_stream()
    made, wanted = stream.generate(hurried=at_question(question)), patient.generate()
    assert made is not None and wanted is not None
    assert torch.equal(made.latents, wanted.latents)
    assert "clean" not in made.seconds
    assert made.number not in {resident.chunk for resident in stream._cache.table.residents}


@pytest.mark.parametrize("config", [STREAM, LAST])
@pytest.mark.parametrize("transition", ["recache", "text", "cut"])
@pytest.mark.parametrize("rollback", [None, 1])
def test_what_follows_is_what_would_have_followed(
    config: StreamConfig, transition: Transition, rollback: int | None
) -> None:
    stream, patient = make_stream(config), make_stream(config)
    for one, hurried in ((stream, True), (patient, False)):
        assert one.generate(hurried=lambda hurried=hurried: hurried) is not None
        if rollback is not None:
            one.rollback(one.next_frame - rollback)
        one.steer(NEW, transition)
    made, wanted = stream.generate(), patient.generate()
    assert made is not None and wanted is not None
    # made up, a chunk does not see the one that leaves the window meanwhile
    torch.testing.assert_close(made.latents, wanted.latents, atol=1e-3, rtol=0)


def test_without_another_prompt_the_next_chunk_makes_it_up() -> None:
    stream, patient = make_stream(), make_stream()
    stream.generate(hurried=lambda: True), patient.generate()
    made, wanted = stream.generate(), patient.generate()
    assert made is not None and wanted is not None and "recache" in made.seconds
    torch.testing.assert_close(made.latents, wanted.latents, atol=1e-3, rtol=0)


def test_the_sink_is_never_left_out() -> None:
    stream = LatentStream(MODEL, STREAM, 1)
    stream.steer(OLD)
    assert stream.generate(hurried=lambda: True) is not None
    assert [resident.chunk for resident in stream._cache.table.pinned] == [0]


def test_the_sink_of_a_shot_is_never_left_out() -> None:
    stream = make_stream(replace(STREAM, shot_sink=True))
    stream.steer(NEW, "cut")
    made = stream.generate(hurried=lambda: True)
    assert made is not None and made.number in {resident.chunk for resident in stream._cache.table.pinned}
