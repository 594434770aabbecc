"""One forward over several ranks (GPUs, or processes): every rank has all weights, a share of the tokens, and for
attention a share of the heads (sequence parallelism after DeepSpeed-Ulysses).

Each latent frame's tokens are dealt out as evenly as they go, so every rank works at every frame, whatever the number
of frames, and modulation stays one row a frame. Norms, linears, RoPE and cross-attention know nothing of it. Before
self-attention an all-to-all trades tokens for heads:

    rank r   queries, keys, values of its tokens, all heads   →   of all tokens, its heads

so the KV cache of a rank holds all tokens of its heads, in the places that a single rank would give them, and
everything that happens to a cache (recache, rollback, sinks, NVFP4) happens to it unchanged. After attention the way
back. The last linear's output is gathered: every rank has the whole flow, and the sampler, which is the same sums
everywhere, goes on with the same latents. Two exchanges a layer: four times tokens · width numbers, of which 1/N stays
at home.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from everscene_engine.attention import SelfAttention
from everscene_engine.errors import ConfigError
from everscene_engine.kv_cache import CachedAttention
from everscene_engine.rope import Rotation


class Link(Protocol):
    """What connects the ranks."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_to_all(self, send: Tensor, counts: Sequence[int], wanted: Sequence[int]) -> Tensor:
        """Of the flat tensor `send` the first counts[0] numbers go to rank 0, and so on; returned are wanted[0] numbers
        from rank 0, and so on."""
        ...


def check_heads(heads: int, ranks: int) -> None:
    """Raise ConfigError where heads cannot be shared out evenly."""
    if heads % ranks:
        fitting = ", ".join(str(size) for size in range(1, min(heads, 8) + 1) if heads % size == 0)
        raise ConfigError(f"{heads} heads cannot be shared out over {ranks} GPUs; take a number of {fitting}")


