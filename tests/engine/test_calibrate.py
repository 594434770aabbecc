"""Calibration: what it measures is what nvidia-modelopt measures, and the weights that come of it err less."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from everscene_bridge.cli_quantize import _prompts
from everscene_engine.conditioning import TextEmbedding
from everscene_engine.errors import CheckpointError, ConfigError, GenerationFailed
from everscene_engine.load import load
from everscene_engine.models.calibrate import Calibration, calibrate
from everscene_engine.models.layout import read_header
from everscene_engine.models.presets import preset
from everscene_engine.models.quantize import quantize
from everscene_engine.models.verify import verify
from everscene_engine.pocket import load_pocket
from everscene_engine.stored_linear import StoredLinear, linears_of, store_linears
from everscene_engine.stream import LatentStream
from everscene_engine.transformer import WanTransformer
from everscene_kernels.nvfp4_weighted import block_moments
from tests.engine.published import PRESET, write_preset
from tests.engine.small import STREAM, small_transformer

pytest.importorskip("modelopt", reason="nvidia-modelopt is not installed: pip install everscene[quantize] on Linux")
pytestmark = pytest.mark.filterwarnings("ignore")  # modelopt's own, about versions

CPU = torch.device("cpu")


def embeddings(count: int, first: int = 0) -> list[TextEmbedding]:
    made = small_transformer()
    rows = [
        torch.randn(1, 5, made.config.text_dim, generator=torch.Generator().manual_seed(first + n))
        for n in range(count)
    ]
    return [TextEmbedding(one, torch.tensor([5])) for one in rows]


def run(model: WanTransformer, prompts: Sequence[TextEmbedding], seed: int = 0) -> list[Tensor]:
    made = []
    for number, prompt in enumerate(prompts):
        stream = LatentStream(model, STREAM, seed + number)
        stream.steer(model.condition(prompt))
        for _ in range(4):
            chunk = stream.generate()
            assert chunk is not None
            made.append(chunk.latents)
    return made


@pytest.fixture(scope="module")
def measured() -> Calibration:
    return calibrate(small_transformer(), STREAM, embeddings(2))


@torch.inference_mode()
def test_ranges_are_those_of_modelopts_own_calibration(measured: Calibration) -> None:
    import modelopt.torch.quantization as mtq

    model = small_transformer()
    names = list(linears_of(model))
    mtq.quantize(model, mtq.NVFP4_DEFAULT_CFG, forward_loop=lambda made: run(made, embeddings(2)))
    for name in names:
        theirs = model.get_submodule(name).input_quantizer.amax
        assert torch.equal(measured.amax[name], theirs.float().reshape(1)), name


@torch.inference_mode()
def test_moments_are_of_all_that_a_linear_is_given(measured: Calibration) -> None:
    model, name = small_transformer(), "blocks.1.ffn.2"
    given: list[Tensor] = []
    model.get_submodule(name).register_forward_pre_hook(lambda _, args: given.append(args[0].flatten(0, -2)))
    run(model, embeddings(2))
    rows = torch.cat(given)
    assert measured.rows[name] == len(rows)
    torch.testing.assert_close(measured.moments[name], block_moments(rows), rtol=1e-4, atol=1e-3)


def test_the_model_is_left_as_it_was(measured: Calibration) -> None:
    model = small_transformer()
    calibrate(model, STREAM, embeddings(1), chunks=1)
    before = small_transformer().state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


@torch.inference_mode()
def test_calibrated_weights_make_a_world_nearer_to_the_exact_one(measured: Calibration) -> None:
    prompts = embeddings(2, first=50)
    exact = torch.cat(run(small_transformer(), prompts, seed=9))
    errors = []
    for known in (None, measured):
        model = small_transformer()
        store_linears(model, "nvfp4", known)
        errors.append(float((torch.cat(run(model, prompts, seed=9)) - exact).norm() / exact.norm()))
    assert errors[1] < 0.95 * errors[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / PRESET.name
    write_preset(made)
    return made


def test_quantize_calibrates_on_the_prompts_that_it_is_given(folder: Path, tmp_path: Path) -> None:
    [plain] = quantize(PRESET, "nvfp4", folder, out=tmp_path / "plain")
    [path] = quantize(PRESET, "nvfp4", folder, prompts=["a red fox", "a blue boat"], chunks=1)
    header = read_header(folder, "nvfp4-transformer-4step")
    assert header.config["calibrated"] == {"prompts": 2, "chunks": 1, "steps": 4}
    assert header.shapes["blocks.0.ffn.0.input_amax"] == (1,)
    assert path.read_bytes() != plain.read_bytes()
    verify(PRESET, folder, deep=True)


def test_calibrated_weights_of_pocket_are_served(tmp_path: Path) -> None:
    quantize(
        preset("pocket"),
        "nvfp4",
        tmp_path / "none",
        out=tmp_path,
        prompts=["a red fox in the harbour by day"],
        chunks=1,
    )
    engine = load("pocket", weights=tmp_path, precision="nvfp4", device="cpu")
    linear = engine._transformer.get_submodule("blocks.0.ffn.0")
    assert isinstance(linear, StoredLinear) and linear.input_amax is not None and linear.input_amax > 0
    engine.steer("a red fox in the harbour by day", "recache")
    assert engine.generate() is not None


def test_weights_made_for_other_ones_of_pocket_are_refused(tmp_path: Path) -> None:
    quantize(preset("pocket"), "fp8", tmp_path / "none", out=tmp_path)
    from everscene_engine.models.quantize import check_pocket_source

    model = load_pocket(CPU, torch.float32).transformer
    check_pocket_source(tmp_path, "fp8", model)
    with torch.no_grad():
        model.blocks[0].norm3.weight.add_(1.0)  # type: ignore[union-attr, operator]
    with pytest.raises(CheckpointError, match="everscene quantize with --format fp8, and --steps as they are served"):
        check_pocket_source(tmp_path, "fp8", model)


def test_what_cannot_be_calibrated_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="only nvfp4 is calibrated"):
        quantize(PRESET, "fp8", folder, prompts=["a red fox"])
    with pytest.raises(ConfigError, match="at least one prompt"):
        quantize(PRESET, "nvfp4", folder, prompts=[])
    broken = small_transformer()
    with torch.no_grad():
        broken.blocks[0].ffn[0].bias.fill_(torch.nan)  # type: ignore[union-attr, index]
    with pytest.raises(GenerationFailed, match="NaN or infinity"):
        calibrate(broken, STREAM, embeddings(1), chunks=1)
    monkeypatch.setitem(sys.modules, "modelopt.torch.quantization.calib", None)
    with pytest.raises(ConfigError, match=r"pip install everscene\[quantize\]"):
        calibrate(small_transformer(), STREAM, embeddings(1))


def test_prompts_come_from_the_lines_of_a_file_or_from_the_world(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red fox\n\n  a blue boat  \n", encoding="utf-8")
    assert _prompts(str(tmp_path / "prompts.txt"), of_world=False) == ["a red fox", "a blue boat"]
    text = load_pocket(CPU, torch.float32).text
    for prompt in _prompts("world", of_world=True):
        text.check(prompt)
    (tmp_path / "empty.txt").write_text("\n")
    for where, words in (("empty.txt", "holds no prompt"), ("none.txt", "cannot be read")):
        with pytest.raises(ConfigError, match=words):
            _prompts(str(tmp_path / where), of_world=True)
    with pytest.raises(ConfigError, match="are for pocket; give a file"):
        _prompts("world", of_world=False)
