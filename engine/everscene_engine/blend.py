"""Conditioning between two prompts: what a blend steers to, chunk after chunk.

The text rows of both prompts are laid side by side. Where both have a row, it is interpolated: on the straight line, or
turned (slerp), its length going evenly from one to the other. Where only one has a row there are two cases. A model
that saw its prompts padded with zero rows (the Wan models) has a zero row there, so the row grows out of it or shrinks
into it. One that never saw padding (`pocket`) attends to the row as it is, with ln(weight) on its logits: at weight 0
it is hidden, at 1 it counts like any other. So both ends are exactly the prompts themselves.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from everscene_engine.conditioning import TextEmbedding, logit_bias
from everscene_engine.errors import ConfigError
from everscene_engine.port import BLEND_PATHS, BlendPath, Mix, Prompting

PARALLEL = 1e-4  # below this sine of the angle between two rows they are taken as lying on one line


def rows_of(prompting: Prompting, encode: Callable[[str], TextEmbedding]) -> tuple[Tensor, Tensor | None]:
    """Text rows [1, L, text_dim] and their logit bias [1, 1, 1, L] or None, as `condition_rows` takes them.

    encode: makes the embedding of one prompt. Raises ConfigError for a weight or a path that cannot be.
    """
    rows, weights, padded_to = _mixed(prompting, encode)
    length = torch.tensor([rows.shape[1]], device=rows.device)
    if padded_to:
        rows = F.pad(rows, (0, 0, 0, 1))  # stands for all the padded rows
        return rows, logit_bias(length, rows.shape[1], padded_to)
    if bool((weights == 1).all()):
        return rows, None
    return rows, weights.log()[None, None]


def _mixed(prompting: Prompting, encode: Callable[[str], TextEmbedding]) -> tuple[Tensor, Tensor, int]:
    """Rows [1, L, text_dim], the weight of each [1, L] float32, and what the model pads to."""
    if isinstance(prompting, str):
        text = encode(prompting)
        rows = text.tokens[:, : int(text.lengths[0])]
        return rows, torch.ones(rows.shape[:2], device=rows.device), text.padded_to
    _check(prompting)
    before, before_weights, padded_to = _mixed(prompting.before, encode)
    after, after_weights, _ = _mixed(prompting.after, encode)
    shared, weight = min(before.shape[1], after.shape[1]), prompting.weight
    before_is_longer = before.shape[1] > after.shape[1]
    longer, tail_weight = (before, 1 - weight) if before_is_longer else (after, weight)
    longer_weights = before_weights if before_is_longer else after_weights
    common = interpolate(before[:, :shared], after[:, :shared], weight, prompting.path)
    common_weights = torch.lerp(before_weights[:, :shared], after_weights[:, :shared], weight)
    tail = longer[:, shared:]
    if padded_to:
        tail = tail * tail_weight
        return torch.cat([common, tail], dim=1), torch.ones_like(longer_weights), padded_to
    weights = torch.cat([common_weights, longer_weights[:, shared:] * tail_weight], dim=1)
    there = weights[0] > 0
    return torch.cat([common, tail], dim=1)[:, there], weights[:, there], 0


def interpolate(before: Tensor, after: Tensor, weight: float, path: BlendPath) -> Tensor:
    """Between two tensors [..., D], row by row; weight 0 gives `before`, 1 gives `after`, both exactly."""
    if weight in (0.0, 1.0) or path == "linear":
        return torch.lerp(before, after, weight)
    x, y = before.float(), after.float()
    length = torch.lerp(x.norm(dim=-1, keepdim=True), y.norm(dim=-1, keepdim=True), weight)
    x_unit, y_unit = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
    angle = (x_unit * y_unit).sum(dim=-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    turned = (((1 - weight) * angle).sin() * x_unit + (weight * angle).sin() * y_unit) / sine
    return torch.where(sine > PARALLEL, turned * length, torch.lerp(x, y, weight)).to(before.dtype)


def _check(mix: Mix) -> None:
    if not 0.0 <= mix.weight <= 1.0:
        raise ConfigError(f"the weight of a mix is {mix.weight}; it must lie from 0 to 1")
    if mix.path not in BLEND_PATHS:
        raise ConfigError(f"the path of a mix is {mix.path!r}; it must be one of {', '.join(BLEND_PATHS)}")
