"""You will see a clear day in the mountains turn into a storm as a player loses health, and dawn when they are healed.

    python examples/health_bar/run.py

A made-up game loses health twenty times a second and sends each value; the scene's `debounce` makes one event of them.
"""

import argparse
import time
from pathlib import Path

from rich.console import Console

from everscene_bridge.client import Client
from everscene_bridge.engines import EngineChoice
from everscene_bridge.errors import Superseded
from everscene_bridge.receipt import Receipt
from everscene_bridge.settings import ServeSettings
from everscene_bridge.sidecar import SidecarOptions, sidecar

HITS = (0.12, 0.3, 0.2, 0.15)  # what each wound costs
TICK_S = 0.05


def play(world: Client) -> None:
    """A fight: wound after wound, each seen in the sky before the next; then help comes."""
    health = 1.0
    for hit in HITS:
        receipts = list(lose(world, health, health - hit))
        health -= hit
        seen = receipts[-1].wait("applied", 120)
        spared = sum(isinstance(receipt_end(receipt), Superseded) for receipt in receipts[:-1])
        print(f"health {health:4.2f}: {seen.prompt}; {spared} of {len(receipts)} values never reached the model")
    healed = world.event("healed").wait("applied", 120)
    print(f"healed:      {healed.prompt}")
    world.event("rested").wait("applied", 120)


def lose(world: Client, before: float, after: float, ticks: int = 6) -> list[Receipt]:
    """A bar that slides, value by value, as a game would send it."""
    receipts = []
    for tick in range(1, ticks + 1):
        receipts.append(world.event("health", level=before + (after - before) * tick / ticks))
        time.sleep(TICK_S)
    return receipts


def receipt_end(receipt: Receipt) -> Exception | None:
    """How a receipt ended, None if well."""
    try:
        receipt.wait("applied", 120)
    except Superseded as end:
        return end
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--once", action="store_true", help="one fight, without the viewer, on free ports")
    args = parser.parse_args()
    options = SidecarOptions(
        engine=EngineChoice(args.model),
        serve=ServeSettings(control_port=0, frames_port=0) if args.once else ServeSettings(),
        scene=Path(__file__).parent / "scene.yaml",
        viewer_port=None if args.once else SidecarOptions.viewer_port,
    )
    with sidecar(options, Console()) as running, Client(running.endpoint, name="game") as world:
        next(world.frames(timeout=120))
        play(world)
        while not args.once and not running.stopping.wait(5):
            play(world)


if __name__ == "__main__":
    main()
