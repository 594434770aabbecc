"""The two networks of the pocket model that learn together, their optimiser, and how they are saved."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from everscene_engine.checkpoint import load_pocket_transformer, save_pocket_transformer
from everscene_engine.config import TransformerConfig
from everscene_engine.text import PocketTextConfig, PocketTextEncoder
from everscene_engine.training.loop import AveragedWeights
from everscene_engine.training.world.captions import VOCABULARY
from everscene_engine.transformer import WanTransformer


class WorldModel(nn.Module):
    """Transformer and text encoder."""

    def __init__(self, transformer: WanTransformer, text: PocketTextEncoder) -> None:
        super().__init__()
        self.transformer = transformer
        self.text = text

    @classmethod
    def new(cls, config: TransformerConfig) -> "WorldModel":
        """Random, with blocks that do nothing yet and a flow of zero, which trains faster than random ones."""
        text = PocketTextEncoder(PocketTextConfig(tuple(VOCABULARY), width=config.text_dim))
        model = cls(WanTransformer(config), text)
        nn.init.zeros_(model.transformer.head.head.weight)
        nn.init.zeros_(model.transformer.head.head.bias)
        for parameter in model.transformer.time_projection.parameters():
            nn.init.zeros_(parameter)
        return model

    @classmethod
    def load(cls, folder: Path) -> "WorldModel":
        """Weights that `save` wrote, ready to go on with. Raises CheckpointError."""
        model = cls(*load_pocket_transformer(folder))
        return model.train().requires_grad_(True)

    @torch.no_grad()
    def with_vocabulary(self, words: Sequence[str]) -> "WorldModel":
        """The same model with a text encoder of these words: those that it knew mean what they meant, others are
        random. The transformer is shared, everything of the encoder is a copy."""
        before = self.text
        text = PocketTextEncoder(replace(before.config, vocabulary=tuple(words))).to(before.place.device)
        place = {word: index for index, word in enumerate(before.config.vocabulary, start=1)}
        for index, word in enumerate(words, start=1):
            if word in place:
                text.word.weight[index] = before.word.weight[place[word]]
        text.load_state_dict({**before.state_dict(), "word.weight": text.word.weight})
        return WorldModel(self.transformer, text)

    @torch.no_grad()
    def save(self, folder: Path, average: AveragedWeights) -> None:
        """Write the averaged weights as the stream loads them; the live ones stay as they are."""
        held = [p.detach().clone() for p in self.parameters()]
        average.copy_to(self)
        save_pocket_transformer(self.transformer, self.text, folder)
        for parameter, value in zip(self.parameters(), held, strict=True):
            parameter.copy_(value)


class Optimizer:
    """Muon for the matrices of the blocks, AdamW for all else, as one.

    Muon (Jordan et al., 2024) steps along the orthogonalised momentum of a matrix; scaled to the size of an AdamW
    step, so that one learning rate serves both. muon False: AdamW for everything, which is steadier where gradients
    are mostly noise.
    """

    def __init__(self, model: nn.Module, learning_rate: float, weight_decay: float, muon: bool = True) -> None:
        blocks = model.transformer.blocks.parameters() if muon and isinstance(model, WorldModel) else ()
        matrices = [p for p in blocks if p.ndim == 2 and p.requires_grad]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen and p.requires_grad]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [
                    {"params": [p for p in others if p.ndim >= 2], "weight_decay": weight_decay},
                    {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
                ],
                lr=learning_rate,
                betas=(0.9, 0.95),
                fused=others[0].is_cuda,
            ),
        ]
        if matrices:
            self.parts.append(
                torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )

    def step(self, rate: float) -> None:
        """One step with this learning rate; the gradients are gone afterwards."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)
