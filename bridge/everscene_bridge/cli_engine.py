"""`everscene bench engine`: the model alone, at its real size, with random weights. No server, no weights.

Where this package is not installed, `python -m everscene_engine.bench_engine` takes the same options and prints JSON.
"""

import json
from typing import Annotated, Any

import typer

from everscene_bridge.cli_common import Gpus, console, give_up, say
from everscene_engine.errors import EngineError

Size = Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels, as 832x480; the model's own by default.")]
Precision = Annotated[str, typer.Option(help="Of the linears: bf16, fp8, nvfp4 or w4a4.")]
KV = Annotated[str, typer.Option(help="The KV cache: bf16, nvfp4 or nvfp4-smooth.")]
Attention = Annotated[str, typer.Option(help="Self-attention: bf16, fp8; cudnn or triton choose the kernel.")]
Path = Annotated[str, typer.Option(help="fast, plain: the definition, or auto: fast on a GPU.")]
Decoder = Annotated[str, typer.Option(help="none, tiny, tiny-wide, wan, lightvae or lightvae2.")]
Chunks = Annotated[int, typer.Option(min=1, help="Chunks measured, once the window is full.")]


def engine(
    model: Annotated[str, typer.Option(help="A model of `everscene models list`.")] = "longlive2-5b",
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="As always here: the time does not depend on them.")
    ] = True,
    size: Size = None,
    steps: Annotated[int | None, typer.Option(min=1, max=50, help="Denoising steps.")] = None,
    precision: Precision = "bf16",
    kv: KV = "bf16",
    attention: Attention = "bf16",
    path: Path = "auto",
    decoder: Decoder = "none",
    chunks: Chunks = 10,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; by default a GPU if there is one.")] = None,
    gpus: Gpus = 1,
    decoder_device: Annotated[str | None, typer.Option(help="As cuda:1; the model's by default.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of a CPU.")] = None,
    graphs: Annotated[bool, typer.Option(help="CUDA graphs on the fast path, on one GPU.")] = True,
    profile: Annotated[bool, typer.Option(help="Say where a chunk's time goes, on a GPU.")] = True,
    ceilings: Annotated[bool, typer.Option(help="Measure the floor: products and attention alone.")] = True,
    check: Annotated[bool, typer.Option("--check", help="Compare a chunk with that of the plain path.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, as parts are done.")] = False,
) -> None:
    """How fast a model runs here, stage by stage."""
    from everscene_engine.bench_engine import BenchOptions, run

    try:
        options = BenchOptions(
            model, size, steps, precision, kv, attention, path, decoder, chunks, device,
            gpus=gpus, decoder_device=decoder_device, threads=threads, graphs=graphs, profile=profile,
            ceilings=ceilings, check=check,
        )  # fmt: skip
        for result in run(options):
            if as_json:
                typer.echo(json.dumps(result))
            else:
                _print(result)
    except EngineError as problem:
        give_up(problem)


def _print(result: dict[str, Any]) -> None:
    console.print(f"[bold]{result['part']}[/]")
    for name, value in result.items():
        if name != "part" and value is not None:
            say(f"  {name:22} {value}")
