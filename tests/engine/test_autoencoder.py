"""The pocket autoencoder, its streaming decoder and the way to pixels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from everscene_engine.autoencoder import Autoencoder, AutoencoderConfig, load_autoencoder, save_autoencoder
from everscene_engine.decoder import DecoderState, PocketDecoder, StreamingDecoder, frames_to_rgba8
from everscene_engine.errors import CheckpointError, ConfigError

SMALL = AutoencoderConfig(
    height=24,
    width=40,
    latent_channels=5,
    widths=(6, 8, 10),
    encoder_blocks=(1, 1, 1),
    decoder_blocks=(1, 2, 1),
)
# Batched and single convolutions may take different summation orders; values are of order one.
TOLERANCE: dict[str, Any] = {"rtol": 0.0, "atol": 2e-5}


def lively(config: AutoencoderConfig, seed: int = 0) -> Autoencoder:
    """An autoencoder in which every weight matters: blocks are born as identities and hide their memory."""
    torch.manual_seed(seed)
    model = Autoencoder(config)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            assert module.bias is not None
            nn.init.normal_(module.bias, std=0.1)
    model.latent_mean.uniform_(-1.0, 1.0)
    model.latent_std.uniform_(0.5, 2.0)
    for layer in (model.decoder.leave, model.encoder.leave):
        layer.weight.data.mul_(0.1)  # keeps frames inside −1..1, where clamping hides nothing
    return model.requires_grad_(False)


@pytest.fixture
def small() -> Autoencoder:
    return lively(SMALL)


def some_latents(frames: int, batch: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(batch, frames, *SMALL.latent_shape, generator=torch.Generator().manual_seed(seed))


def some_frames(count: int, batch: int = 1, seed: int = 2) -> Tensor:
    shape = (batch, count, 3, SMALL.height, SMALL.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_four_frames_make_one_latent_frame(small: Autoencoder) -> None:
    latents = small.encode(some_frames(12, batch=2))
    assert latents.shape == (2, 3, 5, 3, 5)
    assert small.decode(latents).shape == (2, 12, 3, 24, 40)


def test_default_config_is_the_pocket_size() -> None:
    config = AutoencoderConfig()
    assert config.latent_shape == (24, 18, 32)
    assert config.stride == 8


def test_encoder_and_decoder_stay_within_their_budget_of_weights() -> None:
    model = Autoencoder()
    assert sum(p.numel() for p in model.encoder.parameters()) <= 700_000
    assert sum(p.numel() for p in model.decoder.parameters()) <= 800_000


def test_decoder_stays_within_its_budget_of_work() -> None:
    model = Autoencoder()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.decode(torch.zeros(1, 1, *model.config.latent_shape))
    assert counter.get_total_flops() <= 3.0e9
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.encode(torch.zeros(1, 4, 3, 144, 256))
    assert counter.get_total_flops() <= 6.0e9


def test_later_frames_do_not_change_earlier_latents(small: Autoencoder) -> None:
    frames = some_frames(16)
    changed = frames.clone()
    changed[:, 8:] = some_frames(8, seed=3)
    before, after = small.encode(frames), small.encode(changed)
    torch.testing.assert_close(before[:, :2], after[:, :2], **TOLERANCE)
    assert (before[:, 2:] - after[:, 2:]).abs().amax(dim=(0, 2, 3, 4)).min() > 1e-3


def test_later_latents_do_not_change_earlier_frames(small: Autoencoder) -> None:
    latents = some_latents(4)
    changed = latents.clone()
    changed[:, 2:] = some_latents(2, seed=3)
    torch.testing.assert_close(small.decode(latents)[:, :8], small.decode(changed)[:, :8], **TOLERANCE)


def test_decoder_remembers_the_latent_frame_before(small: Autoencoder) -> None:
    latents = some_latents(2)
    alone = small.decode(latents[:, 1:])
    assert (small.decode(latents)[:, 4:] - alone).abs().max() > 1e-3


def test_memory_reaches_only_as_far_as_there_are_blocks(small: Autoencoder) -> None:
    reach = sum(SMALL.decoder_blocks)
    latents = some_latents(reach + 2)
    changed = latents.clone()
    changed[:, 0] = some_latents(1, seed=3)[:, 0]
    difference = (small.decode(latents) - small.decode(changed)).abs().amax(dim=(0, 2, 3, 4))
    assert difference[4 * (reach + 1) :].max() <= 2e-5
    assert difference[4 * reach - 4 : 4 * reach].max() > 1e-6


def test_batch_rows_do_not_mix(small: Autoencoder) -> None:
    latents = some_latents(3, batch=3)
    together = small.decode(latents)
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], small.decode(latents[row : row + 1]), **TOLERANCE)


def test_statistics_are_undone_by_decode(small: Autoencoder) -> None:
    latents = some_latents(2)
    raw = latents * small.latent_std.view(-1, 1, 1) + small.latent_mean.view(-1, 1, 1)
    torch.testing.assert_close(small.decode(latents), small.decode_raw(raw)[0].clamp(-1, 1), **TOLERANCE)
    frames = some_frames(8)
    normalised = (small.encode_raw(frames) - small.latent_mean.view(-1, 1, 1)) / small.latent_std.view(-1, 1, 1)
    torch.testing.assert_close(small.encode(frames), normalised, **TOLERANCE)


def test_wild_latents_still_decode_to_frames_in_range(small: Autoencoder) -> None:
    frames = small.decode(some_latents(2) * 1e6)
    assert torch.isfinite(frames).all()
    assert frames.abs().max() <= 1.0


@pytest.mark.parametrize("shape", [(1, 6, 3, 24, 40), (1, 4, 3, 20, 40), (1, 4, 3, 24, 36)])
def test_frames_that_do_not_divide_are_refused(small: Autoencoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiple"):
        small.encode(torch.zeros(shape))


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 100},
        {"widths": (6, 8)},
        {"widths": (7, 8, 10)},
        {"latent_channels": 0},
        {"latent_bound": 0.0},
    ],
)
def test_config_refuses_sizes_that_cannot_work(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="must"):
        AutoencoderConfig(**wrong)  # type: ignore[arg-type]


def test_saved_autoencoder_loads_with_its_config(small: Autoencoder, tmp_path: Path) -> None:
    save_autoencoder(small, tmp_path / "ae.safetensors")
    loaded = load_autoencoder(tmp_path / "ae.safetensors")
    assert loaded.config == SMALL
    latents = some_latents(2)
    torch.testing.assert_close(loaded.decode(latents), small.decode(latents), **TOLERANCE)


def test_bfloat16_file_keeps_exact_statistics(small: Autoencoder, tmp_path: Path) -> None:
    save_autoencoder(small, tmp_path / "ae.safetensors", torch.bfloat16)
    loaded = load_autoencoder(tmp_path / "ae.safetensors")
    assert torch.equal(loaded.latent_std, small.latent_std)
    weight = small.decoder.leave.weight
    assert torch.equal(loaded.decoder.leave.weight, weight.bfloat16().float())
    half = load_autoencoder(tmp_path / "ae.safetensors", dtype=torch.bfloat16)
    assert half.decode(some_latents(1)).dtype == torch.bfloat16


def test_file_without_our_config_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no autoencoder config"):
        load_autoencoder(tmp_path / "other.safetensors")


def test_file_that_is_missing_or_damaged_is_refused(small: Autoencoder, tmp_path: Path) -> None:
    path = tmp_path / "ae.safetensors"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_autoencoder(path)
    save_autoencoder(small, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_autoencoder(path)


def test_file_with_a_tensor_of_another_size_is_refused(small: Autoencoder, tmp_path: Path) -> None:
    small.latent_mean = torch.zeros(4)
    save_autoencoder(small, tmp_path / "ae.safetensors")
    with pytest.raises(CheckpointError, match="latent_mean"):
        load_autoencoder(tmp_path / "ae.safetensors")


def test_gradients_reach_every_weight() -> None:
    model = lively(SMALL).requires_grad_(True)
    frames = some_frames(8)
    decoded, _ = model.decode_raw(model.encode_raw(frames))
    torch.autograd.backward((decoded - frames).square().mean())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# The streaming decoder


def test_stream_fed_one_by_one_equals_parallel_decode(small: Autoencoder) -> None:
    latents = some_latents(5, batch=2)
    decoder: StreamingDecoder = PocketDecoder(small)
    streamed = torch.cat([decoder.feed(latents[:, k : k + 1]) for k in range(5)], dim=1)
    torch.testing.assert_close(streamed, small.decode(latents), **TOLERANCE)


@pytest.mark.parametrize("cuts", [(1, 4), (3, 2), (2, 1, 2)])
def test_stream_fed_in_uneven_pieces_equals_parallel_decode(small: Autoencoder, cuts: tuple[int, ...]) -> None:
    latents = some_latents(5)
    decoder = PocketDecoder(small)
    streamed = torch.cat([decoder.feed(piece) for piece in torch.split(latents, list(cuts), dim=1)], dim=1)
    torch.testing.assert_close(streamed, small.decode(latents), **TOLERANCE)


def test_reset_starts_a_new_stream(small: Autoencoder) -> None:
    decoder = PocketDecoder(small)
    first = decoder.feed(some_latents(2))
    decoder.reset()
    assert torch.equal(decoder.feed(some_latents(2)), first)
    assert decoder.snapshot().latent_frames == 2


def test_restore_gives_the_same_frames_again(small: Autoencoder) -> None:
    decoder = PocketDecoder(small)
    decoder.feed(some_latents(3))
    state = decoder.snapshot()
    ahead = decoder.feed(some_latents(2, seed=5))
    for _ in range(2):
        decoder.restore(state)
        assert decoder.snapshot().latent_frames == 3
        assert torch.equal(decoder.feed(some_latents(2, seed=5)), ahead)


def test_snapshot_before_the_first_latent_frame_restores_the_beginning(small: Autoencoder) -> None:
    decoder = PocketDecoder(small)
    start = decoder.snapshot()
    first = decoder.feed(some_latents(1))
    decoder.restore(start)
    assert torch.equal(decoder.feed(some_latents(1)), first)


def test_snapshot_holds_memory_of_its_own(small: Autoencoder) -> None:
    decoder = PocketDecoder(small)
    decoder.feed(some_latents(4))
    one, two = decoder.snapshot(), decoder.snapshot()
    for mine, other in zip(one.tensors, two.tensors, strict=True):
        assert mine.untyped_storage().data_ptr() != other.untyped_storage().data_ptr()
        assert mine.untyped_storage().nbytes() == mine.numel() * mine.element_size()


def test_feeding_leaves_a_snapshot_untouched(small: Autoencoder) -> None:
    decoder = PocketDecoder(small)
    decoder.feed(some_latents(1))
    state = decoder.snapshot()
    kept = [tensor.clone() for tensor in state.tensors]
    decoder.restore(state)
    decoder.feed(some_latents(2, seed=7))
    assert all(torch.equal(a, b) for a, b in zip(state.tensors, kept, strict=True))


def test_a_stream_refuses_latents_of_another_batch(small: Autoencoder) -> None:
    decoder = PocketDecoder(small)
    decoder.feed(some_latents(1))
    with pytest.raises(ValueError, match="reset"):
        decoder.feed(some_latents(1, batch=2))


def test_state_is_a_value(small: Autoencoder) -> None:
    assert DecoderState(0, ()) == PocketDecoder(small).snapshot()


# Pixels


def test_pixels_are_rgba_with_the_top_row_first() -> None:
    frames = torch.full((2, 3, 3, 5), -1.0)
    frames[1, 0, 0, 4] = 1.0  # red, top right, second frame
    frames[1, 2, 2, 0] = 0.0
    pixels = frames_to_rgba8(frames)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (2, 3, 5, 4)
    assert pixels[1, 0, 4].tolist() == [255, 0, 0, 255]
    assert pixels[1, 2, 0].tolist() == [0, 0, 128, 255]
    assert (pixels[0] == torch.tensor([0, 0, 0, 255], dtype=torch.uint8)).all()


def test_every_level_survives_the_way_to_pixels_and_back() -> None:
    levels = torch.arange(256)
    frames = (levels / 127.5 - 1.0).expand(1, 3, 1, 256)
    assert torch.equal(frames_to_rgba8(frames)[0, 0, :, 1].long(), levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_out_of_range_are_clamped(dtype: torch.dtype) -> None:
    frames = torch.tensor([-9.0, 9.0, float("nan"), float("inf")], dtype=dtype).expand(1, 1, 3, 1, 4)
    assert frames_to_rgba8(frames)[0, 0, :, 0].tolist() == [0, 255, 0, 255]


def test_pixels_leave_the_frames_as_they_were() -> None:
    frames = torch.rand(1, 3, 4, 4)
    kept = frames.clone()
    frames_to_rgba8(frames)
    assert torch.equal(frames, kept)


@pytest.mark.parametrize("shape", [(2, 1, 3, 4, 4), (3, 4, 4), (1, 4, 4, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        frames_to_rgba8(torch.zeros(shape))
