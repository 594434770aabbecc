"""Where the transformer rounds in bfloat16: the published order, written out operation by operation.

Every line of the reference computes in float32 and rounds where the published implementation does; matrix products and
attention are torch's own, since their rounding is the machine's. Both must agree to the bit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_engine.attention import FullAttention, attend
from everscene_engine.conditioning import Conditioning, TextEmbedding
from everscene_engine.config import TransformerConfig
from everscene_engine.rope import Rotation, rotation
from everscene_engine.transformer import Attention, Block, Head, WanTransformer
from tests.engine.small import small_transformer

CONFIG = TransformerConfig(dim=64, ffn_dim=160, layers=1, heads=2, channels=8, text_dim=24)
FRAMES, ROWS, COLUMNS = 2, 3, 4


def r(x: Tensor) -> Tensor:
    """Round to bfloat16, keep as float32."""
    return x.bfloat16().float()


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x.bfloat16(), layer.weight, layer.bias).float()


def normed(x: Tensor) -> Tensor:
    return r(F.layer_norm(x, (x.shape[-1],), eps=CONFIG.eps))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Four roundings: after the norm, after 1 + scale, after the product, after the sum."""
    return r(r(normed(x) * r(1 + scale)) + shift)


def root_mean_square(weight: Tensor, x: Tensor) -> Tensor:
    return r(r(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + CONFIG.eps)) * weight.float())


def turned(x: Tensor, turn: Rotation) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    angle = torch.complex(turn.cos, turn.sin)[:, None]
    return r(torch.view_as_real(pairs * angle).flatten(-2))


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (CONFIG.heads, -1))


def self_attention(layer: Attention, h: Tensor, turn: Rotation) -> Tensor:
    q = turned(heads(root_mean_square(layer.norm_q.weight, linear(layer.q, h))), turn)
    k = turned(heads(root_mean_square(layer.norm_k.weight, linear(layer.k, h))), turn)
    v = heads(linear(layer.v, h))
    seen = attend(q.bfloat16(), k.bfloat16(), v.bfloat16()).float()
    return linear(layer.o, seen.flatten(2))


def reference_block(block: Block, x: Tensor, time: Tensor, turn: Rotation, text: Conditioning) -> Tensor:
    """x [1, F, n, D] and time [1, F, 6, D], both float32 holding bfloat16 values."""
    e = r(block.modulation.float() + time).unsqueeze(3).unbind(2)
    y = self_attention(block.self_attn, modulated(x, e[0], e[1]).flatten(1, 2), turn).view_as(x)
    x = r(x + r(y * e[2]))
    h = F.layer_norm(x, (x.shape[-1],), block.norm3.weight.float(), block.norm3.bias.float(), CONFIG.eps)
    cross = block.cross_attn
    q = heads(root_mean_square(cross.norm_q.weight, linear(cross.q, r(h).flatten(1, 2))))
    seen = attend(q.bfloat16(), text.keys[0], text.values[0]).float()
    x = r(x + linear(cross.o, seen.flatten(2)).view_as(x))
    h = modulated(x, e[3], e[4])
    middle = r(F.gelu(linear(block.ffn[0], h), approximate="tanh"))  # type: ignore[arg-type]
    return r(x + r(linear(block.ffn[2], middle) * e[5]))  # type: ignore[arg-type]


def reference_head(head: Head, x: Tensor, time: Tensor) -> Tensor:
    """Modulated by the time embedding itself, not by its projection."""
    shift, scale = r(head.modulation.float()[:, None] + time[:, :, None]).unsqueeze(3).unbind(2)
    return linear(head.head, modulated(x, shift, scale))


def model_and_inputs() -> tuple[WanTransformer, Tensor, Tensor, Rotation, Conditioning]:
    model = small_transformer(CONFIG).bfloat16()
    generator = torch.Generator().manual_seed(2)
    x = r(torch.randn(1, FRAMES, ROWS * COLUMNS, CONFIG.dim, generator=generator))
    time = r(0.5 * torch.randn(1, FRAMES, CONFIG.dim, generator=generator))
    text = model.condition(TextEmbedding(torch.randn(1, 5, CONFIG.text_dim, generator=generator), torch.tensor([5])))
    return model, x, time, rotation(torch.arange(FRAMES), ROWS, COLUMNS, CONFIG.head_dim), text


@torch.no_grad()
def test_a_block_rounds_where_the_published_one_does() -> None:
    model, x, time, turn, text = model_and_inputs()
    block = model.blocks[0]
    assert isinstance(block, Block)
    projected = model.time_projection(time.bfloat16()).unflatten(-1, (6, -1))
    ours = block(x.bfloat16(), projected, turn, 0, FullAttention(), text)
    theirs = reference_block(block, x, projected.float(), turn, text)
    assert torch.equal(ours.float(), theirs)


@torch.no_grad()
def test_the_head_rounds_where_the_published_one_does() -> None:
    model, x, time, _, _ = model_and_inputs()
    assert torch.equal(model.head(x.bfloat16(), time.bfloat16()).float(), reference_head(model.head, x, time))


@torch.no_grad()
def test_timesteps_become_a_sinusoid_in_double_precision_rounded_once() -> None:
    model, *_ = model_and_inputs()
    timesteps = torch.tensor([[999.0, 624.0]])
    half = CONFIG.freq_dim // 2
    angles = timesteps.double()[..., None] * torch.pow(10000.0, -torch.arange(half).double() / half)
    wanted = model.time_embedding(torch.cat([angles.cos(), angles.sin()], dim=-1).bfloat16())
    assert torch.equal(model._time(timesteps, torch.bfloat16), wanted)
