"""From the name of a model to a live engine: weights, formats, and the fast path where there is one."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from everscene_engine.context_parallel import Ranks
from everscene_engine.decoder import PocketDecoder
from everscene_engine.errors import ConfigError
from everscene_engine.live import LiveEngine
from everscene_engine.memory_fit import ROOM, need
from everscene_engine.models.layout import has_part
from everscene_engine.models.presets import HOME, Preset, preset
from everscene_engine.models.quantize import POCKET_PART, check_pocket_source, load_stored, precisions_in, stored_part
from everscene_engine.picture import fitted
from everscene_engine.pocket import WEIGHTS, PocketModel, best_dtype, load_pocket
from everscene_engine.precision import Formats, check_device, choose, device_of, device_of_decoder, machine_of
from everscene_engine.rank_processes import RankProcesses, check_ranks, other_ranks, ranks_with
from everscene_engine.start_image import PocketImageEncoder
from everscene_engine.stored_linear import FORMATS, store_linears
from everscene_engine.stream import LatentStream
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
    gpus: int = 1,
    decoder_device: str | None = None,
) -> LiveEngine:
    """Load a model by its preset's name, ready to generate.

    steps: denoising steps, None for the preset's own. device: "cpu", "cuda", "cuda:1"; None takes a GPU if there is
    one. threads: CPU threads, None for torch's choice. weights: a folder other than the shipped one, or than the one
    that `everscene models pull` writes. start_image: a picture that the world begins with. recache_depth: see
    `StreamConfig.with_recache_depth`. precision, kv, attention: formats, see `precision`. path: fast or plain, auto for
    the fast one where there can be one. gpus: how many make the stream together, the first ones that the process sees;
    on a CPU, how many processes. Of the large models alone: decoder: vae, lightvae, lightvae2 or tiny; decoder_device:
    where it is, None for `device`; text_device: of the text encoder, None for `device`; unload_text: let go of it after
    each prompt.
    Raises ConfigError for a name or a number that cannot be, CheckpointError for weights that cannot be read.
    """
    chosen = preset(model)
    chosen = replace(chosen, stream=chosen.stream.with_recache_depth(recache_depth))
    if threads is not None:
        torch.set_num_threads(threads)
    place = device_of(device)
    if chosen.shipped:
        _check_small(model, decoder, decoder_device, text_device, unload_text)
    check_ranks(gpus, chosen.transformer.heads, place)
    asked = _Asked(precision, kv, attention, path)
    text_place = place if text_device is None else device_of(text_device)
    decoder_place = device_of_decoder(decoder_device, place)
    if chosen.shipped:
        formats = choose(machine_of(place), *asked, small=True)
    else:
        folder = folder_of(chosen, weights)
        stored = precisions_in(chosen, folder, steps)
        with_text = text_place == place and not unload_text

        def fits(precision: str, kv: str) -> bool:
            wanted = need(chosen, precision, kv, decoder or "vae", with_text, attention)
            elsewhere = wanted.decoder if decoder_place != device_of_decoder(None, place) else 0.0
            return wanted.total - elsewhere <= ROOM * machine_of(place).memory

        formats = choose(machine_of(place), *asked, stored=stored, fits=fits)
    check_device(place, formats)
    source = TransformerSource(chosen, weights, seed, steps, formats)
    with other_ranks(gpus, place, source.stream, threads) as others:
        if chosen.shipped:
            engine = _pocket_engine(source, place, others)
        else:
            placement: Placement = "unload" if unload_text else "keep"
            engine = _large_engine(source, place, others, decoder or "vae", decoder_place, text_place, placement)
        if start_image is not None:
            engine.begin_with(fitted(start_image, engine.info.width, engine.info.height))
    return engine


def _check_small(
    model: str, decoder: str | None, decoder_device: str | None, text_device: str | None, unload_text: bool
) -> None:
    """Raise ConfigError for an option that only the large models have."""
    if decoder is not None:
        raise ConfigError(f"{model} has one decoder; there is no {decoder!r}")
    if decoder_device is not None:
        raise ConfigError(f"{model} is small: its decoder is on the device of the model, not on {decoder_device!r}")
    if text_device is not None:
        raise ConfigError(f"{model} is small: its text encoder is on the CPU, not on {text_device!r}")
    if unload_text:
        raise ConfigError(f"{model} is small: its text encoder stays in memory; there is nothing to unload")


def folder_of(chosen: Preset, weights: Path | None) -> Path:
    """Where a large model's weights lie: the folder that was named, or the one that `everscene models pull` writes."""
    return weights or HOME / chosen.name


