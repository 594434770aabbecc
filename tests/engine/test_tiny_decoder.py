"""The tiny decoder, against the published way of running it: frame by frame, one kept for each memory block."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_engine.decoder import DecoderState, StreamingDecoder
from everscene_engine.errors import CheckpointError
from everscene_engine.models import networks
from everscene_engine.tiny_decoder import TinyDecoder, TinyDecoderConfig, TinyDecoderNetwork, TinyStage
from tests.engine.published import TINY, filled

WIDE = TinyDecoderConfig(
    48, (TinyStage(128, 2, 64, True, 1, 64), TinyStage(64, 1, 64, True, 2, 16), TinyStage(16, 1, 16, False, 2, 8)), 2
)
WAN_21 = TinyDecoderConfig(16, tuple(replace(stage, blocks=3) for stage in TINY.stages), 1)
CONFIGS = {"taew2_2": TINY, "wide": WIDE, "taew2_1": WAN_21}
NETWORKS = {name: filled(networks.tiny(config.as_plain())) for name, config in CONFIGS.items()}


def make(name: str) -> TinyDecoder:
    network = NETWORKS[name]
    assert isinstance(network, TinyDecoderNetwork)
    return TinyDecoder(network)


def latents_of(name: str, frames: int, clips: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return 2 * torch.randn(clips, frames, CONFIGS[name].channels, 3, 2, generator=generator)


def frame_by_frame(name: str, latents: Tensor) -> Tensor:
    """One clip [1, F, C, h, w] through the weights by their published names, frames in a row, recursively."""
    weights = NETWORKS[name].state_dict()
    last = max(int(key.split(".")[1]) for key in weights)
    kept: dict[int, Tensor] = {}

    def convolve(key: str, x: Tensor) -> Tensor:
        weight = weights[f"{key}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, weights.get(f"{key}.bias"), padding=weight.shape[-1] // 2, groups=groups)

    def run(x: Tensor, place: int) -> Iterator[Tensor]:
        if place > last:
            yield F.pixel_shuffle(x, CONFIGS[name].patch)
        elif f"decoder.{place}.conv.0.weight" in weights:
            before = kept.get(place, torch.zeros_like(x))
            kept[place] = x
            inner = torch.cat([x, before], dim=1)
            places = [key for key in (0, 2, 4, 6) if f"decoder.{place}.conv.{key}.weight" in weights]
            for key in places:
                inner = convolve(f"decoder.{place}.conv.{key}", inner)
                inner = inner.relu() if key != places[-1] else inner
            yield from run((x + inner).relu(), place + 1)
        elif f"decoder.{place}.conv.weight" in weights:
            grown = convolve(f"decoder.{place}.conv", x)
            for part in grown.chunk(grown.shape[1] // x.shape[1], dim=1):
                yield from run(part, place + 1)
        elif f"decoder.{place}.weight" in weights:
            yield from run(convolve(f"decoder.{place}", x), place + 1)
        elif place in (2, last - 1):
            yield from run(x.relu(), place + 1)
        else:
            yield from run(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), place + 1)

    with torch.no_grad():
        frames = [frame for latent in latents[0] for frame in run(3 * torch.tanh(latent[None] / 3), 1)]
    return torch.stack(frames[3:], dim=1).mul(2).sub(1).clamp(-1, 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_any_way_of_feeding_equals_one_frame_at_a_time(name: str) -> None:
    latents = latents_of(name, 6)
    expected = frame_by_frame(name, latents)
    assert expected.shape[1] == 21 and expected.std() > 0.05
    stream = make(name)
    parts = torch.cat([stream.feed(part) for part in latents.split([1, 3, 2], dim=1)], dim=1)
    torch.testing.assert_close(parts, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(make(name).feed(latents), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "size"), [("taew2_2", 16), ("taew2_1", 8)])
def test_frames_have_the_size_and_number_of_the_vae_that_it_stands_for(name: str, size: int) -> None:
    stream = make(name)
    assert stream.feed(latents_of(name, 2)).shape == (1, 5, 3, 3 * size, 2 * size)
    assert stream.feed(latents_of(name, 2)).shape == (1, 8, 3, 3 * size, 2 * size)


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_restored_decoder_gives_the_same_frames_again(before: int) -> None:
    stream, latents = make("taew2_2"), latents_of("taew2_2", 5)
    if before:
        stream.feed(latents[:, :before])
    state = stream.snapshot()
    held = [tensor.clone() for tensor in state.tensors]
    first = stream.feed(latents[:, before:])
    stream.restore(state)
    assert torch.equal(stream.feed(latents[:, before:]), first)
    assert all(torch.equal(now, then) for now, then in zip(state.tensors, held, strict=True))


def test_clips_side_by_side_equal_clips_alone() -> None:
    latents = latents_of("taew2_2", 3, clips=3)
    together = make("taew2_2").feed(latents)
    for clip in range(3):
        alone = frame_by_frame("taew2_2", latents[clip : clip + 1])
        torch.testing.assert_close(together[clip : clip + 1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configuration_is_read_from_the_tensors(name: str) -> None:
    read = TinyDecoderConfig.from_tensors(NETWORKS[name].state_dict(), "file")
    assert read == CONFIGS[name]
    assert TinyDecoderConfig.from_plain(read.as_plain()) == read


def test_the_published_places_of_the_tensors() -> None:
    """As others who read taew2_2 name them: three blocks a stage, then nothing, a growth, a convolution."""
    config = TinyDecoderConfig(
        48,
        (
            TinyStage(256, 3, 256, False, 1, 128),
            TinyStage(128, 3, 128, False, 2, 64),
            TinyStage(64, 3, 64, False, 2, 64),
        ),
        2,
    )
    shapes = {name: list(tensor.shape) for name, tensor in networks.tiny(config.as_plain()).state_dict().items()}
    assert shapes["decoder.1.weight"] == [256, 48, 3, 3]
    assert shapes["decoder.3.conv.0.weight"] == [256, 512, 3, 3]
    assert shapes["decoder.7.conv.weight"] == [256, 256, 1, 1]
    assert shapes["decoder.8.weight"] == [128, 256, 3, 3] and "decoder.8.bias" not in shapes
    assert shapes["decoder.13.conv.weight"] == [256, 128, 1, 1]
    assert shapes["decoder.14.weight"] == [64, 128, 3, 3]
    assert shapes["decoder.19.conv.weight"] == [128, 64, 1, 1]
    assert shapes["decoder.22.weight"] == [12, 64, 3, 3] and shapes["decoder.22.bias"] == [12]


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("decoder.1.weight", r"'decoder\.1\.weight' is missing"),
        ("decoder.6.conv.weight", r"'decoder\.6\.conv\.weight'"),
    ],
)
def test_a_lost_tensor_is_named(lost: str, words: str) -> None:
    tensors = dict(NETWORKS["taew2_2"].state_dict())
    del tensors[lost]
    with pytest.raises(CheckpointError, match=words):
        TinyDecoderConfig.from_tensors(tensors, "file")


def test_a_decoder_of_another_family_of_models_is_refused() -> None:
    config = replace(TINY, stages=tuple(replace(stage, grow=2) for stage in TINY.stages))
    tensors = filled(networks.tiny(config.as_plain())).state_dict()
    with pytest.raises(CheckpointError, match="file makes 8 frames of a latent frame; Wan's are 4"):
        TinyDecoderConfig.from_tensors(tensors, "file")


def test_latents_that_do_not_fit_are_refused() -> None:
    stream = make("taew2_2")
    with pytest.raises(ValueError, match="have 16 channels; this decoder takes 48"):
        stream.feed(torch.zeros(1, 1, 16, 3, 2))
    stream.feed(latents_of("taew2_2", 1))
    with pytest.raises(ValueError, match="do not continue the stream"):
        stream.feed(torch.zeros(1, 1, 48, 5, 2))


def test_it_is_a_streaming_decoder() -> None:
    decoder: StreamingDecoder = make("taew2_1")
    assert decoder.snapshot() == DecoderState(0, ())
    assert isinstance(NETWORKS["taew2_1"], nn.Module)
