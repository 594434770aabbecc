"""The mean of what two distillations of one teacher learned, as low-rank weights of the same rank.

Distribution matching makes sharp pictures with too much in them, trajectories make calm ones that are a little soft.
Both are small changes of the same weights, so the mean of the changes is a model too, between the two in both respects
("model soups", Wortsman et al., 2022). The mean of two products B·A has twice their rank; of its singular values the
largest `rank` are kept, and how much of the change the others held is printed.

    python -m everscene_engine.training.average_low_rank runs/matching runs/trajectory --steps 2 --out runs/pocket
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from everscene_engine.checkpoint import load_part, low_rank_part, save_low_rank
from everscene_engine.models.low_rank import DOWN, UP


def average(changes: Sequence[Mapping[str, Tensor]], rank: int) -> tuple[dict[str, Tensor], float]:
    """Low-rank tensors of the mean change, and the share 0..1 of its squares that the rank leaves out.

    changes: tensors `NAME.lora_A.weight` [r, in] and `NAME.lora_B.weight` [out, r] each, of the same names. Raises
    ValueError if the names differ.
    """
    names = [name.removesuffix(DOWN) for name in changes[0] if name.endswith(DOWN)]
    if any(set(change) != set(changes[0]) for change in changes):
        raise ValueError("low-rank weights of different models have no mean: their tensors have other names")
    made: dict[str, Tensor] = {}
    kept = whole = 0.0
    for name in names:
        products = [change[name + UP].float() @ change[name + DOWN].float() for change in changes]
        left, values, right = torch.linalg.svd(torch.stack(products).mean(0), full_matrices=False)
        root = values[:rank].sqrt()
        made[name + UP], made[name + DOWN] = left[:, :rank] * root, root[:, None] * right[:rank]
        kept += float(values[:rank].square().sum())
        whole += float(values.square().sum())
    return made, 1.0 - kept / whole if whole else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="of distilled weights of the same teacher")
    parser.add_argument("--steps", type=int, required=True, help="that they were distilled for")
    parser.add_argument("--out", type=Path, required=True, help="folder that the mean is written to")
    options = parser.parse_args()
    parts = [load_part(folder, low_rank_part(options.steps)) for folder in options.folders]
    rank = int(str(parts[0][1]["rank"]))
    tensors, lost = average([tensors for tensors, _ in parts], rank)
    save_low_rank(options.out, options.steps, tensors, rank)
    print(f"{len(tensors) // 2} matrices of rank {rank}; left out: {100 * lost:.2f} % of the change's squares")


if __name__ == "__main__":
    main()
