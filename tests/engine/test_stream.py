"""The stream of latents: cache against mask, recache, rollback, determinism. Small random weights, float32."""

import pytest
import torch
from torch import Tensor

from everscene_engine.attention import MaskedAttention
from everscene_engine.config import StreamConfig
from everscene_engine.errors import ConfigError, GenerationFailed
from everscene_engine.latent_chunk import LatentChunk
from everscene_engine.rope import rotation
from everscene_engine.stream import LatentStream, Transition
from everscene_engine.training.chunk_attention import dense_mask
from tests.engine.small import STREAM, small_prompt, small_transformer


def make_stream(seed: int = 1, config: StreamConfig = STREAM, clips: int = 1) -> LatentStream:
    model = small_transformer()
    stream = LatentStream(model, config, seed, clips=clips)
    stream.steer(small_prompt(model))
    return stream


def chunks(stream: LatentStream, count: int) -> list[LatentChunk]:
    made = [stream.generate() for _ in range(count)]
    return [chunk for chunk in made if chunk is not None]


def joined(made: list[LatentChunk]) -> Tensor:
    return torch.cat([chunk.latents for chunk in made], dim=1)


def clean_keys(stream: LatentStream) -> dict[int, Tensor]:
    """Keys of the last layer by chunk number."""
    cache = stream._cache
    found = {}
    for resident in cache.table.residents:
        start = resident.slot * cache.slot_tokens
        found[resident.chunk] = cache.keys[-1][:, start : start + resident.frames * cache.frame_tokens].clone()
    return found


@torch.no_grad()
def test_chunk_by_chunk_with_the_cache_equals_one_pass_with_the_mask() -> None:
    config = StreamConfig(
        latent_height=4, latent_width=6, chunk_frames=2, window_chunks=8, sink_reach=None, steps=2, fps=16.0
    )
    stream = make_stream(config=config)
    made = chunks(stream, 6)
    latents = joined(made)
    frames = latents.shape[1]
    chunk = torch.arange(frames)[None] // 2
    turn = rotation(torch.arange(frames).repeat(2), 2, 3, stream.transformer.config.head_dim)
    noise = torch.randn_like(latents)
    timesteps = torch.cat([torch.zeros(1, frames), torch.full((1, frames), 700.0)], dim=1)
    mask = MaskedAttention(dense_mask(chunk, config.frame_tokens, config.window_chunks))
    text = small_prompt(stream.transformer)
    one_pass = stream.transformer(torch.cat([latents, noise], dim=1), timesteps, turn, mask, text)[:, frames:]
    fresh = make_stream(config=config)
    for index, finished in enumerate(made):
        slot = fresh._cache.table.open(index, 2 * index, 2)
        seen = [resident for resident in fresh._cache.table.residents if resident is not slot]
        attention = fresh._cache.attention(slot, seen)
        part = slice(2 * index, 2 * index + 2)
        flow = fresh.transformer(noise[:, part], torch.full((1, 2), 700.0), fresh._turn(slot), attention, text)
        torch.testing.assert_close(flow, one_pass[:, part], atol=1e-5, rtol=0)
        fresh._clean_pass(slot, finished.latents)


def test_same_seed_and_prompts_give_the_same_latents() -> None:
    assert torch.equal(joined(chunks(make_stream(), 5)), joined(chunks(make_stream(), 5)))


def test_another_seed_gives_another_world() -> None:
    assert not torch.allclose(joined(chunks(make_stream(1), 1)), joined(chunks(make_stream(2), 1)))


def test_clips_side_by_side_equal_clips_alone_in_shape_and_differ() -> None:
    made = joined(chunks(make_stream(clips=3), 4))
    assert made.shape == (3, 8, 4, 4, 6)
    assert not torch.allclose(made[0], made[1])


def test_the_stream_runs_past_the_window_with_the_sink_kept() -> None:
    stream = make_stream()
    chunks(stream, 12)
    assert [resident.chunk for resident in stream._cache.table.residents] == [0, 8, 9, 10, 11]


def test_recaching_makes_the_window_anew_and_leaves_the_sink() -> None:
    stream = make_stream()
    chunks(stream, 6)
    before = clean_keys(stream)
    stream.steer(small_prompt(stream.transformer, seed=9), "recache")
    stream._rebuild_window()
    after = clean_keys(stream)
    assert torch.equal(before[0], after[0])
    assert all(not torch.allclose(before[n], after[n]) for n in (3, 4, 5))


