"""A training run over several processes: one for each GPU, or, on a CPU, side by side.

All ranks begin with the same weights and take the same steps: gradients are added up over the ranks, the same bits on
each, and what follows from them each does for itself, so weights are never sent. A step is shared out in one of two
ways:

    clips      every rank draws clips and noise of its own, an even share of the batch; gradients are averaged
    sequence   all ranks draw the same clips and noise, and each computes one span of latent frames
               (`balanced_sequence.py`)

Clocks differ, so rank 0's decides: what follows from the time (`Team.agree`) it sends to the others through
pipes, before they act on it. So all stop after the same step, and nobody waits in an exchange that the others have
left out; nor does the host wait for a GPU to hear of it.

Rank 0 is the process that the user started, and the only one that writes. A rank that ended too early would leave the
others waiting for ever, on a GPU in a place where no exception comes. So a thread of rank 0 waits for the ends of the
others, and when one of them fails, says how, and ends the run there and then. The others end when rank 0 does.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from everscene_engine.config import StreamConfig
from everscene_engine.context_parallel import Link
from everscene_engine.errors import ConfigError
from everscene_engine.rank_link import GroupLink, join_store, serve_store
from everscene_engine.rank_processes import STOP_S, Place, begin_rank, check_ranks, how_it_ended, start_rank
from everscene_engine.training.balanced_sequence import balanced_part, sum_gradients, summed
from everscene_engine.training.chunk_attention import ChunkAttention
from everscene_engine.training.flow_step import Part, Step

log = logging.getLogger(__name__)

T = TypeVar("T")
Share = Literal["clips", "sequence"]
SEEDS_APART = 1000  # between ranks: a run takes a few seeds in a row


class Team:
    """A process that trains alone. What it does with others, if there are any, the classes below do."""

    rank = 0

    def agree(self, value: T) -> T:
        """Rank 0's value, on every rank; all call it at the same points of the run."""
        return value

    def clips(self, batch: int) -> int:
        """How many clips of a batch this rank draws."""
        return batch

    def seed(self, seed: int) -> int:
        """What this rank's clips and noise are drawn from."""
        return seed

    def part(self, step: Step, stream: StreamConfig) -> Part:
        """What this rank computes of a step that it has drawn."""
        attention = ChunkAttention(step.lengths, stream.frame_tokens, stream.window_chunks)
        return Part(step, attention, slice(0, step.clean.shape[1]))

    def add_up(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Make this rank's gradients those of the whole step, in place; returns the loss of the whole step."""
        return loss.detach()

    def total(self, x: Tensor) -> Tensor:
        """The sum over the ranks of a flat tensor."""
        return x


class _Linked(Team):
    """pipes: to rank 0, or of rank 0 to all others."""

    def __init__(self, link: Link, pipes: Sequence[Connection]) -> None:
        self.rank = link.rank
        self._link = link
        self._pipes = pipes

    def agree(self, value: T) -> T:
        """See Team."""
        if self.rank > 0:
            agreed: T = self._pipes[0].recv()
            return agreed
        for pipe in self._pipes:
            pipe.send(value)
        return value

    def add_up(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
        """See Team."""
        whole = loss.detach().clone()
        sum_gradients(parameters, self._link, whole)
        return whole

    def total(self, x: Tensor) -> Tensor:
        """See Team."""
        return summed(x, self._link)


class ClipTeam(_Linked):
    """Clips are shared out."""

    def clips(self, batch: int) -> int:
        """See Team."""
        return batch // self._link.size

    def seed(self, seed: int) -> int:
        """See Team."""
        return seed + SEEDS_APART * self.rank

    def add_up(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
        """See Team."""
        parameters = list(parameters)
        whole = super().add_up(loss, parameters)
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], self._link.size)
        return whole / self._link.size


class SequenceTeam(_Linked):
    """Latent frames are shared out."""

    def part(self, step: Step, stream: StreamConfig) -> Part:
        """See Team."""
        return balanced_part(step, stream, self._link)


def check_team(size: int, share: Share, batch: int, heads: int, device: torch.device) -> None:
    """Raise ConfigError for a number of ranks that cannot be."""
    # clips may go to any number of ranks
    check_ranks(size, heads if share == "sequence" else size, device)
    if share == "clips" and batch % size:
        raise ConfigError(f"a batch of {batch} clips cannot be shared out evenly over {size} GPUs")


def train_together(size: int, share: Share, device: torch.device, train: Callable[[Team], None]) -> None:
    """Call `train` in `size` processes, of which this one is rank 0; returns when all are through.

    train: goes to the others by pickle; a rank's GPU is the first that it sees. When one of the others fails, this
    process ends, with code 1.
    """
    if size == 1:
        train(Team())
        return
    cuda = device.type == "cuda"
    threads = max(1, torch.get_num_threads() // size)
    torch.set_num_threads(threads)  # the same on all ranks, lest sums differ
    store, leaving = serve_store(), threading.Event()
    places = [Place(rank, size, store.port, cuda, threads) for rank in range(1, size)]
    started = [start_rank(place, _follow, share, train) for place in places]
    pipes, processes = [pipe for pipe, _ in started], [process for _, process in started]
    watch = threading.Thread(target=_watch, args=(processes, leaving), name="everscene-team", daemon=True)
    watch.start()
    try:
        train(_team(share, GroupLink(store, 0, size, cuda), pipes))
        if cuda:
            torch.cuda.synchronize()
        leaving.set()
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(STOP_S)
    except (RuntimeError, OSError):
        watch.join(STOP_S)  # an exchange fails where a rank is lost: the watch says which
        raise
    finally:
        leaving.set()
        for process in processes:
            process.kill()


def _team(share: Share, link: Link, pipes: Sequence[Connection]) -> Team:
    return ClipTeam(link, pipes) if share == "clips" else SequenceTeam(link, pipes)


def _follow(place: Place, pipe: Connection, share: Share, train: Callable[[Team], None]) -> None:
    """Another rank's process."""
    begin_rank(place)
    train(_team(share, GroupLink(join_store(place.port), place.rank, place.size, place.cuda), [pipe]))
    if place.cuda:
        torch.cuda.synchronize()
    pipe.recv()  # until rank 0 is through as well: what was exchanged last may still lie here


def _watch(processes: Sequence[BaseProcess], leaving: threading.Event) -> None:
    """Of rank 0: wait for the ends of the others; if one fails, end the run. A rank ends well only when rank 0 says."""
    sentinels = {process.sentinel: rank for rank, process in enumerate(processes, 1)}
    ended = connection.wait(list(sentinels))
    if leaving.is_set():
        return
    rank = min(sentinels[one] for one in ended if isinstance(one, int))
    log.error("training ends: %s", how_it_ended(rank, processes[rank - 1]))
    for process in processes:
        process.kill()
    os._exit(1)
