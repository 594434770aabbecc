"""The pocket model's text encoder: its vocabulary is a door with a sign on it."""

import pytest
import torch

from everscene_engine.errors import PromptRejected
from everscene_engine.text import PocketTextConfig, PocketTextEncoder, words_of


def encoder() -> PocketTextEncoder:
    torch.manual_seed(0)
    words = ("a", "red", "fox", "storm", "harbour", "night")
    return PocketTextEncoder(PocketTextConfig(words, width=16, heads=2, max_words=6)).eval()


def test_words_are_lower_cased_without_punctuation() -> None:
    assert words_of("A red fox, at Night!") == ["a", "red", "fox", "at", "night"]


def test_an_unknown_word_is_named_with_its_neighbours() -> None:
    with pytest.raises(PromptRejected, match=r"no such word: 'harbor' \(did you mean harbour\?\)"):
        encoder().check("red harbor")


def test_every_unknown_word_is_named_once() -> None:
    with pytest.raises(PromptRejected, match=r"'xyzzy'; no such word: 'qwrtp'$"):
        encoder().check("xyzzy red xyzzy qwrtp")


def test_a_prompt_without_words_is_refused() -> None:
    with pytest.raises(PromptRejected, match="no words"):
        encoder().check(" ... ")


def test_a_prompt_too_long_names_its_length_and_the_rule() -> None:
    with pytest.raises(PromptRejected, match="has 7 words; the rule is at most 6"):
        encoder().check("a a a a a a a")


def test_a_prompt_leaves_room_for_the_words_that_may_come_before_it() -> None:
    encoder().check("a a a a", reserve="The scene. ")
    with pytest.raises(PromptRejected, match=r"has 5 words; the rule is at most 4, so that 'The scene\.' fits before"):
        encoder().check("a a a a a", reserve="The scene. ")


def test_the_embedding_of_a_prompt_does_not_depend_on_its_neighbours() -> None:
    model = encoder()
    alone = model.encode(["red fox"])
    beside = model.encode(["red fox", "a storm harbour night"])
    assert beside.lengths.tolist() == [2, 4]
    torch.testing.assert_close(beside.tokens[0, :2], alone.tokens[0], atol=1e-6, rtol=0)


def test_the_order_of_words_matters() -> None:
    model = encoder()
    assert not torch.allclose(model.encode(["red fox"]).tokens[0, 0], model.encode(["fox red"]).tokens[0, 1])
