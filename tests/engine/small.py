"""Small random networks for the engine's tests: the real classes, a few thousand weights."""

import torch

from everscene_engine.conditioning import Conditioning, TextEmbedding
from everscene_engine.config import StreamConfig, TransformerConfig
from everscene_engine.transformer import WanTransformer

TRANSFORMER = TransformerConfig(dim=48, ffn_dim=96, layers=3, heads=2, channels=4, text_dim=32, freq_dim=64)
STREAM = StreamConfig(
    latent_height=4, latent_width=6, chunk_frames=2, window_chunks=3, sink_reach=12, steps=2, fps=16.0
)


def small_transformer(config: TransformerConfig = TRANSFORMER, seed: int = 0) -> WanTransformer:
    """Random weights, norms and modulations included, so that nothing hides behind a one or a zero."""
    torch.manual_seed(seed)
    model = WanTransformer(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def small_prompt(model: WanTransformer, seed: int = 0, words: int = 5, prompts: int = 1) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(prompts, words, model.config.text_dim, generator=generator)
    text = TextEmbedding(tokens, torch.full((prompts,), words))
    return model.condition(text.to(model.patch_embedding.weight.device))
