"""`everscene record`: a video of a running server, written by a process of its own."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from everscene_bridge.cli_common import DEFAULT_ENDPOINT, Endpoint, Token, give_up, say
from everscene_bridge.client import Client
from everscene_bridge.errors import EversceneError
from everscene_bridge.record import Recorder, RecordSettings
from everscene_bridge.video_file import check_path

NICENESS = 5
"""The recorder gives way to the engine; its queue bridges what that costs."""


def record(
    file: Annotated[Path, typer.Argument(help="The video: .mp4, .mov or .mkv. A .jsonl goes beside it.")],
    from_snapshot: Annotated[str | None, typer.Option("--from", help="Restore this snapshot and begin there.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Seconds of content; until Ctrl-C by default.")] = None,
    split: Annotated[float | None, typer.Option(min=1, help="Begin a new file after so many seconds.")] = None,
    crf: Annotated[int, typer.Option(min=0, max=51, help="Quality, 0 is lossless; less is better and larger.")] = 18,
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    token: Token = None,
) -> None:
    """Record every frame, with the events as chapters and in a JSONL file beside it."""
    recorder = Recorder(RecordSettings(file, seconds, split, crf, from_cut=from_snapshot is not None))

    def stop(number: int, frame: FrameType | None) -> None:
        recorder.stop()

    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, stop)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    try:
        check_path(file)
        with Client(endpoint, token, name="record", on_notice=recorder.heard) as world:
            world.wait_until_following()
            if from_snapshot is not None:
                world.restore(from_snapshot)
            result = recorder.record(world, ready=lambda: say(f"recording {world.info.model} to {file}"))
    except (EversceneError, OSError) as problem:
        give_up(problem)
    names = ", ".join(path.name for path in result.files) or "nothing"
    say(f"{names}: {result.frames} frames, {result.lost} lost")
