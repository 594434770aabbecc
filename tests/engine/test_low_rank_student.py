"""Low-rank weights learn by the chain rule, and the loader adds what was learned."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from everscene_engine.checkpoint import (
    load_part,
    load_pocket_transformer,
    low_rank_for,
    low_rank_part,
    save_pocket_transformer,
)
from everscene_engine.config import TransformerConfig
from everscene_engine.text import PocketTextConfig, PocketTextEncoder
from everscene_engine.training.loop import AveragedWeights
from everscene_engine.training.low_rank_student import LowRankStudent
from everscene_engine.transformer import WanTransformer

CONFIG = TransformerConfig(dim=24, ffn_dim=40, layers=2, heads=2, channels=4, text_dim=16, freq_dim=16)


@pytest.fixture
def transformer() -> WanTransformer:
    torch.manual_seed(0)
    return WanTransformer(CONFIG)


def linear(transformer: WanTransformer) -> nn.Linear:
    """One of those that learn."""
    return transformer.layers()[1].cross_attn.o


def learned(transformer: WanTransformer) -> LowRankStudent:
    """A student whose A and B have both moved."""
    student = LowRankStudent(transformer, rank=3)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    student.write()
    return student


def test_a_student_begins_as_its_teacher(transformer: WanTransformer) -> None:
    before = linear(transformer).weight.detach().clone()
    LowRankStudent(transformer, rank=3).write()
    torch.testing.assert_close(linear(transformer).weight, before)


def test_only_linears_of_the_blocks_learn(transformer: WanTransformer) -> None:
    LowRankStudent(transformer, rank=3)
    learning = {name for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    linears = {name for name, part in transformer.blocks.named_modules() if isinstance(part, nn.Linear)}
    assert learning == {f"blocks.{name}.weight" for name in linears}


def test_gradients_are_those_of_the_product(transformer: WanTransformer) -> None:
    origin = linear(transformer).weight.detach().clone()
    student = learned(transformer)
    number = next(n for n, (name, _) in enumerate(student._linears) if name == "blocks.1.cross_attn.o")
    down, up = (part[number].detach().clone().requires_grad_(True) for part in (student.down, student.up))
    x = torch.randn(5, CONFIG.dim)

    def loss(weight: Tensor) -> Tensor:
        return (x @ weight.T).square().mean()

    loss(origin + up @ down).backward()
    for _, part in student._linears:
        part.weight.grad = torch.zeros_like(part.weight)
    loss(linear(transformer).weight).backward()
    student.take_gradients()
    torch.testing.assert_close(student.down[number].grad, down.grad)
    torch.testing.assert_close(student.up[number].grad, up.grad)


def test_the_loader_adds_what_was_learned_for_few_steps(tmp_path: Path, transformer: WanTransformer) -> None:
    text = PocketTextEncoder(PocketTextConfig(("a", "fox"), width=CONFIG.text_dim))
    save_pocket_transformer(transformer, text, tmp_path)
    base = load_pocket_transformer(tmp_path)[0]
    student = learned(base)
    student.save(tmp_path, 2, AveragedWeights(student))
    wanted = linear(base).weight
    torch.testing.assert_close(linear(load_pocket_transformer(tmp_path, 2)[0]).weight, wanted, atol=2e-3, rtol=0)
    of_many = linear(load_pocket_transformer(tmp_path, 16)[0]).weight
    assert (of_many - wanted).abs().max() > 0.05


def test_a_student_can_begin_with_what_another_learned(tmp_path: Path, transformer: WanTransformer) -> None:
    text = PocketTextEncoder(PocketTextConfig(("a", "fox"), width=CONFIG.text_dim))
    save_pocket_transformer(transformer, text, tmp_path)
    first = learned(load_pocket_transformer(tmp_path)[0])
    first.save(tmp_path, 2, AveragedWeights(first))
    base = load_pocket_transformer(tmp_path)[0]
    student = LowRankStudent(base, rank=3)
    student.begin_from(load_part(tmp_path, low_rank_part(2))[0])
    torch.testing.assert_close(linear(base).weight, linear(load_pocket_transformer(tmp_path, 2)[0]).weight)
    assert torch.equal(AveragedWeights(student).tensors["up.0"], student.up[0])


def test_weights_of_another_rank_are_refused(tmp_path: Path, transformer: WanTransformer) -> None:
    first = learned(transformer)
    first.save(tmp_path, 2, AveragedWeights(first))
    with pytest.raises(ValueError, match=r"lora_A.weight' is \[3, .*the student wants \[1, "):
        LowRankStudent(transformer, rank=1).begin_from(load_part(tmp_path, low_rank_part(2))[0])


def test_what_was_learned_for_fewer_steps_serves_up_to_four(tmp_path: Path) -> None:
    for part in ("low-rank-2step", "low-rank-3step"):
        (tmp_path / f"{part}-1-of-1.safetensors").touch()
    parts = [low_rank_for(tmp_path, steps) for steps in (1, 2, 3, 4, 5, 16)]
    assert parts == [None, "low-rank-2step", "low-rank-3step", "low-rank-3step", None, None]
