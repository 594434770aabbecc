"""Balanced sequence parallelism: the [clean ∥ noisy] sequence of a teacher-forcing step over several ranks.

A rank holds the clean and the noisy tokens of one span of latent frames, so that all have as much of each to do, a
clean latent frame lies where its noisy one does, and loss and cross-attention are local. In self-attention tokens are
traded for heads (`context_parallel.Exchange`); there they lie as the ranks do,

    clean 0, noisy 0, clean 1, noisy 1, …

and the mask is the rule of `histories.sees` in this order: nothing is put into another one. (LongLive 2.0's layout and
its natural mask; there spans are equal and of whole chunks, here they need not be.) Every rank draws the same step from
the same seeds and takes its part of it. Its loss is its part of the whole; gradients are summed over the ranks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from everscene_engine.attention import attend
from everscene_engine.config import StreamConfig
from everscene_engine.context_parallel import Exchange, Link, check_heads, spans
from everscene_engine.errors import ConfigError
from everscene_engine.training.flow_step import Part, Step
from everscene_engine.training.histories import sees


def own_part(step: Step, first: int, end: int) -> Step:
    """Of a step what lies in the latent frames from `first` to `end`."""
    frames = step.clean.shape[1]
    own = (slice(None), slice(first, end))
    return replace(
        step,
        clean=step.clean[own],
        noisy=step.noisy[own],
        sigma=step.sigma[own],
        timestep=step.timestep[own],
        target=step.target[own],
        position=step.position[own],
        prompts=torch.cat([step.prompts[:, first:end], step.prompts[:, frames + first : frames + end]], dim=1),
        trained=step.trained[own],
    )


def natural_mask(
    lengths: Sequence[int],
    dealt: Sequence[tuple[int, int]],
    frame_tokens: int,
    window_chunks: int,
    device: torch.device,
) -> Tensor:
    """Who sees whom, bool [tokens, tokens], True where a query sees a key. lengths: latent frames of each chunk. dealt:
    (first, end) latent frame of each rank."""
    chunk = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    order = torch.cat([chunk[first:end].repeat(2) for first, end in dealt])  # as the tokens lie
    noisy = torch.cat([torch.arange(2 * (end - first)) >= end - first for first, end in dealt])
    seen = sees(order[:, None], order[None], noisy[:, None], noisy[None], window_chunks)
    return seen.to(device).repeat_interleave(frame_tokens, 0).repeat_interleave(frame_tokens, 1)


class BalancedAttention:
    """Self-attention of a rank's [clean ∥ noisy] tokens among all. Gradients go back the way that tokens came.

    lengths: tokens of each rank. mask: bool [tokens, tokens] in the order of the ranks. Raises ConfigError where heads
    cannot be shared out. The compiler leaves it as it is, and compiles what lies before and behind.
    """

    def __init__(self, link: Link, lengths: Sequence[int], mask: Tensor) -> None:
        self._ranks = link.size
        self._exchange = Exchange(link, lengths, 1)
        self._mask = mask

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        check_heads(q.shape[2], self._ranks)
        q, k, v = _ToHeads.apply(self._exchange, q.to(v.dtype), k.to(v.dtype), v)  # type: ignore[no-untyped-call]
        out: Tensor = _ToTokens.apply(self._exchange, attend(q, k, v, self._mask))  # type: ignore[no-untyped-call]
        return out


def balanced_part(step: Step, stream: StreamConfig, link: Link) -> Part:
    """What this rank computes of a step that all of them have drawn.

    `flow_loss(flow, part.step, step)` is its part of the loss: over all ranks it adds up to the loss of the whole step,
    and so do gradients (`sum_gradients`). All ranks go forward, and backward, at once. Raises ConfigError where latent
    frames cannot be shared out.
    """
    frames = step.clean.shape[1]
    if frames < link.size:
        raise ConfigError(f"a clip has {frames} latent frames; that is too few for {link.size} GPUs")
    dealt = spans(frames, link.size)
    tokens = stream.frame_tokens
    mask = natural_mask(step.lengths, dealt, tokens, stream.window_chunks, step.clean.device)
    attention = BalancedAttention(link, [2 * tokens * (end - first) for first, end in dealt], mask)
    first, end = dealt[link.rank]
    return Part(own_part(step, first, end), attention, slice(first, end))


@torch.no_grad()
def summed(x: Tensor, link: Link) -> Tensor:
    """The sum over the ranks of a flat tensor, the same bits on each: every rank adds up one piece of it."""
    counts = [end - first for first, end in spans(x.numel(), link.size)]
    own = counts[link.rank]
    piece = link.all_to_all(x, counts, [own] * link.size).view(link.size, own).sum(0)
    return link.all_to_all(piece.repeat(link.size), [own] * link.size, counts)


def sum_gradients(parameters: Iterable[nn.Parameter], link: Link, *others: Tensor) -> None:
    """Put the sum over the ranks into every gradient, and into the others, in one exchange."""
    parts = [parameter.grad for parameter in parameters if parameter.grad is not None] + list(others)
    whole = summed(torch.cat([part.flatten() for part in parts]), link)
    for part, sums in zip(parts, torch.split(whole, [part.numel() for part in parts]), strict=True):
        part.copy_(sums.view_as(part))


class _ToHeads(torch.autograd.Function):
    """Exchange.to_heads. The exchange moves numbers and changes none, so the way back is that of the gradients."""

    @staticmethod
    def forward(ctx: Any, exchange: Exchange, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.exchange = exchange
        return exchange.to_heads(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        back = ctx.exchange.to_tokens(torch.cat(grads))
        return None, *back.chunk(len(grads))


class _ToTokens(torch.autograd.Function):
    """Exchange.to_tokens."""

    @staticmethod
    def forward(ctx: Any, exchange: Exchange, x: Tensor) -> Tensor:
        ctx.exchange = exchange
        return exchange.to_tokens(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, ctx.exchange.to_heads([grad])[0]
