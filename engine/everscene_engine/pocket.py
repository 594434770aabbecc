"""The pocket model: where its weights lie and how they become networks ready to run."""

from dataclasses import dataclass
from pathlib import Path

import torch

from everscene_engine.autoencoder import Autoencoder, load_autoencoder
from everscene_engine.checkpoint import load_pocket_transformer
from everscene_engine.config import POCKET_STREAM, StreamConfig
from everscene_engine.text import PocketTextEncoder
from everscene_engine.transformer import WanTransformer

WEIGHTS = Path(__file__).parent / "weights" / "pocket"


@dataclass(frozen=True)
class PocketModel:
    """The networks on their device; the text encoder stays on the CPU in float32."""

    transformer: WanTransformer
    text: PocketTextEncoder
    autoencoder: Autoencoder
    stream: StreamConfig


def load_pocket(
    device: torch.device, dtype: torch.dtype, folder: Path = WEIGHTS, steps: int | None = None
) -> PocketModel:
    """Load the shipped pocket model, or one from another folder.

    steps: denoising steps that it will run with, None for its default: what was distilled for them is part of it.
    Raises CheckpointError.
    """
    transformer, text = load_pocket_transformer(folder, steps or POCKET_STREAM.steps)
    autoencoder = load_autoencoder(folder / "autoencoder.safetensors", device, dtype)
    return PocketModel(transformer.to(device, dtype), text, autoencoder, POCKET_STREAM)


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it in hardware, else float32."""
    if device.type == "cuda":
        return torch.bfloat16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
