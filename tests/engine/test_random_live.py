"""The live engine with random weights, for measuring."""

import pytest
import torch

from everscene_engine.errors import ConfigError
from everscene_engine.random_live import RandomText, load_random


def test_it_generates_and_decodes_like_any_other() -> None:
    engine = load_random("pocket", "plain", steps=1, device="cpu")
    engine.steer("anything at all", "recache")
    chunk = engine.generate()
    assert chunk is not None
    frames = engine.decode(chunk).on_host(engine.info.height, engine.info.width)
    assert frames.shape == (8, 144, 256, 4)


def test_a_prompt_has_one_embedding() -> None:
    text = RandomText(32, torch.float32)
    one, other = text.encode(["a", "b"]).tokens
    assert torch.equal(one, text.encode(["a"]).tokens[0]) and not torch.equal(one, other)


@pytest.mark.parametrize(("path", "decoder"), [("quick", None), ("plain", "none")])
def test_what_cannot_be_is_refused(path: str, decoder: str | None) -> None:
    with pytest.raises(ConfigError):
        load_random("pocket", path, device="cpu", decoder=decoder)


def test_its_fast_path_is_for_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="our kernels run on the first GPU, not on cuda:1"):
        load_random("longlive2-5b", "fp8", device="cuda:1")