class _Asked(NamedTuple):
    """The formats as they were asked for."""

    precision: str
    kv: str
    attention: str
    path: str


@dataclass(frozen=True)
class TransformerSource:
    """What it takes to load a model's transformer on any rank. weights: a folder, None for the usual one."""

    preset: Preset
    weights: Path | None
    seed: int
    steps: int | None
    formats: Formats

    def stream(self, ranks: Ranks, place: torch.device) -> LatentStream:
        """The stream of a rank that has the transformer alone."""
        if self.preset.shipped:
            plain = self.pocket(place).transformer
        else:
            from everscene_engine.models.large import load_transformer

            folder = folder_of(self.preset, self.weights)
            plain = load_transformer(self.preset, folder, place, best_dtype(place), self.steps, self.linears)
        transformer = self.on_path(plain, ranks)
        return LatentStream(transformer, self.preset.stream, self.seed, steps=self.steps, kv=self.formats.kv)

    @property
    def linears(self) -> str | None:
        """The format in which the linears are stored; None: as plain matrices."""
        held = "nvfp4" if self.formats.precision == "w4a4" else self.formats.precision
        return held if held in FORMATS else None

    def pocket(self, place: torch.device) -> PocketModel:
        """The pocket model. weights may hold no more than what `everscene quantize pocket` wrote; the rest is then the
        package's."""
        folder, linears, dtype = self.weights or WEIGHTS, self.linears, best_dtype(place)
        stored = self.weights is not None and linears is not None
        stored = stored and has_part(folder, stored_part(POCKET_PART, str(linears)))
        plain_folder = folder if not stored or has_part(folder, POCKET_PART) else WEIGHTS
        pocket = load_pocket(place, dtype, plain_folder, self.steps)
        if stored and linears is not None:
            check_pocket_source(folder, linears, pocket.transformer)
            transformer = load_stored(self.preset.transformer, folder, POCKET_PART, linears, place, dtype)
            return replace(pocket, transformer=transformer)
        if linears is not None:
            store_linears(pocket.transformer, linears)
        return pocket

    def on_path(self, transformer: WanTransformer, ranks: Ranks) -> WanTransformer:
        """Over these ranks, and by the one switch between the definition and the fast path."""
        formats = self.formats
        log.info("computes in %s, KV cache in %s, fast path: %s", formats.precision, formats.kv, formats.fast)
        transformer.ranks = ranks
        if not formats.fast:
            return transformer
        from everscene_engine.fast_transformer import accelerated  # its kernels need Triton

        return accelerated(transformer, formats.precision, formats.attention)


def _pocket_engine(source: TransformerSource, place: torch.device, others: RankProcesses | None) -> LiveEngine:
    chosen, pocket = source.preset, source.pocket(place)
    encoder = PocketImageEncoder(pocket.autoencoder)
    return LiveEngine(
        chosen.name,
        source.on_path(pocket.transformer, ranks_with(others)),
        pocket.text,
        PocketDecoder(pocket.autoencoder),
        chosen.stream,
        source.seed,
        source.steps,
        lambda: encoder,
        source.formats.kv,
        others,
    )


def _large_engine(
    source: TransformerSource,
    place: torch.device,
    others: RankProcesses | None,
    decoder: str,
    decoder_place: torch.device,
    text_place: torch.device,
    placement: Placement,
) -> LiveEngine:
    from everscene_engine.models.large import load_large  # its parts import diffusers and transformers

    chosen, steps = source.preset, source.steps
    folder = folder_of(chosen, source.weights)
    parts = load_large(
        chosen, folder, place, best_dtype(place), steps, decoder, decoder_place, text_place, placement, source.linears
    )
    return LiveEngine(
        chosen.name,
        source.on_path(parts.transformer, ranks_with(others)),
        parts.text,
        parts.decoder,
        chosen.stream,
        source.seed,
        steps,
        parts.image_encoder,
        source.formats.kv,
        others,
        decoder_place,
    )
