"""Keys and values of past chunks in NVFP4: quantised once, into slots allocated at the start.

A slot holds the roped keys (or the values) of one chunk, each head of each token a row, all of it under one amax:
4.5 bits a number, 3.56 times less than bfloat16. A slot is written in the clean pass and read into a scratch that all
layers share; writing to a slot again (recache, or after a rollback) replaces it whole.

Smoothing takes the mean over the slot's tokens from each channel before quantising, which lets keys with a standing
offset use the codes better. The mean is kept with the slot and added again when it is read, so what attention sees is
the same key with a smaller error, whichever slots it sees. (LongLive 2.0 takes a mean over channels, from the current
chunk only, and adds nothing back: that shifts the scores of current against cached keys.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from everscene_kernels.fused import turn_pairs
from everscene_kernels.nvfp4 import BLOCK, NVFP4Tensor, Rule, check_rule, dequantize, quantize

_FUSED_DTYPES = (torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class KVSlots:
    """The slots of one layer's keys, or of its values. Written in place by `write_slot`.

    values: uint8 [slots, slot_tokens, H, E / 2].
    scales: float8_e4m3fn [slots, slot_tokens, H, E / 16].
    amax: float32 [slots].
    mean: float32 [slots, H, E], or None without smoothing.
    """

    values: Tensor
    scales: Tensor
    amax: Tensor
    mean: Tensor | None
    rule: Rule

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        mean = 0 if self.mean is None else self.mean.nbytes
        return self.values.nbytes + self.scales.nbytes + self.amax.nbytes + mean


def allocate_slots(
    slots: int,
    slot_tokens: int,
    heads: int,
    head_dim: int,
    device: torch.device,
    rule: Rule = "mse",
    smooth: bool = False,
) -> KVSlots:
    """Empty slots, which read as 0. Raises ValueError if head_dim is no multiple of 16, or for an unknown rule."""
    check_rule(rule)
    if head_dim % BLOCK:
        raise ValueError(f"an NVFP4 cache needs heads of a multiple of {BLOCK} channels, not {head_dim}")
    cells = (slots, slot_tokens, heads)
    return KVSlots(
        torch.zeros(*cells, head_dim // 2, dtype=torch.uint8, device=device),
        torch.zeros(*cells, head_dim // BLOCK, dtype=torch.uint8, device=device).view(torch.float8_e4m3fn),
        torch.zeros(slots, device=device),
        torch.zeros(slots, heads, head_dim, device=device) if smooth else None,
        rule,
    )


def quantize_kv(k: Tensor, rule: Rule = "mse") -> NVFP4Tensor:
    """Keys or values [tokens, H, E] under one amax; the tensor's rows are the heads of the tokens, [tokens · H, E].

    Raises ValueError for another number of dimensions.
    """
    if k.dim() != 3:
        raise ValueError(f"keys and values are [tokens, H, E], not {tuple(k.shape)}")
    return quantize(k, rule)


def write_slot(kept: KVSlots, slot: int, k: Tensor) -> None:
    """Quantise k [tokens, H, E] into the first tokens of a slot; what was in the slot is no longer valid.

    Raises ValueError if k has more tokens than a slot, or other heads.
    """
    tokens = _tokens(kept, slot, k)
    if kept.mean is not None:
        mean = k.float().mean(0) if tokens else torch.zeros_like(kept.mean[slot])  # [H, E]
        kept.mean[slot] = mean
        k = k.float() - mean
    if _fused(k):
        from everscene_kernels import nvfp4_triton  # needs a GPU or Triton's interpreter

        nvfp4_triton.quantize(k, kept.rule, out=view_slot(kept, slot, tokens))
        return
    held = quantize_kv(k, kept.rule)
    kept.values[slot, :tokens].flatten(0, 1).copy_(held.values)
    kept.scales[slot, :tokens].flatten(0, 1).copy_(held.scales)
    kept.amax[slot] = held.amax[0]


def view_slot(kept: KVSlots, slot: int, tokens: int) -> NVFP4Tensor:
    """The first tokens of a slot as a tensor [tokens, H, E] that shares the slot's memory (smoothed, if it is)."""
    heads, half = kept.values.shape[2:]
    return NVFP4Tensor(
        kept.values[slot, :tokens].flatten(0, 1),
        kept.scales[slot, :tokens].flatten(0, 1),
        kept.amax[slot : slot + 1],
        (tokens, heads, 2 * half),
        kept.rule,
    )


def read_slot(kept: KVSlots, slot: int, out: Tensor, turn: tuple[Tensor, Tensor] | None = None) -> None:
    """Dequantise the first tokens of a slot into the scratch out [tokens, H, E], rounded to its dtype.

    turn: cosines and sines, float32 [1, E/2] each, by which every key is then turned (RoPE), and rounded again.
    Raises ValueError if out has more tokens than a slot, or other heads.
    """
    tokens = _tokens(kept, slot, out)
    if out.is_contiguous() and _fused(out):
        from everscene_kernels import nvfp4_triton, nvfp4_turn_triton

        if kept.mean is not None:
            out.copy_(nvfp4_triton.dequantize(view_slot(kept, slot, tokens), torch.float32) + kept.mean[slot])
            if turn is not None:
                out.copy_(turn_pairs(out, *turn))
        elif turn is None:
            nvfp4_triton.dequantize(view_slot(kept, slot, tokens), out.dtype, out)
        else:
            nvfp4_turn_triton.dequantize_turned(view_slot(kept, slot, tokens), *turn, out)
        return
    values = dequantize(view_slot(kept, slot, tokens))
    out.copy_(values if kept.mean is None else values + kept.mean[slot])
    if turn is not None:
        out.copy_(turn_pairs(out, *turn))


def _fused(x: Tensor) -> bool:
    """Whether the kernels do it, bit for bit the same, in place of the definition."""
    return x.is_cuda and x.dtype in _FUSED_DTYPES


def _tokens(kept: KVSlots, slot: int, k: Tensor) -> int:
    slots, slot_tokens, heads, half = kept.values.shape
    if not 0 <= slot < slots:
        raise ValueError(f"there is no slot {slot}: there are {slots}")
    if k.dim() != 3 or k.shape[0] > slot_tokens or tuple(k.shape[1:]) != (heads, 2 * half):
        raise ValueError(f"a slot holds up to {slot_tokens} tokens [{heads}, {2 * half}], not {tuple(k.shape)}")
    return k.shape[0]
