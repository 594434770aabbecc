"""Attention that listens: a forward on a CPU stops between two layers, not only between two forwards."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from everscene_engine.kv_cache import CachedAttention
from everscene_engine.sampler import Interrupted


@dataclass(frozen=True)
class Heeding:
    """A cache's attention, before each of whose layers `interrupted` is asked. Raises Interrupted."""

    attention: CachedAttention
    interrupted: Callable[[], bool]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._ask()
        return self.attention(layer, q, k, v)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write a layer's keys and values where they belong, and look at nothing."""
        self._ask()
        self.attention.keep(layer, k, v)

    def _ask(self) -> None:
        if self.interrupted():
            raise Interrupted
