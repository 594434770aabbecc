"""What the training stages share."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from everscene_engine.training.loop import (
    AveragedWeights,
    MadeAhead,
    RunLog,
    TimeBudget,
    check_writable,
    clip_gradients,
    draw_curves,
    load_progress,
    save_progress,
    warmup_cosine,
)


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_fraction_counts_from_begin_and_not_from_construction() -> None:
    clock = FakeClock()
    budget = TimeBudget(100.0, clock)
    clock.now += 60.0
    budget.begin()
    assert budget.fraction == 0.0
    clock.now += 20.0
    assert budget.fraction == pytest.approx(0.5)
    assert not budget.spent
    clock.now += 30.0
    assert budget.fraction == 1.0
    assert budget.spent


def test_learning_rate_rises_then_falls_with_the_clock() -> None:
    assert warmup_cosine(0, 0.0, 10) == pytest.approx(0.1)
    assert warmup_cosine(9, 0.0, 10) == pytest.approx(1.0)
    assert warmup_cosine(500, 0.5, 10) == pytest.approx(0.51)
    assert warmup_cosine(500, 1.0, 10) == pytest.approx(0.02)


def test_average_follows_and_forgets_the_start() -> None:
    module = nn.Linear(3, 2)
    average = AveragedWeights(module, decay=0.9)
    with torch.no_grad():
        module.weight.fill_(5.0)
    for _ in range(200):
        average.update()
    torch.testing.assert_close(average.tensors["weight"], torch.full((2, 3), 5.0))
    other = nn.Linear(3, 2)
    average.copy_to(other)
    assert torch.equal(other.weight, average.tensors["weight"])


def test_average_is_no_view_of_the_live_weights() -> None:
    module = nn.Linear(2, 2)
    average = AveragedWeights(module)
    before = average.tensors["weight"].clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    assert torch.equal(average.tensors["weight"], before)


def test_large_gradients_are_scaled_to_the_limit_and_small_ones_left() -> None:
    module = nn.Linear(4, 4)
    for size, expected in ((100.0, 1.0), (1e-3, None)):
        for p in module.parameters():
            p.grad = torch.full_like(p, size)
        before = module.weight.grad.clone()  # type: ignore[union-attr]
        norm = clip_gradients(module.parameters(), 1.0)
        assert norm.item() == pytest.approx(size * 20**0.5, rel=1e-4)
        after = torch.cat([p.grad.flatten() for p in module.parameters()])  # type: ignore[union-attr]
        if expected is None:
            assert torch.equal(module.weight.grad, before)  # type: ignore[arg-type]
        else:
            assert after.norm().item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_zeroes_them_all(bad: float) -> None:
    module = nn.Linear(2, 2)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    module.bias.grad[0] = bad  # type: ignore[index]
    clip_gradients(module.parameters(), 1.0)
    assert not any(torch.count_nonzero(p.grad) for p in module.parameters() if p.grad is not None)


def test_writable_folder_is_made_and_left_clean(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        check_writable(tmp_path / "file")


def test_log_holds_a_line_per_record(tmp_path: Path) -> None:
    log = RunLog(tmp_path, TimeBudget(1.0, FakeClock()))
    log.write("step", loss=0.5)
    log.write("step", loss=float("nan"))
    log.write("end", why="time")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["step", "step", "end"]
    assert lines[0]["loss"] == 0.5
    assert log.series("step", "loss") == [(0.0, 0.5)]


def test_curves_leave_ink_in_their_colour(tmp_path: Path) -> None:
    draw_curves({"loss": [(0.0, 1.0), (5.0, 0.1)]}, tmp_path / "c.png", size=(300, 200))
    with Image.open(tmp_path / "c.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(60000) or []}
    assert (0xD1, 0x49, 0x5B) in colours


@pytest.mark.parametrize("points", [[], [(0.0, 2.0)], [(0.0, -1.0)], [(1.0, 2.0), (2.0, 2.0)]])
def test_curves_of_almost_nothing_are_still_a_picture(tmp_path: Path, points: list[tuple[float, float]]) -> None:
    draw_curves({"x": points}, tmp_path / "c.png", size=(300, 200))
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size == (300, 200)


def train_a_little(module: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedWeights, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        module(x).square().mean().backward()
        optimizer.step()
        average.update()


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def fresh(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, AveragedWeights]:
        torch.manual_seed(seed)
        module = nn.Linear(3, 2)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1), AveragedWeights(module)

    first, first_optimizer, first_average = fresh(0)
    train_a_little(first, first_optimizer, first_average, 3)
    save_progress(tmp_path / "p.safetensors", first, first_average, first_optimizer)
    second, second_optimizer, second_average = fresh(1)
    load_progress(tmp_path / "p.safetensors", second, second_average, second_optimizer)
    for run in ((first, first_optimizer, first_average), (second, second_optimizer, second_average)):
        train_a_little(*run, steps=3)
    assert second_average.steps == 6
    for mine, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, other)
    for name, tensor in first_average.tensors.items():
        assert torch.equal(tensor, second_average.tensors[name])


def test_made_ahead_gives_what_is_made_in_order() -> None:
    made = iter(range(5))
    ahead = MadeAhead(lambda: (torch.tensor(next(made)),), torch.device("cpu"))
    assert [ahead.take()[0].item() for _ in range(3)] == [0, 1, 2]
    ahead.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_made_ahead_on_a_stream_of_its_own_gives_finished_tensors() -> None:
    device = torch.device("cuda")
    made = iter(range(100))
    ahead = MadeAhead(lambda: (torch.full((1 << 20,), next(made), device=device).cumsum(0),), device)
    for number in range(20):
        (tensor,) = ahead.take()
        assert tensor[-1].item() == number * (1 << 20)
    ahead.close()
