"""You will see a city at night under the blows of two players who send a hundred events a second.

    python examples/two_players/run.py

At the end stands what became of each event. Every one has exactly one end: applied, superseded (another took its
place), or rejected (its cooldown ran, or something outranked it).
"""

import argparse
import random
import threading
import time
from collections import Counter
from pathlib import Path

from rich.console import Console

from everscene_bridge.client import Client
from everscene_bridge.engines import EngineChoice
from everscene_bridge.errors import Rejected, Superseded
from everscene_bridge.receipt import Receipt
from everscene_bridge.settings import ServeSettings
from everscene_bridge.sidecar import SidecarOptions, sidecar

EVENTS = {"hit": 60, "rest": 8, "spell": 10, "cheer": 20, "victory": 2}  # how often, in relation
PER_SECOND = 50


def play(endpoint: str, name: str, seconds: float, stop: threading.Event, ends: "Counter[str]") -> None:
    """One player: events at random, then a count of their ends."""
    chance = random.Random(name)
    sent: list[Receipt] = []
    with Client(endpoint, name=name) as world:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not stop.wait(1 / PER_SECOND):
            event = chance.choices(list(EVENTS), list(EVENTS.values()))[0]
            params = {"force": chance.uniform(0.2, 2.0)} if event == "hit" else {}
            sent.append(world.event(event, **params))
        ends.update(end_of(receipt) for receipt in sent)


def end_of(receipt: Receipt) -> str:
    """Waits for a receipt's end, and names it."""
    try:
        receipt.wait("applied", 120)
        return "applied"
    except Superseded:
        return "superseded"
    except Rejected as why:
        return f"rejected: {why.code}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--quiet", action="store_true", help="without the viewer, on free ports")
    args = parser.parse_args()
    options = SidecarOptions(
        engine=EngineChoice(args.model),
        serve=ServeSettings(control_port=0, frames_port=0) if args.quiet else ServeSettings(),
        scene=Path(__file__).parent / "scene.yaml",
        viewer_port=None if args.quiet else SidecarOptions.viewer_port,
    )
    ends: Counter[str] = Counter()
    with sidecar(options, Console()) as running:
        players = [
            threading.Thread(target=play, args=(running.endpoint, name, args.seconds, running.stopping, ends))
            for name in ("left", "right")
        ]
        for player in players:
            player.start()
        for player in players:
            player.join()
        with Client(running.endpoint, name="score") as world:
            stats = world.stats()
    for end, count in sorted(ends.items()):
        print(f"{count:6} {end}")
    waiting = stats.inputs.waiting
    print(f"{ends.total()} events, each with one end; {waiting} wait; {stats.frame} frames at {stats.fps:.1f} a second")


if __name__ == "__main__":
    main()
