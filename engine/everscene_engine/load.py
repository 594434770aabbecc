"""From the name of a model to a live engine: weights, formats, and the fast path where there is one."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from everscene_engine.decoder import PocketDecoder
from everscene_engine.errors import ConfigError
from everscene_engine.live import LiveEngine
from everscene_engine.memory_fit import ROOM, need
from everscene_engine.models.layout import has_part
from everscene_engine.models.presets import HOME, Preset, preset
from everscene_engine.models.quantize import POCKET_PART, check_pocket_source, load_stored, precisions_in, stored_part
from everscene_engine.picture import fitted
from everscene_engine.pocket import WEIGHTS, best_dtype, load_pocket
from everscene_engine.precision import Formats, check_device, choose, machine_of
from everscene_engine.start_image import PocketImageEncoder
from everscene_engine.stored_linear import FORMATS, store_linears
from everscene_engine.transformer import WanTransformer
from everscene_engine.umt5 import Placement

log = logging.getLogger(__name__)


def load(
    model: str,
    seed: int = 0,
    steps: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    weights: Path | None = None,
    decoder: str | None = None,
    start_image: Path | None = None,
    text_device: str | None = None,
    unload_text: bool = False,
    recache_depth: int | None = None,
    precision: str = "auto",
    kv: str = "auto",
    attention: str = "bf16",
    path: str = "auto",
) -> LiveEngine:
    """Load a model by its preset's name, ready to generate.

    steps: denoising steps, None for the preset's own. device: "cpu", "cuda", "cuda:1"; None takes a GPU if there is
    one. threads: CPU threads, None for torch's choice. weights: a folder other than the shipped one, or than the one
    that `everscene models pull` writes. start_image: a picture that the world begins with. Of the large models alone:
    decoder: vae, lightvae, lightvae2 or tiny; text_device: of the text encoder, None for `device`; unload_text: let go
    of it after each prompt. recache_depth: see `StreamConfig`. precision, kv, attention: formats, see `precision`.
    path: fast or plain, auto for the fast one where there can be one.
    Raises ConfigError for a name or a number that cannot be, CheckpointError for weights that cannot be read.
    """
    chosen = preset(model)
    chosen = replace(chosen, stream=replace(chosen.stream, recache_depth=recache_depth))
    if threads is not None:
        torch.set_num_threads(threads)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    asked = _Asked(precision, kv, attention, path)
    if chosen.shipped:
        if decoder is not None:
            raise ConfigError(f"{model} has one decoder; there is no {decoder!r}")
        engine = _load_pocket(chosen, place, weights, seed, steps, asked)
    else:
        from everscene_engine.models.large import load_large  # its parts import diffusers and transformers

        text_place = place if text_device is None else torch.device(text_device)
        placement: Placement = "unload" if unload_text else "keep"
        folder = weights or HOME / model
        stored = precisions_in(chosen, folder, steps)
        with_text = text_place == place and not unload_text

        def fits(precision: str, kv: str) -> bool:
            wanted = need(chosen, precision, kv, decoder or "vae", with_text).total
            return wanted <= ROOM * machine_of(place).memory

        formats = choose(machine_of(place), *asked, stored=stored, fits=fits)
        check_device(place, formats)
        linears = formats.precision if formats.precision in FORMATS else None
        dtype = best_dtype(place)
        parts = load_large(chosen, folder, place, dtype, steps, decoder or "vae", text_place, placement, linears)
        transformer = _on_path(parts.transformer, formats)
        engine = LiveEngine(
            model, transformer, parts.text, parts.decoder, chosen.stream, seed, steps, parts.image_encoder, formats.kv
        )
    if start_image is not None:
        engine.begin_with(fitted(start_image, engine.info.width, engine.info.height))
    return engine


class _Asked(NamedTuple):
    """The formats as they were asked for."""

    precision: str
    kv: str
    attention: str
    path: str


def _load_pocket(
    chosen: Preset, place: torch.device, weights: Path | None, seed: int, steps: int | None, asked: _Asked
) -> LiveEngine:
    """weights may hold no more than what `everscene quantize pocket` wrote; the rest is then the package's."""
    formats = choose(machine_of(place), *asked, small=True)
    check_device(place, formats)
    folder = weights or WEIGHTS
    stored = weights is not None and has_part(weights, stored_part(POCKET_PART, formats.precision))
    dtype = best_dtype(place)
    pocket = load_pocket(place, dtype, folder if not stored or has_part(folder, POCKET_PART) else WEIGHTS, steps)
    transformer = pocket.transformer
    if stored:
        check_pocket_source(folder, formats.precision, pocket.transformer)
        transformer = load_stored(chosen.transformer, folder, POCKET_PART, formats.precision, place, dtype)
    elif formats.precision in FORMATS:
        store_linears(transformer, formats.precision)
    encoder = PocketImageEncoder(pocket.autoencoder)
    decoder = PocketDecoder(pocket.autoencoder)
    return LiveEngine(
        chosen.name,
        _on_path(transformer, formats),
        pocket.text,
        decoder,
        chosen.stream,
        seed,
        steps,
        lambda: encoder,
        formats.kv,
    )


def _on_path(transformer: WanTransformer, formats: Formats) -> WanTransformer:
    """The one switch between the definition and the fast path."""
    log.info("computes in %s, KV cache in %s, fast path: %s", formats.precision, formats.kv, formats.fast)
    if not formats.fast:
        return transformer
    from everscene_engine.fast_transformer import accelerated  # its kernels need Triton

    return accelerated(transformer, formats.precision, formats.attention)
