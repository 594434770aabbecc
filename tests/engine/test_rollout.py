"""A stream opened up for training is the stream, chunk for chunk. Small random weights, float32."""

import torch
from torch import Tensor

from everscene_engine.attention import MaskedAttention
from everscene_engine.rope import rotation
from everscene_engine.sampler import make_schedule
from everscene_engine.stream import LatentStream
from everscene_engine.training.block_by_block import forward, run_block
from everscene_engine.training.distillation import denoise_with_gradient
from everscene_engine.training.rollout import TrainingStream
from tests.engine.small import STREAM, small_prompt, small_transformer

SCHEDULE = make_schedule(STREAM.steps, STREAM.shift)


def opened() -> TrainingStream:
    model = small_transformer()
    stream = TrainingStream(model, STREAM, seed=1, clips=1, low_precision=False)
    stream.steer(small_prompt(model))
    return stream


def roll(stream: TrainingStream, chunks: int) -> list[Tensor]:
    """The chunks that the opened stream makes from the noise that the live one would draw."""
    made = []
    for _ in range(chunks):
        stream.begin()
        text = small_prompt(stream.transformer, seed=0 if stream.next_chunk < 4 else 7)
        made.append(denoise_with_gradient(stream, stream._noise(), SCHEDULE, text, corrected=[1]).latents)
        stream.finish(made[-1])
    return made


def live(chunks: int) -> list[Tensor]:
    model = small_transformer()
    stream = LatentStream(model, STREAM, seed=1)
    stream.steer(small_prompt(model))
    made = []
    for number in range(chunks):
        if number == 4:
            stream.steer(small_prompt(model, seed=7))
        chunk = stream.generate()
        assert chunk is not None
        made.append(chunk.latents)
    return made


def test_it_makes_what_the_live_stream_makes() -> None:
    torch.testing.assert_close(torch.cat(roll(opened(), 4), 1), torch.cat(live(4), 1), atol=1e-5, rtol=1e-5)


def test_it_recaches_as_the_live_stream_does() -> None:
    stream = opened()
    made = roll(stream, 4)
    stream.steer(small_prompt(stream.transformer, seed=7))
    made += roll(stream, 3)
    torch.testing.assert_close(torch.cat(made, 1), torch.cat(live(7), 1), atol=1e-5, rtol=1e-5)


def test_a_follower_scores_the_same_chunk_with_a_cache_of_its_own() -> None:
    leader, follower = opened(), opened()
    for _ in range(3):
        for stream in (leader, follower):
            stream.begin()
        text = small_prompt(leader.transformer)
        latents = denoise_with_gradient(leader, leader._noise(), SCHEDULE, text, corrected=[0]).latents
        x, times = torch.randn_like(latents), torch.tensor([600.0])
        torch.testing.assert_close(leader.flow(x, times, text), follower.flow(x, times, text))
        for stream in (leader, follower):
            stream.finish(latents)


def test_only_the_corrected_step_carries_a_gradient() -> None:
    stream = opened()
    stream.begin()
    weight = stream.transformer.blocks[0].ffn[0].weight.requires_grad_(True)  # type: ignore[union-attr, index]
    text = small_prompt(stream.transformer)
    made = denoise_with_gradient(stream, stream._noise(), SCHEDULE, text, corrected=[0])
    assert made.predictions[0].requires_grad and not made.latents.requires_grad
    assert torch.autograd.grad(made.predictions[0].sum(), weight)[0].abs().sum() > 0


def test_the_last_steps_prediction_is_the_chunk() -> None:
    stream = opened()
    stream.begin()
    made = denoise_with_gradient(stream, stream._noise(), SCHEDULE, small_prompt(stream.transformer), corrected=[1])
    torch.testing.assert_close(made.predictions[0], made.latents)


def test_block_by_block_is_the_whole_forward() -> None:
    model = small_transformer()
    text = small_prompt(model)
    x, times = torch.randn(1, 2, 4, 4, 6), torch.tensor([[300.0, 300.0]])
    turn = rotation(torch.arange(2), 2, 3, model.config.head_dim)
    attention = MaskedAttention(torch.ones(12, 12, dtype=torch.bool))
    whole = model(x, times, turn, attention, text)
    torch.testing.assert_close(forward(model, run_block, x, times, turn, lambda layer: attention, text), whole)
