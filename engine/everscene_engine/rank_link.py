"""What connects the ranks of a stream: one process group, NCCL between GPUs, gloo between processes on CPUs.

The group is used as it is, beside torch.distributed's default group, which a process has only one of: so an engine that
failed can be let go of and another one made in the same process. All that travels is bytes, whatever the dtype.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

HOST = "127.0.0.1"
TIMEOUT_S = 300.0
"""Of a collective, should nobody notice before: `rank_processes` watches more closely."""

# A lost peer must not end the process that owns the sockets: let NCCL give up its communicator, no more.
_NCCL = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "2", "TORCH_NCCL_ENABLE_MONITORING": "0", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0"}

c10d: Any = torch.distributed  # most of what is used here is missing in its type stubs


class GroupLink:
    """A process's end of it. (A `context_parallel.Link`.)"""

    def __init__(self, store: Any, rank: int, size: int, cuda: bool) -> None:
        """Returns when all ranks are there. cuda: between GPUs, each rank's own being its first."""
        self.rank = rank
        self.size = size
        self._cuda = cuda
        self._group = _nccl(store, rank, size) if cuda else _gloo(store, rank, size)
        self._options = c10d.AllToAllOptions()
        self._options.asyncOp = False

    def all_to_all(self, send: Tensor, counts: Sequence[int], wanted: Sequence[int]) -> Tensor:
        """See `context_parallel.Link`. On a GPU it is queued. Raises RuntimeError when a peer is gone."""
        out, width = send.new_empty(sum(wanted)), send.itemsize
        work = self._group.alltoall_base(
            out.view(torch.uint8),
            send.view(torch.uint8),
            [width * count for count in wanted],
            [width * count for count in counts],
            self._options,
        )
        if work is not None:
            work.wait()
        return out

    def abort(self) -> None:
        """End what is under way between GPUs, so that whoever waits for it goes on; gloo notices lost peers itself. The
        link is of no use afterwards."""
        if self._cuda:
            self._group.abort()


def serve_store() -> Any:
    """Where the ranks find one another; rank 0 has it, on a port that is free."""
    return c10d.TCPStore(HOST, 0, None, True, wait_for_workers=False)


def join_store(port: int) -> Any:
    """The same from another rank."""
    return c10d.TCPStore(HOST, port, None, False, timedelta(seconds=TIMEOUT_S))


def _gloo(store: Any, rank: int, size: int) -> Any:
    options = c10d.ProcessGroupGloo._Options()
    options._devices = [c10d.ProcessGroupGloo.create_device(hostname=HOST)]
    options._timeout = timedelta(seconds=TIMEOUT_S)
    return c10d.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Any, rank: int, size: int) -> Any:
    for name, value in _NCCL.items():
        os.environ.setdefault(name, value)
    options = c10d.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=TIMEOUT_S)
    options.global_ranks_in_group = list(range(size))
    return c10d.ProcessGroupNCCL(store, rank, size, options)
