"""The KV cache: for each layer the roped keys and the values of past chunks, in slots that never move.

`slots.SlotTable` decides, this file holds the tensors. Every forward of a chunk writes its keys and values into the
chunk's own slot and attends to the slots it is given; the last forward of a chunk is the clean pass (timestep 0), so
what stays is clean. Keys of a sink can be presented at another time than their own: turned later by a fixed number of
latent frames, always from the keys as they were first made, so that no rounding adds up.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from everscene_engine.attention import attend
from everscene_engine.rope import rotate, time_shift
from everscene_engine.slots import Resident, SlotTable


class KVCache:
    """Keys and values [B, slots·slot_tokens, H, E] for each layer, allocated once."""

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
        self.frame_tokens = frame_tokens
        self.slot_tokens = slot_frames * frame_tokens
        shape = (clips, slots * self.slot_tokens, heads, head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self._made: dict[int, list[Tensor]] = {}  # by slot: a sink's keys as they were made, once it was turned
        self._shifts: dict[int, int] = {}  # by slot: latent frames by which its keys are presented later

    def attention(self, current: Resident | Sequence[Resident], seen: Sequence[Resident]) -> "CachedAttention":
        """Self-attention for a forward of `current`, which sees `seen` and itself. Several chunks in one forward, given
        in the order of their tokens, see each other too."""
        own = [current] if isinstance(current, Resident) else list(current)
        return CachedAttention(self, [self._span(resident) for resident in own], self._spans([*seen, *own]))

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
        start, length = self._span(resident)
        if resident.slot not in self._made:
            self._made[resident.slot] = [keys[:, start : start + length].clone() for keys in self.keys]
        turn = time_shift(shift, self.keys[0].shape[-1], self.keys[0].device)
        for keys, made in zip(self.keys, self._made[resident.slot], strict=True):
            keys[:, start : start + length] = rotate(made, turn)
        self._shifts[resident.slot] = shift

    def clear(self) -> None:
        """Forget everything."""
        self.table.clear()
        self._made.clear()
        self._shifts.clear()

    def _span(self, resident: Resident) -> tuple[int, int]:
        return resident.slot * self.slot_tokens, resident.frames * self.frame_tokens

    def _spans(self, residents: Sequence[Resident]) -> list[tuple[int, int]]:
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

    def __init__(self, cache: KVCache, own: list[tuple[int, int]], spans: list[tuple[int, int]]) -> None:
        self._cache = cache
        self._own = own
        self._spans = spans

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        first = 0
        for start, length in self._own:
            keys[:, start : start + length] = k[:, first : first + length]
            values[:, start : start + length] = v[:, first : first + length]
            first += length
        return attend(q, self._seen(keys), self._seen(values))

    def _seen(self, tokens: Tensor) -> Tensor:
        parts = [tokens[:, start : start + length] for start, length in self._spans]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