def test_recaching_under_the_same_prompt_changes_nothing_while_all_chunks_are_there() -> None:
    stream = make_stream()
    chunks(stream, 4)
    before = clean_keys(stream)
    stream._rebuild_window()
    after = clean_keys(stream)
    for number, keys in before.items():
        torch.testing.assert_close(after[number], keys, atol=1e-6, rtol=0)


def test_text_only_switching_leaves_the_window_alone() -> None:
    stream = make_stream()
    chunks(stream, 5)
    before = clean_keys(stream)
    stream.steer(small_prompt(stream.transformer, seed=9), "text")
    made = stream.generate()
    assert made is not None and "recache" not in made.seconds
    after = clean_keys(stream)
    assert all(torch.equal(before[number], after[number]) for number in set(before) & set(after) - {0})


def test_reset_begins_a_new_world() -> None:
    stream = make_stream()
    first = chunks(stream, 3)[0]
    stream.steer(small_prompt(stream.transformer), "reset")
    again = stream.generate()
    assert again is not None
    assert again.number == 0 and torch.equal(again.latents, first.latents)


@pytest.mark.parametrize("frame", [5, 6, 7, 8, 9])
def test_rollback_goes_on_as_a_stream_that_never_went_further(frame: int) -> None:
    stream = make_stream()
    whole = joined(chunks(stream, 6))
    stream.rollback(frame)
    assert stream.next_frame == frame
    rolled = stream.generate()
    other = make_stream()
    chunks(other, (frame + 1) // 2)
    other.rollback(frame)
    expected = other.generate()
    assert rolled is not None and expected is not None
    assert rolled.first_frame == frame
    torch.testing.assert_close(rolled.latents, expected.latents, atol=1e-5, rtol=0)
    if frame % 2 == 0:
        torch.testing.assert_close(rolled.latents, whole[:, frame : frame + 2], atol=1e-4, rtol=0)


def test_rollback_to_the_start_forgets_everything() -> None:
    stream = make_stream()
    first = chunks(stream, 3)[0]
    stream.rollback(0)
    again = stream.generate()
    assert again is not None and torch.equal(again.latents, first.latents)


def test_rollback_into_the_sink_shortens_it() -> None:
    stream = make_stream()
    chunks(stream, 3)
    stream.rollback(1)
    made = stream.generate()
    assert made is not None and made.first_frame == 1
    assert [(r.first_frame, r.frames) for r in stream._cache.table.residents] == [(0, 1), (1, 2)]


@pytest.mark.parametrize("frame", [-1, 1, 41])
def test_rollback_out_of_reach_is_refused(frame: int) -> None:
    stream = make_stream()
    chunks(stream, 20)
    with pytest.raises(ConfigError, match=f"cannot roll back to latent frame {frame}"):
        stream.rollback(frame)


def test_an_interrupted_chunk_leaves_no_trace() -> None:
    stream, undisturbed = make_stream(), make_stream()
    chunks(stream, 6), chunks(undisturbed, 6)
    assert stream.generate(lambda: True) is None
    after, expected = stream.generate(), undisturbed.generate()
    assert after is not None and expected is not None
    assert after.number == expected.number
    torch.testing.assert_close(after.latents, expected.latents, atol=0.05, rtol=0)


def test_latents_that_are_no_numbers_are_an_error_and_the_stream_goes_on() -> None:
    stream = make_stream()
    chunks(stream, 3)
    weight = stream.transformer.head.head.weight
    held = weight.clone()
    weight.fill_(float("nan"))
    with pytest.raises(GenerationFailed, match="chunk 3"):
        stream.generate()
    weight.copy_(held)
    made = stream.generate()
    assert made is not None and made.number == 3


def test_a_far_sink_is_presented_at_the_reach() -> None:
    """However long ago the sink was, attention meets it at the distance of sink_reach."""
    stream = make_stream()
    chunks(stream, 30)
    sink = stream._cache.table.residents[0]
    current = stream._cache.table.residents[-1]
    shift = stream._cache._shifts[sink.slot]
    assert current.first_frame - (sink.first_frame + shift) == STREAM.sink_reach


def test_generating_without_a_prompt_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a prompt"):
        LatentStream(small_transformer(), STREAM, seed=0).generate()


def test_an_unknown_transition_is_refused() -> None:
    stream = make_stream()
    wrong: Transition = "melt"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="'melt'"):
        stream.steer(small_prompt(stream.transformer), wrong)


def test_denoising_on_a_cpu_stops_before_a_layer() -> None:
    model = small_transformer()
    stream = LatentStream(model, STREAM, seed=1)
    stream.steer(small_prompt(model))
    answers = iter([False, False, True])  # the forward, its first layer, its second
    assert stream.generate(lambda: next(answers)) is None
    assert stream.next_chunk == 0
