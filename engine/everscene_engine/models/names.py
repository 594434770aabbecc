"""What published files call a tensor, and what we call it.

Our transformer has the names of the native Wan files, the VAE and the text encoder those of diffusers and transformers,
whose networks we run. Each rule is a pattern and its replacement; a name is taken through the first rule that matches
it whole, so every name has one meaning and an unknown one is left as it is (and then named by the loader as extra).
"""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

_Rule = tuple[re.Pattern[str], str]


def _rules(pairs: Iterable[tuple[str, str]]) -> list[_Rule]:
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


_TRANSFORMER = _rules(  # diffusers → native
    [
        (r"condition_embedder\.text_embedder\.linear_1\.(.+)", r"text_embedding.0.\1"),
        (r"condition_embedder\.text_embedder\.linear_2\.(.+)", r"text_embedding.2.\1"),
        (r"condition_embedder\.time_embedder\.linear_1\.(.+)", r"time_embedding.0.\1"),
        (r"condition_embedder\.time_embedder\.linear_2\.(.+)", r"time_embedding.2.\1"),
        (r"condition_embedder\.time_proj\.(.+)", r"time_projection.1.\1"),
        (r"scale_shift_table", r"head.modulation"),
        (r"proj_out\.(.+)", r"head.head.\1"),
        (r"blocks\.(\d+)\.scale_shift_table", r"blocks.\1.modulation"),
        (r"blocks\.(\d+)\.attn1\.to_([qkv])\.(.+)", r"blocks.\1.self_attn.\2.\3"),
        (r"blocks\.(\d+)\.attn1\.to_out\.0\.(.+)", r"blocks.\1.self_attn.o.\2"),
        (r"blocks\.(\d+)\.attn1\.(norm_[qk]\..+)", r"blocks.\1.self_attn.\2"),
        (r"blocks\.(\d+)\.attn2\.to_([qkv])\.(.+)", r"blocks.\1.cross_attn.\2.\3"),
        (r"blocks\.(\d+)\.attn2\.to_out\.0\.(.+)", r"blocks.\1.cross_attn.o.\2"),
        (r"blocks\.(\d+)\.attn2\.(norm_[qk]\..+)", r"blocks.\1.cross_attn.\2"),
        (r"blocks\.(\d+)\.norm2\.(.+)", r"blocks.\1.norm3.\2"),
        (r"blocks\.(\d+)\.ffn\.net\.0\.proj\.(.+)", r"blocks.\1.ffn.0.\2"),
        (r"blocks\.(\d+)\.ffn\.net\.2\.(.+)", r"blocks.\1.ffn.2.\2"),
    ]
)

_RESIDUAL = {"0": "norm1", "2": "conv1", "3": "norm2", "6": "conv2"}  # place in the native Sequential → diffusers

_VAE_TOP = _rules(  # native → diffusers
    [
        (r"conv1\.(.+)", r"quant_conv.\1"),
        (r"conv2\.(.+)", r"post_quant_conv.\1"),
        (r"(encoder|decoder)\.conv1\.(.+)", r"\1.conv_in.\2"),
        (r"(encoder|decoder)\.head\.0\.(.+)", r"\1.norm_out.\2"),
        (r"(encoder|decoder)\.head\.2\.(.+)", r"\1.conv_out.\2"),
        (r"(encoder|decoder)\.middle\.0\.(.+)", r"\1.mid_block.resnets.0.\2"),
        (r"(encoder|decoder)\.middle\.1\.(.+)", r"\1.mid_block.attentions.0.\2"),
        (r"(encoder|decoder)\.middle\.2\.(.+)", r"\1.mid_block.resnets.1.\2"),
        (r"encoder\.downsamples\.(\d+)\.downsamples\.([01])\.(.+)", r"encoder.down_blocks.\1.resnets.\2.\3"),
        (r"encoder\.downsamples\.(\d+)\.downsamples\.2\.(.+)", r"encoder.down_blocks.\1.downsampler.\2"),
        (r"decoder\.upsamples\.(\d+)\.upsamples\.([012])\.(.+)", r"decoder.up_blocks.\1.resnets.\2.\3"),
        (r"decoder\.upsamples\.(\d+)\.upsamples\.3\.(.+)", r"decoder.up_blocks.\1.upsampler.\2"),
        (r"encoder\.downsamples\.(\d+)\.(.+)", r"encoder.down_blocks.\1.\2"),
    ]
)
_VAE_FLAT_UP = re.compile(r"decoder\.upsamples\.(\d+)\.(.+)")  # Wan 2.1: three blocks and an upsampling, in a row
_VAE_INNER = re.compile(r"(.*)\.residual\.([0236])\.(.+)")

_TEXT = _rules(  # native → transformers
    [
        (r"token_embedding\.weight", r"shared.weight"),
        (r"norm\.weight", r"encoder.final_layer_norm.weight"),
        (r"blocks\.(\d+)\.norm1\.weight", r"encoder.block.\1.layer.0.layer_norm.weight"),
        (r"blocks\.(\d+)\.attn\.([qkvo])\.weight", r"encoder.block.\1.layer.0.SelfAttention.\2.weight"),
        (
            r"blocks\.(\d+)\.pos_embedding\.embedding\.weight",
            r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        (r"blocks\.(\d+)\.norm2\.weight", r"encoder.block.\1.layer.1.layer_norm.weight"),
        (r"blocks\.(\d+)\.ffn\.gate\.0\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_0.weight"),
        (r"blocks\.(\d+)\.ffn\.fc1\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_1.weight"),
        (r"blocks\.(\d+)\.ffn\.fc2\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wo.weight"),
    ]
)


def _apply(rules: list[_Rule], name: str) -> str:
    for pattern, replacement in rules:
        if match := pattern.fullmatch(name):
            return match.expand(replacement)
    return name


def transformer_name(name: str) -> str:
    """Our name of a transformer's tensor, from its native or its diffusers name."""
    return _apply(_TRANSFORMER, name)


def vae_name(name: str) -> str:
    """The diffusers name of a Wan VAE's tensor, from its native name (2.1 or 2.2) or its diffusers name."""
    if (match := _VAE_FLAT_UP.fullmatch(name)) and not match[2].startswith("upsamples."):
        block, place = divmod(int(match[1]), 4)
        inner = "upsamplers.0" if place == 3 else f"resnets.{place}"
        name = f"decoder.up_blocks.{block}.{inner}.{match[2]}"
    else:
        name = _apply(_VAE_TOP, name)
    if match := _VAE_INNER.fullmatch(name):
        name = f"{match[1]}.{_RESIDUAL[match[2]]}.{match[3]}"
    return name.replace(".shortcut.", ".conv_shortcut.")


def text_name(name: str) -> str:
    """The transformers name of a umT5 encoder's tensor, from its native or its transformers name."""
    return _apply(_TEXT, name)


def renamed(tensors: Mapping[str, Tensor], name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """The same tensors under their new names."""
    return {name_of(name): tensor for name, tensor in tensors.items()}
