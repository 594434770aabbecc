"""A teacher-forcing step over two ranks is that of one."""

import multiprocessing

import pytest
import torch

from everscene_engine.context_parallel import spans
from everscene_engine.errors import ConfigError
from everscene_engine.rank_link import GroupLink, serve_store
from everscene_engine.training.balanced_sequence import balanced_part, natural_mask, own_part
from everscene_engine.training.block_by_block import BlockRunner, run_block
from everscene_engine.training.chunk_attention import dense_mask
from everscene_engine.training.flow_step import predict
from tests.engine.balanced import LENGTHS, STREAM, model, other_rank, part, step, whole

SUMS = 1e-5  # float32: the same terms, added up in another order
COMPILED: BlockRunner = torch.compile(run_block, backend="aot_eager")  # all of the compiler but what writes kernels


@pytest.mark.parametrize("run", [run_block, COMPILED], ids=["plain", "compiled"])
def test_loss_and_gradients_over_two_ranks_are_those_of_one(run: BlockRunner) -> None:
    wanted, wanted_grads = whole()
    store, spawn = serve_store(), multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    other = spawn.Process(target=other_rank, args=(store.port, 1, 2, theirs), daemon=True)
    other.start()
    found, grads = part(GroupLink(store, 0, 2, cuda=False), run)
    assert ours.recv() == float(sum(grad.double().sum() for grad in grads.values()))
    other.join(10)
    assert abs(float(found - wanted)) < SUMS
    assert grads.keys() == wanted_grads.keys()
    for name, grad in grads.items():
        assert float((grad - wanted_grads[name]).norm()) < SUMS * (1 + float(wanted_grads[name].norm())), name


def test_the_natural_mask_is_the_rule_in_the_order_of_the_ranks() -> None:
    frames = sum(LENGTHS)
    chunk = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    wanted = dense_mask(chunk[None], 1, 2)[0, 0]  # [clean ∥ noisy]
    order = [0, 1, 2, 7, 8, 9, 3, 4, 5, 6, 10, 11, 12, 13]  # clean 0, noisy 0, clean 1, noisy 1
    found = natural_mask(LENGTHS, spans(frames, 2), 1, 2, torch.device("cpu"))
    assert torch.equal(found, wanted[order][:, order])


def test_a_rank_has_clean_and_noisy_of_the_same_latent_frames() -> None:
    given = step()
    own = own_part(given, 3, 7)
    assert torch.equal(own.clean, given.clean[:, 3:7]) and torch.equal(own.noisy, given.noisy[:, 3:7])
    assert torch.equal(own.prompts, given.prompts[:, [3, 4, 5, 6, 10, 11, 12, 13]])


class Many:
    """A rank among so many."""

    rank = 0

    def __init__(self, size: int) -> None:
        self.size = size


def test_fewer_latent_frames_than_ranks_are_refused() -> None:
    with pytest.raises(ConfigError, match="a clip has 7 latent frames; that is too few for 8 GPUs"):
        balanced_part(step(), STREAM, Many(8))  # type: ignore[arg-type]


def test_heads_that_cannot_be_shared_out_are_refused() -> None:
    own = balanced_part(step(), STREAM, Many(4))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="2 heads cannot be shared out over 4 GPUs"):
        predict(model(), own.step, own.attention, STREAM)
