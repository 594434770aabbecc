"""Attention that listens: denoising on a CPU stops between two layers, not only between two forwards."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from everscene_engine.attention import SelfAttention
from everscene_engine.sampler import Interrupted


@dataclass(frozen=True)
class Heeding:
    """Another attention, before each of whose layers `interrupted` is asked. Raises Interrupted."""

    attention: SelfAttention
    interrupted: Callable[[], bool]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.interrupted():
            raise Interrupted
        return self.attention(layer, q, k, v)
