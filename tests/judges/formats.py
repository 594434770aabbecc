"""A pocket model in other number formats, for many clips side by side.

Weights: as `everscene serve --precision` has them: fp8 and nvfp4 weights are multiplied in FP8 where the GPU has units
for it; on a CPU, and on other GPUs, nvfp4 weights are multiplied in the model's own dtype, and fp8 is emulated.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from everscene_engine.kv_cache import KVCache
from everscene_engine.pocket import PocketModel
from everscene_engine.slots import Resident
from everscene_engine.stored_linear import StoredLinear, store_linears
from everscene_engine.transformer import WanTransformer
from everscene_kernels.fp8 import FP8Rows, has_fp8_units
from everscene_kernels.nvfp4 import NVFP4Tensor
from everscene_kernels.nvfp4_kv import allocate_slots, read_slot, write_slot
from everscene_kernels.nvfp4_weights import fp8_rows


def in_precision(model: PocketModel, precision: str) -> PocketModel:
    """The model with the linears of its blocks in bf16 (as they are), fp8 or nvfp4. Changed in place but for bf16."""
    if precision != "bf16":
        with torch.inference_mode():
            store_linears(model.transformer, precision)
            if precision == "nvfp4":
                _multiply_in_fp8(model.transformer)
    return replace(model)


def _multiply_in_fp8(transformer: WanTransformer) -> None:
    """NVFP4 weights as the rows that FP8 units are given, where there are such units: the fast path's numbers."""
    for module in transformer.modules():
        for name, child in module.named_children():
            if isinstance(child, StoredLinear) and isinstance(child.stored, NVFP4Tensor):
                if not has_fp8_units(child.bias.device, child.in_features, child.out_features):
                    return
                rows: FP8Rows = fp8_rows(child.stored)
                made = StoredLinear(child.in_features, child.out_features, "fp8")
                made.bias, made.weight_values, made.weight_scales = child.bias, rows.values, rows.scales
                setattr(module, name, made)


class DequantizedCache(KVCache):
    """What `NVFP4KVCache` gives attention, for many clips: finished keys and values have been through NVFP4 and back.

    Nothing is saved. A chunk goes through it when another first sees it: its own clean pass still sees what it wrote.
    """

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
        super().__init__(layers, clips, slots, slot_frames, frame_tokens, heads, head_dim, dtype, device)
        self._fresh: list[set[tuple[int, int]]] = [set() for _ in range(layers)]  # spans by layer
        self._slot = allocate_slots(1, self.slot_tokens, heads, head_dim, device)

    @classmethod
    def like(cls, cache: KVCache) -> "DequantizedCache":
        """An empty one in the place of another."""
        keys = cache.keys[0]
        heads, head_dim = keys.shape[2:]
        frames = cache.slot_tokens // cache.frame_tokens
        size = (len(cache.keys), cache.clips, cache.table.slots, frames, cache.frame_tokens, heads, head_dim)
        return cls(*size, keys.dtype, keys.device)

    def store(self, layer: int, span: tuple[int, int]) -> None:
        self._fresh[layer] = {other for other in self._fresh[layer] if other[0] != span[0]} | {span}

    def load(self, layer: int, spans: Sequence[tuple[int, int]]) -> None:
        starts = {start for start, _ in spans}
        seen = {span for span in self._fresh[layer] if span[0] in starts}
        for start, length in seen:
            for kept in (self.keys[layer], self.values[layer]):
                for clip in kept[:, start : start + length]:
                    self._through(clip)
        self._fresh[layer] -= seen

    def clear(self) -> None:
        super().clear()
        for fresh in self._fresh:
            fresh.clear()

    def _through(self, tokens: Tensor) -> None:
        """Keys or values [tokens, H, E] of one clip, to NVFP4 and back in place."""
        write_slot(self._slot, 0, tokens)
        read_slot(self._slot, 0, tokens)

    def _remember_made(self, resident: Resident) -> None:
        for layer in range(len(self.keys)):
            self.load(layer, [self._span(resident)])
        super()._remember_made(resident)
