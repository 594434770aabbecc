"""The causal Wan transformer: one class for the 5B, the 1.3B and the pocket model.

Module names are those of the published Wan checkpoints (after the `model.` prefix), so a state dict fits as it is.
The network is one plain forward over the tokens of some latent frames. What makes it causal is outside: the
`SelfAttention` object says which keys a token sees (the cache's slots, a mask, or everything).

A token is 2×2 latent cells. Each block does, with (a0 … a5) = modulation + time projection of its latent frame:

    x += a2 · self_attention(LN(x)·(1 + a1) + a0)
    x += cross_attention(LN_affine(x), text)
    x += a5 · ffn(LN(x)·(1 + a4) + a3)

The output is the flow v = noise − clean. Rounding in bf16 follows the reference implementation: norms compute in
float32 and round once, everything after is elementwise bf16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_engine.attention import SelfAttention, attend
from everscene_engine.conditioning import Conditioning, TextEmbedding, logit_bias
from everscene_engine.config import TransformerConfig
from everscene_engine.context_parallel import ExchangedCachedAttention, OneRank, Ranks
from everscene_engine.heeding import Heeding
from everscene_engine.kv_cache import CachedAttention
from everscene_engine.rope import Rotation, rotate

Cached = CachedAttention | ExchangedCachedAttention | Heeding


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the whole width, in float32, rounded before the weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """LayerNorm with no weights, statistics in float32, rounded to x's dtype."""
    return F.layer_norm(x.float(), (x.shape[-1],), eps=eps).to(x.dtype)


