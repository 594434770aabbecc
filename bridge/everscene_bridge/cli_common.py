"""What the commands share: options that mean the same everywhere, a line printed, and the end with a sentence."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from everscene_bridge import protocol
from everscene_bridge.settings import TOKEN_VARIABLE

DEFAULT_ENDPOINT = f"tcp://{protocol.LOOPBACK}:{protocol.CONTROL_PORT}"

Model = Annotated[str, typer.Option(help="pocket, another of `everscene models list`, or pattern: a test pattern.")]
Steps = Annotated[int | None, typer.Option(min=1, max=64, help="Denoising steps; the model's own by default.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the noise that the world is made from.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; by default a GPU if there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of the model.")]
Gpus = Annotated[int, typer.Option(min=1, help="GPUs that make the stream together; on a CPU: processes.")]
SceneOption = Annotated[
    Path, typer.Option(help="Scene file: events and their words; by default the pocket world's.", show_default=False)
]
Home = Annotated[Path, typer.Option("--home", help="Where converted weights lie, a folder for each preset.")]
PresetName = Annotated[str, typer.Argument(help="A preset; `everscene models list` names them.")]
Endpoint = Annotated[str, typer.Option(help="Control address of the server.")]
Token = Annotated[str | None, typer.Option(help=f"The server's token; {TOKEN_VARIABLE} by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

console = Console(highlight=False)


def say(text: str) -> None:
    """One line, as it is."""
    console.print(text, markup=False, soft_wrap=True)


def give_up(problem: Exception) -> NoReturn:
    """End the program with a sentence."""
    Console(stderr=True, highlight=False).print(f"everscene: {problem}", markup=False, soft_wrap=True)
    raise typer.Exit(1)
