"""`everscene bench`: measurements on a server of their own."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from everscene_bridge import bench, bench_demo, bench_load, bench_pipeline, bench_record, director_bench
from everscene_bridge.cli_common import (
    AsJson,
    Device,
    Gpus,
    Model,
    SceneOption,
    Seed,
    Steps,
    Threads,
    console,
    give_up,
    say,
)
from everscene_bridge.cli_engine import engine
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.errors import EversceneError, SettingsError
from everscene_bridge.scene import DEFAULT_SCENE, load_scene
from everscene_engine.errors import EngineError

bench_app = typer.Typer(no_args_is_help=True, help="Measurements.")
bench_app.command()(engine)

RandomWeights = Annotated[
    str | None, typer.Option(help="plain, bf16 or fp8: the model at its real size with random weights.")
]
Decoder = Annotated[str | None, typer.Option(help="With random weights: tiny, tiny-wide or wan.")]


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
    gpus: Gpus = 1,
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
        result = bench.latency(loads, load_scene(scene), events, seed, partial(typer.echo, err=True))
    except (EversceneError, EngineError) as problem:
        give_up(problem)
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
        give_up(problem)
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
        give_up(problem)
    _print_all(result, as_json)


@bench_app.command()
def demo(
    model: Model = "pocket",
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=1, help="After the first frame.")] = 600.0,
    as_json: AsJson = False,
) -> None:
    """The demo before a client that counts every frame; exit code 1 if one was missed, the picture stood for more than
    a second, or the memory grew by more than a tenth."""
    try:
        result = bench_demo.demo(model, threads, seconds)
    except (EversceneError, EngineError) as problem:
        give_up(problem)
    _print_all(result, as_json)


@bench_app.command()
def director(
    file: Annotated[Path, typer.Argument(help="Scene file.")] = DEFAULT_SCENE,
    events: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Random events through a scene's rules, without an engine; exit code 1 if 10,000 take 0.2 s of a core or more."""
    try:
        times = director_bench.measure(load_scene(file), events)
    except EversceneError as problem:
        give_up(problem)
    if as_json:
        typer.echo(json.dumps({"ok": times.ok, **asdict(times)}))
    else:
        say(
            f"{times.events} events in {times.seconds:.3f} s ({times.cpu_seconds:.3f} s of one core): "
            f"{times.applied} applied, {times.superseded} superseded, {times.rejected} rejected"
        )
    if not times.ok:
        raise typer.Exit(1)


@bench_app.command()
def record(
    model: Model = "pocket",
    threads: Threads = None,
    window: Annotated[float, typer.Option(min=1, help="Seconds of each window.")] = 20.0,
    rounds: Annotated[int, typer.Option(min=1, help="Windows without and with a recorder.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Whether a recording slows generation down: with and without in turn, on a server of its own."""
    try:
        found = bench_record.measure(loader(EngineChoice(model, threads=threads)), load_scene(), window, rounds)
    except (EversceneError, EngineError) as problem:
        give_up(problem)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name in ("without", "with"):
        one = found[name]
        rates = f"generation {one['generation_fps']:.1f} fps, shown {one['fps']:.2f} fps"
        say(f"{name:8} {rates}, {one['held']} frames held")
    say(f"generation with a recorder: {found['ratio']:.3f} of that without; {found['recorded']} frames recorded")
    say(f"{found['lost']} frames lost")


def _print_all(result: dict[str, Any], as_json: bool) -> None:
    """Everything under its name; then the program ends, with 1 unless all is as it should be."""
    if as_json:
        typer.echo(json.dumps(result))
    else:
        for name, value in result.items():
            say(f"{name:16} {value}")
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


if __name__ == "__main__":  # on a machine that lacks what the rest of the command line needs
    bench_app()
