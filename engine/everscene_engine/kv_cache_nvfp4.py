"""The KV cache in NVFP4: past chunks in 4.5 bits a number, 3.56 times less than in bfloat16.

`everscene_kernels.nvfp4_kv` holds the slots. Here keys and values of one layer have one scratch that all layers share:
a layer loads into it what it sees (each slot is dequantised where it always lies, so attention still reads one span),
and writes its own chunk beside it. While a chunk is denoised its keys and values are in no other place; the clean pass
quantises them, once, into the chunk's slot. A recache does the same, and each chunk in it meets those before as the
slots have them.

A sink that is presented later is turned when it is loaded. So its keys as they were made are never lost, and no second
copy is kept.
"""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from everscene_engine.errors import ConfigError
from everscene_engine.kv_cache import KVCache
from everscene_engine.rope import Rotation, time_shift
from everscene_engine.slots import Resident
from everscene_kernels.nvfp4 import BLOCK
from everscene_kernels.nvfp4_kv import allocate_slots, read_slot, write_slot


class NVFP4KVCache(KVCache):
    """See the module's head. `keys` and `values` name the same scratch [1, slots·slot_tokens, H, E] for each layer.

    For one clip. Raises ConfigError for more, and for heads that are not of whole blocks of 16.
    """

    shared = True
    smooth = False

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
        if clips != 1:
            raise ConfigError(f"an NVFP4 KV cache holds one clip, not {clips}; use bf16 for more")
        if head_dim % BLOCK:
            raise ConfigError(f"an NVFP4 KV cache needs heads of a multiple of {BLOCK}, not {head_dim}; use bf16")
        super().__init__(layers, clips, slots, slot_frames, frame_tokens, heads, head_dim, dtype, device)
        size = (slots, self.slot_tokens, heads, head_dim, device)
        self._kept_keys = [allocate_slots(*size, smooth=self.smooth) for _ in range(layers)]
        self._kept_values = [allocate_slots(*size) for _ in range(layers)]
        self._cos = torch.ones(slots, 1, head_dim // 2, device=device)  # by slot: the turn of a sink
        self._sin = torch.zeros(slots, 1, head_dim // 2, device=device)

    @property
    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in (*self._kept_keys, *self._kept_values))

    def load(self, layer: int, spans: Sequence[tuple[int, int]]) -> None:
        for span in spans:
            slot = span[0] // self.slot_tokens
            read_slot(self._kept_values[layer], slot, self._part(self.values[layer], span)[0])
            turn = Rotation(self._cos[slot], self._sin[slot]) if self._shifts.get(slot) else None
            self._load_keys(layer, span, turn)

    def store(self, layer: int, span: tuple[int, int]) -> None:
        slot = span[0] // self.slot_tokens
        write_slot(self._kept_keys[layer], slot, self._part(self.keys[layer], span)[0])
        write_slot(self._kept_values[layer], slot, self._part(self.values[layer], span)[0])

    def variant(self, spans: Sequence[tuple[int, int]]) -> Hashable:
        return tuple(start for start, _ in spans if self._shifts.get(start // self.slot_tokens))

    def present(self, resident: Resident, shift: int) -> None:
        if self._shifts.get(resident.slot, 0) != shift:
            self._set_shift(resident.slot, shift)

    def turn_layer(self, layer: int, span: tuple[int, int], turn: Rotation) -> None:
        self._load_keys(layer, span, turn)

    def _load_keys(self, layer: int, span: tuple[int, int], turn: Rotation | None) -> None:
        read_slot(self._kept_keys[layer], span[0] // self.slot_tokens, self._part(self.keys[layer], span)[0], turn)

    def _part(self, tokens: Tensor, span: tuple[int, int]) -> Tensor:
        return tokens[:, span[0] : sum(span)]

    def _tensors(self, layers: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        return [torch.zeros(shape, dtype=dtype, device=device)] * layers

    def _set_shift(self, slot: int, shift: int) -> None:
        super()._set_shift(slot, shift)
        turn = time_shift(shift, self.keys[0].shape[-1], self.keys[0].device)
        self._cos[slot], self._sin[slot] = turn.cos, turn.sin

    def _remember_made(self, resident: Resident) -> None:
        """The slot has the keys as they were made."""


class SmoothedKVCache(NVFP4KVCache):
    """The same with smoothed keys: each slot's mean over its tokens is kept beside the codes and added again when it is
    read, so that keys with a standing offset lose less. Reading takes a second pass."""

    smooth = True


CACHES: dict[str, type[KVCache]] = {"bf16": KVCache, "nvfp4": NVFP4KVCache, "nvfp4-smooth": SmoothedKVCache}
"""By the format of what they keep; bf16 stands for the transformer's own dtype."""
