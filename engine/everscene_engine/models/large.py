"""A large preset from its folder of converted weights to a live engine."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from everscene_engine.config import CUT_PREFIX
from everscene_engine.decoder import StreamingDecoder
from everscene_engine.errors import CheckpointError, ConfigError
from everscene_engine.models import networks
from everscene_engine.models.convert import TOKENIZER
from everscene_engine.models.layout import fingerprint, has_part, load_into, read_header
from everscene_engine.models.packages import check_packages
from everscene_engine.models.presets import Preset
from everscene_engine.models.quantize import load_stored, stored_part
from everscene_engine.pocket import best_dtype
from everscene_engine.precision import device_of
from everscene_engine.start_image import ImageEncoder
from everscene_engine.stored_linear import store_linears
from everscene_engine.tiny_decoder import TinyDecoder, TinyDecoderNetwork
from everscene_engine.transformer import WanTransformer
from everscene_engine.umt5 import EmbeddingStore, Placement, UMT5TextEncoder, load_tokenizer
from everscene_engine.wan_vae import WanVAE

DECODERS = ("vae", "lightvae", "lightvae2", "tiny")
EMBEDDINGS = "embeddings"


@dataclass(frozen=True)
class LargeModel:
    """The parts of a large model, ready to run. image_encoder makes what encodes a start image when there is one."""

    transformer: WanTransformer
    text: UMT5TextEncoder
    decoder: StreamingDecoder
    image_encoder: Callable[[], ImageEncoder]


def load_large(
    preset: Preset,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    steps: int | None = None,
    decoder: str = "vae",
    decoder_device: torch.device | None = None,
    text_device: torch.device | None = None,
    text_placement: Placement = "keep",
    linears: str | None = None,
) -> LargeModel:
    """Load a preset from the folder that `convert` wrote.

    decoder: vae, lightvae, lightvae2 or tiny; decoder_device: where it is, None for `device`. text_device: of the text
    encoder, None for `device`; its weights are read when the first prompt comes whose embedding is not kept on disk.
    linears: nvfp4 or fp8 to hold those of the blocks so, as `everscene quantize` wrote them, or quantised here. Raises
    ConfigError for steps or a decoder that there are none for, CheckpointError naming file and tensor.
    """
    if decoder not in DECODERS:
        raise ConfigError(f"no such decoder: {decoder!r}; there is: {', '.join(DECODERS)}")
    check_packages()
    with _saying_how_to_get(preset, preset.transformer_part(steps)):
        transformer = load_transformer(preset, folder, device, dtype, steps, linears)
    with _saying_how_to_get(preset, decoder):
        frames = load_decoder(folder, decoder, decoder_device or device, dtype)
    with _saying_how_to_get(preset, "text"):
        text = load_text(folder, text_device or device, dtype, text_placement)

    def image_encoder() -> ImageEncoder:
        if isinstance(frames, WanVAE) and frames.can_encode:
            return frames
        with _saying_how_to_get(preset, "vae"):
            whole = load_decoder(folder, "vae", device, dtype)
        assert isinstance(whole, WanVAE)
        return whole

    return LargeModel(transformer, text, frames, image_encoder)


@contextmanager
def _saying_how_to_get(preset: Preset, part: str) -> Iterator[None]:
    """A CheckpointError names the command that gets the part."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {preset.how_to_get(part)}") from error


def load_transformer(
    preset: Preset,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    steps: int | None = None,
    linears: str | None = None,
) -> WanTransformer:
    """The transformer alone; see `load_large`. Raises ConfigError, CheckpointError."""
    part = preset.transformer_part(steps)
    if linears is not None and has_part(folder, stored_part(part, linears)):
        return load_stored(preset.transformer, folder, part, linears, device, dtype)
    transformer = networks.transformer(asdict(preset.transformer))
    load_into(transformer, read_header(folder, part), device, dtype)
    if linears is not None:
        store_linears(transformer, linears)
    return transformer


def load_decoder(folder: Path, part: str, device: torch.device, dtype: torch.dtype) -> WanVAE | TinyDecoder:
    """One of the decoders. Raises CheckpointError."""
    header = read_header(folder, part)
    network: Any = networks.tiny(header.config) if part == "tiny" else networks.vae(header.config)
    load_into(network, header, device, dtype)
    return TinyDecoder(network) if isinstance(network, TinyDecoderNetwork) else WanVAE(network)


def load_text(folder: Path, device: torch.device, dtype: torch.dtype, placement: Placement = "keep") -> UMT5TextEncoder:
    """The text encoder; its network comes when it is needed.

    Raises ConfigError for packages that are not installed, CheckpointError.
    """
    check_packages()
    header = read_header(folder, "text")

    def network() -> Any:
        made: Any = networks.text(header.config)
        load_into(made, header, device, dtype, {"encoder.embed_tokens.weight": "shared.weight"})
        return made

    store = EmbeddingStore(folder / EMBEDDINGS, f"{fingerprint(header)} {dtype}")
    return UMT5TextEncoder(network, load_tokenizer(folder / TOKENIZER), store, placement)


def encode_ahead(folder: Path, prompts: Sequence[str], device: str | None = None, cut: bool = True) -> int:
    """Encode prompts so that a stream finds them on disk; with `cut`, each as the first of a shot too.

    Returns how many were new. The dtype is the one that the device computes in, as in a stream. Raises ConfigError for
    a device that is not there, PromptRejected, and CheckpointError, also where not all of them could be kept.
    """
    place = device_of(device)
    text = load_text(folder, place, best_dtype(place))
    wanted: list[str] = []
    for prompt in prompts:
        text.check(prompt, CUT_PREFIX if cut else "")
        wanted += [prompt, CUT_PREFIX + prompt] if cut else [prompt]
    new = [prompt for prompt in wanted if not text.kept(prompt)]
    for prompt in wanted:
        text.encode([prompt])
    lost = [prompt for prompt in wanted if not text.kept(prompt)]
    if lost:
        raise CheckpointError(f"{len(lost)} of {len(wanted)} embeddings are not kept in {folder / EMBEDDINGS}")
    return len(new)
