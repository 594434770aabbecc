"""`everscene show`: an unattended show from one file."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from everscene_bridge import show as shows
from everscene_bridge.cli_common import console, give_up, say
from everscene_bridge.errors import EversceneError
from everscene_bridge.settings import token_from_environment
from everscene_bridge.show_file import load_show
from everscene_engine.errors import EngineError


def show(
    file: Annotated[Path, typer.Argument(help="Show file.")],
    check: Annotated[bool, typer.Option("--check", help="Read the file and all that it names, and stop.")] = False,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after so long.")] = None,
) -> None:
    """Play an unattended show: scene, feed, OSC, recording, schedule and idle scenes from one file."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    try:
        if check:
            read = load_show(file, token_from_environment())
            say(f"{read.file.name}: {file} and all that it names can be read")
            return
        shows.run(file, console, seconds)
    except (EversceneError, EngineError) as problem:
        give_up(problem)
