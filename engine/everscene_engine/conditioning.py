"""Conditioning: the text embeddings of a prompt with their cross-attention keys and values, made once."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

REMEMBERED_BYTES = 2**30
"""Of the conditionings of earlier prompts that a live engine keeps on its device, the current one besides."""


@dataclass(frozen=True)
class TextEmbedding:
    """What a text encoder makes of some prompts.

    tokens: [P, L, text_dim], rows past a prompt's length are not read. lengths: real tokens of each prompt, [P].
    padded_to: 0, or the length to which the model was trained to see every prompt padded with zero rows
    (512 for the Wan models, which attend to those rows too).
    """

    tokens: Tensor
    lengths: Tensor
    padded_to: int = 0

    def to(self, device: torch.device) -> "TextEmbedding":
        """The same on another device."""
        return TextEmbedding(self.tokens.to(device), self.lengths.to(device), self.padded_to)


@dataclass(frozen=True)
class Conditioning:
    """Cross-attention keys and values of every layer for P prompts.

    keys, values: for each layer [P, L, H, E]. bias: [P, 1, 1, L] added to the logits, or None when every row
    counts once. P is 1 (one prompt for all), B (one for each clip) or B·F (one for each latent frame).
    rows: the text rows [P, L, text_dim] that they were made of, for who makes them once more elsewhere. prompt: its
    words, where one prompt is for all and somebody may ask for them.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias: Tensor | None
    rows: Tensor | None = None
    prompt: str = ""

    @property
    def bytes(self) -> int:
        """What keys, values and rows take."""
        held = (*self.keys, *self.values, *(() if self.rows is None else (self.rows,)))
        return sum(tensor.nbytes for tensor in held)


def logit_bias(lengths: Tensor, rows: int, padded_to: int) -> Tensor | None:
    """Weights of text rows as logit biases, [P, 1, 1, rows] float32, or None if all rows weigh one.

    Rows at or past a prompt's length are hidden (−inf), but with `padded_to` the row at the prompt's length is a
    zero row that stands for all the padded rows at once: they are equal, so P − length of them with logit x weigh
    as one with logit x + ln(P − length). An exact identity, which makes attention over 512 rows one over a few.
    """
    index = torch.arange(rows, device=lengths.device)[None]  # [1, rows]
    bias = torch.zeros(lengths.shape[0], rows, device=lengths.device)
    bias = bias.masked_fill(index >= lengths[:, None], -math.inf)
    if padded_to:
        copies = (padded_to - lengths).clamp(min=0).float()
        bias = torch.where(index == lengths[:, None], copies.log()[:, None], bias)
    if bool((bias == 0).all()):
        return None
    return bias[:, None, None]
