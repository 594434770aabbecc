"""Which formats a machine computes in, and what it is told to use instead."""

from dataclasses import replace

import pytest
import torch

from everscene_engine.conditioning import REMEMBERED_BYTES
from everscene_engine.errors import ConfigError
from everscene_engine.memory_fit import DECODERS, cache_bytes, need, weight_bytes
from everscene_engine.models import large
from everscene_engine.models.presets import preset
from everscene_engine.precision import Formats, Machine, check_device, choose, device_of

CPU = Machine()
HOPPER = Machine((9, 0), 150e9, triton=True)
AMPERE = Machine((8, 0), 80e9, triton=True)
BARE = Machine((9, 0), 150e9, triton=False)
LARGE = preset("longlive2-5b")


def test_a_cpu_computes_on_the_plain_path() -> None:
    assert choose(CPU) == Formats("bf16", "bf16", "bf16", fast=False)
    assert choose(CPU, "nvfp4", "nvfp4") == Formats("nvfp4", "nvfp4", "bf16", fast=False)


def test_a_gpu_with_fp8_units_uses_them_for_a_large_model() -> None:
    assert choose(HOPPER) == Formats("fp8", "bf16", "bf16", fast=True)
    assert choose(HOPPER, small=True) == Formats("bf16", "bf16", "bf16", fast=True)
    assert choose(AMPERE) == Formats("bf16", "bf16", "bf16", fast=True)


def test_the_plain_path_can_be_asked_for_and_is_all_there_is_without_triton() -> None:
    assert not choose(HOPPER, path="plain").fast
    assert not choose(BARE, "bf16").fast


def test_auto_turns_to_four_bits_where_the_rest_does_not_fit() -> None:
    found = choose(HOPPER, fits=lambda precision, kv: kv == "nvfp4")
    assert (found.precision, found.kv) == ("fp8", "nvfp4")
    found = choose(HOPPER, fits=lambda precision, kv: False)
    assert (found.precision, found.kv) == ("nvfp4", "nvfp4")
    found = choose(HOPPER, "bf16", "bf16", fits=lambda precision, kv: False)
    assert (found.precision, found.kv) == ("bf16", "bf16")


def test_auto_takes_the_weights_that_are_there() -> None:
    assert choose(HOPPER, stored=["nvfp4"]).precision == "nvfp4"
    assert choose(CPU, stored=["nvfp4", "fp8"]).precision == "nvfp4"
    with pytest.raises(ConfigError, match="weights in fp8 alone"):
        choose(CPU, stored=["fp8"])


def test_auto_takes_no_nvfp4_on_a_gpu_without_triton() -> None:
    found = choose(BARE, fits=lambda precision, kv: False)
    assert (found.precision, found.kv) == ("fp8", "bf16")
    assert choose(BARE, stored=["fp8", "nvfp4"]).precision == "fp8"
    with pytest.raises(ConfigError, match="nvfp4, which on a GPU needs Triton"):
        choose(BARE, stored=["nvfp4"])


