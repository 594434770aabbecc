"""Engines by the name of their model. This is the one place of the bridge that loads torch, and only when it has to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from everscene_bridge.pattern import PatternEngine
from everscene_engine.port import EnginePort


@dataclass(frozen=True)
class EngineChoice:
    """Which engine, and how it runs."""

    model: str = "pocket"  # a preset of the engine, or `pattern`
    seed: int = 0
    steps: int | None = None  # denoising steps; None: the preset's own
    device: str | None = None  # "cpu", "cuda", "cuda:1"; None: a GPU if there is one
    threads: int | None = None  # CPU threads; None: torch's choice
    weights: Path | None = None  # a folder of weights; None: the package's, or where `models pull` writes
    start_image: Path | None = None  # a picture that the world begins with
    decoder: str | None = None  # of a large model: vae, lightvae, lightvae2, tiny; None: vae
    text_device: str | None = None  # of a large model's text encoder; None: `device`
    unload_text: bool = False  # let go of the text encoder after each prompt
    recache_depth: int | None = None  # newest chunks that a recache makes anew at once; 0: all; None: the preset's
    precision: str = "auto"  # of the linears: auto, bf16, fp8, nvfp4
    kv: str = "auto"  # of the KV cache: auto, bf16, nvfp4, nvfp4-smooth
    attention: str = "bf16"  # of self-attention: bf16, or fp8 for speed on a GPU
    path: str = "auto"  # fast, plain; auto: fast where there is a GPU and Triton
    gpus: int = 1  # that make the stream together; on a CPU: processes
    decoder_device: str | None = None  # of a large model's decoder; None: `device`
    random_weights: str | None = None  # plain, bf16 or fp8: the model at its size with random weights, for measuring


def loader(choice: EngineChoice) -> Callable[[], EnginePort]:
    """What makes such an engine, each time anew. It raises everscene_engine.errors.EngineError."""
    if choice.model == "pattern":
        return lambda: PatternEngine(seed=choice.seed)

    def load() -> EnginePort:
        if choice.random_weights is not None:
            from everscene_engine.random_live import load_random

            return load_random(
                choice.model,
                choice.random_weights,
                choice.seed,
                choice.steps,
                choice.device,
                choice.decoder,
                choice.recache_depth,
                choice.gpus,
                choice.decoder_device,
            )
        from everscene_engine.load import load as load_live

        return load_live(
            choice.model,
            seed=choice.seed,
            steps=choice.steps,
            device=choice.device,
            threads=choice.threads,
            weights=choice.weights,
            start_image=choice.start_image,
            decoder=choice.decoder,
            text_device=choice.text_device,
            unload_text=choice.unload_text,
            recache_depth=choice.recache_depth,
            precision=choice.precision,
            kv=choice.kv,
            attention=choice.attention,
            path=choice.path,
            gpus=choice.gpus,
            decoder_device=choice.decoder_device,
        )

    return load
