"""Weights on disk: what is written is read again, and what is wrong is named."""

from pathlib import Path

import pytest
import torch

from everscene_engine import checkpoint
from everscene_engine.checkpoint import load_part, load_pocket_transformer, save_part, save_pocket_transformer
from everscene_engine.errors import CheckpointError
from everscene_engine.models.layout import check_values, read_header
from everscene_engine.text import PocketTextConfig, PocketTextEncoder
from tests.engine.small import TRANSFORMER, small_transformer


def save_small(folder: Path) -> None:
    text = PocketTextEncoder(PocketTextConfig(("red", "fox"), width=TRANSFORMER.text_dim, max_words=6))
    save_pocket_transformer(small_transformer(), text, folder)


def test_a_saved_model_is_read_again_to_the_bit_but_for_its_eight_bit_matrices(tmp_path: Path) -> None:
    save_small(tmp_path)
    read, text = load_pocket_transformer(tmp_path)
    assert text.config.vocabulary == ("red", "fox")
    eight_bit = checkpoint.pocket_eight_bit(read)
    for name, tensor in small_transformer().state_dict().items():
        if name in eight_bit:
            step = tensor.abs().amax(dim=1, keepdim=True) / 127
            assert ((read.state_dict()[name] - tensor).abs() <= 0.51 * step).all()  # half a step, and its rounding
        else:
            assert torch.equal(read.state_dict()[name], tensor.bfloat16().float()), name


def test_a_part_is_cut_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 100)
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(5)}
    paths = save_part(tmp_path, "thing", tensors, {"size": 3}, torch.float32)
    assert [path.name for path in paths] == [f"thing-{i}-of-3.safetensors" for i in (1, 2, 3)]
    read, config = load_part(tmp_path, "thing")
    assert config == {"size": 3}
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_a_part_has_checksums_that_find_a_damaged_tensor(tmp_path: Path) -> None:
    [path] = save_part(tmp_path, "thing", {"t": torch.zeros(20)}, {}, torch.float32)
    check_values(read_header(tmp_path, "thing"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="'t' is damaged: its checksum differs"):
        check_values(read_header(tmp_path, "thing"))


def test_a_missing_shard_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 100)
    save_part(tmp_path, "thing", {f"t{i}": torch.zeros(20) for i in range(3)}, {}, torch.float32)
    (tmp_path / "thing-2-of-3.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds 2 of the 3 files of thing"):
        load_part(tmp_path, "thing")


def test_an_empty_folder_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no transformer weights"):
        load_pocket_transformer(tmp_path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    save_small(tmp_path)
    path = tmp_path / "text-1-of-1.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"text-1-of-1\.safetensors is damaged"):
        load_pocket_transformer(tmp_path)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    save_small(tmp_path)
    tensors, config = load_part(tmp_path, "transformer")
    tensors["head.head.bias"] = torch.zeros(3)
    save_part(tmp_path, "transformer", tensors, config, torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"'head\.head\.bias' has shape \[3\]; the model wants \[16\]"):
        load_pocket_transformer(tmp_path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    save_small(tmp_path)
    tensors, config = load_part(tmp_path, "transformer")
    del tensors["blocks.1.ffn.0.bias"]
    save_part(tmp_path, "transformer", tensors, config, torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"'blocks\.1\.ffn\.0\.bias' is missing"):
        load_pocket_transformer(tmp_path)


def test_a_tensor_too_many_is_named(tmp_path: Path) -> None:
    save_small(tmp_path)
    tensors, config = load_part(tmp_path, "transformer")
    save_part(tmp_path, "transformer", {**tensors, "extra": torch.zeros(2)}, config, torch.bfloat16)
    with pytest.raises(CheckpointError, match="'extra' does not belong"):
        load_pocket_transformer(tmp_path)


def test_a_file_of_another_part_is_refused(tmp_path: Path) -> None:
    save_small(tmp_path)
    (tmp_path / "text-1-of-1.safetensors").rename(tmp_path / "transformer-1-of-1.safetensors")
    with pytest.raises(CheckpointError, match="is no transformer"):
        load_part(tmp_path, "transformer")
