"""What this machine can do for the engine: devices, kernels, and which model fits in which formats."""

from collections.abc import Sequence
from pathlib import Path

import torch

from everscene_engine.bench_machine import machine
from everscene_engine.errors import ConfigError
from everscene_engine.memory_fit import ROOM, need
from everscene_engine.models.presets import PRESETS, Preset
from everscene_engine.models.verify import parts_in
from everscene_engine.pocket import best_dtype
from everscene_engine.port import Finding
from everscene_engine.precision import Machine, choose, machine_of
from everscene_kernels import attention_cudnn


def examine(home: Path) -> list[Finding]:
    """All that can be told without loading a model. home: where converted weights lie."""
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = machine_of(place)
    findings = [device_finding(machine(place), here, str(best_dtype(place)).removeprefix("torch."))]
    if here.capability is not None:
        findings.append(kernel_finding(here, attention_cudnn.available()))
    for preset in PRESETS:
        findings.append(fit_finding(preset, here))
        if not preset.shipped:
            findings.append(weights_finding(preset, *parts_in(preset, home / preset.name)))
    return findings


def device_finding(facts: dict[str, object], here: Machine, dtype: str) -> Finding:
    """The device that a model would run on."""
    if here.capability is None:
        found = f"no GPU; {facts.get('processor')}, {facts.get('threads')} threads, {dtype}, torch {facts['torch']}"
        if dtype == "bfloat16":
            return Finding("device", "ok", found)
        return Finding(
            "device", "note", found, "this CPU multiplies float32 alone; a newer one has bfloat16, twice as fast"
        )
    names = ("gpu", "gpu_gb", "capability", "driver", "torch", "cuda")
    gpu, memory, capability, driver, library, cuda = (facts[name] for name in names)
    found = f"{gpu}, {memory} GB, compute capability {capability}, driver {driver}; torch {library}, CUDA {cuda}"
    return Finding("device", "ok", found)


def kernel_finding(here: Machine, cudnn: bool) -> Finding:
    """The kernels that a GPU has."""
    if not here.triton:
        return Finding(
            "kernels",
            "problem",
            "no Triton: the plain path alone, several times slower",
            "pip install everscene[kernels]",
        )
    found = ["fast path", "NVFP4 weights and KV cache"]
    found += ["FP8 products", f"FP8 attention by {'cuDNN' if cudnn else 'Triton'}"] if here.has_fp8 else []
    if not here.has_fp8:
        return Finding("kernels", "note", ", ".join(found), "FP8 needs compute capability 8.9 and up")
    advice = "" if cudnn else "for quicker FP8 attention: pip install everscene[cudnn]"
    return Finding("kernels", "ok" if cudnn else "note", ", ".join(found), advice)


def fit_finding(preset: Preset, here: Machine) -> Finding:
    """Whether a preset fits into the GPU, in which formats, and which ones `auto` takes."""
    what = f"memory for {preset.name}"
    if preset.shipped:
        return Finding(what, "ok", f"{need(preset, 'bf16', 'bf16').total / 1e9:.1f} GB")
    sizes = {pair: need(preset, *pair).total for pair in _pairs(here)}
    table = ", ".join(f"{precision} + {kv} cache {size / 1e9:.0f}" for (precision, kv), size in sizes.items())
    least = min(need(preset, *pair, "tiny", text=False).total for pair in sizes)
    found = f"about, in GB with the whole VAE and the text encoder: {table}; least of all {least / 1e9:.0f}"
    if here.capability is None:
        return Finding(what, "note", found, f"{preset.name} needs a GPU; without one take pocket")
    room = ROOM * here.memory
    if least > room:
        return Finding(what, "problem", found, f"this GPU has {here.memory / 1e9:.0f} GB; take a smaller model")
    if min(sizes.values()) > room:
        advice = "serve with --decoder tiny and --text-device cpu (or --unload-text)"
        return Finding(what, "note", found, advice)
    try:
        taken = choose(here, fits=lambda precision, kv: sizes[precision, kv] <= room)
    except ConfigError as problem:
        return Finding(what, "problem", found, str(problem))
    return Finding(what, "ok", f"{found}; auto takes {taken.precision} + {taken.kv} cache")


def weights_finding(preset: Preset, found: Sequence[str], missing: Sequence[str]) -> Finding:
    """Whether a preset's weights are here."""
    what = f"weights of {preset.name}"
    if missing:
        return Finding(what, "note", f"lacks {', '.join(missing)}", f"everscene models pull {preset.name}")
    return Finding(what, "ok", ", ".join(found))


def _pairs(here: Machine) -> list[tuple[str, str]]:
    four = ["nvfp4"] if here.stores_nvfp4 else []
    eight = ["fp8"] if here.has_fp8 or here.capability is None else []
    return [(precision, kv) for precision in ("bf16", *eight, *four) for kv in ("bf16", *four)]  # others take as much
