"""When our Triton kernels take over from torch, and on which GPU they may be launched.

Triton launches on the current GPU, whichever one its tensors are on. So whoever works on another GPU than the first
makes it the current one (`on_gpu_of`, or a CUDA stream of its own), and every launcher checks that it is.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


def has_kernels(*tensors: Tensor, dtype: torch.dtype | None = torch.bfloat16) -> bool:
    """Whether kernels can take these tensors: all on a GPU and of this dtype, None for any; and Triton is installed."""
    return all(x.is_cuda and dtype in (None, x.dtype) for x in tensors) and _has_triton()


def on_gpu_of(x: Tensor) -> AbstractContextManager[object]:
    """Within it kernels are launched where this tensor is."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def check_launch(x: Tensor) -> None:
    """Raise ValueError for a tensor that a kernel cannot be launched for here: one on a CPU, outside of Triton's
    interpreter, or one on a GPU that is not the current one."""
    if x.is_cuda:
        current = torch.cuda.current_device()
        if x.device.index != current:
            raise ValueError(
                f"kernels are launched on the current GPU, cuda:{current}, and this tensor is on {x.device}"
            )
        return
    from triton import knobs

    if not knobs.runtime.interpret:
        raise ValueError("Triton kernels take CUDA tensors; on a CPU use their definitions, the same numbers")


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
