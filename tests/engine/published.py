"""Small random weights in the layouts of the published files, for the tests of the large models."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everscene_engine.config import TransformerConfig
from everscene_engine.models import networks
from everscene_engine.models.layout import write_part
from everscene_engine.models.presets import Preset, preset
from everscene_engine.tiny_decoder import TinyDecoderConfig, TinyStage

TRANSFORMER = TransformerConfig(dim=128, ffn_dim=256, layers=2, heads=2, channels=48, text_dim=32, freq_dim=64)
PRESET: Preset = replace(preset("longlive2-5b"), transformer=TRANSFORMER)
VAE_22: dict[str, Any] = {
    "has_encoder": True,
    "base_dim": 8,
    "decoder_base_dim": 8,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
}
VAE_21: dict[str, Any] = {**VAE_22, "z_dim": 16, "is_residual": False, "in_channels": 3, "out_channels": 3}
VAE_21["patch_size"] = None
TEXT: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 32,
    "d_kv": 8,
    "num_heads": 4,
    "d_ff": 48,
    "num_layers": 2,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}
TINY = TinyDecoderConfig(
    48,
    (TinyStage(16, 2, 16, False, 1, 8), TinyStage(8, 2, 8, False, 2, 8), TinyStage(8, 1, 8, False, 2, 8)),
    patch=2,
)


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    """A network of the meta device with small random weights, each of its own scale."""
    module = module.to_empty(device="cpu").requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        spread = max(tensor[0].numel(), 1) ** -0.5 if tensor.ndim > 1 else 0.1
        level = 1.0 if re.search(r"gamma$|norm.*weight$", name) else 0.0
        tensor.copy_(level + spread * torch.randn(tensor.shape, generator=generator))
    return module


def transformer_weights(seed: int = 0) -> dict[str, Tensor]:
    """In our names, which are the native ones, in bf16."""
    made = filled(networks.transformer(TRANSFORMER.__dict__), seed)
    return {name: tensor.bfloat16() for name, tensor in made.state_dict().items()}


def native_vae_name(name: str, flat: bool) -> str:
    """What the published Wan 2.1 (flat) and 2.2 files call a tensor that diffusers calls `name`.

    The inverse of what is tested, written on its own.
    """
    fixed = {
        "quant_conv": "conv1",
        "post_quant_conv": "conv2",
        "conv_in": "conv1",
        "norm_out": "head.0",
        "conv_out": "head.2",
        "mid_block.resnets.0": "middle.0",
        "mid_block.attentions.0": "middle.1",
        "mid_block.resnets.1": "middle.2",
    }
    for theirs, native in fixed.items():
        name = re.sub(rf"(^|\.){re.escape(theirs)}\.", rf"\g<1>{native}.", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"downsamples.\1.downsamples.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsampler", r"downsamples.\1.downsamples.2", name)
    name = re.sub(r"up_blocks\.(\d)\.upsampler\.", r"upsamples.\1.upsamples.3.", name)
    if ".upsamplers." in name or re.search(r"up_blocks\.\d\.resnets", name):
        return _native_up(name, flat)
    name = re.sub(r"down_blocks\.(\d+)\.", r"downsamples.\1.", name)
    return _native_inner(name)


def _native_up(name: str, flat: bool) -> str:
    match = re.match(r"decoder\.up_blocks\.(\d)\.(?:resnets\.(\d)|upsamplers\.0)\.(.+)", name)
    assert match is not None
    stage, place = int(match[1]), int(match[2]) if match[2] else 3
    if flat:
        return _native_inner(f"decoder.upsamples.{4 * stage + place}.{match[3]}")
    return _native_inner(f"decoder.upsamples.{stage}.upsamples.{place}.{match[3]}")


def _native_inner(name: str) -> str:
    if "downsamples" in name or "upsamples" in name or "middle" in name:
        for theirs, place in {"norm1": 0, "conv1": 2, "norm2": 3, "conv2": 6}.items():
            name = re.sub(rf"\.{theirs}\.(gamma|weight|bias)$", rf".residual.{place}.\1", name)
    return name.replace(".conv_shortcut.", ".shortcut.")


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of the real kind with a few words, in the files that the published one has."""
    from transformers import T5Tokenizer

    words = ["a", "red", "fox", "storm", "harbour", "The", "scene", "transitions."]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *((f"▁{word}", -2.0) for word in words)]
    vocabulary += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz."]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder)


def write_preset(folder: Path) -> Preset:
    """A whole small preset as `convert` leaves it, every decoder with it: two latent rows and columns of tokens."""
    config = replace(PRESET.stream, latent_height=4, latent_width=4, chunk_frames=2, sink_reach=60)
    for steps in PRESET.step_choices:
        write_part(folder, f"transformer-{steps}step", transformer_weights(steps), asdict(TRANSFORMER), torch.bfloat16)
    for part, settings in (("vae", VAE_22), ("lightvae2", {**VAE_22, "decoder_base_dim": 4, "has_encoder": False})):
        write_part(folder, part, filled(networks.vae(settings)).state_dict(), settings)
    write_part(folder, "tiny", filled(networks.tiny(TINY.as_plain())).state_dict(), TINY.as_plain())
    text = filled(networks.text(TEXT)).state_dict()
    text.pop("encoder.embed_tokens.weight", None)
    write_part(folder, "text", text, TEXT, torch.bfloat16)
    save_tokenizer(folder / "tokenizer")
    return replace(PRESET, stream=config)