@pytest.mark.parametrize(
    ("machine", "asked", "words"),
    [
        (CPU, {"precision": "fp8"}, "on a CPU use bf16, or nvfp4"),
        (CPU, {"precision": "w4a4"}, "from compute capability 10.0 on; this is a CPU: use nvfp4"),
        (HOPPER, {"precision": "w4a4"}, "this is compute capability 9.0: use nvfp4"),
        (Machine((10, 0), 180e9, True), {"precision": "w4a4", "path": "plain"}, "fast path alone, which needs Triton"),
        (CPU, {"path": "fast"}, "on a CPU use the plain path"),
        (CPU, {"attention": "fp8"}, "of the fast path alone, on a GPU; use bf16"),
        (AMPERE, {"precision": "fp8"}, "this GPU has 8.0; use bf16, or nvfp4"),
        (AMPERE, {"attention": "fp8"}, "this GPU has 8.0; use bf16"),
        (BARE, {"path": "fast"}, r"pip install everscene\[kernels\]; or use the plain path"),
        (BARE, {"kv": "nvfp4"}, r"pip install everscene\[kernels\]; or use bf16"),
        (HOPPER, {"kv": "nvfp4", "attention": "fp8"}, "use kv bf16, or attention bf16"),
        (HOPPER, {"precision": "int8"}, "precision is 'int8'; it is one of auto, bf16, fp8, nvfp4, w4a4"),
        (HOPPER, {"kv": "fp8"}, "kv is 'fp8'; it is one of auto, bf16, nvfp4, nvfp4-smooth"),
        (BARE, {"kv": "nvfp4-smooth"}, r"pip install everscene\[kernels\]; or use bf16"),
        (HOPPER, {"kv": "nvfp4-smooth", "attention": "fp8"}, "use kv bf16, or attention bf16"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_use_instead(
    machine: Machine, asked: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        choose(machine, **asked)  # type: ignore[arg-type]


def test_a_second_gpu_is_for_the_plain_path_or_made_the_first() -> None:
    fast = choose(HOPPER)
    check_device(torch.device("cuda:0"), fast)
    check_device(torch.device("cuda:1"), choose(HOPPER, kv="bf16", path="plain"))
    with pytest.raises(ConfigError, match="not on cuda:1; start with CUDA_VISIBLE_DEVICES=1 and device cuda"):
        check_device(torch.device("cuda:1"), fast)


def test_the_large_models_memory_is_what_its_sizes_say() -> None:
    """10.0 GB of weights in bf16 and 2.94 in NVFP4, 10.38 GB of cache and 2.92: as published, and by counting."""
    assert weight_bytes(LARGE.transformer, "bf16") == pytest.approx(10.0e9, rel=0.01)
    assert weight_bytes(LARGE.transformer, "nvfp4") == pytest.approx(2.94e9, rel=0.02)
    one_layer = 10.38e9 / 30
    assert cache_bytes(LARGE.transformer, LARGE.stream, "bf16") == pytest.approx(
        10.38e9 * 10 / 8, rel=0.01
    )  # its two sinks' keys once more
    assert cache_bytes(LARGE.transformer, LARGE.stream, "nvfp4") == pytest.approx(2.92e9 + one_layer, rel=0.01)
    assert need(LARGE, "nvfp4", "nvfp4", "tiny", text=False).total < 12e9


def test_keys_of_sinks_are_counted_once_more_where_they_can_be_turned() -> None:
    stream = LARGE.stream
    a_sink = 10.38e9 / 8
    less = cache_bytes(LARGE.transformer, stream, "bf16")
    for change in ({"shot_sink": False}, {"shot_sink": False, "sink_reach": None}):
        without = cache_bytes(LARGE.transformer, replace(stream, **change), "bf16")
        assert less - without == pytest.approx(a_sink, rel=0.01)
        less = without


def test_kept_prompts_of_a_large_model_are_counted() -> None:
    assert need(LARGE, "bf16", "bf16").prompts == REMEMBERED_BYTES
    assert need(preset("pocket"), "bf16", "bf16").prompts == 0


def test_fp8_attention_keeps_the_cache_once_more() -> None:
    more = need(LARGE, "fp8", "bf16", attention="fp8").total - need(LARGE, "fp8", "bf16").total
    assert more == pytest.approx(5.19e9, rel=0.01)  # as an H100's allocator had it


def test_memory_is_known_for_every_decoder_that_can_be_loaded() -> None:
    assert set(DECODERS) == set(large.DECODERS)
    with pytest.raises(ConfigError, match="no such decoder: 'jpeg'"):
        need(LARGE, "bf16", "bf16", "jpeg")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cuda:99", "'cuda:99': torch .* sees .* GPUs here"),
        ("gpu", "there is no device 'gpu'; it is cpu, cuda, or cuda:1"),
        ("mps", "there is no device 'mps'; it is cpu, cuda, or cuda:1"),
        ("meta", "there is no device 'meta'; it is cpu, cuda, or cuda:1"),
    ],
)
def test_a_device_that_is_not_there_is_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        device_of(name)


def test_without_a_name_there_is_always_a_device() -> None:
    assert device_of(None).type in ("cpu", "cuda") and device_of("cpu") == torch.device("cpu")
