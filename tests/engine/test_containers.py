"""Every published container is written in its own layout, read again, and converted to the same weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from everscene_engine.errors import CheckpointError, ConfigError
from everscene_engine.models import layout, networks
from everscene_engine.models.containers import read_container
from everscene_engine.models.convert import convert
from everscene_engine.models.layout import load_into, read_header
from everscene_engine.models.low_rank import merged
from everscene_engine.models.names import text_name, transformer_name, vae_name
from everscene_engine.models.packed_nvfp4 import unpack_all
from tests.engine.published import (
    PRESET,
    TEXT,
    TINY,
    TRANSFORMER,
    VAE_21,
    VAE_22,
    filled,
    native_vae_name,
    transformer_weights,
)
from tests.engine.test_transformer import diffusers_name

PART = "transformer-4step"
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of E2M1
FULL_SCALE = 6 * 256


def prefixed(weights: dict[str, Tensor], prefix: str = "model.") -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


def converted(source: Path, folder: Path, part: str = PART, **options: Any) -> dict[str, Tensor]:
    """What lies in our files after a conversion."""
    convert(PRESET, part, source, folder, **options)
    header = read_header(folder, part)
    network = networks.transformer(TRANSFORMER.__dict__)
    load_into(network, header, torch.device("cpu"), torch.bfloat16)
    return network.state_dict()


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


CONTAINERS = {
    "bf16": lambda w: {"generator": prefixed(w)},
    "merged": lambda w: {"generator": prefixed(w), "checkpoint_format": "longlive_generator_merged_lora"},
    "model_te": lambda w: {
        "model": prefixed(w),
        "metadata": {"checkpoint_format": "longlive_generator_merged_bf16", "step": 600},
    },
    "ema only": lambda w: {"generator_ema": prefixed(w, "model._fsdp_wrapped_module.")},
    "nested": lambda w: {"generator": {"model": prefixed(w)}},
    "flat": lambda w: dict(w),
    "diffusers names": lambda w: {diffusers_name(name): tensor for name, tensor in w.items()},
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_published_file_becomes_the_same_weights(kind: str, tmp_path: Path) -> None:
    weights = transformer_weights()
    torch.save(CONTAINERS[kind](weights), tmp_path / "model.pt")
    assert_same(converted(tmp_path / "model.pt", tmp_path / "ours"), weights)


@pytest.mark.parametrize("use_ema", [True, False])
def test_averaged_weights_are_taken_when_they_are_asked_for(use_ema: bool, tmp_path: Path) -> None:
    plain, averaged = transformer_weights(0), transformer_weights(1)
    ema = {name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."): tensor for name, tensor in averaged.items()}
    torch.save({"generator": prefixed(plain), "generator_ema": prefixed(ema)}, tmp_path / "model.pt")
    found = converted(tmp_path / "model.pt", tmp_path / "ours", use_ema=use_ema)
    assert_same(found, averaged if use_ema else plain)


def test_a_diffusers_folder_with_an_index_is_read_and_a_lost_tensor_named(tmp_path: Path) -> None:
    weights = transformer_weights()
    theirs = {diffusers_name(name): tensor for name, tensor in weights.items()}
    folder = tmp_path / "transformer"
    folder.mkdir()
    halves = [dict(list(theirs.items())[::2]), dict(list(theirs.items())[1::2])]
    index = {}
    for number, half in enumerate(halves):
        save_file(half, folder / f"model-{number}.safetensors")
        index |= dict.fromkeys(half, f"model-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert_same(converted(folder, tmp_path / "ours"), weights)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"tensor '.+' is missing; it should be in model-1\.safetensors"):
        convert(PRESET, PART, folder, tmp_path / "ours")


def low_rank_of(weights: dict[str, Tensor], rank: int) -> tuple[dict[str, Tensor], list[str]]:
    """Low-rank weights for every linear inside the blocks, in PEFT's names."""
    generator = torch.Generator().manual_seed(7)
    linears = [
        name.removesuffix(".weight")
        for name, tensor in weights.items()
        if name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2
    ]
    pairs: dict[str, Tensor] = {}
    for name in linears:
        out, inner = weights[f"{name}.weight"].shape
        pairs[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, inner, generator=generator) * 0.1
        pairs[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.1
    return pairs, linears


def test_low_rank_weights_are_added_to_their_base(tmp_path: Path) -> None:
    weights = transformer_weights()
    pairs, linears = low_rank_of(weights, rank=4)
    assert len(linears) == 10 * TRANSFORMER.layers
    torch.save({"generator": prefixed(weights)}, tmp_path / "base.pt")
    torch.save({"generator_lora": pairs, "critic_lora": pairs}, tmp_path / "lora.pt")
    found = converted(tmp_path / "lora.pt", tmp_path / "ours", onto=tmp_path / "base.pt", lora_alpha=8)
    for name, tensor in weights.items():
        wanted = tensor
        if (linear := name.removesuffix(".weight")) in linears:
            key = f"base_model.model.{linear}.lora_"
            wanted = (tensor.float() + 2.0 * pairs[f"{key}B.weight"] @ pairs[f"{key}A.weight"]).bfloat16()
            assert not torch.equal(wanted, tensor)
        assert torch.equal(found[name], wanted), name


def test_low_rank_weights_alone_ask_for_their_base(tmp_path: Path) -> None:
    torch.save({"generator_lora": low_rank_of(transformer_weights(), 2)[0]}, tmp_path / "lora.pt")
    with pytest.raises(CheckpointError, match="low-rank weights alone"):
        convert(PRESET, PART, tmp_path / "lora.pt", tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a.lora_A.weight": torch.zeros(2, 3)}, r"'a\.lora_B\.weight' is missing"),
        ({"b.lora_A.weight": torch.zeros(2, 3), "b.lora_B.weight": torch.zeros(3, 2)}, r"no 'b\.weight'"),
        ({"a.lora_A.weight": torch.zeros(2, 5), "a.lora_B.weight": torch.zeros(3, 2)}, r"of 'a\.weight' are \[3, 2\]"),
        ({"a.magnitude": torch.zeros(2)}, "'a.magnitude' is no low-rank tensor"),
    ],
)
def test_low_rank_weights_that_do_not_fit_are_named(change: dict[str, Tensor], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        merged({"a.weight": torch.zeros(3, 3)}, change, alpha=2)


def packed(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """A matrix packed as `model_4o6.pt` does (always with the scale for 6), by loops, and what it stands for."""
    rows, columns = weight.shape
    amax = weight.abs().max().float()
    encode = FULL_SCALE / amax
    scales = torch.zeros(rows * columns // 16, dtype=torch.float8_e4m3fn)
    values = torch.zeros(rows, columns // 2, dtype=torch.uint8)
    meant = torch.zeros(rows, columns)
    table = torch.tensor(MAGNITUDES)
    for c in range(columns // 16):
        block = weight[:, 16 * c : 16 * c + 16].float()
        scale = (block.abs().amax(1) / 6 * encode).to(torch.float8_e4m3fn)
        step = scale.float() * amax / FULL_SCALE
        codes = ((block / step[:, None]).abs()[..., None] - table).abs().argmin(-1)
        meant[:, 16 * c : 16 * c + 16] = table[codes] * block.sign() * step[:, None]
        codes = codes + 8 * (block < 0)
        values[:, 8 * c : 8 * c + 8] = (codes[:, 0::2] + 16 * codes[:, 1::2]).to(torch.uint8)
        for r in range(rows):
            place = (r // 128 * (columns // 64) + c // 4) * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4
            scales[place] = scale[r]
    return {
        "quantized_weight_values": values,
        "quantized_weight_scale_factors": scales,
        "quantized_weight_amax": amax.reshape(1),
        "quantized_weight_metadata": torch.tensor([rows, columns, rows, columns], dtype=torch.int32),
    }, meant


def test_packed_nvfp4_becomes_the_matrix_it_stands_for(tmp_path: Path) -> None:
    weights = transformer_weights()
    content, wanted = dict(weights), dict(weights)
    for name in ("blocks.0.self_attn.q", "blocks.1.ffn.0"):
        parts, meant = packed(content.pop(f"{name}.weight"))
        content |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
        wanted[f"{name}.weight"] = meant.bfloat16()
        error = (meant - weights[f"{name}.weight"].float()).norm() / weights[f"{name}.weight"].float().norm()
        assert 0.02 < error < 0.15  # four bits: about a tenth of the weight's size, so it is no copy and no nonsense
    metadata = {"checkpoint_format": "longlive_generator_nvfp4"}
    torch.save({"generator": prefixed(content), "metadata": metadata}, tmp_path / "model_4o6.pt")
    assert_same(converted(tmp_path / "model_4o6.pt", tmp_path / "ours"), wanted)


@pytest.mark.parametrize(
    ("part", "tensor", "words"),
    [
        ("amax", None, r"'a\.quantized_weight_amax' is missing"),
        (
            "values",
            torch.zeros(128, 31, dtype=torch.uint8),
            r"packed 'a\.weight' does not fit together: 128 × 64 codes",
        ),
        (
            "scale_factors",
            torch.zeros(3, dtype=torch.float8_e4m3fn),
            r"packed 'a\.weight' does not fit together: .* not 3",
        ),
    ],
)
def test_packed_nvfp4_that_does_not_fit_together_is_named(part: str, tensor: Tensor | None, words: str) -> None:
    parts, _ = packed(torch.randn(128, 64))
    content = {f"a.{name}": value for name, value in parts.items()}
    content.pop(f"a.quantized_weight_{part}")
    if tensor is not None:
        content[f"a.quantized_weight_{part}"] = tensor
    with pytest.raises(CheckpointError, match=words):
        unpack_all(content)


def test_the_state_of_transformer_engine_is_refused_with_the_reason(tmp_path: Path) -> None:
    content = {"generator": {"a": torch.zeros(1)}, "checkpoint_format": "longlive_generator_te_nvfp4"}
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="TransformerEngine; take the merged bf16 file"):
        read_container(tmp_path / "model.pt")


class Surprise:
    """Something that a weights file has no business to hold."""


def test_a_file_with_more_than_tensors_is_not_unpickled(tmp_path: Path) -> None:
    torch.save({"generator": {"a": torch.zeros(1)}, "config": Surprise()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_container(tmp_path / "model.pt")


def test_a_truncated_pickle_and_a_file_of_noise_are_named(tmp_path: Path) -> None:
    torch.save({"generator": transformer_weights()}, tmp_path / "model.pt")
    content = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "short.pt").write_bytes(content[: len(content) // 2])
    (tmp_path / "noise.pt").write_bytes(bytes(range(256)) * 40)
    for name in ("short.pt", "noise.pt", "absent.pt"):
        with pytest.raises(CheckpointError, match=name):
            read_container(tmp_path / name)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_damaged_pickle_names_the_tensor(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    weights = transformer_weights()
    torch.save(CONTAINERS[kind](weights), path)
    content = bytearray(path.read_bytes())
    wanted = weights["blocks.1.ffn.0.weight"].contiguous().view(torch.uint8).numpy().tobytes()
    content[content.index(wanted) + 7] ^= 0x10
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"model\.pt: tensor '.*blocks\.1\.ffn\..*' is damaged: its checksum"):
        read_container(path)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.99])
def test_a_pickle_that_is_cut_off_names_the_first_tensor_that_is_lost(part: float, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    tensors = {f"blocks.{n}": torch.full((300,), float(n)) for n in range(30)}
    tensors["eight"] = torch.ones(500).to(torch.float8_e4m3fn)
    tensors["half"] = torch.ones(2000, dtype=torch.bfloat16)
    torch.save({"generator": tensors, "step": 3}, path)
    content = path.read_bytes()
    last = content.index(torch.ones(2000, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()) + 4000
    cut = int(part * last)
    path.write_bytes(content[:cut])
    whole = [
        name
        for name, one in tensors.items()
        if content.index(one.view(torch.uint8).numpy().tobytes()) + one.nbytes <= cut
    ]
    first = list(tensors)[len(whole)]
    with pytest.raises(CheckpointError, match=rf"model\.pt: tensor 'generator\.{first}' lies past the end of the file"):
        read_container(path)


def test_a_truncated_safetensors_file_names_the_first_tensor_that_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"early": torch.zeros(4), "late": torch.zeros(400)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged: tensor 'late' lies past"):
        read_container(path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda w: w.pop("blocks.1.ffn.0.bias"), r"'blocks\.1\.ffn\.0\.bias' is missing"),
        (
            lambda w: w.update({"head.head.bias": torch.zeros(3)}),
            r"'head\.head\.bias' has shape \[3\]; the model wants \[192\]",
        ),
        (lambda w: w.update({"extra": torch.zeros(2)}), "'extra' does not belong"),
    ],
)
def test_the_first_tensor_that_is_missing_misshapen_or_extra_is_named(spoil: Any, words: str, tmp_path: Path) -> None:
    weights = transformer_weights()
    spoil(weights)
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=words):
        convert(PRESET, PART, tmp_path / "model.pt", tmp_path)


def test_every_diffusers_name_of_the_transformer_has_one_of_ours() -> None:
    for name in networks.transformer(TRANSFORMER.__dict__).state_dict():
        assert transformer_name(diffusers_name(name)) == name
        assert transformer_name(name) == name


@pytest.mark.parametrize(("config", "flat"), [(VAE_22, False), (VAE_21, True)])
def test_every_native_name_of_a_vae_becomes_that_of_diffusers(config: dict[str, Any], flat: bool) -> None:
    names = list(networks.vae(config).state_dict())
    native = [native_vae_name(name, flat) for name in names]
    assert len(set(native)) == len(names)
    assert [vae_name(name) for name in native] == names
    assert [vae_name(name) for name in names] == names
    assert not {name for name in native if "up_blocks" in name or "down_blocks" in name or "resnets" in name}


def test_native_names_of_the_wan_21_vae_agree_with_the_converter_of_diffusers() -> None:
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    names = list(networks.vae(VAE_21).state_dict())
    theirs = convert_wan_vae_to_diffusers({native_vae_name(name, True): torch.zeros(()) for name in names})
    assert set(theirs) == set(names)


@pytest.mark.parametrize(
    ("native", "wanted"),
    [  # as other readers of the published Wan 2.2 VAE name them
        ("decoder.upsamples.0.upsamples.3.resample.1.weight", "decoder.up_blocks.0.upsampler.resample.1.weight"),
        (
            "encoder.downsamples.0.downsamples.2.resample.1.weight",
            "encoder.down_blocks.0.downsampler.resample.1.weight",
        ),
        ("decoder.upsamples.1.upsamples.0.residual.2.weight", "decoder.up_blocks.1.resnets.0.conv1.weight"),
        ("decoder.upsamples.0.upsamples.3.time_conv.weight", "decoder.up_blocks.0.upsampler.time_conv.weight"),
        ("decoder.middle.0.residual.0.gamma", "decoder.mid_block.resnets.0.norm1.gamma"),
    ],
)
def test_known_names_of_the_wan_22_vae(native: str, wanted: str) -> None:
    assert vae_name(native) == wanted


def native_text_name(name: str) -> str:
    for theirs, native in (
        ("encoder.final_layer_norm", "norm"),
        ("shared", "token_embedding"),
        (".layer.0.layer_norm", ".norm1"),
        (".layer.1.layer_norm", ".norm2"),
        (".layer.0.SelfAttention.relative_attention_bias", ".pos_embedding.embedding"),
        (".layer.0.SelfAttention", ".attn"),
        (".layer.1.DenseReluDense.wi_0", ".ffn.gate.0"),
        (".layer.1.DenseReluDense.wi_1", ".ffn.fc1"),
        (".layer.1.DenseReluDense.wo", ".ffn.fc2"),
        ("encoder.block.", "blocks."),
    ):
        name = name.replace(theirs, native)
    return name


def test_the_native_text_encoder_is_converted_with_the_sizes_that_its_tensors_tell(tmp_path: Path) -> None:
    made = filled(networks.text(TEXT)).state_dict()
    made.pop("encoder.embed_tokens.weight", None)
    native = {native_text_name(name): tensor for name, tensor in made.items()}
    assert [text_name(name) for name in native] == list(made)
    torch.save(native, tmp_path / "models_t5.pth")
    convert(PRESET, "text", tmp_path / "models_t5.pth", tmp_path)
    header = read_header(tmp_path, "text")
    assert header.config == TEXT
    assert set(header.shapes) == set(made)


@pytest.mark.parametrize(("part", "config", "flat"), [("vae", VAE_22, False), ("vae", VAE_21, True)])
def test_a_native_vae_is_converted_with_the_sizes_that_its_tensors_tell(
    part: str, config: dict[str, Any], flat: bool, tmp_path: Path
) -> None:
    made = filled(networks.vae(config)).state_dict()
    torch.save({native_vae_name(name, flat): tensor for name, tensor in made.items()}, tmp_path / "vae.pth")
    convert(PRESET, part, tmp_path / "vae.pth", tmp_path)
    header = read_header(tmp_path, part)
    assert header.config == config
    network = networks.vae(header.config)
    load_into(network, header, torch.device("cpu"), torch.float32)
    assert_same(network.state_dict(), made)


def test_a_pruned_vae_is_unwrapped_and_its_training_heads_are_left_out(tmp_path: Path) -> None:
    config = {**VAE_22, "decoder_base_dim": 4}
    made = filled(networks.vae(config)).state_dict()
    heads = {"dynamic_feature_projection_heads.0.weight": torch.zeros(2, 2)}
    torch.save({"state_dict": {"gen_model": {**made, **heads}}}, tmp_path / "light.pth")
    convert(PRESET, "lightvae2", tmp_path / "light.pth", tmp_path)
    assert read_header(tmp_path, "lightvae2").config == config


def test_a_vae_without_its_encoder_is_converted_as_a_decoder(tmp_path: Path) -> None:
    made = filled(networks.vae({**VAE_22, "has_encoder": False})).state_dict()
    assert not any(name.startswith(("encoder", "quant_conv")) for name in made)
    torch.save(made, tmp_path / "light.pth")
    convert(PRESET, "lightvae", tmp_path / "light.pth", tmp_path)
    assert read_header(tmp_path, "lightvae").config["has_encoder"] is False


def test_a_tiny_decoder_is_converted_without_the_encoder_beside_it(tmp_path: Path) -> None:
    made = filled(networks.tiny(TINY.as_plain())).state_dict()
    assert "decoder.3.conv.4.bias" in made and "decoder.6.conv.weight" in made
    torch.save({**made, "encoder.0.weight": torch.zeros(64, 12, 3, 3)}, tmp_path / "taew2_2.pth")
    convert(PRESET, "tiny", tmp_path / "taew2_2.pth", tmp_path)
    header = read_header(tmp_path, "tiny")
    assert header.config == json.loads(json.dumps(TINY.as_plain()))
    assert set(header.shapes) == set(made)


def test_a_tokenizer_is_copied_and_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "umt5-xxl"
    source.mkdir()
    with pytest.raises(CheckpointError, match="is no tokenizer"):
        convert(PRESET, "tokenizer", source, tmp_path)
    (source / "tokenizer.json").write_text("{}")
    assert convert(PRESET, "tokenizer", source, tmp_path) == [tmp_path / "tokenizer" / "tokenizer.json"]


@pytest.mark.parametrize("part", ["transformer-7step", "transformer-manystep", "sound"])
def test_a_part_that_is_none_is_refused(part: str, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"7 steps|transformer-4step|no such part"):
        convert(PRESET, part, tmp_path / "a.pt", tmp_path)


def test_large_parts_are_written_as_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "FILE_BYTES", 100_000)
    weights = transformer_weights()
    torch.save(weights, tmp_path / "model.pt")
    assert_same(converted(tmp_path / "model.pt", tmp_path), weights)
    paths = sorted(tmp_path.glob(f"{PART}-*.safetensors"))
    assert len(paths) > 3
    paths[1].unlink()
    with pytest.raises(CheckpointError, match=rf"{len(paths) - 1} of the {len(paths)} files"):
        read_header(tmp_path, PART)
