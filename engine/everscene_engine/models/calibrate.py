"""What the linears of a transformer are given while it makes worlds: measured before its weights are quantised.

The model runs as it will: chunk by chunk over its cache, through every denoising step and the clean pass, a stream for
each prompt. Of what goes into each linear of the blocks are kept the moments by which its weight's block scales are
chosen (`everscene_kernels.nvfp4_weighted`), and its largest magnitude, by nvidia-modelopt's calibrator: the range that
activations in four bits are given where both sides of a product are in NVFP4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from everscene_engine.conditioning import TextEmbedding
from everscene_engine.config import StreamConfig
from everscene_engine.errors import ConfigError, GenerationFailed
from everscene_engine.stored_linear import linears_of
from everscene_engine.stream import LatentStream
from everscene_engine.transformer import WanTransformer
from everscene_kernels.nvfp4_weighted import block_moments

CHUNKS = 4
"""Of each prompt, unless it is said otherwise: until the window holds what was generated."""


@dataclass(frozen=True)
class Calibration:
    """By name of the linear. moments: [W, 16, 16] float32, sums over all rows. amax: [1] float32. rows: how many."""

    moments: dict[str, Tensor]
    amax: dict[str, Tensor]
    rows: dict[str, int]


class _Watch:
    """Sees what a linear is given."""

    def __init__(self) -> None:
        self.moments: Tensor | None = None
        self.rows = 0
        self.range = _max_calibrator()

    def __call__(self, linear: nn.Module, given: tuple[Any, ...]) -> None:
        x: Tensor = given[0].detach().reshape(-1, given[0].shape[-1])
        if not bool(torch.isfinite(x).all()):
            raise GenerationFailed("calibration met NaN or infinity: these weights or prompts cannot be used")
        found = block_moments(x)
        self.moments = found if self.moments is None else self.moments.add_(found)
        self.rows += len(x)
        self.range.collect(x)


@torch.inference_mode()
def calibrate(
    model: WanTransformer,
    stream: StreamConfig,
    prompts: Sequence[TextEmbedding],
    steps: int | None = None,
    chunks: int = CHUNKS,
) -> Calibration:
    """Make `chunks` chunks of each prompt, and note what linears are given. steps: None for the stream's own.

    model: with plain weights; it is as before afterwards. Raises ConfigError without prompts or without
    nvidia-modelopt, GenerationFailed for activations that are no numbers.
    """
    if not prompts or chunks < 1:
        raise ConfigError("calibration needs at least one prompt and one chunk")
    watches = {name: _Watch() for name in linears_of(model)}
    hooks = [linear.register_forward_pre_hook(watches[name]) for name, linear in linears_of(model).items()]
    device = model.patch_embedding.weight.device
    try:
        for seed, prompt in enumerate(prompts):
            made = LatentStream(model, stream, seed, steps=steps)
            made.steer(model.condition(prompt.to(device)))
            for _ in range(chunks):
                made.generate()
    finally:
        for hook in hooks:
            hook.remove()
    return Calibration(
        {name: watch.moments for name, watch in watches.items() if watch.moments is not None},
        {name: watch.range.compute_amax().float().reshape(1) for name, watch in watches.items()},
        {name: watch.rows for name, watch in watches.items()},
    )


def _max_calibrator() -> Any:
    try:
        from modelopt.torch.quantization.calib import MaxCalibrator  # takes seconds
    except ImportError as error:
        raise ConfigError("calibration needs nvidia-modelopt: pip install everscene[quantize]") from error
    return MaxCalibrator(axis=None)
