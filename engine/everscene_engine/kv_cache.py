"""The KV cache: for each layer the roped keys and the values of past chunks, in slots that never move.

`slots.SlotTable` decides, this file holds the tensors. Every forward of a chunk writes its keys and values into the
chunk's own slot and attends to the slots it is given; the last forward of a chunk is the clean pass (timestep 0), so
what stays is clean. Keys of a sink can be presented at another time than their own: turned later by a fixed number of
latent frames, always from the keys as they were first made, so that no rounding adds up. These are kept beside the
slots from a sink's first turn on, the one thing that is allocated later (`memory_fit` counts it from the start).
"""

import weakref
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from everscene_engine.attention import attend
from everscene_engine.rope import Rotation, rotate_into, time_shift
from everscene_engine.slots import Resident, SlotTable


class OtherForm(Protocol):
    """Who keeps a cache's keys in another form too, and turns a sink's keys in both with one reading."""

    def turn(self, layer: int, span: tuple[int, int], made: Tensor, turn: Rotation) -> None:
        """Put keys [B, tokens, H, E], turned by `turn` from how they were made, where they belong in both forms. The
        cache has counted the change already."""


class KVCache:
    """Keys and values [B, slots·slot_tokens, H, E] for each layer, allocated at the start."""

    shared = False  # whether the layers share these tensors, so that each loads what it sees

    def __init__(
        self,
        layers: int,
        clips: int,
        slots: int,
        slot_frames: int,
        frame_tokens: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.table = SlotTable(slots)
        self.clips = clips
        self.frame_tokens = frame_tokens
        self.slot_tokens = slot_frames * frame_tokens
        shape = (clips, slots * self.slot_tokens, heads, head_dim)
        self.keys = self._tensors(layers, shape, dtype, device)
        self.values = self._tensors(layers, shape, dtype, device)
        self.changes = [0] * slots  # by slot: how often it was written; for who keeps the same in another form
        self._made: dict[int, list[Tensor]] = {}  # by slot: a sink's keys as they were made, once it was turned
        self._shifts: dict[int, int] = {}  # by slot: latent frames by which its keys are presented later
        self._other_form: weakref.ref[OtherForm] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in which past chunks are kept."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def attention(
        self, current: Resident | Sequence[Resident], seen: Sequence[Resident], clean: bool = True
    ) -> "CachedAttention":
        """Self-attention for a forward of `current`, which sees `seen` and itself. Several chunks in one forward, given
        in the order of their tokens, see each other too. clean False: of a forward whose keys and values another one
        will replace."""
        own = [current] if isinstance(current, Resident) else list(current)
        others = [resident for resident in seen if resident not in own]
        return CachedAttention(
            self, list(map(self._span, own)), list(map(self._span, others)), self.spans([*seen, *own]), clean
        )

    def attention_in_turn(self, turns: Sequence["Turn"]) -> "InTurnAttention":
        """Self-attention for a forward of several chunks, each of which sees what its turn says and itself: the same as
        one forward for each, one after the other. The sinks are left as the last turn has them."""
        before = dict(self._shifts)
        for turn in turns:
            for resident, shift in turn.shifts.items():
                if shift != self._shifts.get(resident.slot, 0):
                    self._remember_made(resident)
                    self._set_shift(resident.slot, shift)
        parts = [
            _Part(
                self._span(turn.own),
                list(map(self._span, turn.seen)),
                self.spans([*turn.seen, turn.own]),
                {self._span(resident): shift for resident, shift in turn.shifts.items()},
            )
            for turn in turns
        ]
        slots = {self._span(resident): resident.slot for turn in turns for resident in turn.shifts}
        return InTurnAttention(self, parts, {span: before.get(slot, 0) for span, slot in slots.items()})

    def pin(self, resident: Resident) -> None:
        """Make a finished chunk a sink."""
        self.table.pin(resident)

    def unpin(self, resident: Resident) -> None:
        """Make a sink an ordinary chunk again, at its own place in time."""
        self.present(resident, 0)
        self._made.pop(resident.slot, None)
        self._shifts.pop(resident.slot, None)
        self.table.unpin(resident)

    def present(self, resident: Resident, shift: int) -> None:
        """Turn a sink's keys so that they stand `shift` latent frames later than the chunk was made."""
        if self._shifts.get(resident.slot, 0) == shift:
            return
        self._remember_made(resident)
        turn = time_shift(shift, self.keys[0].shape[-1], self.keys[0].device)
        for layer in range(len(self.keys)):
            self.turn_layer(layer, self._span(resident), turn)
        self._set_shift(resident.slot, shift)

    def turn_layer(self, layer: int, span: tuple[int, int], turn: Rotation) -> None:
        """Put a sink's keys of one layer, turned by `turn` from how they were made, into its slot."""
        start, length = span
        slot = start // self.slot_tokens
        made = self._made[slot][layer]
        self.changes[slot] += 1
        other = None if self._other_form is None else self._other_form()
        if other is None:
            rotate_into(made, turn, self.keys[layer][:, start : start + length])
        else:
            other.turn(layer, span, made, turn)

    def keep_beside(self, other: OtherForm) -> None:
        """Let `other` turn a sink's keys, as long as it lives; the last one that asks does."""
        self._other_form = weakref.ref(other)

    def load(self, layer: int, spans: Sequence[tuple[int, int]]) -> None:
        """Have past chunks, a span of tokens each, in keys[layer] and values[layer]; here they always are."""

    def store(self, layer: int, span: tuple[int, int]) -> None:
        """Keep a chunk as it is in keys[layer] and values[layer]; here it is kept already."""

    def variant(self, spans: Sequence[tuple[int, int]]) -> Hashable:
        """What `load` does for these spans, where it is not always the same."""
        return None

    def _tensors(self, layers: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        return [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]

    def _set_shift(self, slot: int, shift: int) -> None:
        self._shifts[slot] = shift

    def _remember_made(self, resident: Resident) -> None:
        start, length = self._span(resident)
        if resident.slot not in self._made:
            self._made[resident.slot] = [keys[:, start : start + length].clone() for keys in self.keys]

    def clear(self) -> None:
        """Forget everything."""
        self.table.clear()
        self._made.clear()
        self._shifts.clear()

    def _span(self, resident: Resident) -> tuple[int, int]:
        return resident.slot * self.slot_tokens, resident.frames * self.frame_tokens

    def spans(self, residents: Sequence[Resident]) -> list[tuple[int, int]]:
        """(start, length) of the residents' tokens, neighbours joined: one span when the slots are in a row."""
        spans: list[tuple[int, int]] = []
        for start, length in sorted(self._span(resident) for resident in residents):
            if spans and sum(spans[-1]) == start:
                spans[-1] = (spans[-1][0], spans[-1][1] + length)
            else:
                spans.append((start, length))
        return spans


class CachedAttention:
    """The self-attention of one forward: writes its chunk's own slot (or several), then sees the spans it was given."""

    def __init__(
        self,
        cache: KVCache,
        own: list[tuple[int, int]],
        others: list[tuple[int, int]],
        spans: list[tuple[int, int]],
        clean: bool,
    ) -> None:
        """own, others: a span for each chunk. spans: all of them, neighbours joined."""
        self._cache = cache
        self._own = own
        self._others = others
        self._spans = spans
        self._clean = clean

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.keep(layer, k, v)
        return self.look(layer, q)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write the forward's keys and values where they belong."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        first = 0
        for start, length in self._own:
            keys[:, start : start + length] = k[:, first : first + length]
            values[:, start : start + length] = v[:, first : first + length]
            self._cache.changes[start // self._cache.slot_tokens] += 1
            first += length
        self.kept(layer)

    def kept(self, layer: int) -> None:
        """Take note that a layer's keys and values are in their place."""
        if self._clean:
            for span in self._own:
                self._cache.store(layer, span)

    def look(self, layer: int, q: Tensor) -> Tensor:
        """Attention of queries to the spans, as they are now."""
        return attend(q, *self.seen(layer))

    def seen(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values that a query sees, [B, keys, H, E] each: in place where the spans are one."""
        self._cache.load(layer, self._others)
        return _joined(self._cache.keys[layer], self._spans), _joined(self._cache.values[layer], self._spans)

    def place(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Where the forward's keys and values belong, [B, tokens, H, E] each, if that is in one piece. Who writes there
        lets `kept` know for each layer, and `written` once."""
        if len(self._own) > 1:
            return None
        start, length = self._own[0]
        part = slice(start, start + length)
        return self._cache.keys[layer][:, part], self._cache.values[layer][:, part]

    def written(self) -> None:
        """Take note that a forward wrote into its `place` in all layers."""
        self._cache.changes[self._own[0][0] // self._cache.slot_tokens] += 1

    @property
    def cache(self) -> KVCache:
        return self._cache

    @property
    def own(self) -> tuple[tuple[int, int], ...]:
        """(start, length) of the forward's own tokens in the cache."""
        return tuple(self._own)

    @property
    def sees_all(self) -> bool:
        """Whether the queries see the whole cache: every slot full and in use, as it is once the window is."""
        return self._spans == [(0, self._cache.slot_tokens * self._cache.table.slots)]

    @property
    def whole(self) -> bool:
        """Whether each chunk that the forward writes and sees fills its slot."""
        return all(length % self._cache.slot_tokens == 0 for _, length in (*self._own, *self._spans))

    @property
    def key(self) -> Hashable:
        """Equal for two forwards that write and see the same places of the same cache."""
        return id(self._cache), tuple(self._own), tuple(self._spans), self._clean, self._cache.variant(self._others)


@dataclass(frozen=True)
class Turn:
    """A chunk's part in a forward of several: what it sees besides itself, and by how many latent frames each sink is
    presented later to it."""

    own: Resident
    seen: Sequence[Resident]
    shifts: Mapping[Resident, int]


@dataclass(frozen=True)
class _Part:
    own: tuple[int, int]  # start and length of its tokens in the cache
    others: list[tuple[int, int]]  # what it sees besides, a span for each chunk
    seen: list[tuple[int, int]]  # all of it, neighbours joined
    shifts: Mapping[tuple[int, int], int]


class InTurnAttention:
    """Block-causal self-attention over the cache: the linears of the forward take all its tokens at once, attention
    takes chunk after chunk, so that each meets the sinks at its own distance."""

    def __init__(self, cache: KVCache, parts: Sequence[_Part], shifts: Mapping[tuple[int, int], int]) -> None:
        """shifts: by how much the sinks are presented later before the forward."""
        self._cache = cache
        self._parts = parts
        self._before = shifts
        own = {part.own for part in parts}
        seen = {span for part in parts for span in part.others}
        self._others = sorted(seen - own)
        head_dim, device = cache.keys[0].shape[-1], cache.keys[0].device
        wanted = {shift for part in parts for shift in part.shifts.values()}
        self._turns = {shift: time_shift(shift, head_dim, device) for shift in wanted}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        self._cache.load(layer, self._others)
        shifts = {} if self._cache.shared else dict(self._before)
        out: list[Tensor] = []
        first = 0
        for part in self._parts:
            start, length = part.own
            tokens = slice(first, first + length)
            keys[:, start : start + length] = k[:, tokens]
            values[:, start : start + length] = v[:, tokens]
            self._cache.changes[start // self._cache.slot_tokens] += 1
            for span, shift in part.shifts.items():
                if shifts.get(span) != shift:
                    self._cache.turn_layer(layer, span, self._turns[shift])
                    shifts[span] = shift
            out.append(attend(q[:, tokens], _joined(keys, part.seen), _joined(values, part.seen)))
            self._cache.store(layer, part.own)
            self._cache.load(layer, [part.own])  # as those after it will meet it in later forwards
            first += length
        return torch.cat(out, dim=1)


def _joined(tokens: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    parts = [tokens[:, start : start + length] for start, length in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
