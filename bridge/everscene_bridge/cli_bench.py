"""`everscene bench`: measurements on a server of their own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from everscene_bridge import bench, bench_load, bench_pipeline
from everscene_bridge.cli_engine import engine
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.errors import EversceneError, SettingsError
from everscene_bridge.scene import DEFAULT_SCENE, load_scene
from everscene_engine.errors import EngineError

bench_app = typer.Typer(no_args_is_help=True, help="Measurements.")
bench_app.command()(engine)
console = Console(highlight=False)

Model = Annotated[str, typer.Option(help="A model of `everscene models list`, or pattern: a test pattern.")]
Steps = Annotated[int | None, typer.Option(min=1, max=64, help="Denoising steps; the model's own by default.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; by default a GPU if there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of the model.")]
SceneOption = Annotated[Path, typer.Option(help="Scene file: events and their words.")]
Seed = Annotated[int, typer.Option(min=0)]
RandomWeights = Annotated[
    str | None, typer.Option(help="plain, bf16 or fp8: the model at its real size with random weights.")
]
Decoder = Annotated[str | None, typer.Option(help="With random weights: tiny, tiny-wide or wan.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def recache_depth_of(text: str) -> int | None:
    """What --recache-depth says: None for the model's own, 0 for all. Raises SettingsError."""
    if text == "own":
        return None
    if text == "all":
        return 0
    if text == "last":
        return 1
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise SettingsError(f"--recache-depth is {text!r}; it is own, all, last, or a number of chunks from 1 on")


@bench_app.command()
def latency(
    model: Model = "pocket",
    steps: Steps = None,
    device: Device = None,
    threads: Threads = None,
    random_weights: RandomWeights = None,
    decoder: Decoder = None,
    scene: SceneOption = DEFAULT_SCENE,
    events: Annotated[int, typer.Option(min=2, max=1000, help="With the interrupt, and as many without.")] = 200,
    recache_depth: Annotated[
        list[str] | None, typer.Option(help="own, all, last or N; several times: each is measured, the first in full.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="That make the stream together; on a CPU, processes.")] = 1,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """From an event to the first frame under it; exit code 1 if p95 is above the bound."""
    names = recache_depth or ["own"]
    try:
        choice = EngineChoice(
            model, seed, steps, device, threads, decoder=decoder, random_weights=random_weights, gpus=gpus
        )
        loads = {name: loader(replace(choice, recache_depth=recache_depth_of(name))) for name in names}
        result = bench.latency(loads, load_scene(scene), events, seed)
    except (EversceneError, EngineError) as problem:
        _give_up(problem)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print_latency(result)
    if not result["ok"]:
        raise typer.Exit(1)


@bench_app.command()
def pipeline(
    model: Model = "pocket",
    steps: Steps = None,
    device: Device = None,
    threads: Threads = None,
    random_weights: RandomWeights = None,
    decoder: Decoder = None,
    scene: SceneOption = DEFAULT_SCENE,
    chunks: Annotated[int, typer.Option(min=2, max=200, help="How many are drawn.")] = 12,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("pipeline.png"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """What was generated, decoded and published when, as a picture."""
    try:
        load = loader(EngineChoice(model, seed, steps, device, threads, decoder=decoder, random_weights=random_weights))
        result = bench_pipeline.pipeline(load, load_scene(scene), chunks)
        bench_pipeline.draw(result, out)
    except (EversceneError, EngineError) as problem:
        _give_up(problem)
    if as_json:
        typer.echo(json.dumps(result))
        return
    gap = result["frame_gap_ms"]
    console.print(f"{out}: decode overlaps generation for {result['overlap']:.0%} of its time")
    console.print(f"from frame to frame p50 {gap['p50']:.0f}, p95 {gap['p95']:.0f}, at most {gap['max']:.0f} ms")


@bench_app.command()
def load(
    model: Model = "pocket",
    steps: Steps = None,
    device: Device = None,
    threads: Threads = None,
    random_weights: RandomWeights = None,
    decoder: Decoder = None,
    scene: SceneOption = DEFAULT_SCENE,
    rate: Annotated[float, typer.Option(min=1, help="Events a second, all clients together.")] = 1000.0,
    seconds: Annotated[float, typer.Option(min=1, help="For how long.")] = 60.0,
    clients: Annotated[int, typer.Option(min=1, help="How many send.")] = 8,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """A hail of events: does each have its final receipt, does the stream go on, does the memory stay? Exit code 1 if
    not."""
    try:
        make = loader(EngineChoice(model, seed, steps, device, threads, decoder=decoder, random_weights=random_weights))
        result = bench_load.load(make, load_scene(scene), rate, seconds, clients)
    except (EversceneError, EngineError) as problem:
        _give_up(problem)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        for name, value in result.items():
            console.print(f"{name:16} {value}", markup=False, soft_wrap=True)
    if not result["ok"]:
        raise typer.Exit(1)


def _print_latency(result: dict[str, Any]) -> None:
    size = "×".join(map(str, result["size"]))
    console.print(
        f"{result['events']} events, {result['model']} {size} on {result['device']}, {result['steps']} steps, "
        f"generation {result['generation_fps']:.1f} of {result['fps']:g} fps",
        soft_wrap=True,
    )
    for name, found in result["recache_depths"].items():
        reached = found["event_to_frame_ms"]
        console.print(f"recache depth {name}")
        _print_ms("event to frame", reached)
        console.print(f"  {'bound for p95':18} {found['bound_ms']:8.1f} ms")
        for stage, times in found["stages"].items():
            _print_ms(stage, times)
    _print_ms("without interrupt", result["without_interrupt_ms"])
    console.print("within the bound" if result["ok"] else "ABOVE THE BOUND")


def _print_ms(name: str, times: dict[str, float]) -> None:
    console.print(f"  {name:18} " + "  ".join(f"{key} {value:8.1f}" for key, value in times.items()) + " ms")


def _give_up(problem: Exception) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"everscene: {problem}", markup=False, soft_wrap=True)
    raise typer.Exit(1)


if __name__ == "__main__":  # on a machine that lacks what the rest of the command line needs
    bench_app()
