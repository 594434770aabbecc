"""The networks of a model's parts, on the meta device, and their configurations as the tensors themselves tell them.

A pruned VAE, a wider tiny decoder or a smaller text encoder is known by its shapes, never by the name of its file.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from everscene_engine.config import TransformerConfig
from everscene_engine.errors import CheckpointError
from everscene_engine.stored_linear import store_linears
from everscene_engine.tiny_decoder import TinyDecoderConfig, TinyDecoderNetwork
from everscene_engine.transformer import WanTransformer

_VAE_STEPS = [1, 2, 4, 4]  # widths of the stages, in base widths


def transformer(config: Mapping[str, Any], linears: str | None = None, calibrated: bool = False) -> WanTransformer:
    """Our transformer without weights. linears: nvfp4 or fp8 for those of the blocks to be stored so, calibrated or
    not."""
    with torch.device("meta"):
        made = WanTransformer(TransformerConfig(**config))
    if linears is not None:
        store_linears(made, linears, calibrated=calibrated)
    return made


def vae(config: Mapping[str, Any]) -> nn.Module:
    """diffusers' AutoencoderKLWan without weights; `has_encoder` False leaves out what encodes."""
    from diffusers import AutoencoderKLWan  # seconds to import, and only the large models need it

    settings = dict(config)
    has_encoder = settings.pop("has_encoder")
    with torch.device("meta"):
        network: Any = AutoencoderKLWan(**settings)  # type: ignore[no-untyped-call]
    if not has_encoder:
        del network.encoder, network.quant_conv
    made: nn.Module = network
    return made


def vae_config(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The configuration of a Wan 2.1 or 2.2 VAE, whole or pruned, from its tensors. Raises CheckpointError."""
    first = _need(tensors, "decoder.conv_in.weight", source)  # [widest, z, 3, 3, 3]
    last = _need(tensors, "decoder.conv_out.weight", source)  # [3 or 12, narrowest, 3, 3, 3]
    residual = any(".upsampler." in name for name in tensors)
    entry = tensors.get("encoder.conv_in.weight")
    decoder_base = first.shape[0] // _VAE_STEPS[-1]
    return {
        "has_encoder": entry is not None,
        "base_dim": entry.shape[0] if entry is not None else decoder_base,
        "decoder_base_dim": decoder_base,
        "z_dim": first.shape[1],
        "is_residual": residual,
        "in_channels": last.shape[0],
        "out_channels": last.shape[0],
        "patch_size": 2 if last.shape[0] == 12 else None,
    }


def text(config: Mapping[str, Any]) -> nn.Module:
    """transformers' UMT5EncoderModel without weights."""
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        network: nn.Module = UMT5EncoderModel(UMT5Config(**config))
    return network


def text_config(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The configuration of a umT5 encoder from its tensors. Raises CheckpointError."""
    first = "encoder.block.0.layer"
    vocabulary, width = _need(tensors, "shared.weight", source).shape
    inner = _need(tensors, f"{first}.0.SelfAttention.q.weight", source).shape[0]
    buckets, heads = _need(tensors, f"{first}.0.SelfAttention.relative_attention_bias.weight", source).shape
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": inner // heads,
        "num_heads": heads,
        "d_ff": _need(tensors, f"{first}.1.DenseReluDense.wi_0.weight", source).shape[0],
        "num_layers": 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.block.")),
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
    }


def tiny(config: Mapping[str, Any]) -> nn.Module:
    """The tiny decoder without weights."""
    with torch.device("meta"):
        return TinyDecoderNetwork(TinyDecoderConfig.from_plain(config))


def tiny_config(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The configuration of a tiny decoder from its tensors. Raises CheckpointError."""
    return TinyDecoderConfig.from_tensors(tensors, source).as_plain()


def _need(tensors: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"{source}: tensor '{name}' is missing")
    return tensors[name]
