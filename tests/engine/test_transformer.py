"""The transformer against diffusers' WanTransformer3DModel, an implementation that someone else wrote."""

import pytest
import torch
from torch import Tensor

from everscene_engine.attention import FullAttention
from everscene_engine.conditioning import TextEmbedding
from everscene_engine.config import TransformerConfig
from everscene_engine.errors import ConfigError
from everscene_engine.rope import rotation
from everscene_engine.transformer import WanTransformer
from tests.engine.small import small_transformer

diffusers = pytest.importorskip("diffusers", reason="the extra 'large' is not installed")

CONFIG = TransformerConfig(dim=64, ffn_dim=160, layers=3, heads=2, channels=8, text_dim=24)
TEXT_ROWS = 12

RENAMED = [  # ours, theirs; in this order
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("head.modulation", "scale_shift_table"),
    ("head.head", "proj_out"),
    (".modulation", ".scale_shift_table"),
    ("self_attn.o.", "attn1.to_out.0."),
    ("cross_attn.o.", "attn2.to_out.0."),
    ("self_attn.norm_", "attn1.norm_"),
    ("cross_attn.norm_", "attn2.norm_"),
    ("self_attn.", "attn1.to_"),
    ("cross_attn.", "attn2.to_"),
    ("norm3", "norm2"),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
]


def diffusers_name(name: str) -> str:
    for ours, theirs in RENAMED:
        if ours in name:
            return name.replace(ours, theirs)
    return name


def diffusers_twin(model: WanTransformer) -> torch.nn.Module:
    config = model.config
    twin = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=config.channels,
        out_channels=config.channels,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=config.eps,
        rope_max_seq_len=1024,
    ).eval()
    twin.load_state_dict({diffusers_name(name): tensor for name, tensor in model.state_dict().items()})
    return twin


def inputs(frames: int = 3, height: int = 6, width: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, frames, CONFIG.channels, height, width, generator=generator)
    text = torch.randn(1, TEXT_ROWS, CONFIG.text_dim, generator=generator)
    return latents, text, torch.tensor([[999.0, 500.0, 0.0]])[:, :frames]


def ours(model: WanTransformer, latents: Tensor, text: Tensor, timesteps: Tensor) -> Tensor:
    rows, columns = latents.shape[3] // 2, latents.shape[4] // 2
    turn = rotation(torch.arange(latents.shape[1]), rows, columns, model.config.head_dim)
    conditioning = model.condition(TextEmbedding(text, torch.tensor([TEXT_ROWS])))
    return model(latents, timesteps, turn, FullAttention(), conditioning)


@torch.no_grad()
def test_one_chunk_equals_diffusers_with_a_timestep_for_each_frame() -> None:
    model = small_transformer(CONFIG)
    latents, text, timesteps = inputs()
    tokens = latents.shape[3] * latents.shape[4] // 4
    theirs = diffusers_twin(model)(
        hidden_states=latents.transpose(1, 2),
        timestep=timesteps.repeat_interleave(tokens, dim=1),
        encoder_hidden_states=text,
        return_dict=False,
    )[0].transpose(1, 2)
    torch.testing.assert_close(ours(model, latents, text, timesteps), theirs, atol=1e-4, rtol=0)


@torch.no_grad()
def test_every_tensor_of_the_model_has_a_diffusers_name() -> None:
    model = small_transformer(CONFIG)
    twin = diffusers_twin(model)
    assert {diffusers_name(name) for name in model.state_dict()} == set(twin.state_dict())


@torch.no_grad()
def test_padded_text_rows_collapse_into_one_with_a_logit_bias() -> None:
    model = small_transformer(CONFIG)
    latents, text, timesteps = inputs()
    real = 5
    padded = text.clone()
    padded[:, real:] = 0
    whole = ours(model, latents, padded, timesteps)
    turn = rotation(torch.arange(3), 3, 5, CONFIG.head_dim)
    short = model.condition(TextEmbedding(text[:, :real], torch.tensor([real]), padded_to=TEXT_ROWS))
    assert short.keys[0].shape[1] == real + 1
    collapsed = model(latents, timesteps, turn, FullAttention(), short)
    torch.testing.assert_close(collapsed, whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_prompt_for_each_latent_frame_equals_frames_with_their_own_prompt() -> None:
    model = small_transformer(CONFIG)
    latents, _, timesteps = inputs(frames=2)
    turn = rotation(torch.arange(2), 3, 5, CONFIG.head_dim)
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(2, TEXT_ROWS, CONFIG.text_dim, generator=generator)
    seen_alone = _OwnFrameOnly(15)
    both = model.condition(TextEmbedding(text, torch.tensor([TEXT_ROWS, TEXT_ROWS])))
    together = model(latents, timesteps, turn, seen_alone, both)
    for frame in range(2):
        alone = model.condition(TextEmbedding(text[frame : frame + 1], torch.tensor([TEXT_ROWS])))
        single = model(latents, timesteps, turn, seen_alone, alone)
        torch.testing.assert_close(together[:, frame], single[:, frame], atol=1e-5, rtol=0)


class _OwnFrameOnly:
    """Self-attention in which a token sees its own latent frame only."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = [part.unflatten(1, (-1, self._tokens)).flatten(0, 1) for part in (q, k, v)]
        return FullAttention()(layer, *rows).unflatten(0, (q.shape[0], -1)).flatten(1, 2)


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="dim 50 must be a multiple of heads 4"):
        TransformerConfig(dim=50, ffn_dim=8, layers=1, heads=4, channels=4, text_dim=8)


def test_the_5b_has_the_published_number_of_weights() -> None:
    from everscene_engine.config import WAN_5B

    with torch.device("meta"):
        model = WanTransformer(WAN_5B)
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_999_787_712
    assert len(model.state_dict()) == 825
