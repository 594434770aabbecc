"""The kernels of the fast path compile for the GPUs that run them, without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from everscene_kernels import fused

pytest.importorskip("triton", reason="triton is not installed: pip install everscene[kernels] on Linux")

COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from everscene_kernels import attention_triton, fused_triton, nvfp4_fp8_triton, nvfp4_turn_triton

rows = dict(x="*bf16", y="*bf16", gate="*bf16", scale="*bf16", shift="*bf16", scales="*fp32", eps="fp32")
turned = {n: "*i32" for n in ("x", "weights", "q_out", "k_out", "v_out")} | dict(cos="*fp32", sin="*fp32", eps="fp32")
turned |= {n: "*i16" for n in ("q_eight", "k_eight", "v_eight")} | dict(value_scale="*fp32")
attention = dict(bias="*fp32", out="*bf16", factor="fp32", out_factor="fp32")
fp8, bf16 = {n: "*fp8e4nv" for n in "qkv"}, {n: "*bf16" for n in "qkv"}
four = dict(values="*i32", scales="*u8", amax="*fp32", unit="fp32")
eight = dict(inverses="*fp32", out="*u8")
angles = dict(cos="*fp32", sin="*fp32")
add = dict(BLOCK=4096, ADD=True, GATED=True, AFFINE=False)
tile = dict(M=128, WIDTH=128, WHOLE=True)
keys = dict(made="*i32", out="*i32", eight="*i16")
heads = dict(half=64, ROWS=32, PAIRS=64)
CASES = [
    (fused_triton._add_norm_kernel, rows | dict(out="*u8"), dict(add, FP8=True)),
    (fused_triton._add_norm_kernel, rows | dict(out="*bf16"), dict(add, GATED=False, AFFINE=True, FP8=False)),
    (fused_triton._rows_kernel, rows | dict(out="*u8"), dict(BLOCK=16384, GELU=True)),
    (fused_triton._turned_kernel, turned, dict(BLOCK=2048, TURN=True, EIGHT=True)),
    (fused_triton._turned_kernel, turned, dict(BLOCK=2048, TURN=False, EIGHT=False)),
    (nvfp4_fp8_triton._nvfp4_to_fp8_kernel, four | eight, dict(N=512, WHOLE=True, width=192)),
    (nvfp4_turn_triton._nvfp4_turned_kernel, four | angles | dict(out="*i32"), dict(N=512, BF16=True, width=8)),
    (fused_triton._turn_keys_kernel, keys | angles, dict(heads, EIGHT=True)),
    (fused_triton._turn_keys_kernel, keys | angles, dict(heads, EIGHT=False)),
    (attention_triton._attend_kernel, attention | fp8, dict(tile, N=128, BIAS=False, SHIFT=8)),
    (attention_triton._attend_kernel, attention | bf16, dict(tile, N=64, BIAS=True, SHIFT=0)),
]
for kernel, pointers, constants in CASES:
    types = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in kernel.arg_names}
    exact = kernel is fused_triton._turn_keys_kernel
    options = dict(num_warps=8, enable_fp_fusion=not exact)
    made = compile(ASTSource(kernel, types, constants), GPUTarget("cuda", 90, 32), options)
    assert made.asm["cubin"]
    ptx = made.asm["ptx"]
    assert not (exact and "fma" in ptx), "a product is fused into a sum"
    rounded = 2 * ptx.count("cvt.rn.bf16x2") + ptx.count("cvt.rn.bf16.f32")
    print(kernel.__name__, "wgmma" if "wgmma" in ptx else "", "rounded", rounded)
"""


def test_the_fast_paths_kernels_compile_for_hopper(tmp_path: Path) -> None:
    kernels = Path(fused.__file__).parents[1]
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "PYTHONPATH": str(kernels),
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wgmma") == 2, "attention runs on the matrix units"
    rounded = int(done.stdout.split("rounded")[1].split()[0])
    assert rounded >= 5 * 16, "roundings to bfloat16 stay: of each of 16 numbers of a thread, and a product may be one"