def spans(tokens: int, ranks: int) -> list[tuple[int, int]]:
    """(first, end) of each rank's tokens, in order; none has more than one token more than another."""
    return list(pairwise(tokens * rank // ranks for rank in range(ranks + 1)))


class Exchange:
    """Trades tokens for heads. The tokens of a forward lie in groups, and of each group rank r has lengths[r] in a row;
    what a rank holds are its tokens of the first group, then of the second, and so on."""

    def __init__(self, link: Link, lengths: Sequence[int], groups: int) -> None:
        self._link = link
        self._lengths = lengths
        self._groups = groups

    def to_heads(self, parts: Tensor | Sequence[Tensor], into: Sequence[Tensor | None] = ()) -> tuple[Tensor, ...]:
        """Each [B, own tokens, H, E] → [B, all tokens, H/N, E]; all parts in one exchange.

        parts: one tensor [P, B, own tokens, H, E] is packed at once. into: where each shall lie; None: anywhere.
        """
        ranks, count, (clips, own, heads, width) = self._link.size, len(parts), parts[0].shape
        share = heads // ranks
        send = parts[0].new_empty(ranks, count, clips, own, share, width)
        if isinstance(parts, Tensor):
            send.copy_(torch.unflatten(parts, 3, (ranks, share)).movedim(3, 0))
        else:
            for index, part in enumerate(parts):
                send[:, index] = torch.unflatten(part, 2, (ranks, share)).movedim(2, 0)
        each = count * clips * share * width
        wanted = [each * self._groups * length for length in self._lengths]
        got = torch.split(self._link.all_to_all(send.view(-1), [send[0].numel()] * ranks, wanted), wanted)
        shape = (count, clips, self._groups)
        pieces = [piece.view(*shape, length, share, width) for piece, length in zip(got, self._lengths, strict=True)]
        return tuple(self._joined([piece[index] for piece in pieces], place) for index, place in _places(into, count))

    def _joined(self, pieces: Sequence[Tensor], place: Tensor | None) -> Tensor:
        """[B, groups, tokens of a rank, H/N, E] of each rank → [B, all tokens, H/N, E]."""
        if place is None:
            return torch.cat(list(pieces), dim=2).flatten(1, 2)
        torch.cat(list(pieces), dim=2, out=torch.unflatten(place, 1, (self._groups, -1)))
        return place

    def to_tokens(self, x: Tensor) -> Tensor:
        """[B, all tokens, H/N, E] → [B, own tokens, H, E]."""
        ranks, (clips, _, share, width) = self._link.size, x.shape
        grouped = torch.split(torch.unflatten(x, 1, (self._groups, -1)), list(self._lengths), dim=2)
        send = x.new_empty(x.numel())
        counts = [part.numel() for part in grouped]
        for place, part in zip(torch.split(send, counts), grouped, strict=True):
            place.view(part.shape).copy_(part)
        own = self._groups * self._lengths[self._link.rank]
        wanted = [clips * own * share * width] * ranks
        got = self._link.all_to_all(send, counts, wanted).view(ranks, clips, own, share, width)
        return got.movedim(0, 2).flatten(2, 3)

    def gather(self, x: Tensor) -> Tensor:
        """Each rank's [B, groups, own tokens of each, D] → all of them, [B, groups, tokens, D], on every rank."""
        clips, groups, _, width = x.shape
        wanted = [clips * groups * length * width for length in self._lengths]
        send = x.reshape(-1).repeat(self._link.size)
        got = self._link.all_to_all(send, [x.numel()] * self._link.size, wanted)
        pieces = [piece.view(clips, groups, -1, width) for piece in torch.split(got, wanted)]
        return torch.cat(pieces, dim=2)


def _places(into: Sequence[Tensor | None], count: int) -> list[tuple[int, Tensor | None]]:
    return list(enumerate([*into, *[None] * (count - len(into))]))


class Share(Protocol):
    """A rank's part in one forward of F latent frames of n tokens."""

    def own(self, x: Tensor) -> Tensor:
        """Of [B, F, n, D] what this rank works at, [B, F, own, D]."""
        ...

    def turn(self, turn: Rotation) -> Rotation:
        """The rotation of these tokens."""
        ...

    def attention(self, inner: SelfAttention) -> SelfAttention:
        """Self-attention of these tokens, by one that takes all tokens of this rank's heads."""
        ...

    def whole(self, x: Tensor) -> Tensor:
        """From [B, F, own, D] of every rank, [B, F, n, D]."""
        ...


class Ranks(Protocol):
    """Over which ranks a transformer's forwards go."""

    @property
    def size(self) -> int: ...

    def heads(self, heads: int) -> int:
        """How many of a model's heads this rank has, and its KV cache."""
        ...

    def share(self, frames: int, tokens: int) -> Share:
        """This rank's part in a forward of so many latent frames of so many tokens each."""
        ...


class OneRank:
    """There is nobody to share with."""

    size = 1

    def heads(self, heads: int) -> int:
        """All of them."""
        return heads

    def share(self, frames: int, tokens: int) -> "OneRank":
        """All of it."""
        return self

    def own(self, x: Tensor) -> Tensor:
        """See Share."""
        return x

    def turn(self, turn: Rotation) -> Rotation:
        """See Share."""
        return turn

    def attention(self, inner: SelfAttention) -> SelfAttention:
        """See Share."""
        return inner

    def whole(self, x: Tensor) -> Tensor:
        """See Share."""
        return x


class SeveralRanks:
    """This process's place among several."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def size(self) -> int:
        return self._link.size

    def heads(self, heads: int) -> int:
        """An even share. Raises ConfigError where there is none."""
        check_heads(heads, self._link.size)
        return heads // self._link.size

    def share(self, frames: int, tokens: int) -> "TokenShare":
        """Its tokens of each latent frame. Raises ConfigError for frames of fewer tokens than there are ranks."""
        if tokens < self._link.size:
            raise ConfigError(f"a latent frame has {tokens} tokens; that is too few for {self._link.size} GPUs")
        return TokenShare(self._link, frames, tokens)


class TokenShare:
    """See Share."""

    def __init__(self, link: Link, frames: int, tokens: int) -> None:
        all_spans = spans(tokens, link.size)
        first, end = all_spans[link.rank]
        self._frames = frames
        self._own = slice(first, end)
        self.exchange = Exchange(link, [end - first for first, end in all_spans], frames)

    def own(self, x: Tensor) -> Tensor:
        """See Share."""
        return x[:, :, self._own]

    def turn(self, turn: Rotation) -> Rotation:
        """See Share."""
        return Rotation(self._of_rows(turn.cos), self._of_rows(turn.sin))

    def attention(self, inner: SelfAttention) -> SelfAttention:
        """See Share."""
        if isinstance(inner, CachedAttention):
            return ExchangedCachedAttention(inner, self.exchange)
        return ExchangedAttention(inner, self.exchange)

    def whole(self, x: Tensor) -> Tensor:
        """See Share."""
        return self.exchange.gather(x)

    def _of_rows(self, rows: Tensor) -> Tensor:
        """Of [..., F·n, E] those of its tokens."""
        return torch.unflatten(rows, -2, (self._frames, -1))[..., self._own, :].flatten(-3, -2)


class ExchangedAttention:
    """Self-attention between two exchanges."""

    def __init__(self, inner: SelfAttention, exchange: Exchange) -> None:
        self._inner = inner
        self._exchange = exchange

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._exchange.to_tokens(self._inner(layer, *self._exchange.to_heads([q, k, v])))


class ExchangedCachedAttention(ExchangedAttention):
    """The same over a cache."""

    def __init__(self, inner: CachedAttention, exchange: Exchange) -> None:
        super().__init__(inner, exchange)
        self._cached = inner

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write the keys and values of all tokens where they belong; nothing is read."""
        self._cached.keep(layer, *self._exchange.to_heads([k, v]))
