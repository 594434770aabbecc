"""Going back while frames are shown: what is on its way to the screen then is either shown and applied, or neither."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.bridge.harness import QUICK
from tests.bridge.simulation import Simulation
from tests.bridge.test_commands import wait_for

from everscene_bridge import protocol
from everscene_bridge.client import Client
from everscene_bridge.pattern import PatternEngine, read_mark
from everscene_bridge.server import Server
from everscene_engine.port import EngineState, FrameBlock, GeneratedChunk, Picture

StartServer = Callable[..., Server]


class SlowPicture:
    """A picture whose copy waits until it is let go."""

    def __init__(self, pixels: NDArray[np.uint8], let_go: threading.Event, copying: threading.Event) -> None:
        self._pixels = pixels
        self._let_go = let_go
        self._copying = copying

    def copy_into(self, place: NDArray[np.uint8]) -> None:
        self._copying.set()
        assert self._let_go.wait(10)
        np.copyto(place, self._pixels)


class SlowCopies(PatternEngine):
    """Pictures under `storm` are slow to copy."""

    def __init__(self) -> None:
        super().__init__(width=64, height=36, times=QUICK)
        self.let_go = threading.Event()
        self.copying = threading.Event()

    def decode(self, chunk: GeneratedChunk, ready: Callable[[FrameBlock], None] = lambda part: None) -> FrameBlock:
        block = super().decode(chunk)
        if "storm" not in chunk.prompt:
            return block
        pictures: list[Picture] = [SlowPicture(np.asarray(one), self.let_go, self.copying) for one in block.pixels]
        return replace(block, pixels=pictures)


def test_while_the_picture_stands_no_frame_is_due() -> None:
    sim = Simulation().run(2000)
    shown = len(sim.shown)
    sim.timeline.stands = True
    assert sim.timeline.next_due_ns() is None
    sim.timeline.stands = False
    sim.run(3000)
    assert len(sim.shown) > shown


@pytest.mark.parametrize("command", ["rewind", "branch", "restore"])
def test_an_event_whose_first_frame_was_taken_before_the_world_went_back_is_applied(
    start_server: StartServer, command: str
) -> None:
    made: list[SlowCopies] = []

    def make() -> SlowCopies:
        made.append(SlowCopies())
        return made[-1]

    server = start_server(make, autosave_s=0.0)
    with Client(server.endpoint) as world:
        wait_for(lambda: server.stream.timeline.latest >= 16, "no frames came")
        world.snapshot("kept")
        receipt = world.event("storm")
        assert made[0].copying.wait(5)
        commands = {
            "rewind": lambda: world.rewind(0.5),
            "branch": lambda: world.branch(3),
            "restore": lambda: world.restore("kept"),
        }
        going_back = threading.Thread(target=commands[command])
        going_back.start()
        time.sleep(0.2)  # long enough for a command that does not wait
        made[0].let_go.set()
        assert receipt.wait("applied", 5).frame > 16
        going_back.join()


def test_a_branch_goes_on_from_the_picture_that_stands_while_it_is_made(start_server: StartServer) -> None:
    class Slow(PatternEngine):
        def snapshot(self, latent_frame: int) -> EngineState:
            time.sleep(0.3)
            return super().snapshot(latent_frame)

    server = start_server(lambda: Slow(width=64, height=36, times=QUICK), autosave_s=0.0)
    with Client(server.endpoint) as world:
        contents: list[int] = []
        branching = threading.Thread(target=lambda: world.branch(3))
        for frame in world.frames(in_order=True, timeout=5):
            contents.append(read_mark(frame.pixels)[0])
            if len(contents) == 16:
                branching.start()
            if frame.number > 16 and frame.flags & protocol.FLAG_CUT:
                break
        branching.join()
    assert 1 <= contents[-1] - contents[-2] <= 4  # at the next latent frame
