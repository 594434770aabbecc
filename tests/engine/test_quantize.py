"""`everscene quantize`: what it writes is loaded, verified, and computes what was quantised in memory."""

from pathlib import Path

import pytest
import torch

from everscene_engine.errors import CheckpointError, ConfigError
from everscene_engine.models.large import load_large
from everscene_engine.models.layout import load_into, read_header, write_part
from everscene_engine.models.networks import transformer
from everscene_engine.models.presets import preset
from everscene_engine.models.quantize import quantize
from everscene_engine.models.verify import verify, verify_part
from everscene_engine.stored_linear import format_of, store_linears
from tests.engine.published import PRESET, TRANSFORMER, transformer_weights, write_preset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / PRESET.name
    write_preset(made)
    for format in ("nvfp4", "fp8"):
        quantize(PRESET, format, made)
    return made


@pytest.mark.parametrize("format", ["nvfp4", "fp8"])
def test_what_is_written_is_what_quantising_in_memory_gives(folder: Path, format: str) -> None:
    plain = transformer(TRANSFORMER.__dict__)
    load_into(plain, read_header(folder, "transformer-4step"), CPU, torch.bfloat16)
    store_linears(plain, format)
    loaded = load_large(PRESET, folder, CPU, torch.bfloat16, linears=format).transformer
    assert format_of(loaded) == format
    wanted = plain.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == wanted[name].dtype, name
        assert torch.equal(tensor.contiguous().view(torch.uint8), wanted[name].contiguous().view(torch.uint8)), name


def test_verify_knows_the_stored_parts(folder: Path) -> None:
    counts = verify(PRESET, folder, deep=True)
    linears = 10 * TRANSFORMER.layers
    assert counts["nvfp4-transformer-4step"] == counts["transformer-4step"] + 2 * linears
    assert counts["fp8-transformer-4step"] == counts["transformer-4step"] + linears


def test_verify_names_a_damaged_tensor_of_a_stored_part(folder: Path, tmp_path: Path) -> None:
    [path] = quantize(PRESET, "nvfp4", folder, out=tmp_path)
    header = read_header(tmp_path, "nvfp4-transformer-4step")
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x55
    path.write_bytes(bytes(content))
    assert header.config["linears"] == "nvfp4"
    with pytest.raises(CheckpointError, match="is damaged: its checksum differs"):
        verify_part(PRESET, "nvfp4-transformer-4step", tmp_path, deep=True)


def test_the_stored_part_alone_is_enough_to_load(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("transformer-"):
            target = tmp_path / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert format_of(load_large(PRESET, tmp_path, CPU, torch.float32, linears="fp8").transformer) == "fp8"
    verify(PRESET, tmp_path)


def test_a_stored_part_of_other_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    write_preset(tmp_path)
    quantize(PRESET, "fp8", tmp_path)
    tensors = dict(transformer_weights(seed=5))
    write_part(tmp_path, "transformer-4step", tensors, TRANSFORMER.__dict__)
    for act in (
        lambda: load_large(PRESET, tmp_path, CPU, torch.float32, linears="fp8"),
        lambda: verify(PRESET, tmp_path),
    ):
        with pytest.raises(CheckpointError, match="was made from other weights than transformer-4step"):
            act()


def test_pocket_is_quantised_from_the_weights_in_the_package(tmp_path: Path) -> None:
    pocket = preset("pocket")
    [path] = quantize(pocket, "nvfp4", tmp_path / "none", out=tmp_path)
    assert path.name == "nvfp4-transformer-1-of-1.safetensors"
    assert verify(pocket, tmp_path, deep=True).keys() == {"nvfp4-transformer"}


def test_what_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format is 'int4'; it is nvfp4 or fp8"):
        quantize(PRESET, "int4", tmp_path)
    with pytest.raises(CheckpointError, match="`everscene models pull longlive2-5b` fetches it"):
        quantize(PRESET, "fp8", tmp_path)
    with pytest.raises(ConfigError, match="no weights for 3 steps"):
        quantize(PRESET, "fp8", tmp_path, steps=3)
    with pytest.raises(ConfigError, match="there is no device 'gpu'; it is cpu, cuda"):
        quantize(PRESET, "fp8", tmp_path, device="gpu")
