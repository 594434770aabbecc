"""Training over several processes."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everscene_engine.errors import ConfigError
from everscene_engine.rank_link import GroupLink, join_store, serve_store
from everscene_engine.training import teacher_forcing
from everscene_engine.training.flow_step import Step, flow_loss, predict
from everscene_engine.training.team import ClipTeam, Share, Team, check_team, train_together
from everscene_engine.training.world_model import WorldModel
from tests.engine.balanced import STREAM, gradients, model, step
from tests.engine.training_team import STEPS, run, start

CPU = torch.device("cpu")
SUMS = 1e-5  # float32: the same terms, added up in another order
OF_THE_CHANGE = 1e-5  # of what the weights have changed by; without Muon, which rounds to bfloat16 on its way


def two(out: Path, share: Share, muon: bool = True) -> list[dict[str, Any]]:
    """What two ranks have in the end."""
    out.mkdir()
    threads = torch.get_num_threads()
    train_together(2, share, CPU, partial(run, out, muon=muon))
    torch.set_num_threads(threads)
    return [torch.load(out / f"rank{rank}.pt") for rank in range(2)]


@dataclass(frozen=True)
class Ended:
    """A run of two ranks that shared the clips."""

    out: Path
    ranks: list[dict[str, Any]]


@pytest.fixture(scope="module")
def shared_clips(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    out = tmp_path_factory.mktemp("clips") / "two"
    return Ended(out, two(out, "clips"))


def logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_two_ranks_that_share_the_sequence_take_the_steps_of_one_process(tmp_path: Path) -> None:
    run(tmp_path, Team(), muon=False)
    wanted = torch.load(tmp_path / "rank0.pt")
    first, second = two(tmp_path / "two", "sequence", muon=False)
    change = float((wanted["weights"] - start()).norm())
    assert change > 0.01
    assert float((first["weights"] - wanted["weights"]).norm()) < OF_THE_CHANGE * change
    assert torch.equal(first["weights"], second["weights"])
    assert torch.equal(first["clips"], wanted["clips"]) and torch.equal(second["clips"], wanted["clips"])
    shown, alone = logged(tmp_path / "two")[0], logged(tmp_path)[0]
    for name in ("loss", "low", "middle", "high"):  # of all latent frames, not of rank 0's
        assert shown[name] == pytest.approx(alone[name], rel=SUMS)


def test_ranks_with_clips_of_their_own_have_the_same_weights_all_along(shared_clips: Ended) -> None:
    first, second = shared_clips.ranks
    assert torch.equal(first["weights"], second["weights"])
    assert not torch.equal(first["clips"], second["clips"])


def test_all_ranks_stop_after_the_same_step_whatever_their_clocks_say(shared_clips: Ended) -> None:
    assert [rank["steps"] for rank in shared_clips.ranks] == [STEPS, STEPS]


def test_rank_0_alone_writes(shared_clips: Ended) -> None:
    assert [line["event"] for line in logged(shared_clips.out)] == ["step", "end"]


def half(of: Step, clip: int) -> Step:
    """One clip of a step."""
    names = "clean", "noisy", "sigma", "timestep", "target", "position", "words", "prompts", "trained"
    parts: dict[str, Any] = {name: getattr(of, name)[clip : clip + 1] for name in names}
    return replace(of, **parts)


def loss_of(made: WorldModel, given: Step, team: Team) -> Tensor:
    part = team.part(given, STREAM)
    loss = flow_loss(predict(made, part.step, part.attention, STREAM), part.step, given)
    loss.backward()  # type: ignore[no-untyped-call]
    return team.add_up(loss, made.parameters())


def test_gradients_of_shared_clips_are_the_mean_of_those_of_the_halves() -> None:
    halves = [half(step(), clip) for clip in range(2)]
    alone, shared = [model(), model()], [model(), model()]
    losses = [loss_of(made, given, Team()) for made, given in zip(alone, halves, strict=True)]
    store = serve_store()

    def rank(number: int) -> Tensor:
        team = ClipTeam(GroupLink(join_store(store.port), number, 2, cuda=False), [])
        return loss_of(shared[number], halves[number], team)

    with ThreadPoolExecutor(2) as both:
        found = list(both.map(rank, range(2)))
    assert torch.equal(found[0], found[1])
    assert abs(float(found[0] - (losses[0] + losses[1]) / 2)) < SUMS
    one, other = (gradients(made) for made in alone)
    for made in shared:
        for name, grad in gradients(made).items():
            wanted = (one[name] + other[name]) / 2
            assert float((grad - wanted).norm()) < SUMS * (1 + float(wanted.norm())), name


def test_a_rank_that_dies_ends_the_run_with_its_name(tmp_path: Path) -> None:
    lines = (
        "import sys, torch",
        "from functools import partial",
        "from pathlib import Path",
        "from everscene_engine.training.team import train_together",
        "from tests.engine.training_team import lose_a_rank",
        "train_together(2, 'clips', torch.device('cpu'), partial(lose_a_rank, Path(sys.argv[1])))",
    )
    begin = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), str(tmp_path)], capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == 1
    assert "training ends: rank 1 was ended by signal 9" in ended.stderr
    assert time.monotonic() - begin < 60  # a link's own patience is five minutes
    assert not list(tmp_path.glob("transformer*"))


def test_a_batch_that_cannot_be_shared_out_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = f"train --autoencoder none --out {tmp_path}/out --seconds 1 --device cpu --gpus 2 --batch 5"
    monkeypatch.setattr(sys, "argv", given.split())
    with pytest.raises(ConfigError, match="a batch of 5 clips cannot be shared out evenly over 2 GPUs"):
        teacher_forcing.main()
    assert not list(tmp_path.iterdir())


def test_heads_matter_where_the_sequence_is_shared() -> None:
    check_team(4, "clips", 48, 6, CPU)
    with pytest.raises(ConfigError, match="6 heads cannot be shared out over 4 GPUs"):
        check_team(4, "sequence", 48, 6, CPU)
