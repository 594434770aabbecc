"""`everscene quantize`: a model's weights in NVFP4 or FP8, as a file that `serve --precision` loads."""

import random
from pathlib import Path
from typing import Annotated, Final

import typer

from everscene_bridge.cli_common import Home, PresetName, give_up, say
from everscene_engine.errors import ConfigError, EngineError
from everscene_engine.models.presets import HOME, preset

WORLD: Final = "world"
WORLD_PROMPTS: Final = 8


def quantize(
    model: PresetName,
    format: Annotated[str, typer.Option(help="nvfp4 or fp8.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Of the weights made for so many steps.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; beside the model's weights by default.")] = None,
    device: Annotated[str | None, typer.Option(help="Where it is done: cuda is quicker than the CPU.")] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Calibrate nvfp4: a file with a prompt on each line; pocket: world, its own.")
    ] = None,
    chunks: Annotated[int, typer.Option(min=1, help="Of each prompt, while calibrating.")] = 4,
    home: Home = HOME,
) -> None:
    """Write a model's weights with the linears of its blocks in four or eight bits."""
    from everscene_engine.models.quantize import quantize as write  # takes seconds, for torch

    try:
        chosen = preset(model)
        said = None if prompts is None else _prompts(prompts, chosen.shipped)
        for path in write(chosen, format, home / model, out, steps, device, said, chunks):
            say(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    except EngineError as problem:
        give_up(problem)


def _prompts(where: str, of_world: bool) -> list[str]:
    """The lines of a file, or prompts of the procedural world. Raises ConfigError."""
    if where == WORLD:
        if not of_world:
            raise ConfigError("the world's prompts are for pocket; give a file with a prompt on each line")
        from everscene_engine.training.world.captions import prompt_for
        from everscene_engine.training.world.scene import random_attributes

        chance = random.Random(0)
        return [prompt_for(random_attributes(chance), chance) for _ in range(WORLD_PROMPTS)]
    try:
        lines = Path(where).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"the prompts cannot be read: {problem}") from problem
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"{where} holds no prompt; there should be one on each line")
    return found
