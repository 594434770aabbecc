"""Under what conditions figures were measured: the head of every report."""

import argparse
import hashlib
import platform
import subprocess
from pathlib import Path

import torch

from everscene_engine.bench_machine import machine
from everscene_engine.checkpoint import low_rank_for
from everscene_engine.pocket import best_dtype
from tests.judges.plays import WORDINGS


def add_options(parser: argparse.ArgumentParser) -> None:
    """What bears on the conditions, for every command that measures the model."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the preset's)")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--wording", choices=WORDINGS, default=WORDINGS[0], help="of prompts (default: %(default)s)")
    parser.add_argument(
        "--recache-depth", type=int, help="chunks made anew at a switch, newest first; 0: all (default: the preset's)"
    )
    parser.add_argument("--commit", default=commit(), help="of this code, where git does not tell it")


def conditions(options: argparse.Namespace, steps: int, recache_depth: int | None) -> dict[str, object]:
    """The head of a report. steps, recache_depth: as they were run."""
    device = torch.device(options.device)
    return {
        "commit": options.commit,
        **machine(device),
        "processor": processor(),
        "dtype": str(best_dtype(device)).removeprefix("torch."),
        "weights": options.weights.name,
        "weights_sha256": digest(options.weights),
        "low_rank": low_rank_for(options.weights, steps),
        "steps": steps,
        "recache_depth": recache_depth or "all",
        "wording": options.wording,
        "seeds": options.seeds,
    }


def commit() -> str:
    """The commit of this code, with "-dirty" where files differ from it; "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def processor() -> str:
    """The CPU's name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def digest(folder: Path) -> str:
    """The first 12 digits of the SHA-256 over names and contents of a folder's weights."""
    made = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        made.update(path.name.encode())
        made.update(path.read_bytes())
    return made.hexdigest()[:12]
