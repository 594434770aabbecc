"""The pocket model's text encoder: its vocabulary is a door with a sign on it."""

import re

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


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("red-fox_storm/harbour\u2014night\u2026", ["red", "fox", "storm", "harbour", "night"]),
        ("the fox's 'storm'", ["the", "fox's", "storm"]),
        ("the fox\u2019s \u2018storm\u2019", ["the", "fox's", "storm"]),
        ("fox & storm&rain", ["fox", "and", "storm", "and", "rain"]),
        ("\uff32\uff25\uff24 \uff46\uff4f\uff58\u3001storm", ["red", "fox", "storm"]),
        ("\ufefffox\u200b storm\x07", ["fox", "storm"]),
    ],
)
def test_punctuation_and_what_has_no_shape_divide_words(prompt: str, words: list[str]) -> None:
    assert words_of(prompt) == words


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("harbour, \u591c, storm", "\u591c"),
        ("harbour d\u00eda", "d\u00eda"),
        ("harbour di\u0301a", "d\u00eda"),
        ("red \u0440\u0430\u0442", "\u0440\u0430\u0442"),
        ("\u0930\u093e\u0924 storm", "\u0930\u093e\u0924"),
        ("3 fox", "3"),
        ("red + storm", "+"),
        ("storm \U0001f98a", "\U0001f98a"),
        ("\u26c8\ufe0f", "\u26c8\ufe0f"),
    ],
)
def test_nothing_that_could_mean_something_is_ignored(prompt: str, word: str) -> None:
    with pytest.raises(PromptRejected, match=rf"^no such word: '{re.escape(word)}'"):
        encoder().check(prompt)


def test_an_emoji_beside_a_word_is_named_with_the_word_that_is_known() -> None:
    with pytest.raises(PromptRejected, match=r"no such word: 'fox\U0001f98a' \(did you mean fox\?\)"):
        encoder().check("fox\U0001f98a")


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
