"""What the doctor says of a machine's device, kernels and memory."""

from pathlib import Path

import pytest

from everscene_engine import doctor
from everscene_engine.models.presets import preset
from everscene_engine.precision import Machine

LARGE = preset("longlive2-5b")
HOPPER = {"gpu": "H200", "gpu_gb": 150.0, "capability": "9.0", "driver": "570", "torch": "2.11", "cuda": "12.8"}


def test_a_gpu_is_named_with_its_driver() -> None:
    finding = doctor.device_finding(HOPPER, Machine((9, 0), 150e9, True), "bfloat16")
    assert finding.state == "ok"
    assert "H200, 150.0 GB, compute capability 9.0, driver 570" in finding.found


def test_a_cpu_without_bfloat16_is_told() -> None:
    facts = {"processor": "x86_64", "threads": 2, "torch": "2.13"}
    assert doctor.device_finding(facts, Machine(), "bfloat16").state == "ok"
    assert "float32 alone" in doctor.device_finding(facts, Machine(), "float32").advice


@pytest.mark.parametrize(
    ("here", "cudnn", "state", "words"),
    [
        (Machine((9, 0), 150e9, True), True, "ok", "FP8 attention by cuDNN"),
        (Machine((9, 0), 150e9, True), False, "note", "FP8 attention by Triton"),
        (Machine((8, 0), 80e9, True), True, "note", "NVFP4 weights"),
        (Machine((9, 0), 150e9, False), True, "problem", "no Triton"),
    ],
)
def test_the_kernels_are_those_that_the_gpu_can_run(here: Machine, cudnn: bool, state: str, words: str) -> None:
    finding = doctor.kernel_finding(here, cudnn)
    assert finding.state == state and words in finding.found


@pytest.mark.parametrize(
    ("gigabytes", "state", "words"),
    [
        (150, "ok", "auto takes fp8 + bf16 cache"),
        (42, "ok", "auto takes fp8 + nvfp4 cache"),
        (24, "note", "--decoder tiny and --text-device cpu"),
        (8, "problem", "take a smaller model"),
    ],
)
def test_a_model_fits_or_the_doctor_says_what_to_do(gigabytes: int, state: str, words: str) -> None:
    finding = doctor.fit_finding(LARGE, Machine((9, 0), gigabytes * 1e9, True))
    assert finding.state == state and words in finding.found + finding.advice


def test_without_triton_no_formats_are_counted_that_need_it() -> None:
    finding = doctor.fit_finding(LARGE, Machine((9, 0), 42e9, False))
    assert "nvfp4" not in finding.found
    assert finding.state == "note" and "--decoder tiny" in finding.advice


def test_without_a_gpu_a_large_model_is_not_for_this_machine() -> None:
    assert "take pocket" in doctor.fit_finding(LARGE, Machine()).advice
    assert doctor.fit_finding(preset("pocket"), Machine()).state == "ok"


def test_missing_weights_are_named_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    [found] = [one for one in doctor.examine(tmp_path) if one.what == "weights of longlive-1.3b"]
    assert found.state == "note" and "lacks transformer-4step" in found.found
    assert found.advice == "everscene models pull longlive-1.3b"
