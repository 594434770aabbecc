"""You will see fog, rain and storm come and go over the harbour as a fader is moved by OSC.

    python examples/osc_fader/run.py

The script plays the fader itself, as TouchOSC, a lighting desk or Pure Data would: UDP to 127.0.0.1:7467,
`/everscene/event/weather 0.7`. With --hands-off it only listens, and the fader is yours.
"""

import argparse
import math
import time
from pathlib import Path

from pythonosc.udp_client import SimpleUDPClient
from rich.console import Console

from everscene_bridge.client import Client
from everscene_bridge.engines import EngineChoice
from everscene_bridge.osc import OSC_PORT
from everscene_bridge.protocol import LOOPBACK
from everscene_bridge.settings import ServeSettings
from everscene_bridge.sidecar import SidecarOptions, sidecar

MOVES_PER_SECOND = 30
PERIOD_S = 24.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--port", type=int, default=OSC_PORT)
    parser.add_argument("--hands-off", action="store_true")
    parser.add_argument("--quiet", action="store_true", help="without the viewer, on free ports")
    args = parser.parse_args()
    options = SidecarOptions(
        engine=EngineChoice(args.model),
        serve=ServeSettings(control_port=0, frames_port=0) if args.quiet else ServeSettings(),
        scene=Path(__file__).parent / "scene.yaml",
        viewer_port=None if args.quiet else SidecarOptions.viewer_port,
        osc=(LOOPBACK, args.port),
    )
    with sidecar(options, Console()) as running, Client(running.endpoint, name="looking on") as world:
        fader = SimpleUDPClient(LOOPBACK, args.port)
        prompt, start = "", time.monotonic()
        while time.monotonic() - start < args.seconds and not running.stopping.wait(1 / MOVES_PER_SECOND):
            if not args.hands_off:
                turn = (time.monotonic() - start) / PERIOD_S
                fader.send_message("/everscene/event/weather", 0.5 - 0.5 * math.cos(2 * math.pi * turn))
            if world.prompt_now != prompt:
                prompt = world.prompt_now
                print(prompt)
        inputs = world.stats().inputs
        print(f"{inputs.accepted} moves of the fader came; {inputs.applied} of them became pictures")


if __name__ == "__main__":
    main()
