"""Combinations that training leaves out: no drawn clip and no story shows them, unless they are asked for."""

import random
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from everscene_engine.text import PocketTextConfig, PocketTextEncoder
from everscene_engine.training.clip_pool import ClipPool, other_kinds
from everscene_engine.training.stories import Story
from everscene_engine.training.world.captions import VOCABULARY
from everscene_engine.training.world.names import (
    HELD_OUT_SCENES,
    HELD_OUT_SUBJECTS,
    SETTINGS,
    SUBJECT_COLOURS,
    SUBJECTS,
    TIMES,
    TRAINED_COLOURS,
    WEATHERS,
    Attributes,
)
from everscene_engine.training.world.scene import Clip, change, random_attributes, sample_clips
from tests.judges.plays import held_out_switches, moments, series, steady, switches


def scenes(clip: Clip) -> set[tuple[str, str, str]]:
    """Every combination of setting, time and weather that a chunk of a clip is asked for."""
    rows = torch.stack([clip.attributes.setting, clip.attributes.time, clip.attributes.weather], -1).flatten(0, 1)
    return {(SETTINGS[s], TIMES[t], WEATHERS[w]) for s, t, w in rows.tolist()}


def subjects(clip: Clip) -> set[tuple[str, str]]:
    """Every subject with its colour."""
    rows = torch.stack([clip.attributes.subject, clip.attributes.colour], -1).flatten(0, 1)
    return {(SUBJECTS[s], TRAINED_COLOURS[c]) for s, c in rows.tolist()}


def test_drawn_clips_show_none_of_them_and_all_the_others() -> None:
    clip = sample_clips(600, 2, 7, torch.Generator().manual_seed(0))
    assert not scenes(clip) & set(HELD_OUT_SCENES)
    assert not subjects(clip) & set(HELD_OUT_SUBJECTS)
    assert len(scenes(clip)) == 100 - len(HELD_OUT_SCENES)
    assert len(subjects(clip)) == 15 - len(HELD_OUT_SUBJECTS)


def test_clips_for_training_show_every_other_pair_of_a_subject_and_a_trained_colour() -> None:
    clip = sample_clips(900, 2, 2, torch.Generator().manual_seed(0), colours=TRAINED_COLOURS)
    assert subjects(clip) == set(product(SUBJECTS, TRAINED_COLOURS)) - set(HELD_OUT_SUBJECTS)


def test_stories_have_subjects_of_every_trained_colour() -> None:
    assert {Story(random.Random(seed)).attributes.colour for seed in range(200)} == set(TRAINED_COLOURS)


def test_plays_ask_only_for_colours_that_the_judges_name() -> None:
    plays = [*switches(0), *moments(0, 16), *series(0, 16, 4, True), *steady(0, 40), *held_out_switches(0, 18)]
    assert {play.at(0).colour for play in plays} == set(SUBJECT_COLOURS)


def test_drawn_clips_show_them_when_asked_to() -> None:
    clip = sample_clips(600, 2, 7, torch.Generator().manual_seed(0), held_out=True)
    assert scenes(clip) >= set(HELD_OUT_SCENES)
    assert subjects(clip) >= set(HELD_OUT_SUBJECTS)


def test_stories_tell_of_none_of_them() -> None:
    for seed in range(40):
        story = Story(random.Random(seed))
        for number in range(25):
            assert not story.attributes.scene_held_out
            assert not story.attributes.subject_held_out
            story.cut() if number % 5 == 4 else story.change()


def test_what_stands_in_the_place_of_a_subject_is_none_of_them() -> None:
    clip = sample_clips(900, 2, 2, torch.Generator().manual_seed(0), colours=TRAINED_COLOURS)
    colour = clip.world.subject_colour
    swapped = other_kinds(clip.world.subject_kind, colour)
    shown = {
        (SUBJECTS[k], TRAINED_COLOURS[c]) for k, c in zip(swapped.tolist(), colour.tolist(), strict=True) if k >= 0
    }
    assert shown == set(product(SUBJECTS, TRAINED_COLOURS)) - set(HELD_OUT_SUBJECTS)


def test_every_second_faded_clip_shows_one_of_the_other_kinds_in_turn() -> None:
    red = torch.zeros(8, dtype=torch.long)
    assert other_kinds(torch.full((8,), 1), red).tolist() == [-1, 2, -1, 0] * 2


class Cast(ClipPool):
    """A pool whose latents are the kind and the colour of the subject."""

    def _latents_of(self, clip: Clip) -> Tensor:
        world = clip.world
        pair = torch.stack([world.subject_kind, world.subject_colour], 1).float()
        return pair[:, None, :, None, None].expand(-1, (self._chunks + 1) * self._chunk_frames, -1, -1, -1)


def test_faded_clips_lean_to_what_stands_in_the_place_of_their_subject() -> None:
    autoencoder: Any = SimpleNamespace(config=SimpleNamespace(latent_shape=(2, 1, 1)))
    text = PocketTextEncoder(PocketTextConfig(VOCABULARY))
    pool = Cast(autoencoder, text, 64, 3, 2, torch.device("cpu"), seed=0, fresh=64, faded=0.75)
    pool.refresh()
    cast, leaning = pool._latents[:, 0, :, 0, 0].long(), pool._own[:, 0, :, 0, 0].long()
    assert leaning[:48, 0].tolist() == other_kinds(cast[:48, 0], cast[:48, 1]).tolist()
    assert torch.equal(leaning[:, 1], cast[:, 1]) and torch.equal(leaning[48:], cast[48:])
    assert cast[:, 1].max() >= len(SUBJECT_COLOURS)


def test_a_change_never_leads_into_one() -> None:
    rng = random.Random(1)
    before = Attributes(setting="harbour", time="night", weather="clear")
    assert all(not change(rng, before).scene_held_out for _ in range(300))
    assert any(change(rng, before, held_out=True).scene_held_out for _ in range(300))


def test_every_two_names_of_a_held_out_scene_are_shown_together() -> None:
    for scene in HELD_OUT_SCENES:
        for left_out in range(3):
            kept = [k for k in range(3) if k != left_out]
            company = [other for other in HELD_OUT_SCENES if all(other[k] == scene[k] for k in kept)]
            assert len(company) == 1, scene


def test_attributes_are_drawn_the_same_for_the_same_generator() -> None:
    first, second = (random_attributes(random.Random(5)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("seed", [0, 1])
def test_plays_for_seen_combinations_ask_for_no_other(seed: int) -> None:
    for play in switches(seed) + series(seed, 4, 10, named=True):
        for _, attributes in play.changes:
            assert not attributes.scene_held_out
            assert not attributes.subject_held_out


def test_plays_for_held_out_combinations_lead_into_them_by_one_attribute() -> None:
    plays = held_out_switches(0, 18)
    assert {play.attribute for play in plays} == {"setting", "time", "weather"}
    for play in plays:
        (_, before), (_, after) = play.changes
        assert after.scene_held_out and after.subject_held_out and not before.scene_held_out
        assert [name for name in vars(after) if getattr(before, name) != getattr(after, name)] in (
            [play.attribute],
            [play.attribute, "intensity"],
        )
