"""Models of the real sizes with random weights: speed and memory do not depend on what the weights are.

The networks are made without weights and filled on the device where they run, so that a model of ten gigabytes is there
in a second. Matrices are normal with deviation 1/√(inputs), which keeps every activation at the size that a trained
network has; norms are near one and biases near zero.
"""

from dataclasses import asdict, replace
from importlib.util import find_spec

import torch
from torch import nn

from everscene_engine.autoencoder import Autoencoder
from everscene_engine.conditioning import Conditioning, TextEmbedding
from everscene_engine.config import StreamConfig
from everscene_engine.decoder import PocketDecoder, StreamingDecoder
from everscene_engine.errors import ConfigError
from everscene_engine.models import networks
from everscene_engine.models.presets import Preset
from everscene_engine.tiny_decoder import TinyDecoder, TinyDecoderConfig, TinyDecoderNetwork, TinyStage
from everscene_engine.transformer import WanTransformer

DECODERS = ("none", "tiny", "tiny-wide", "wan", "lightvae", "lightvae2")
PROMPT_TOKENS = 64
_PADDED_TO = 512  # as the Wan models were trained
WAN_TEXT_DIM = 4096
_DECODER_WIDTHS = {"wan": 1.0, "lightvae": 0.5, "lightvae2": 0.25}  # of the stages, as parts of the whole VAE's


def resized(stream: StreamConfig, size: str | None) -> StreamConfig:
    """The stream at another picture size, WIDTHxHEIGHT in pixels; None: its own. Raises ConfigError."""
    if size is None:
        return stream
    width, _, height = size.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise ConfigError(f"size is {size!r}; it is WIDTHxHEIGHT in pixels, as 832x480")
    unit = 2 * stream.spatial_stride  # a token is two latent cells wide
    for name, pixels in (("width", int(width)), ("height", int(height))):
        if pixels == 0 or pixels % unit:
            raise ConfigError(f"{name} is {pixels}; it must be a multiple of {unit}")
    stride = stream.spatial_stride
    return replace(stream, latent_width=int(width) // stride, latent_height=int(height) // stride)


@torch.no_grad()
def fill_with_noise(module: nn.Module, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
    """Give a network made on the meta device random weights on `device`, in `dtype`."""
    module.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "norm" in name and name.endswith(("weight", "gamma")):
            parameter.normal_(1.0, 0.1, generator=generator)
        elif parameter.dim() > 1 and "modulation" not in name:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.normal_(0.0, 0.02, generator=generator)
    for buffer in module.buffers():
        buffer.zero_()
    module.requires_grad_(False).eval()


def random_transformer(preset: Preset, device: torch.device, dtype: torch.dtype, seed: int = 0) -> WanTransformer:
    """The preset's transformer with random weights."""
    model = networks.transformer(asdict(preset.transformer))
    fill_with_noise(model, device, dtype, seed)
    return model


def random_conditioning(model: WanTransformer, tokens: int = PROMPT_TOKENS, seed: int = 0) -> Conditioning:
    """A prompt of so many random text embeddings, padded as the large models were trained."""
    weight = model.patch_embedding.weight
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, model.config.text_dim, generator=generator).to(weight.device, weight.dtype)
    lengths = torch.tensor([tokens], device=weight.device)
    padded_to = _PADDED_TO if model.config.text_dim == WAN_TEXT_DIM else 0
    return model.condition(TextEmbedding(text, lengths, padded_to))


def random_decoder(name: str, preset: Preset, device: torch.device, dtype: torch.dtype) -> StreamingDecoder | None:
    """A decoder for the preset's latents: none, tiny, tiny-wide, wan, lightvae or lightvae2; pocket has only its own.

    Raises ConfigError for a decoder that there is not.
    """
    if name not in DECODERS:
        raise ConfigError(f"no such decoder: {name!r}; there is: {', '.join(DECODERS)}")
    if name == "none":
        return None
    if preset.family == "pocket":
        autoencoder = Autoencoder().to(device, dtype)
        return PocketDecoder(autoencoder.requires_grad_(False))
    if name.startswith("tiny"):
        network = networks.tiny(_tiny_config(preset, wide=name == "tiny-wide").as_plain())
        fill_with_noise(network, device, dtype)
        assert isinstance(network, TinyDecoderNetwork)
        return TinyDecoder(network)
    if find_spec("diffusers") is None:
        raise ConfigError(f"the decoder {name!r} needs diffusers: pip install everscene[large]; or take tiny")
    from everscene_engine.wan_vae import WanVAE

    vae = networks.vae(_vae_config(preset, _DECODER_WIDTHS[name]))
    fill_with_noise(vae, device, dtype)
    return WanVAE(vae)


def _tiny_config(preset: Preset, wide: bool) -> TinyDecoderConfig:
    """The sizes of `taew2_1` and `taew2_2`; wide: twice the channels in blocks of the wide kind, an upper bound."""
    widths = (512, 256, 128) if wide else (256, 128, 64)
    group = 64
    outs = (*widths[1:], widths[-1])
    stages = tuple(
        TinyStage(width, 3, group if wide else width, wide, grow, out)
        for width, grow, out in zip(widths, (1, 2, 2), outs, strict=True)
    )
    channels = preset.transformer.channels
    return TinyDecoderConfig(channels, stages, patch=2 if preset.family == "wan2.2" else 1)


def _vae_config(preset: Preset, width: float) -> dict[str, object]:
    residual = preset.family == "wan2.2"
    return {
        "has_encoder": False,
        "base_dim": int((160 if residual else 96) * width),
        "decoder_base_dim": int((256 if residual else 96) * width),
        "z_dim": preset.transformer.channels,
        "is_residual": residual,
        "in_channels": 12 if residual else 3,
        "out_channels": 12 if residual else 3,
        "patch_size": 2 if residual else None,
    }
