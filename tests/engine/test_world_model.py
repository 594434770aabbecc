"""Weights of a world with fewer words go on as those of one with more."""

from pathlib import Path

import pytest
import torch

from everscene_engine.training.loop import AveragedWeights
from everscene_engine.training.team import Team
from everscene_engine.training.world.captions import VOCABULARY
from everscene_engine.training.world_model import WorldModel
from tests.engine import training_team
from tests.engine.balanced import SIZES

FEWER = tuple(word for word in VOCABULARY if word not in ("orange", "purple"))


@pytest.fixture
def before() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel.new(SIZES).with_vocabulary(FEWER).eval()


def test_prompts_of_words_that_it_knew_mean_what_they_meant(before: WorldModel) -> None:
    after = before.with_vocabulary(VOCABULARY).eval()
    prompts = ["a red fox at night", "storm, harbour"]
    torch.testing.assert_close(after.text.encode(prompts).tokens, before.text.encode(prompts).tokens)


def test_a_new_word_has_a_row_of_its_own_that_learns(before: WorldModel) -> None:
    after = before.with_vocabulary(VOCABULARY)
    ids, _ = after.text.ids(["an orange fox", "a purple fox"])
    after.text(ids).square().sum().backward()
    learning = after.text.word.weight.grad.abs().sum(dim=1) > 0  # type: ignore[union-attr]
    assert set(learning.nonzero().flatten().tolist()) == set(ids.flatten().tolist())
    rows = after.text.word.weight
    assert rows[ids[0, 1]].abs().sum() > 0 and not torch.equal(rows[ids[0, 1]], rows[ids[1, 1]])


def test_a_stage_that_goes_on_from_weights_of_fewer_words_has_all_of_them(tmp_path: Path, before: WorldModel) -> None:
    before.save(tmp_path, AveragedWeights(before))
    model = training_team.begun(tmp_path, Team(), resume=tmp_path).model
    assert model.text.config.vocabulary == VOCABULARY
    torch.testing.assert_close(model.text.place, before.text.place, atol=1e-3, rtol=1e-2)  # was kept in bf16
