"""What distillation asks of the student: where its gradient leads, and what its streams are told."""

import argparse
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everscene_engine.config import CUT_PREFIX
from everscene_engine.sampler import make_schedule
from everscene_engine.training import distillation
from everscene_engine.training.distillation import (
    Guided,
    Recipe,
    Trainer,
    draw_levels,
    matching_gradient,
    trajectory_end,
    with_noise,
)
from everscene_engine.training.loop import AveragedWeights
from everscene_engine.training.stories import Story
from everscene_engine.training.teacher_forcing import draw_leaning
from everscene_engine.training.world.captions import VOCABULARY, parse_attributes, tokenize
from everscene_engine.training.world.scene import MOMENT_CHUNKS
from tests.engine.balanced import STREAM, model

SHAPE = (2, 2, 4, 4, 6)


class Believing:
    """Stands for a network: believes in the same clean latents, whatever the noise and the prompt."""

    def __init__(self, belief: Tensor) -> None:
        self._belief = belief

    def flow(self, x: Tensor, timesteps: Tensor, text: object) -> Tensor:
        return (x - self._belief) / (timesteps / 1000)[:, None, None, None, None]


class Networks:
    def __init__(self, teacher: Tensor, critic: Tensor) -> None:
        self.teacher, self.critic = Believing(teacher), Believing(critic)
        self.guided = Guided(None, None)  # type: ignore[arg-type]


def gradient(teacher: Tensor, critic: Tensor, m: Tensor) -> Tensor:
    return matching_gradient(Networks(teacher, critic), m, torch.tensor([0.5, 0.5]), None, 2.0)  # type: ignore[arg-type]


def test_where_critic_and_teacher_agree_there_is_nothing_to_learn() -> None:
    belief = torch.randn(SHAPE)
    assert gradient(belief, belief, torch.randn(SHAPE)).abs().max() < 1e-4


def test_descent_leads_from_the_critic_to_the_teacher() -> None:
    teacher, critic, m = torch.ones(SHAPE), -torch.ones(SHAPE), torch.zeros(SHAPE)
    assert (gradient(teacher, critic, m) < 0).all()


def test_the_gradient_has_one_size_whatever_the_distance() -> None:
    m, direction = torch.zeros(SHAPE), torch.randn(SHAPE)
    near, far = gradient(direction, m, m), gradient(100 * direction, m, m)
    torch.testing.assert_close(near, far, atol=1e-3, rtol=1e-3)


def test_noise_levels_stay_inside() -> None:
    levels = draw_levels(1000, 5.0, torch.device("cpu"))
    assert levels.min() > 0 and levels.max() < 1


