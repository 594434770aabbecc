"""`everscene scene check` and `everscene bench director`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from everscene_bridge import director_bench
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.errors import EversceneError, SceneError
from everscene_bridge.inputs import Input
from everscene_bridge.scene import DEFAULT_SCENE, load_scene
from everscene_bridge.scene_prompts import MOST, possible_prompts
from everscene_engine.errors import EngineError, PromptRejected

scene_app = typer.Typer(no_args_is_help=True, help="Scene files.")
console = Console(highlight=False)

SceneArgument = Annotated[Path, typer.Argument(help="Scene file.")]


@scene_app.callback()
def scene() -> None:
    """Scene files."""


@scene_app.command("check")
def check_scene(
    file: SceneArgument = DEFAULT_SCENE,
    most: Annotated[int, typer.Option(min=1, help="Give up when there are more prompts.")] = MOST,
    model: Annotated[str | None, typer.Option(help="Ask this model whether it takes them all, as pocket.")] = None,
) -> None:
    """Read a scene file; print what each event makes of the first prompt, then every prompt that the file can make."""
    try:
        scene = load_scene(file)
    except EversceneError as problem:
        give_up(problem)
    width = max(len(name) for name in ("at the start", *scene.file.events))
    say(f"{'at the start':{width}}  {scene.compose(scene.initial)}")
    for name in scene.file.events:
        state = scene.initial.after(Input(1, scene.action(name, {}, None), 0))
        say(f"{name:{width}}  {scene.compose(state)}")
    try:
        prompts = possible_prompts(scene, most)
    except EversceneError as problem:
        give_up(problem)
    say("")
    say(f"{len(prompts)} prompts:" if len(prompts) > 1 else "one prompt:")
    for prompt in prompts:
        say(prompt)
    if model is not None:
        _ask(model, prompts)


def _ask(model: str, prompts: list[str]) -> None:
    """Whether a model takes all of these prompts; the program ends with those that it does not."""
    try:
        engine = loader(EngineChoice(model))()
    except EngineError as problem:
        give_up(problem)
    refused = []
    for prompt in prompts:
        try:
            engine.check(prompt)
        except PromptRejected as why:
            refused.append(f"{prompt}: {why}")
    engine.close()
    if refused:
        give_up(SceneError("\n".join([f"{model} does not take {len(refused)} of {len(prompts)}:", *refused])))
    say(f"{model} takes them all")


def bench_director(
    file: SceneArgument = DEFAULT_SCENE,
    events: Annotated[int, typer.Option(min=1, max=1_000_000)] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
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


def say(text: str) -> None:
    """One line, as it is."""
    console.print(text, markup=False, soft_wrap=True)


def give_up(problem: Exception) -> NoReturn:
    """End the program with a sentence."""
    Console(stderr=True, highlight=False).print(f"everscene: {problem}", markup=False, soft_wrap=True)
    raise typer.Exit(1)
