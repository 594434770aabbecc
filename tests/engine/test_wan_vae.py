"""The Wan VAEs as streams, against the whole-clip decoding and encoding of diffusers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from everscene_engine.decoder import DecoderState, StreamingDecoder
from everscene_engine.errors import ConfigError
from everscene_engine.models import networks
from everscene_engine.wan_vae import MEAN_16, MEAN_48, STD_16, STD_48, WanVAE
from tests.engine.published import VAE_21, VAE_22, filled

CONFIGS = {
    "2.2": VAE_22,
    "2.1": VAE_21,
    "pruned": {**VAE_22, "decoder_base_dim": 4},
    "decoder alone": {**VAE_22, "has_encoder": False},
}
NETWORKS: dict[str, Any] = {name: filled(networks.vae(config)) for name, config in CONFIGS.items()}


def vae(name: str, together: int = 1) -> WanVAE:
    return WanVAE(NETWORKS[name], together)


def latents_of(name: str, frames: int, clips: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(clips, frames, CONFIGS[name]["z_dim"], 2, 3, generator=generator)


def whole(name: str, latents: Tensor) -> Tensor:
    """diffusers' own decoding of the whole clip, from latents of the denoiser's scale."""
    mean, std = (MEAN_48, STD_48) if latents.shape[2] == 48 else (MEAN_16, STD_16)
    z = latents.transpose(1, 2) * torch.tensor(std).view(-1, 1, 1, 1) + torch.tensor(mean).view(-1, 1, 1, 1)
    with torch.no_grad():
        frames: Tensor = NETWORKS[name].decode(z, return_dict=False)[0]
    return frames.transpose(1, 2)


@pytest.mark.parametrize("together", [1, 3, 8])
@pytest.mark.parametrize("name", CONFIGS)
def test_any_way_of_feeding_equals_the_whole_clip(name: str, together: int) -> None:
    latents = latents_of(name, 8)
    expected = whole(name, latents)
    stream = vae(name, together)
    fed = torch.cat([stream.feed(part) for part in latents.split([1, 2, 4, 1], dim=1)], dim=1)
    at_once = vae(name, together).feed(latents)
    assert expected.shape[1] == 29 and expected.std() > 0.05
    torch.testing.assert_close(fed, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(at_once, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("name", "chunk", "counts", "size"), [("2.2", 8, [29, 32], 16), ("2.1", 3, [9, 12], 8)])
def test_a_chunk_gives_the_published_number_of_frames(name: str, chunk: int, counts: list[int], size: int) -> None:
    stream = vae(name)
    shapes = [stream.feed(latents_of(name, chunk)).shape for _ in range(2)]
    assert shapes == [(1, count, 3, 2 * size, 3 * size) for count in counts]


@pytest.mark.parametrize("name", ["2.2", "2.1"])
@pytest.mark.parametrize("before", [0, 1, 2, 5])
def test_a_restored_decoder_gives_the_same_frames_again(name: str, before: int) -> None:
    """Before the first latent frame, right after it (where a layer only took note of it), and later."""
    stream, latents = vae(name), latents_of(name, 8)
    if before:
        stream.feed(latents[:, :before])
    state = stream.snapshot()
    first = stream.feed(latents[:, before:])
    for _ in range(2):
        stream.restore(state)
        assert torch.equal(stream.feed(latents[:, before:]), first)


def test_a_state_survives_being_written_down_as_tensors() -> None:
    """As a snapshot on disk does: copies of the tensors, in another decoder."""
    stream, latents = vae("2.2"), latents_of("2.2", 4)
    for fed in (1, 2):
        stream.reset()
        stream.feed(latents[:, :fed])
        state = stream.snapshot()
        copied = DecoderState(state.latent_frames, tuple(tensor.clone() for tensor in state.tensors))
        other = vae("2.2")
        other.restore(copied)
        assert torch.equal(other.feed(latents[:, fed:]), stream.feed(latents[:, fed:]))


def test_a_snapshot_is_untouched_by_what_is_fed_later() -> None:
    stream, latents = vae("2.2"), latents_of("2.2", 6)
    stream.feed(latents[:, :3])
    state = stream.snapshot()
    held = [tensor.clone() for tensor in state.tensors]
    stream.feed(latents[:, 3:])
    assert all(torch.equal(now, then) for now, then in zip(state.tensors, held, strict=True))


def test_after_a_reset_a_stream_begins() -> None:
    stream, latents = vae("2.1"), latents_of("2.1", 3)
    first = stream.feed(latents)
    stream.reset()
    assert torch.equal(stream.feed(latents), first)


def test_clips_side_by_side_equal_clips_alone() -> None:
    latents = latents_of("2.2", 3, clips=2)
    together = vae("2.2").feed(latents)
    for clip in range(2):
        torch.testing.assert_close(together[clip], vae("2.2").feed(latents[clip : clip + 1])[0], atol=1e-5, rtol=0)


def test_latents_of_another_size_do_not_continue_a_stream() -> None:
    stream = vae("2.2")
    stream.feed(latents_of("2.2", 2))
    with pytest.raises(ValueError, match="do not continue the stream"):
        stream.feed(torch.zeros(1, 1, 48, 4, 3))


@pytest.mark.parametrize("name", ["2.2", "2.1"])
def test_an_image_is_encoded_as_diffusers_encodes_a_clip_of_one_frame(name: str) -> None:
    pixels = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        mean = NETWORKS[name].encode(pixels[:, :, None]).latent_dist.mode()
    centre, spread = (MEAN_48, STD_48) if name == "2.2" else (MEAN_16, STD_16)
    expected = (mean - torch.tensor(centre).view(-1, 1, 1, 1)) / torch.tensor(spread).view(-1, 1, 1, 1)
    torch.testing.assert_close(vae(name).encode_image(pixels), expected.transpose(1, 2), atol=1e-6, rtol=0)


def test_a_decoder_alone_says_that_it_cannot_encode() -> None:
    assert not vae("decoder alone").can_encode
    with pytest.raises(ConfigError, match="has no encoder"):
        vae("decoder alone").encode_image(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(("mean", "std", "theirs"), [(MEAN_16, STD_16, "2.1")])
def test_the_statistics_of_wan_21_are_those_of_diffusers(mean: Any, std: Any, theirs: str) -> None:
    config = NETWORKS[theirs].config
    assert list(mean) == config.latents_mean and list(std) == config.latents_std


def test_statistics_have_a_value_for_every_channel() -> None:
    assert [len(values) for values in (MEAN_16, STD_16, MEAN_48, STD_48)] == [16, 16, 48, 48]
    assert min(STD_16 + STD_48) > 0.3


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="together is 0"):
        vae("2.2", 0)
    with pytest.raises(ConfigError, match="not 8"):
        WanVAE(filled(networks.vae({**VAE_21, "z_dim": 8})))


def test_it_is_a_streaming_decoder() -> None:
    decoder: StreamingDecoder = vae("2.2")
    assert decoder.snapshot() == DecoderState(0, ())