def test_noise_is_mixed_in_by_its_level() -> None:
    m = torch.randn(SHAPE)
    x, noise = with_noise(m, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(x, torch.stack([m[0], noise[1]]))


def told(changes: int) -> list[Story]:
    stories = []
    for seed in range(40):
        story = Story(random.Random(seed))
        for _ in range(changes):
            story.change()
        stories.append(story)
    return stories


@pytest.mark.parametrize("changes", [0, 1, 5])
def test_a_story_says_what_its_world_is(changes: int) -> None:
    for story in told(changes):
        read = parse_attributes(story.prompt)
        assert all(getattr(story.attributes, name) == value for name, value in read.items())


def test_guidance_leads_away_from_a_prompt_without_subject_and_moment() -> None:
    for story in told(4):
        assert not {"subject", "colour", "moment"} & set(parse_attributes(story.without))


def test_the_prompt_to_lead_away_from_says_the_rest_in_the_same_words() -> None:
    for story in told(3):
        read, rest = parse_attributes(story.prompt), parse_attributes(story.without)
        assert all(read[name] == value for name, value in rest.items())


def test_a_story_speaks_words_of_the_vocabulary() -> None:
    for story in told(3):
        assert set(tokenize(story.prompt)) | set(tokenize(story.without)) <= set(VOCABULARY)


def test_a_world_begins_with_its_subject() -> None:
    assert all(parse_attributes(story.prompt)["subject"] == story.attributes.subject for story in told(0))


def test_a_cut_is_announced_for_one_chunk() -> None:
    story = Story(random.Random(0))
    story.cut()
    announced = story.prompt
    assert story.go_on()
    assert announced == CUT_PREFIX + story.prompt
    assert not story.go_on()


def test_a_moment_is_over_after_its_chunks_whatever_changes_meanwhile() -> None:
    for seed in range(20):
        story = Story(random.Random(seed))
        while story.attributes.moment is None:
            story.change()
        moment = story.attributes.moment
        over = []
        for _ in range(MOMENT_CHUNKS):
            assert story.attributes.moment == moment
            story.change()
            over.append(story.go_on())
        assert over == [False] * (MOMENT_CHUNKS - 1) + [True]
        assert story.attributes.moment is None


def test_a_cut_keeps_the_subject() -> None:
    for story in told(0):
        before = story.attributes
        story.cut()
        assert (story.attributes.subject, story.attributes.colour) == (before.subject, before.colour)


def leaning(faded: bool, own_errors: float) -> Tensor:
    chunk = torch.arange(8).repeat_interleave(2).expand(64, -1)
    return draw_leaning(chunk, torch.full((64,), faded), own_errors, torch.Generator().manual_seed(0))


def test_a_faded_clip_loses_its_subject_more_and_more() -> None:
    assert (leaning(True, 0.0)[:, 2:].diff(dim=1) >= 0).all()


def test_half_of_the_faded_clips_have_a_whole_subject_in_their_sink() -> None:
    whole = (leaning(True, 0.0)[:, :2] == 0).all(1).float().mean()
    assert 0.3 < whole < 0.7


def test_without_own_errors_only_faded_clips_lean() -> None:
    assert leaning(False, 0.0).abs().max() == 0


def test_a_trajectory_ends_where_the_teacher_believes_the_clean_latents_to_be() -> None:
    belief = torch.randn(SHAPE)
    end = trajectory_end(Networks(belief, belief), torch.randn(SHAPE), make_schedule(4), 1.0)  # type: ignore[arg-type]
    assert (end - belief).abs().max() < 0.02  # the network is told timesteps in whole thousandths


# Whole runs, of a small model


class Chunks:
    """A budget of chunks in place of seconds; `begun` at which of them."""

    def __init__(self, chunks: float) -> None:
        self.elapsed, self._chunks, self.begun = 0.0, chunks, list[float]()

    @property
    def spent(self) -> bool:
        self.elapsed += 1
        return self.elapsed > self._chunks

    @property
    def fraction(self) -> float:
        return self.elapsed / self._chunks

    def begin(self) -> None:
        self.begun.append(self.elapsed)


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a small teacher, for a small stage."""
    monkeypatch.setattr(distillation, "POCKET_STREAM", STREAM)
    monkeypatch.setattr(distillation, "TimeBudget", Chunks)
    made = model()
    made.save(tmp_path / "teacher", AveragedWeights(made))
    return tmp_path / "teacher"


def trainer(teacher: Path, chunks: int = 6, **options: Any) -> Trainer:
    recipe: dict[str, Any] = {name: options.pop(name) for name in list(options) if name in vars(Recipe())}
    given = {
        "seconds": chunks,
        "seed": 0,
        "device": "cpu",
        "save_every": 1e9,
        "begin_with": None,
        "resume": None,
        **options,
    }
    out = teacher.parent / "out"
    out.mkdir(exist_ok=True)
    return Trainer(argparse.Namespace(teacher=teacher, out=out, **given), Recipe(clips=2, rank=2, **recipe))


def test_the_learning_rate_falls_from_the_first_step_of_the_student_on(teacher: Path) -> None:
    run = trainer(teacher, method="matching", critic_alone=2)
    run.run()
    assert run.budget.begun == [3.0]  # type: ignore[attr-defined]


def test_what_is_over_after_a_chunk_is_no_longer_asked_for(teacher: Path) -> None:
    rollout = trainer(teacher, method="trajectory").rollout
    rollout.start()
    before = rollout.asked
    rollout.go_on()
    assert rollout.asked is before
    rollout.stories[1].cut()
    rollout._steer("cut")
    lengths = rollout.asked.lengths
    rollout.go_on()
    assert (lengths - rollout.asked.lengths).tolist() == [0, len(tokenize(CUT_PREFIX))]


def test_four_steps_begin_with_what_was_learned_for_two(teacher: Path) -> None:
    first = trainer(teacher, method="trajectory", steps=2)
    first.run()
    first.low_rank.save(teacher, 2, first.average)
    second = trainer(teacher, method="trajectory", steps=4, begin_with=2)
    for number in range(len(first.low_rank.up)):
        learned = first.average.tensors[f"up.{number}"]
        assert learned.abs().max() > 0
        torch.testing.assert_close(second.average.tensors[f"up.{number}"], learned.bfloat16().float())


@pytest.mark.parametrize("method", ["matching", "trajectory"])
def test_a_run_goes_on_from_an_earlier_one(teacher: Path, method: str) -> None:
    first = trainer(teacher, method=method, critic_alone=2)
    first.run()
    second = trainer(teacher, method=method, critic_alone=2, resume=first.options.out)
    assert second.average.steps == first.average.steps > 0
    models = [(first.student, second.student), (first.critic, second.critic)]
    for one, other in (pair for pair in models if pair[0]):
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):  # type: ignore[union-attr]
            assert torch.equal(mine, theirs)
    moments = second.optimizer.parts[0].state_dict()["state"]
    assert moments[0]["step"] == first.average.steps
    second.budget = Chunks(1)  # type: ignore[assignment]
    second.run()
    assert second.average.steps == first.average.steps + 1
