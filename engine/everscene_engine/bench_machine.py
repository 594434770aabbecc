"""What a measurement ran on: a figure without it is none."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_CLOCKS = "clocks.sm,clocks.mem,power.draw,temperature.gpu"


def machine(device: torch.device) -> dict[str, Any]:
    """Processor or GPU, versions of what computes."""
    facts: dict[str, Any] = {
        "device": str(device),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cudnn_frontend": _version("nvidia-cudnn-frontend"),
        "python": platform.python_version(),
    }
    if device.type != "cuda":
        return facts | {"processor": platform.machine(), "threads": torch.get_num_threads()}
    about = torch.cuda.get_device_properties(device)
    return facts | {
        "gpu": about.name,
        "capability": f"{about.major}.{about.minor}",
        "gpu_gb": round(about.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver": _smi("driver_version"),
    }


def clocks(device: torch.device) -> dict[str, str]:
    """The GPU's clocks, power and temperature as they are now."""
    return {"clocks": _smi(_CLOCKS)} if device.type == "cuda" else {}


def since_start() -> float | None:
    """Seconds since this process began; None where the system does not tell."""
    try:
        began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, ValueError, AttributeError):
        return None


def _smi(query: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as problem:
        return f"unknown ({problem})"


def _version(package: str) -> str | None:
    try:
        found = version(package)
    except PackageNotFoundError:
        return None
    return found
