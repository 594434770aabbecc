"""`everscene scene check`."""

from pathlib import Path
from typing import Annotated

import typer

from everscene_bridge.cli_common import give_up, say
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.errors import EversceneError, SceneError
from everscene_bridge.inputs import Input
from everscene_bridge.scene import DEFAULT_SCENE, load_scene
from everscene_bridge.scene_prompts import MOST, possible_prompts
from everscene_engine.errors import EngineError, PromptRejected

scene_app = typer.Typer(no_args_is_help=True, help="Scene files.")


@scene_app.callback()
def scene() -> None:
    """Scene files."""


@scene_app.command("check")
def check_scene(
    file: Annotated[Path, typer.Argument(help="Scene file.")] = DEFAULT_SCENE,
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
