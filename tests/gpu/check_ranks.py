"""Several GPUs against one, on small random networks: what the tests hold over gloo, over NCCL.

    PYTHONPATH=engine:bridge:kernels python -m tests.gpu.check_ranks --gpus 2

One JSON line for each check: a run with recache, cut, rollbacks, an interrupt and a restored world on the plain path in
float32, with its cache in NVFP4, and on the fast path in bf16 and in FP8; then a rank is killed, and a stream made anew
in the same process goes on as if nothing had been. Ends with 1 if any of them failed.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tests.engine.ranks import ODD, Made, history, latents_of, steer, together

from everscene_engine.config import TransformerConfig
from everscene_engine.errors import RankLost

NEAR = {"plain": 1e-4, "kv in nvfp4": 0.1, "fast in bf16": 0.1, "fast in fp8": 0.3}
"""Relative, of a whole run: float32 sums in another order; slots with an amax of their own heads; roundings of bfloat16
and of E4M3 that fall the other way and are carried on. Tokens or heads in the wrong place would give about 1."""
FAST_SIZES = TransformerConfig(dim=512, ffn_dim=1024, layers=2, heads=4, channels=4, text_dim=64, freq_dim=64)
FAST_STREAM = replace(ODD, latent_height=8, latent_width=16, chunk_frames=2, sink_reach=None)


def compared(name: str, made: Made, gpus: int) -> dict[str, Any]:
    """How far the runs of one and of several lie apart."""
    wanted = torch.cat([latents.flatten() for latents in history(made.alone())]).float()
    with together(gpus, made) as stream:
        heads = stream._cache.keys[0].shape[2]
        found = torch.cat([latents.flatten() for latents in history(stream)]).float()
    error = float((found - wanted).norm() / wanted.norm())
    return {"relative_error": error, "heads": heads, "ok": error < NEAR[name]}


def killed(made: Made, gpus: int) -> dict[str, Any]:
    """How soon a killed rank is noticed, and whether another stream can be made after it."""
    with together(gpus, made) as stream:
        steer(stream, 1)
        latents_of(stream)
        os.kill(stream._others.process_ids[0], signal.SIGKILL)
        start = time.monotonic()
        try:
            while time.monotonic() < start + 60:
                latents_of(stream)
            reason = "never noticed"
        except RankLost as lost:
            reason = str(lost)
        noticed = time.monotonic() - start
    again = compared("plain", made, gpus)
    return {"noticed_s": round(noticed, 3), "reason": reason, "again": again, "ok": noticed < 5 and again["ok"]}


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--gpus", type=int, default=2, choices=(2, 4))
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    plain = Made(device=torch.device(given.device))
    fast = replace(plain, config=FAST_STREAM, sizes=FAST_SIZES)
    checks: dict[str, Callable[[], dict[str, Any]]] = {
        "plain": lambda: compared("plain", plain, given.gpus),
        "kv in nvfp4": lambda: compared("kv in nvfp4", replace(plain, kv="nvfp4"), given.gpus),
        "fast in bf16": lambda: compared("fast in bf16", replace(fast, fast=("bf16", "bf16")), given.gpus),
        "fast in fp8": lambda: compared("fast in fp8", replace(fast, fast=("fp8", "triton")), given.gpus),
        "a killed rank": lambda: killed(plain, given.gpus),
    }
    if given.device == "cpu":
        checks = {name: check for name, check in checks.items() if not name.startswith("fast")}
    good = True
    for name, check in checks.items():
        try:
            result = check()
        except Exception as problem:  # noqa: BLE001 - time on GPUs is short: say what broke and go on
            traceback.print_exc()
            result = {"ok": False, "error": f"{type(problem).__name__}: {problem}"[:500]}
        good = good and bool(result["ok"])
        print(json.dumps({"check": name, **result}), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
