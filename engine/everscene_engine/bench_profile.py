"""Where the GPU's time of one chunk goes, by kinds of kernel, from torch's profiler."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

_KINDS = (
    ("self-attention and cross-attention", ("fmha", "flash", "sdpa", "_attend", "attention")),
    ("matrix products", ("gemm", "nvjet", "cutlass", "xmma", "wgmma", "scaled_mm", "splitk")),
    ("convolutions", ("conv", "dgrad", "fprop", "implicit")),
    ("fused rows", ("_add_norm", "_turned", "_rows_kernel", "_gelu")),
    ("NVFP4", ("_quantize_kernel", "_dequantize_kernel", "_amax_kernel")),
    ("exchanges between GPUs", ("nccl",)),
    ("copies", ("memcpy", "memset", "copy_")),
)
REST = "rest"


def kind_of(kernel: str) -> str:
    """The kind of a kernel by its name."""
    lower = kernel.lower()
    for kind, marks in _KINDS:
        if any(mark in lower for mark in marks):
            return kind
    return REST


def kernel_times(work: Callable[[], object], top: int = 12) -> dict[str, Any]:
    """Run `work` once under the profiler, on a GPU. Returns milliseconds by kind, the number of kernels, and the
    longest kernels by name with their counts."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as record:
        work()
        torch.cuda.synchronize()
    by_kind: dict[str, float] = defaultdict(float)
    longest: list[tuple[float, int, str]] = []
    count = 0
    for event in record.key_averages():
        ms = float(getattr(event, "self_device_time_total", 0.0)) / 1000.0
        if ms <= 0.0:
            continue
        by_kind[kind_of(event.key)] += ms
        longest.append((ms, int(event.count), event.key[:110]))
        count += int(event.count)
    longest.sort(reverse=True)
    return {
        "kernels": count,
        "ms": {kind: round(ms, 3) for kind, ms in sorted(by_kind.items(), key=lambda pair: -pair[1])},
        "longest": [{"ms": round(ms, 3), "count": times, "kernel": name} for ms, times, name in longest[:top]],
    }
