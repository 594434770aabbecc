"""Pictures that lie on a device until they are due: an engine that pretends to have one."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.bridge.harness import make_engine

from everscene_bridge.client import Client
from everscene_bridge.pattern import read_mark
from everscene_bridge.server import Server
from everscene_engine.port import EnginePort, FrameBlock, GeneratedChunk, Picture

StartServer = Callable[..., Server]


class Far:
    """A picture on the pretended device."""

    def __init__(self, engine: "FarEngine", pixels: NDArray[np.uint8]) -> None:
        self._engine = engine
        self._pixels = pixels

    def copy_into(self, place: NDArray[np.uint8]) -> None:
        if self._engine.lost:
            raise RuntimeError("the device is lost")
        self._engine.places.append(place.ctypes.data)
        np.copyto(place, self._pixels)


class FarEngine:
    """The pattern, on a device that can be lost."""

    picture: type[Far] = Far

    def __init__(self) -> None:
        self._engine = make_engine()
        self.lost = False
        self.pinned: NDArray[np.uint8] | None = None
        self.places: list[int] = []  # addresses that pictures were copied to

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def decode(self, chunk: GeneratedChunk, ready: Callable[[FrameBlock], None] = lambda part: None) -> FrameBlock:
        block = self._engine.decode(chunk)
        pictures: list[Picture] = [self.picture(self, np.asarray(pixels)) for pixels in block.pixels]
        return replace(block, pixels=pictures)

    def pin(self, memory: NDArray[np.uint8]) -> None:
        self.pinned = memory

    def unpin(self) -> None:
        self.pinned = None


def engines(made: list[FarEngine]) -> Callable[[], EnginePort]:
    def make() -> EnginePort:
        made.append(FarEngine())
        return made[-1]

    return make


def test_a_picture_goes_from_the_device_straight_into_the_registered_ring(start_server: StartServer) -> None:
    made: list[FarEngine] = []
    server = start_server(engines(made))
    with Client(server.endpoint) as world:
        frame = next(world.frames(timeout=5))
        assert read_mark(frame.pixels)[0] == frame.number - 1
        memory = made[0].pinned
        assert memory is not None and server.ring is not None
        start = memory.ctypes.data
        assert memory.nbytes == server.ring.shape.file_bytes
        assert all(start <= place < start + memory.nbytes for place in made[0].places)
        del memory
    server.stop()
    assert made[0].pinned is None, "the registration is given back before the ring goes away"


def test_pictures_for_the_socket_come_from_the_device_as_well(start_server: StartServer) -> None:
    server = start_server(engines([]))
    with Client(server.endpoint, inline="raw") as world:
        frame = next(world.frames(timeout=5))
        assert read_mark(frame.pixels)[0] == frame.number - 1


def test_the_time_of_publishing_has_the_copy_in_it(start_server: StartServer) -> None:
    class SlowToCopy(Far):
        def copy_into(self, place: NDArray[np.uint8]) -> None:
            time.sleep(0.02)
            super().copy_into(place)

    class SlowEngine(FarEngine):
        picture = SlowToCopy

    server = start_server(SlowEngine)
    with Client(server.endpoint) as world:
        frames = world.frames(in_order=True, timeout=5)
        while next(frames).number < 4:
            pass
        assert world.stats().stages_ms["publish"].p50 >= 20


def test_when_the_device_is_lost_the_picture_stands_and_a_new_engine_goes_on(start_server: StartServer) -> None:
    made: list[FarEngine] = []
    server = start_server(engines(made), autosave_s=0.0)
    with Client(server.endpoint) as world:
        frames = world.frames(in_order=True, timeout=10)
        before = next(frames)
        while before.number < 8:
            before = next(frames)
        made[0].lost = True
        last, stood = before.pixels, 0
        deadline = time.monotonic() + 10
        while server.stream.timeline.totals.restarts == 0 or len(made) < 2 or not made[-1].places:
            frame = next(frames)
            stood += bool(np.array_equal(frame.pixels, last))
            last = frame.pixels
            assert frame.pixels.any(), "never black"
            assert time.monotonic() < deadline, "no new engine came"
        assert stood > 0
        assert made[-1].pinned is not None, "the new engine copies by DMA too"
        assert len([engine for engine in made if engine.lost]) == 1
        assert world.stats().restarts == 1
