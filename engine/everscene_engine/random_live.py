"""The live engine of any preset at its real size, with random weights: how soon it reacts does not depend on them."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from everscene_engine.conditioning import TextEmbedding
from everscene_engine.context_parallel import Ranks
from everscene_engine.errors import ConfigError
from everscene_engine.live import LiveEngine
from everscene_engine.models.presets import Preset, preset
from everscene_engine.pocket import best_dtype
from everscene_engine.precision import Formats, check_device, device_of, device_of_decoder
from everscene_engine.random_models import PROMPT_TOKENS, WAN_TEXT_DIM, random_decoder, random_transformer
from everscene_engine.rank_processes import check_ranks, other_ranks, ranks_with
from everscene_engine.stream import LatentStream
from everscene_engine.transformer import WanTransformer

PATHS: Final = ("plain", "bf16", "fp8")
"""The plain forward, or the fast path in one of its precisions."""
_PADDED_TO = 512  # as the Wan models were trained


class RandomText:
    """Takes every prompt; the same one has the same embedding."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        self._width = width
        self._dtype = dtype
        self._padded_to = _PADDED_TO if width == WAN_TEXT_DIM else 0

    def check(self, prompt: str, reserve: str = "") -> None:
        """There is nothing that it cannot take."""

    def unload(self) -> None:
        """There is nothing to let go of."""

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """[P, 64, width], normal."""
        rows = []
        for prompt in prompts:
            generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
            rows.append(torch.randn(PROMPT_TOKENS, self._width, generator=generator))
        lengths = torch.full((len(prompts),), PROMPT_TOKENS)
        return TextEmbedding(torch.stack(rows).to(self._dtype), lengths, self._padded_to)


@dataclass(frozen=True)
class RandomTransformer:
    """What it takes to make a preset's transformer with random weights, the same on every rank of one kind of device.
    path: one of PATHS."""

    preset: Preset
    path: str
    seed: int
    steps: int | None

    def make(self, ranks: Ranks, place: torch.device) -> WanTransformer:
        """The transformer over these ranks."""
        transformer = random_transformer(self.preset, place, best_dtype(place))
        transformer.ranks = ranks
        if self.path == "plain":
            return transformer
        from everscene_engine.fast_transformer import accelerated  # its kernels need Triton

        return accelerated(transformer, self.path)

    def stream(self, ranks: Ranks, place: torch.device) -> LatentStream:
        """The stream of a rank that has the transformer alone."""
        return LatentStream(self.make(ranks, place), self.preset.stream, self.seed, steps=self.steps)


def load_random(
    model: str,
    path: str,
    seed: int = 0,
    steps: int | None = None,
    device: str | None = None,
    decoder: str | None = None,
    recache_depth: int | None = None,
    gpus: int = 1,
    decoder_device: str | None = None,
) -> LiveEngine:
    """A preset's engine. path: one of PATHS. decoder: of `random_models.DECODERS` but none; None: tiny. gpus,
    decoder_device: see `load.load`.

    Raises ConfigError for a name that is none, or a path that this device cannot go.
    """
    if path not in PATHS:
        raise ConfigError(f"random weights run on the path {path!r}; it is one of {', '.join(PATHS)}")
    chosen = preset(model)
    chosen = replace(chosen, stream=chosen.stream.with_recache_depth(recache_depth))
    place = device_of(device)
    check_device(place, Formats(fast=path != "plain"))
    check_ranks(gpus, chosen.transformer.heads, place)
    dtype = best_dtype(place)
    decoder_place = device_of_decoder(decoder_device, place)
    frames = random_decoder(decoder or "tiny", chosen, decoder_place, dtype)
    if frames is None:
        raise ConfigError("a live engine needs a decoder; there is none in 'none'")
    text = RandomText(chosen.transformer.text_dim, dtype)
    source = RandomTransformer(chosen, path, seed, steps)
    with other_ranks(gpus, place, source.stream) as others:
        transformer = source.make(ranks_with(others), place)
        return LiveEngine(
            model,
            transformer,
            text,
            frames,
            chosen.stream,
            seed,
            steps,
            others=others,
            decoder_device=decoder_place,
        )
