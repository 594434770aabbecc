"""Self-attention of a teacher-forcing step, [clean ∥ noisy], chunk by chunk with plain attention.

The rule (`histories.sees`) gives each chunk a few whole chunks to see, so no mask is needed where all clips of a batch
share their chunks: each chunk's queries meet the keys of the sink, of the window before it and its own, put side by
side. `dense_mask` is the same rule as a mask, the reference in the tests.

To the compiler it is one opaque operation, so that steps whose chunks differ share one compiled network; backward makes
the forward's statistics anew, which costs less than keeping them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from everscene_engine.training.histories import sees


class ChunkAttention:
    """lengths: latent frames of each chunk, the sink first; frame_tokens: tokens of a latent frame.

    Called with q, k, v [B, 2·F·n, H, E]: the clean tokens of all chunks, then the noisy ones.
    """

    def __init__(self, lengths: Sequence[int], frame_tokens: int, window_chunks: int) -> None:
        room = sum(lengths)  # as long for every step, so that the compiler sees one shape
        self._lengths = torch.tensor([*lengths, *[0] * (room - len(lengths))]) * frame_tokens
        self._window = window_chunks

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = torch.ops.everscene.chunk_attention(q.to(v.dtype), k.to(v.dtype), v, self._lengths, self._window)
        return out


@torch.library.custom_op("everscene::chunk_attention", mutates_args=())
def chunk_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, window: int) -> Tensor:
    """Attention of [clean ∥ noisy]. lengths: int64 on the CPU, tokens of each chunk, zeros behind."""
    out = torch.empty_like(v)
    for own, seen in _pairs(lengths, window):
        part = _forward(_heads(q, [own]), _heads(k, seen), _heads(v, seen))[0]
        out[:, own] = part.transpose(1, 2)
    return out


@chunk_attention.register_fake
def _shape(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, window: int) -> Tensor:
    return torch.empty_like(v)


@torch.library.custom_op("everscene::chunk_attention_backward", mutates_args=())
def chunk_attention_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    to_q, to_k, to_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for own, seen in _pairs(lengths, window):
        parts = _heads(q, [own]), _heads(k, seen), _heads(v, seen)
        grads = _backward(_heads(gradient, [own]), *parts)
        to_q[:, own] = grads[0].transpose(1, 2)
        first = 0
        for piece in seen:
            end = first + piece.stop - piece.start
            to_k[:, piece] += grads[1][:, :, first:end].transpose(1, 2)
            to_v[:, piece] += grads[2][:, :, first:end].transpose(1, 2)
            first = end
    return to_q, to_k, to_v


@chunk_attention_backward.register_fake
def _shapes(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.window = inputs[4]


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
    q, k, v, lengths = ctx.saved_tensors
    return (*torch.ops.everscene.chunk_attention_backward(gradient, q, k, v, lengths, ctx.window), None, None)


chunk_attention.register_autograd(_gradients, setup_context=_remember)


def _pairs(lengths: Tensor, window: int) -> Iterator[tuple[slice, list[slice]]]:
    """For each chunk, clean and noisy: the tokens that ask, and the runs of tokens that they see."""
    tokens = [length for length in lengths.tolist() if length]
    count, total = len(tokens), sum(tokens)
    starts = [sum(tokens[:chunk]) for chunk in range(count)]
    clean = [slice(start, start + length) for start, length in zip(starts, tokens, strict=True)]
    for chunk in range(count):
        past = [clean[0], *clean[max(1, chunk - window) : chunk]] if chunk else []
        for first in (0, total):
            own = slice(clean[chunk].start + first, clean[chunk].stop + first)
            yield own, _joined([*past, own])


def _joined(pieces: list[slice]) -> list[slice]:
    """The same tokens in fewer runs: neighbours as one."""
    runs: list[slice] = []
    for piece in pieces:
        if runs and runs[-1].stop == piece.start:
            runs[-1] = slice(runs[-1].start, piece.stop)
        else:
            runs.append(piece)
    return runs


def _heads(x: Tensor, pieces: list[slice]) -> Tensor:
    """Pieces of [B, tokens, H, E] side by side, as [B, H, tokens, E]."""
    parts = [x[:, piece] for piece in pieces]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).transpose(1, 2)


# Below autograd, where these operations run, attention's two halves are called by their own names.


def _forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
    aten = torch.ops.aten
    on_gpu = q.is_cuda
    run: Callable[..., tuple[Any, ...]] = (
        aten._scaled_dot_product_flash_attention if on_gpu else aten._scaled_dot_product_flash_attention_for_cpu
    )
    return run(q, k, v)


def _backward(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    aten = torch.ops.aten
    kept = _forward(q, k, v)
    grads: tuple[Tensor, Tensor, Tensor]
    if not q.is_cuda:
        grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(gradient, q, k, v, *kept[:2], 0.0, False)
        return grads
    out, statistics, cum_q, cum_k, max_q, max_k, seed, offset = kept[:8]
    grads = aten._scaled_dot_product_flash_attention_backward(
        gradient, q, k, v, out, statistics, cum_q, cum_k, max_q, max_k, 0.0, False, seed, offset
    )
    return grads


def dense_mask(chunk: Tensor, frame_tokens: int, window_chunks: int) -> Tensor:
    """The rule as a bool mask [B, 1, tokens, tokens] for [clean ∥ noisy]. chunk: [B, F] chunk of each latent frame."""
    frames = chunk.shape[1]
    both = torch.cat([chunk, chunk], dim=1)
    noisy = (torch.arange(2 * frames, device=chunk.device) >= frames)[None]
    seen = sees(both[:, :, None], both[:, None], noisy[:, :, None], noisy[:, None], window_chunks)  # [B, 2F, 2F]
    return seen.repeat_interleave(frame_tokens, 1).repeat_interleave(frame_tokens, 2)[:, None]
