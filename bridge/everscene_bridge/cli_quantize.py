"""`everscene quantize`: a model's weights in NVFP4 or FP8, as a file that `serve --precision` loads."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from everscene_engine.errors import EngineError
from everscene_engine.models.presets import HOME, preset

console = Console(highlight=False)


def quantize(
    model: Annotated[str, typer.Argument(help="A preset; `everscene models list` names them.")],
    format: Annotated[str, typer.Option(help="nvfp4 or fp8.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Of the weights made for so many steps.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; beside the model's weights by default.")] = None,
    device: Annotated[str | None, typer.Option(help="Where it is done: cuda is quicker than the CPU.")] = None,
    home: Annotated[Path, typer.Option("--home", help="Where converted weights lie.")] = HOME,
) -> None:
    """Write a model's weights with the linears of its blocks in four or eight bits."""
    from everscene_engine.models.quantize import quantize as write  # takes seconds, for torch

    try:
        for path in write(preset(model), format, home / model, out, steps, device):
            console.print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", markup=False, soft_wrap=True)
    except EngineError as problem:
        Console(stderr=True, highlight=False).print(f"everscene: {problem}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from problem
