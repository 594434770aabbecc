"""Low-rank weights (LoRA) that learn: W = W₀ + B·A for each linear of the blocks, with W₀ as it was.

The network itself holds W, and its gradient G = ∂loss/∂W is made as for any weight. By the chain rule ∂loss/∂A = Bᵀ·G
and ∂loss/∂B = G·Aᵀ, so nothing in the network, its compiled blocks or its streams needs to know. (Hu et al., LoRA,
2021.) B starts at zero: the student begins as its teacher.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from everscene_engine.checkpoint import save_low_rank
from everscene_engine.models.low_rank import DOWN, UP
from everscene_engine.stored_linear import linears_of
from everscene_engine.training.loop import AveragedWeights
from everscene_engine.transformer import WanTransformer


class LowRankStudent(nn.Module):
    """The A [rank, in] and B [out, rank] of every linear of a transformer's blocks; the transformer learns nothing
    else any more."""

    def __init__(self, transformer: WanTransformer, rank: int) -> None:
        super().__init__()
        transformer.requires_grad_(False)
        self.rank = rank
        self._linears = [(name, part) for name, part in linears_of(transformer).items() if isinstance(part, nn.Linear)]
        weights = [linear.weight.requires_grad_(True) for _, linear in self._linears]
        self._origin = [weight.detach().clone() for weight in weights]
        self.down = nn.ParameterList(
            torch.randn(rank, w.shape[1], device=w.device) / w.shape[1] ** 0.5 for w in weights
        )
        self.up = nn.ParameterList(torch.zeros(w.shape[0], rank, device=w.device) for w in weights)

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Turn the gradients of the transformer's weights, which are gone afterwards, into those of A and B."""
        for (_, linear), down, up in zip(self._linears, self.down, self.up, strict=True):
            whole = linear.weight.grad
            assert whole is not None
            down.grad, up.grad = up.T @ whole, whole @ down.T
            linear.weight.grad = None

    @torch.no_grad()
    def write(self) -> None:
        """Let the transformer compute with the A and B of now."""
        for (_, linear), origin, down, up in zip(self._linears, self._origin, self.down, self.up, strict=True):
            torch.addmm(origin, up, down, out=linear.weight.data)

    @torch.no_grad()
    def begin_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over A and B that `save` wrote, and let the transformer compute with them. Raises ValueError if they are
        of another rank or another model."""
        for (name, _), down, up in zip(self._linears, self.down, self.up, strict=True):
            for mine, other in ((down, name + DOWN), (up, name + UP)):
                if other not in tensors or tensors[other].shape != mine.shape:
                    found = list(tensors[other].shape) if other in tensors else "missing"
                    raise ValueError(f"'{other}' is {found}; the student wants {list(mine.shape)}")
                mine.copy_(tensors[other])
        self.write()

    def save(self, folder: Path, steps: int, average: AveragedWeights) -> None:
        """Write the averaged A and B as the loader merges them, for so many denoising steps."""
        tensors: dict[str, Tensor] = {}
        for index, (name, _) in enumerate(self._linears):
            tensors[name + DOWN] = average.tensors[f"down.{index}"]
            tensors[name + UP] = average.tensors[f"up.{index}"]
        save_low_rank(folder, steps, tensors, self.rank)
