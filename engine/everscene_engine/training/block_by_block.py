"""The transformer's forward for training, with its blocks compiled as one.

All layers (of every network of the same sizes) share one compiled block, because each is called as layer 0 with its
own attention and its own text; that takes seconds where compiling the whole network takes a minute.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from everscene_engine.attention import SelfAttention
from everscene_engine.conditioning import Conditioning
from everscene_engine.rope import Rotation
from everscene_engine.transformer import Block, WanTransformer

BlockRunner = Callable[[Block, Tensor, Tensor, Rotation, SelfAttention, Conditioning], Tensor]


def run_block(
    block: Block, x: Tensor, time: Tensor, turn: Rotation, attention: SelfAttention, text: Conditioning
) -> Tensor:
    """A block of any layer, given what belongs to that layer alone."""
    out: Tensor = block(x, time, turn, 0, attention, text)
    return out


def block_runner(device: torch.device) -> BlockRunner:
    """`run_block`, compiled on a GPU."""
    if device.type != "cuda":
        return run_block
    torch._dynamo.config.recompile_limit = 32  # with and without gradients, for weights that learn or do not, …
    return torch.compile(run_block)


def forward(
    transformer: WanTransformer,
    run: BlockRunner,
    latents: Tensor,
    timesteps: Tensor,
    turn: Rotation,
    attention: Callable[[int], SelfAttention],
    text: Conditioning,
) -> Tensor:
    """As `WanTransformer.forward`; attention(layer) gives a layer's self-attention."""

    x = transformer._patches(latents).float()  # [B, F, n, D], as wide for the first layer as it comes to the others
    time = transformer._time(timesteps, x.dtype)  # [B, F, D]
    projected = transformer.time_projection(time).unflatten(-1, (6, -1))  # [B, F, 6, D]
    for layer, block in enumerate(transformer.layers()):
        own = Conditioning((text.keys[layer],), (text.values[layer],), text.bias)
        x = run(block, x, projected, turn, attention(layer), own)
    return transformer._unpatch(transformer.head(x, time), latents.shape)
