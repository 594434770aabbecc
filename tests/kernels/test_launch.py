"""Which tensors kernels take, and on which GPU they are launched. Needs no GPU: tensors are faked."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from everscene_kernels import launch


def on(device: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    place = torch.device(device)
    return SimpleNamespace(is_cuda=place.type == "cuda", device=place, dtype=dtype)


def test_kernels_take_tensors_on_a_gpu_where_triton_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_has_triton", lambda: True)
    assert launch.has_kernels(on("cuda:0"), on("cuda:0"))
    assert not launch.has_kernels(on("cuda:0"), on("cpu"))
    monkeypatch.setattr(launch, "_has_triton", lambda: False)
    assert not launch.has_kernels(on("cuda:0"))


def test_they_are_for_bfloat16_unless_another_dtype_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_has_triton", lambda: True)
    wide = on("cuda:0", torch.float32)
    assert not launch.has_kernels(wide) and launch.has_kernels(wide, dtype=None)


def test_a_launch_for_another_gpu_than_the_current_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    launch.check_launch(on("cuda:0"))
    with pytest.raises(ValueError, match="on the current GPU, cuda:0, and this tensor is on cuda:1"):
        launch.check_launch(on("cuda:1"))


def test_the_gpu_of_a_tensor_is_made_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", lambda place: nullcontext(made.append(place)))
    with launch.on_gpu_of(on("cuda:1")), launch.on_gpu_of(on("cpu")):
        assert made == [torch.device("cuda:1")]
