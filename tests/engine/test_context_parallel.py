"""One stream over several processes gives what one process gives."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from everscene_engine.context_parallel import Exchange, SeveralRanks, check_heads, spans
from everscene_engine.errors import CheckpointError, ConfigError, RankLost
from everscene_engine.kv_cache_nvfp4 import NVFP4KVCache
from everscene_engine.rank_commands import BeginWith
from everscene_engine.rank_processes import RankProcesses, check_ranks
from everscene_engine.stream import LatentStream
from tests.engine.ranks import CPU, ODD, Made, follower, history, latents_of, steer, together

EXACT = 1e-5  # float32: sums of other lengths may round otherwise


@pytest.mark.parametrize("size", [2, 4])
def test_a_run_over_several_ranks_is_that_of_one(size: int) -> None:
    wanted = history(Made().alone())
    with together(size) as stream:
        assert stream._cache.keys[0].shape[2] == 4 // size
        found = history(stream)
    assert max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)) < EXACT


def test_settling_and_a_first_latent_frame_are_the_same_too() -> None:
    def run(stream: LatentStream) -> list[Tensor]:
        stream.begin_with(torch.randn(1, 1, 4, 6, 10, generator=torch.Generator().manual_seed(5)))
        steer(stream, 1)
        made = [latents_of(stream) for _ in range(5)]
        steer(stream, 2)
        made.append(latents_of(stream))
        while stream.settle():
            pass
        return [*made, latents_of(stream)]

    shallow = Made(replace(ODD, recache_depth=1, shot_sink=False))
    wanted = run(shallow.alone())
    with together(2, shallow) as stream:
        found = run(stream)
    assert max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)) < EXACT


def test_a_bidirectional_recache_is_the_same_too() -> None:
    made = Made(replace(ODD, recache="bidirectional", sampler="renoise", sink_reach=None))

    def run(stream: LatentStream) -> list[Tensor]:
        steer(stream, 1)
        made = [latents_of(stream) for _ in range(4)]
        steer(stream, 2)
        return [*made, latents_of(stream)]

    wanted = run(made.alone())
    with together(2, made) as stream:
        found = run(stream)
    assert max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)) < EXACT


def test_an_nvfp4_cache_and_stored_weights_are_sharded_as_well() -> None:
    def run(stream: LatentStream) -> list[Tensor]:
        steer(stream, 1)
        made = [latents_of(stream) for _ in range(4)]
        steer(stream, 2)
        return [*made, latents_of(stream)]

    made = Made(kv="nvfp4", linears="nvfp4")
    wanted, exact = run(made.alone()), run(replace(made, kv="bf16").alone())
    with together(2, made) as stream:
        assert isinstance(stream._cache, NVFP4KVCache)
        found = run(stream)
    # A rank's slots have an amax of its own heads alone, so codes differ: by no more than the cache costs.
    cost = float((torch.stack(wanted) - torch.stack(exact)).norm())
    assert cost > 0 and float((torch.stack(found) - torch.stack(exact)).norm()) < 1.5 * cost


def test_a_killed_rank_is_noticed_within_five_seconds() -> None:
    with together(2) as stream:
        steer(stream, 1)
        latents_of(stream)
        os.kill(stream._others.process_ids[0], signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(RankLost, match="rank 1 was ended by signal 9"):
            for _ in range(10_000):
                latents_of(stream)
        assert time.monotonic() - start < 5


def test_a_rank_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with together(2) as stream:
        steer(stream, 1)
        latents_of(stream)
        monkeypatch.setattr(stream._others, "_limit_s", 2.0)
        os.kill(stream._others.process_ids[0], signal.SIGSTOP)
        with pytest.raises(RankLost, match="no headway for 2 s: a rank hangs"):
            latents_of(stream)


def test_a_rank_that_does_not_listen_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with together(2) as stream:
        monkeypatch.setattr(stream._others, "_limit_s", 1.0)
        os.kill(stream._others.process_ids[0], signal.SIGSTOP)
        with pytest.raises(RankLost, match="no headway for 1 s: a rank hangs"):
            stream._others.tell(BeginWith(torch.zeros(10_000_000)))


def test_what_a_rank_cannot_make_is_said_by_rank_0() -> None:
    others = RankProcesses(2, CPU, broken)
    with pytest.raises(RankLost, match="rank 1: CheckpointError: no weights here"):
        others.wait_ready()
    others.close()


def test_heads_must_be_shared_out_evenly() -> None:
    with pytest.raises(ConfigError, match="6 heads cannot be shared out over 4 GPUs; take a number of 1, 2, 3, 6"):
        check_heads(6, 4)


def test_several_gpus_are_the_first_ones() -> None:
    with pytest.raises(ConfigError, match="device is cuda:1; several GPUs are the first ones"):
        check_ranks(2, 4, torch.device("cuda:1"))


@pytest.mark.parametrize(("tokens", "ranks"), [(880, 8), (15, 4), (4, 4), (33, 2)])
def test_tokens_are_dealt_out_evenly(tokens: int, ranks: int) -> None:
    dealt = spans(tokens, ranks)
    lengths = [end - first for first, end in dealt]
    assert sum(lengths) == tokens and max(lengths) - min(lengths) <= 1


def broken(ranks: SeveralRanks, device: torch.device) -> LatentStream:
    raise CheckpointError("no weights here")


class Loopback:
    """A link of one rank of two whose peer has nothing but zeros."""

    rank, size = 0, 2

    def all_to_all(self, send: Tensor, counts: list[int], wanted: list[int]) -> Tensor:
        out = send.new_zeros(sum(wanted))
        out[: wanted[0]] = send[: counts[0]]
        return out


def test_a_rank_keeps_its_own_tokens_of_its_own_heads() -> None:
    x = torch.randn(1, 4, 2, 8)  # two groups of two tokens of its own
    exchange = Exchange(Loopback(), [2, 1], 2)
    (heads,) = exchange.to_heads([x])
    assert heads.shape == (1, 6, 1, 8)
    assert torch.equal(heads[0, [0, 1, 3, 4], 0], x[0, :, 0])
    assert torch.equal(exchange.to_tokens(heads)[..., 0, :], x[..., 0, :])


def test_a_frame_needs_a_token_for_each_rank() -> None:
    with pytest.raises(ConfigError, match="a latent frame has 1 tokens; that is too few for 2 GPUs"):
        SeveralRanks(Loopback()).share(3, 1)


def test_a_follower_is_a_plain_stream() -> None:
    ranks = SeveralRanks(Loopback())
    stream = follower(Made(), ranks, CPU)
    assert type(stream) is LatentStream and stream.transformer.ranks is ranks


def has_ended(process_id: int) -> bool:
    """Also if nobody has asked for its exit status: in a container the first process may never do that."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_the_other_ranks_end_when_rank_0_does() -> None:
    lines = "from tests.engine.ranks import together", "import time", "with together(2) as stream:"
    work = "    print(stream._others.process_ids[0], flush=True); time.sleep(60)"
    leader = subprocess.Popen([sys.executable, "-c", "\n".join([*lines, work])], stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    rank = int(leader.stdout.readline())
    leader.kill()
    leader.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not has_ended(rank):
        time.sleep(0.05)
    assert has_ended(rank)
