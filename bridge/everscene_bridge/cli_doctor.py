"""`everscene doctor`: what this machine can do, and what to change."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from everscene_bridge import doctor as bridge
from everscene_bridge.cli_common import Home, console
from everscene_engine.models.presets import HOME

MARKS = {"ok": "[green]ok     [/]", "note": "[yellow]note   [/]", "problem": "[red]problem[/]"}


def doctor(
    home: Home = HOME,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list.")] = False,
) -> None:
    """Look at GPU, driver, memory, kernels, /dev/shm and ports, and say what to change. Ends with 1 for a problem."""
    from everscene_engine import doctor as engine  # takes seconds, for torch

    findings = [*engine.examine(home), *bridge.examine()]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            console.print(f"{MARKS[finding.state]} [bold]{finding.what}[/]: {escape(finding.found)}", soft_wrap=True)
            if finding.advice:
                console.print(f"        → {escape(finding.advice)}", soft_wrap=True)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)
