"""The processes of a stream's other ranks, as rank 0 sees them: started, told what to do, watched, stopped.

A rank that ends, or that makes no headway, would leave rank 0 waiting in an exchange for ever. So a thread waits for
the ends of the processes and looks at how long the work under way has been the same; when something is wrong it ends
all of them and aborts the link, whoever waits in it goes on, and gets `RankLost`. The ranks in turn end when rank 0
does.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from everscene_engine.context_parallel import OneRank, Ranks, SeveralRanks, check_heads
from everscene_engine.errors import ConfigError, EngineError, RankLost
from everscene_engine.rank_commands import Command, Stop, follow, packed
from everscene_engine.rank_link import GroupLink, join_store, serve_store
from everscene_engine.stream import LatentStream

log = logging.getLogger(__name__)

StreamMaker = Callable[[SeveralRanks, torch.device], LatentStream]
"""Makes a rank's stream, on its device; it goes to the process by pickle."""

HERE, READY = b"here", b"ready"
START_S = 300.0
"""The first chunk, in which kernels are compiled, and the loading of weights may take so long."""
STALL_S = 30.0
"""From then on no forward does."""
STOP_S = 2.0
_LOOK_S = 0.5
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Place:
    """What a rank's process is told at its start."""

    rank: int
    size: int
    port: int
    cuda: bool
    threads: int


def check_ranks(size: int, heads: int, device: torch.device) -> None:
    """Raise ConfigError for a number of GPUs that cannot be: one that the heads do not divide by, or too many."""
    if size < 1:
        raise ConfigError(f"gpus is {size}; it must be at least 1")
    check_heads(heads, size)
    if size == 1 or device.type != "cuda":
        return
    if device.index not in (None, 0):
        raise ConfigError(f"device is {device}; several GPUs are the first ones: choose with CUDA_VISIBLE_DEVICES")
    if size > torch.cuda.device_count():
        raise ConfigError(f"gpus is {size}, and there are {torch.cuda.device_count()} here")


class RankProcesses:
    """Ranks 1 to N − 1. For one user thread; `close` may come from any."""

    def __init__(self, size: int, device: torch.device, make: StreamMaker, threads: int | None = None) -> None:
        """Returns when the processes are up and connected; they go on loading what `make` loads until `wait_ready`.

        threads: CPU threads of each rank; None: an even share of torch's, on a CPU. Raises RankLost.
        """
        self.size = size
        self.lost: str | None = None
        self._since: float | None = None  # when the work under way last made headway
        self._limit_s = START_S
        self._link: GroupLink | None = None
        self._aborting: threading.Thread | None = None
        self._closing = False
        self._lock = threading.Lock()
        self._cuda = device.type == "cuda"
        if not self._cuda:
            threads = threads or max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // size))
            torch.set_num_threads(threads)
        store = serve_store()
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for rank in range(1, size):
            place = Place(rank, size, store.port, self._cuda, threads or torch.get_num_threads())
            pipe, process = start_rank(place, _run, make)
            self._pipes.append(pipe)
            self._processes.append(process)
        self._await(HERE)
        self._link = GroupLink(store, 0, size, self._cuda)
        self.ranks = SeveralRanks(self._link)
        self._watch = threading.Thread(target=self._watch_on, name="everscene-ranks", daemon=True)
        self._watch.start()

    def wait_ready(self) -> None:
        """Until all have what they need. Raises RankLost with their reason."""
        self._await(READY)

    def tell(self, command: Command) -> None:
        """Give all of them a command. Raises RankLost."""
        self._check()
        message, idle = packed(command), self._since is None
        self._since = time.monotonic()  # a full pipe waits for who reads it
        try:
            for pipe in self._pipes:
                pipe.send_bytes(message)
        except OSError as problem:
            raise RankLost(self._reason()) from problem
        finally:
            if idle:
                self._since = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around what all ranks do together. Raises RankLost when one of them was lost meanwhile."""
        self._check()
        self._since = time.monotonic()
        try:
            yield
        except RankLost:
            raise
        except (RuntimeError, EngineError) as problem:  # a lost peer ends an exchange, or leaves no numbers in it
            if self.lost is None and isinstance(problem, EngineError):
                raise
            if self._is_lost_soon():
                raise RankLost(self._reason()) from problem
            raise
        finally:
            self._since = None
        self._check()

    def warmed_up(self) -> None:
        """A chunk is done: what is compiled at first is compiled. On a CPU nothing is, and a forward can be long."""
        if self._cuda:
            self._limit_s = STALL_S

    @property
    def process_ids(self) -> list[int]:
        """Of ranks 1 to N − 1."""
        return [process.pid for process in self._processes if process.pid is not None]

    def close(self) -> None:
        """Stop the processes and let go of the link."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        if self.lost is None:
            stop = packed(Stop())
            for pipe in self._pipes:
                with contextlib.suppress(OSError):
                    pipe.send_bytes(stop)
            deadline = time.monotonic() + STOP_S
            for process in self._processes:
                process.join(max(0.0, deadline - time.monotonic()))
            self._end()
        self._watch.join(STOP_S)
        if self._aborting is not None:
            self._aborting.join(STOP_S)
        for pipe in self._pipes:
            pipe.close()

    def _check(self) -> None:
        if self.lost is not None:
            raise RankLost(self.lost)

    def _reason(self) -> str:
        self._is_lost_soon()
        return self.lost or "a rank does not answer"

    def _is_lost_soon(self) -> bool:
        """Whether the watch finds a rank lost; it gets the time to look."""
        deadline = time.monotonic() + 4 * _LOOK_S
        while self.lost is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.lost is not None

    def _await(self, word: bytes) -> None:
        """Until every rank has said this word; whichever says another one, or ends, raises RankLost."""
        deadline = time.monotonic() + START_S
        for rank, (pipe, process) in enumerate(zip(self._pipes, self._processes, strict=True), 1):
            connection.wait([pipe, process.sentinel], max(0.0, deadline - time.monotonic()))
            try:
                said = pipe.recv_bytes() if pipe.poll() else b""
            except (EOFError, OSError):
                said = b""
            if said != word:
                reason = said.decode() or how_it_ended(rank, process)
                self._lose(reason)
                raise RankLost(reason)

    def _watch_on(self) -> None:
        sentinels = {process.sentinel: rank for rank, process in enumerate(self._processes, 1)}
        while not self._closing and self.lost is None:
            ended = connection.wait(list(sentinels), _LOOK_S)
            if self._closing:
                return
            since = self._since
            if ended:
                rank = min(sentinels[one] for one in ended if isinstance(one, int))
                self._lose(how_it_ended(rank, self._processes[rank - 1]))
            elif since is not None and time.monotonic() - since > self._limit_s:
                self._lose(f"no headway for {self._limit_s:g} s: a rank hangs")

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self.lost is not None:
                return
            self.lost = reason
        log.error("the stream's ranks end: %s", reason)
        self._end()

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(STOP_S)
        if self._link is not None:  # aborting may wait for what never comes: not in our time
            self._aborting = threading.Thread(target=self._link.abort, name="everscene-abort", daemon=True)
            self._aborting.start()


