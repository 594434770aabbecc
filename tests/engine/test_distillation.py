"""What distillation asks of the student: where its gradient leads, and what its streams are told."""

import random

import pytest
import torch
from torch import Tensor

from everscene_engine.config import CUT_PREFIX
from everscene_engine.sampler import make_schedule
from everscene_engine.training.distillation import Guided, draw_levels, matching_gradient, trajectory_end, with_noise
from everscene_engine.training.stories import Story
from everscene_engine.training.teacher_forcing import draw_leaning
from everscene_engine.training.world.captions import VOCABULARY, parse_attributes, tokenize

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


def test_a_cut_is_announced_until_the_next_change() -> None:
    story = Story(random.Random(0))
    story.cut()
    announced = story.prompt.startswith(CUT_PREFIX)
    story.change()
    assert announced and not story.prompt.startswith(CUT_PREFIX)


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
