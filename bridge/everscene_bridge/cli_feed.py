"""`everscene feed`: play a scripted feed, ours or another tool's, against a running server; check one; convert one."""

import threading
from pathlib import Path
from typing import Annotated

import typer

from everscene_bridge import feed_check
from everscene_bridge.cli_common import DEFAULT_ENDPOINT, Endpoint, Token, give_up, say
from everscene_bridge.client import Client
from everscene_bridge.errors import EversceneError, SceneError
from everscene_bridge.feed import Deed, Feed, Step
from everscene_bridge.feed_imports import HOLD_S, load_any_feed
from everscene_bridge.feed_player import play
from everscene_bridge.scene import load_scene

feed_app = typer.Typer(no_args_is_help=True, help="Scripted feeds: YAML, JSONL, Scope, Odyssey and LongLive files.")

File = Annotated[Path, typer.Argument(help="The feed: .yaml, .jsonl, or another tool's .json or .jsonl.")]
Line = Annotated[int, typer.Option(min=1, help="Which video of a LongLive list.")]
Hold = Annotated[float, typer.Option(min=0.1, help="Seconds for each prompt of a list that has no times.")]


@feed_app.command("play")
def play_feed(
    file: File,
    loop: Annotated[bool, typer.Option("--loop", help="Begin anew at the end.")] = False,
    speed: Annotated[float, typer.Option(min=0.01, max=100, help="Seconds of the feed in one second.")] = 1.0,
    line: Line = 1,
    hold: Hold = HOLD_S,
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    token: Token = None,
) -> None:
    """Play a feed until its end, or until Ctrl-C. Each step is printed when it is sent, and what is refused."""
    try:
        feed = _read(file, line, hold)
        if loop:
            feed = feed.looped(hold)
        with Client(endpoint, token, name="feed") as world:
            play(world, feed, threading.Event(), say=say, speed=speed, sent=_say_sent)
    except KeyboardInterrupt:
        return
    except EversceneError as problem:
        give_up(problem)


@feed_app.command("check")
def check_feed(
    file: File,
    line: Line = 1,
    hold: Hold = HOLD_S,
    scene: Annotated[Path | None, typer.Option(help="A scene file that must have what the feed speaks of.")] = None,
) -> None:
    """Read a feed and print its steps; with --scene, exit code 1 for what that scene would refuse."""
    feed = _read(file, line, hold)
    try:
        wrong = [] if scene is None else feed_check.problems(feed, load_scene(scene))
    except EversceneError as problem:
        give_up(problem)
    end = f"every {feed.every:g} s" if feed.every else "once" + (f", {feed.length:g} s long" if feed.length else "")
    say(f"{feed.name}: {len(feed.steps)} steps, {end}")
    for step in feed.steps:
        what = step.what or " or ".join(choice.what for choice in step.choose)
        what = what or (f"to {step.jump!r}" if step.jump else "")
        say(_line(step, what))
    if wrong:
        give_up(SceneError("\n".join(wrong)))


@feed_app.command("convert")
def convert_feed(file: File, line: Line = 1, hold: Hold = HOLD_S) -> None:
    """Print a feed, whatever tool it is from, as one of our YAML files."""
    typer.echo(_read(file, line, hold).to_yaml(), nl=False)


def _say_sent(step: Step, deed: Deed) -> None:
    say(_line(step, deed.what))


def _line(step: Step, what: str) -> str:
    label = f"[{step.label}] " if step.label else ""
    return f"{step.at:9.3f} s  {label}{what}"


def _read(file: Path, line: int, hold: float) -> Feed:
    try:
        return load_any_feed(file, line, hold)
    except EversceneError as problem:
        give_up(problem)
