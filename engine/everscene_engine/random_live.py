"""The live engine of any preset at its real size, with random weights: how soon it reacts does not depend on them."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch

from everscene_engine.conditioning import TextEmbedding
from everscene_engine.errors import ConfigError
from everscene_engine.live import LiveEngine
from everscene_engine.models.presets import preset
from everscene_engine.pocket import best_dtype
from everscene_engine.random_models import PROMPT_TOKENS, WAN_TEXT_DIM, random_decoder, random_transformer

PATHS: Final = ("plain", "bf16", "fp8")
"""The plain forward, or the fast path in one of its precisions."""
_PADDED_TO = 512  # as the Wan models were trained


class RandomText:
    """Takes every prompt; the same one has the same embedding."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        self._width = width
        self._dtype = dtype
        self._padded_to = _PADDED_TO if width == WAN_TEXT_DIM else 0

    def check(self, prompt: str) -> None:
        """There is nothing that it cannot take."""

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """[P, 64, width], normal."""
        rows = []
        for prompt in prompts:
            generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
            rows.append(torch.randn(PROMPT_TOKENS, self._width, generator=generator))
        lengths = torch.full((len(prompts),), PROMPT_TOKENS)
        return TextEmbedding(torch.stack(rows).to(self._dtype), lengths, self._padded_to)


def load_random(
    model: str,
    path: str,
    seed: int = 0,
    steps: int | None = None,
    device: str | None = None,
    decoder: str | None = None,
    recache_depth: int | None = None,
) -> LiveEngine:
    """A preset's engine. path: one of PATHS. decoder: of `random_models.DECODERS` but none; None: tiny.

    Raises ConfigError for a name that is none, or a path that this device cannot go.
    """
    if path not in PATHS:
        raise ConfigError(f"random weights run on the path {path!r}; it is one of {', '.join(PATHS)}")
    chosen = preset(model)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = best_dtype(place)
    transformer = random_transformer(chosen, place, dtype)
    if path != "plain":
        from everscene_engine.fast_transformer import accelerated  # its kernels need Triton

        transformer = accelerated(transformer, path)
    frames = random_decoder(decoder or "tiny", chosen, place, dtype)
    if frames is None:
        raise ConfigError("a live engine needs a decoder; there is none in 'none'")
    text = RandomText(chosen.transformer.text_dim, dtype)
    return LiveEngine(
        model, transformer, text, frames, replace(chosen.stream, recache_depth=recache_depth), seed, steps
    )
