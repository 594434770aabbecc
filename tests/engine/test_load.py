"""`load`: the formats that were asked for are those that the engine computes in."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from everscene_bridge.cli import app
from everscene_engine.errors import ConfigError
from everscene_engine.kv_cache_nvfp4 import NVFP4KVCache
from everscene_engine.load import load
from everscene_engine.stored_linear import format_of

PROMPT = "a red fox in the harbour by day"


def test_pocket_makes_pictures_with_weights_and_cache_in_four_bits() -> None:
    pictures = []
    for precision, kv in (("auto", "auto"), ("nvfp4", "nvfp4")):
        engine = load("pocket", seed=3, steps=2, device="cpu", precision=precision, kv=kv)
        engine.steer(PROMPT, "recache")
        chunks = [engine.generate() for _ in range(2)]
        size = engine.info.height, engine.info.width
        frames = [engine.decode(chunk).on_host(*size) for chunk in chunks if chunk is not None]
        pictures.append(np.concatenate(frames)[..., :3].astype(np.float32))
        assert format_of(engine._transformer) == (None if precision == "auto" else "nvfp4")
        assert isinstance(engine._stream._cache, NVFP4KVCache) == (kv == "nvfp4")
    off = np.sqrt(np.mean((pictures[0] - pictures[1]) ** 2))
    assert 0 < off < 40  # of 255: another picture of the same place, not noise


def test_quantize_writes_a_file_that_load_reads_and_verify_knows(tmp_path: Path) -> None:
    runner = CliRunner()
    folder = tmp_path / "pocket"
    written = runner.invoke(app, ["quantize", "pocket", "--format", "nvfp4", "--home", str(tmp_path)])
    assert written.exit_code == 0, written.output
    assert "nvfp4-transformer-1-of-1.safetensors" in written.output
    verified = runner.invoke(app, ["models", "verify", "pocket", "--deep", "--home", str(tmp_path)])
    assert verified.exit_code == 0 and "as they should be" in verified.output
    engine = load("pocket", device="cpu", weights=folder, precision="nvfp4")
    assert format_of(engine._transformer) == "nvfp4"


def test_serve_refuses_what_this_machine_cannot_do() -> None:
    result = CliRunner().invoke(app, ["serve", "--device", "cpu", "--precision", "fp8"])
    assert result.exit_code == 1
    assert "on a CPU use bf16, or nvfp4" in result.output


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="kv is 'fp8'; it is one of auto, bf16, nvfp4"):
        load("pocket", device="cpu", kv="fp8")