class Attention(nn.Module):
    """The four projections and the two norms of a self- or cross-attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def queries(self, x: Tensor) -> Tensor:
        return torch.unflatten(self.norm_q(self.q(x)), -1, (self.heads, -1))  # [..., tokens, H, E]

    def keys(self, x: Tensor) -> Tensor:
        return torch.unflatten(self.norm_k(self.k(x)), -1, (self.heads, -1))

    def values(self, x: Tensor) -> Tensor:
        return torch.unflatten(self.v(x), -1, (self.heads, -1))


class Block(nn.Module):
    """One of the layers; see the module's head for its formula."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)
        self.self_attn = Attention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = Attention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        turn: Rotation,
        layer: int,
        self_attention: SelfAttention,
        text: Conditioning,
    ) -> Tensor:
        """x [B, F, n, D], time [B, F, 6, D] -> [B, F, n, D]."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (
            (self.modulation + time).unsqueeze(3).unbind(2)  # each [B, F, 1, D]
        )
        h = (layer_norm(x, self.eps) * (1 + scale_a) + shift_a).flatten(1, 2)  # [B, F·n, D]
        attn = self.self_attn
        seen = self_attention(layer, rotate(attn.queries(h), turn), rotate(attn.keys(h), turn), attn.values(h))
        x = x + attn.o(seen.flatten(2)).view_as(x) * gate_a
        x = x + self._cross(x, layer, text)
        h = layer_norm(x, self.eps) * (1 + scale_f) + shift_f
        out: Tensor = x + self.ffn(h) * gate_f
        return out

    def keep(self, x: Tensor, time: Tensor, turn: Rotation, layer: int, self_attention: Cached) -> None:
        """Only the keys and values that `forward` would leave in the cache."""
        shift, scale = (self.modulation + time).unsqueeze(3).unbind(2)[:2]
        h = (layer_norm(x, self.eps) * (1 + scale) + shift).flatten(1, 2)
        self_attention.keep(layer, rotate(self.self_attn.keys(h), turn), self.self_attn.values(h))

    def _cross(self, x: Tensor, layer: int, text: Conditioning) -> Tensor:
        clips, frames = x.shape[:2]
        prompts = text.keys[layer].shape[0]
        h = F.layer_norm(x.float(), (x.shape[-1],), self.norm3.weight.float(), self.norm3.bias.float(), self.eps)
        h = h.to(x.dtype)
        rows = h.flatten(0, 1) if prompts == clips * frames else h.flatten(1, 2)  # [P, tokens, D]
        bias = None if text.bias is None else text.bias.to(x.dtype)
        keys, values = text.keys[layer], text.values[layer]
        if prompts == 1 and clips > 1:
            keys, values = keys.expand(clips, -1, -1, -1), values.expand(clips, -1, -1, -1)
        seen = attend(self.cross_attn.queries(rows), keys, values, bias)
        out: Tensor = self.cross_attn.o(seen.flatten(2))
        return out.view_as(x)


class Head(nn.Module):
    """The last norm, its modulation (by the time embedding, not its projection) and the linear to patches."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
        self.head = nn.Linear(config.dim, config.patch**2 * config.channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [B, F, n, D], time [B, F, D] -> [B, F, n, patch²·C], the channel fastest."""
        shift, scale = (self.modulation[:, None] + time[:, :, None]).unsqueeze(3).unbind(2)  # [B, F, 1, D]
        out: Tensor = self.head(layer_norm(x, self.eps) * (1 + scale) + shift)
        return out


class WanTransformer(nn.Module):
    """Predicts the flow of some latent frames from their noisy latents, their timesteps and a prompt."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.ranks: Ranks = OneRank()
        patch = (1, config.patch, config.patch)
        self.patch_embedding = nn.Conv3d(config.channels, config.dim, kernel_size=patch, stride=patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, config.dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.dim, config.dim),
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 6 * config.dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)

    def layers(self) -> list[Block]:
        """The blocks, in order."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def condition(self, text: TextEmbedding) -> Conditioning:
        """Cross-attention keys and values of all layers for P prompts, once per prompt.

        With `padded_to`, one zero row is read past each prompt's end in place of all the padded ones.
        """
        rows = int(text.lengths.max()) + (1 if text.padded_to else 0)
        tokens = text.tokens[:, :rows]
        if tokens.shape[1] < rows:
            tokens = F.pad(tokens, (0, 0, 0, rows - tokens.shape[1]))
        real = torch.arange(rows, device=tokens.device)[None] < text.lengths[:, None]  # [P, rows]
        return self.condition_rows(tokens * real[..., None], logit_bias(text.lengths, rows, text.padded_to))

    def condition_rows(self, tokens: Tensor, bias: Tensor | None) -> Conditioning:
        """Keys and values of text rows [P, L, text_dim] with their logit bias [P, 1, 1, L] or None."""
        rows = self.text_embedding(tokens.to(self.patch_embedding.weight.dtype))  # [P, L, D]
        layers = [block.cross_attn for block in self.layers()]
        return Conditioning(
            tuple(layer.keys(rows) for layer in layers), tuple(layer.values(rows) for layer in layers), bias, tokens
        )

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        turn: Rotation,
        self_attention: SelfAttention,
        text: Conditioning,
        flow: bool = True,
    ) -> Tensor:
        """The flow of latent frames.

        latents [B, F, C, h, w], timesteps [B, F] float32 in 0..1000 (one for each latent frame), turn: rotation
        of the F·n tokens, text: conditioning of 1, B or B·F prompts. Returns v = noise − clean [B, F, C, h, w].
        flow False: only what the forward leaves in the cache is wanted (a clean pass). Nothing after the last block's
        keys and values is computed, and the latents come back as they are.
        """
        x = self._patches(latents)  # [B, F, n, D]
        share = self.ranks.share(x.shape[1], x.shape[2])
        x, turn, attention = share.own(x), share.turn(turn), share.attention(self_attention)
        time = self._time(timesteps, x.dtype)  # [B, F, D]
        projected = self.time_projection(time).unflatten(-1, (6, -1))  # [B, F, 6, D]
        blocks = self.layers()
        for layer, block in enumerate(blocks):
            if not flow and layer == len(blocks) - 1 and isinstance(attention, Cached):
                block.keep(x, projected, turn, layer, attention)
            else:
                x = block(x, projected, turn, layer, attention, text)
        return self._unpatch(share.whole(self.head(x, time)), latents.shape) if flow else latents

    def _patches(self, latents: Tensor) -> Tensor:
        x: Tensor = self.patch_embedding(latents.transpose(1, 2))  # [B, D, F, h/2, w/2]
        return x.flatten(3).permute(0, 2, 3, 1)  # [B, F, n, D]

    def _time(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        half = self.config.freq_dim // 2
        rates = 10000.0 ** -(torch.arange(half, dtype=torch.float64, device=timesteps.device) / half)
        angles = timesteps.double()[..., None] * rates  # [B, F, half]
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)
        embedded: Tensor = self.time_embedding(sinusoid)
        return embedded

    def _unpatch(self, x: Tensor, shape: torch.Size) -> Tensor:
        clips, frames, channels, height, width = shape
        patch = self.config.patch
        x = x.view(clips, frames, height // patch, width // patch, patch, patch, channels)
        return x.permute(0, 1, 6, 2, 4, 3, 5).reshape(shape)
