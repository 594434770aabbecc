"""Captions say what the world is, in known words, and can be read back."""

import random
from dataclasses import replace
from itertools import product

import pytest

from everscene_engine.config import CUT_PREFIX
from everscene_engine.training.world.captions import (
    SYNONYMS,
    VOCABULARY,
    parse_attributes,
    prompt_for,
    tokenize,
)
from everscene_engine.training.world.names import (
    INTENSITIES,
    MOMENTS,
    SETTINGS,
    SUBJECTS,
    TIMES,
    TRAINED_COLOURS,
    WEATHERS,
    Attributes,
)


def random_attributes(rng: random.Random) -> Attributes:
    return Attributes(
        rng.choice(SETTINGS),
        rng.choice(TIMES),
        rng.choice(WEATHERS),
        rng.choice(INTENSITIES),
        rng.choice(SUBJECTS),
        rng.choice(TRAINED_COLOURS),
        rng.choice((None, *MOMENTS)),
    )


def said(attributes: Attributes) -> dict[str, str]:
    """What a full prompt must give back: normal force and no moment have no words."""
    silent = {"intensity": "normal", "moment": None}
    return {name: value for name, value in vars(attributes).items() if (name, value) not in silent.items()}


def test_every_canonical_prompt_reads_back_to_its_attributes() -> None:
    for setting, time, weather, intensity in product(SETTINGS, TIMES, WEATHERS, INTENSITIES):
        attributes = Attributes(setting, time, weather, intensity, moment="birds")
        assert parse_attributes(prompt_for(attributes)) == said(attributes)


def test_varied_prompts_never_say_anything_else() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        attributes = random_attributes(rng)
        prompt = prompt_for(attributes, rng)
        read, full = parse_attributes(prompt), said(attributes)
        left_out = set(full) - set(read)
        assert read == {name: full[name] for name in read}, prompt
        assert left_out <= {"subject", "colour"} | ({"weather"} if attributes.weather == "clear" else set()), prompt
        assert "subject" in read or "colour" not in read, prompt


def test_subject_is_always_named_when_it_may_not_be_left_out() -> None:
    rng = random.Random(6)
    for _ in range(300):
        attributes = random_attributes(rng)
        assert parse_attributes(prompt_for(attributes, rng, subject="always"))["subject"] == attributes.subject


def test_a_whole_subject_is_named_with_its_colour() -> None:
    rng = random.Random(6)
    for _ in range(300):
        attributes = random_attributes(rng)
        read = parse_attributes(prompt_for(attributes, rng, subject="whole"))
        assert (read["subject"], read["colour"]) == (attributes.subject, attributes.colour)


def test_a_subject_goes_without_its_colour_20_times_in_100() -> None:
    rng = random.Random(10)
    reads = [parse_attributes(prompt_for(Attributes(), rng, subject="always")) for _ in range(2000)]
    missing = sum("colour" not in read for read in reads) / len(reads)
    assert 0.164 < missing < 0.236  # four standard deviations around 0.2


def test_subject_and_clear_weather_are_left_out_about_15_times_in_100() -> None:
    rng = random.Random(7)
    reads = [parse_attributes(prompt_for(Attributes(weather="clear"), rng)) for _ in range(2000)]
    for name in ("subject", "weather"):
        missing = sum(name not in read for read in reads) / len(reads)
        assert 0.11 < missing < 0.19  # four standard deviations around 0.15 is 0.032


def test_vocabulary_is_exactly_the_words_that_captions_use() -> None:
    rng = random.Random(8)
    used = set(tokenize(CUT_PREFIX))
    for _ in range(12000):
        used |= set(tokenize(prompt_for(random_attributes(rng), rng)))
    assert used == set(VOCABULARY)
    assert tuple(sorted(VOCABULARY)) == VOCABULARY


def test_each_synonym_alone_reads_as_its_value() -> None:
    for phrase, (attribute, value) in SYNONYMS.items():
        assert parse_attributes(phrase) == {attribute: value}


def test_moment_only_adds_words_to_the_same_sentence() -> None:
    for seed in range(100):
        attributes = random_attributes(random.Random(seed))
        plain = prompt_for(replace(attributes, moment=None), random.Random(seed))
        assert plain in prompt_for(replace(attributes, moment="meteor"), random.Random(seed))


def test_first_phrase_of_equal_meaning_counts_and_unknown_words_are_ignored() -> None:
    assert parse_attributes("Sunset!! over the zeppelin Harbor; night") == {"time": "dusk", "setting": "harbour"}


def test_unknown_name_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="weather is 'hail'; it must be one of clear, rain"):
        Attributes(weather="hail")


def test_prompts_have_no_doubled_or_dangling_punctuation() -> None:
    rng = random.Random(9)
    for _ in range(2000):
        prompt = prompt_for(random_attributes(rng), rng)
        assert ", ," not in prompt and " ," not in prompt and "  " not in prompt
        assert not prompt.endswith((",", " in", " with", " over", " of")) and not prompt.startswith((",", " ", "over"))