@contextmanager
def other_ranks(
    size: int, device: torch.device, make: StreamMaker, threads: int | None = None
) -> Iterator[RankProcesses | None]:
    """The ranks besides this one of `size`, None if there are none; stopped should what is done with them raise."""
    if size == 1:
        yield None
        return
    others = RankProcesses(size, device, make, threads)
    try:
        yield others
    except BaseException:
        others.close()
        raise


def ranks_with(others: RankProcesses | None) -> Ranks:
    """Over which ranks a transformer's forwards go."""
    return OneRank() if others is None else others.ranks


def start_rank(place: Place, run: Callable[..., None], *args: Any) -> tuple[Connection, BaseProcess]:
    """A process that does `run(place, pipe, *args)`, its own GPU the first that it sees, and our end of the pipe."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    name = f"everscene-rank-{place.rank}"
    process = spawn.Process(target=run, args=(place, theirs, *args), name=name, daemon=True)
    with _own_gpu_first(place) if place.cuda else contextlib.nullcontext():
        process.start()
    theirs.close()
    return ours, process


def begin_rank(place: Place) -> None:
    """What a rank's process does first: it leaves Ctrl-C to rank 0, ends when that does, and takes its threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="everscene-parent", daemon=True).start()
    torch.set_num_threads(place.threads)


def how_it_ended(rank: int, process: BaseProcess) -> str:
    """In words; waits for the end a little."""
    process.join(STOP_S)
    code = process.exitcode
    if code is None:
        return f"rank {rank} does not answer"
    return f"rank {rank} was ended by signal {-code}" if code < 0 else f"rank {rank} ended with code {code}"


def _run(place: Place, pipe: Connection, make: StreamMaker) -> None:
    """A rank's process."""
    begin_rank(place)
    pipe.send_bytes(HERE)
    try:
        ranks = SeveralRanks(GroupLink(join_store(place.port), place.rank, place.size, place.cuda))
        stream = make(ranks, torch.device("cuda" if place.cuda else "cpu"))
    except Exception as problem:
        pipe.send_bytes(f"rank {place.rank}: {type(problem).__name__}: {problem}".encode())
        raise
    pipe.send_bytes(READY)
    follow(stream, pipe)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _own_gpu_first(place: Place) -> Iterator[None]:
    """What is started within sees all GPUs, a rank's own first: our kernels run on the first one."""
    before = os.environ.get(VISIBLE)
    gpus = before.split(",") if before else [str(gpu) for gpu in range(torch.cuda.device_count())]
    os.environ[VISIBLE] = ",".join(gpus[place.rank :] + gpus[: place.rank])
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
