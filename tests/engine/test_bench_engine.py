"""The engine's bench runs its parts and says what it measured; figures themselves are nobody's test."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everscene_engine.bench_engine import BenchOptions, parse, run
from everscene_engine.bench_profile import kind_of
from everscene_engine.bench_run import make_world
from everscene_engine.errors import ConfigError
from everscene_engine.models.presets import preset
from everscene_engine.random_models import random_decoder, resized
from everscene_engine.stored_linear import format_of

SMALL = BenchOptions("pocket", size="32x32", steps=1, path="plain", decoder="tiny", chunks=1, device="cpu")


def test_every_part_reports_and_the_summary_comes_last() -> None:
    results = {str(result["part"]): result for result in run(SMALL)}
    assert list(results) == ["machine", "options", "model", "start", "steady", "stages", "ceilings", "summary"]
    assert not [part for part, result in results.items() if "error" in result]
    assert results["model"]["pixels"] == "32x32"
    assert set(results["summary"]) >= {"fps", "denoise_fps", "first_frame_s", "times_the_floor"}


def test_a_part_that_fails_says_so_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no ceiling here")

    monkeypatch.setattr("everscene_engine.bench_engine.ceilings", broken)
    results = {str(result["part"]): result for result in run(SMALL)}
    assert results["ceilings"]["error"] == "RuntimeError: no ceiling here"
    assert "fps" in results["summary"]


def test_a_size_is_in_pixels_and_whole_tokens() -> None:
    stream = preset("longlive2-5b").stream
    small = resized(stream, "832x480")
    assert (small.width, small.height) == (832, 480)
    with pytest.raises(ConfigError, match="width is 840; it must be a multiple of 32"):
        resized(stream, "840x480")
    with pytest.raises(ConfigError, match="size is 'big'"):
        resized(stream, "big")


def test_the_fast_path_is_measured_on_the_first_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="our kernels run on the first GPU, not on cuda:1"):
        make_world(BenchOptions(device="cuda:1"))


def test_options_come_from_a_command_line() -> None:
    options = parse(["--model", "pocket", "--steps", "2", "--no-graphs", "--chunks", "7"])
    assert (options.model, options.steps, options.graphs, options.chunks) == ("pocket", 2, False, 7)
    with pytest.raises(ConfigError, match="precision is 'int8'; it is one of"):
        parse(["--precision", "int8"])


@pytest.mark.parametrize("name", ["tiny", "tiny-wide"])
def test_a_random_decoder_decodes_its_models_latents(name: str) -> None:
    decoder = random_decoder(name, preset("longlive2-5b"), torch.device("cpu"), torch.float32)
    assert decoder is not None
    assert decoder.feed(torch.randn(1, 2, 48, 2, 2)).shape == (1, 5, 3, 32, 32)


def test_a_chunk_is_decoded_a_latent_frame_at_a_time_and_every_picture_copied() -> None:
    class Counting:
        """Frames whose grey is the number of times that it was fed."""

        fed = 0

        def feed(self, latents: Tensor) -> Tensor:
            self.fed += latents.shape[1] == 1
            return torch.full((1, 4, 3, 32, 32), self.fed / 127.5 - 1)

    world = make_world(SMALL)
    world.decoder = Counting()  # type: ignore[assignment]
    world.one_chunk()
    world.close()
    latent_frames = world.config.chunk_frames
    wanted = torch.arange(1, latent_frames + 1, dtype=torch.uint8).repeat_interleave(4)
    assert torch.equal(torch.from_numpy(world._ring)[:, 0, 0, 0], wanted)


def test_several_ranks_are_measured_as_one_stream() -> None:
    options = replace(SMALL, gpus=2, decoder="none", ceilings=False, check=True)
    results = {str(result["part"]): result for result in run(options)}
    assert not [part for part, result in results.items() if "error" in result]
    assert max(results["check"]["relative_error"]) < 0.01  # rows in another split may round otherwise
    with pytest.raises(ConfigError, match="6 heads cannot be shared out over 4 GPUs"):
        make_world(replace(options, gpus=4))


def test_kernels_are_sorted_by_their_names() -> None:
    assert kind_of("nvjet_qqtst_128x256_128x6_2x1_v_bz_TNT") == "matrix products"
    assert kind_of("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma") == "self-attention and cross-attention"
    assert kind_of("void at::native::elementwise_kernel") == "rest"


def test_the_plain_path_too_computes_in_the_formats_that_were_asked_for() -> None:
    world = make_world(replace(SMALL, decoder="none", precision="nvfp4", kv="nvfp4"))
    assert format_of(world.stream.transformer) == "nvfp4"
    exact = make_world(replace(SMALL, decoder="none")).stream._cache.nbytes
    assert 3.5 < exact / world.stream._cache.nbytes < 3.6
