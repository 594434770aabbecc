"""A client's picture becomes what worlds begin with."""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.bridge.harness import QUICK, Bare
from tests.bridge.test_replay import lines, record, until

from everscene_bridge import protocol
from everscene_bridge.client import Client
from everscene_bridge.engines import EngineChoice
from everscene_bridge.errors import RequestFailed
from everscene_bridge.pattern import PatternEngine
from everscene_bridge.replay import ReplayResult, replay
from everscene_bridge.server import Server
from everscene_engine.port import GeneratedChunk, Prompting, Transition

StartServer = Callable[..., Server]


def png(colour: tuple[int, int, int], width: int = 30, height: int = 20) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, format="PNG")
    return file.getvalue()


class Painter(PatternEngine):
    """A pattern whose worlds have the colour of the picture that they began with."""

    def __init__(self) -> None:
        super().__init__(width=64, height=36, times=QUICK, vocabulary=None)
        self.picture: NDArray[np.uint8] | None = None
        self._ground: NDArray[np.uint8] | None = None

    def begin_with(self, picture: NDArray[np.uint8] | None) -> None:
        self.picture = picture

    def steer(self, prompt: Prompting, transition: Transition) -> None:
        if transition == "reset":
            self._ground = self.picture
        super().steer(prompt, transition)

    def _draw(self, content_index: int, crc: int, chunk: int) -> NDArray[np.uint8]:
        frame = super()._draw(content_index, crc, chunk)
        if self._ground is not None:
            frame[18:, :, :3] = self._ground[18:]
        return frame


@pytest.fixture
def world(start_server: StartServer) -> Iterator[Client]:
    with Client(start_server(Painter).endpoint) as made:
        yield made


def new_world(world: Client) -> NDArray[Any]:
    """Pixels of the first frame of a new one."""
    applied = world.prompt("another place", "reset").wait("applied", 5)
    for frame in world.frames(in_order=True, timeout=5):
        if frame.number >= (applied.frame or 0):
            return frame.pixels
    raise AssertionError("no frames came")


def test_a_world_begins_with_the_picture_of_a_client(world: Client) -> None:
    world.image(png((200, 30, 60)))
    assert (new_world(world)[20:, :, :3] == [200, 30, 60]).all()


def test_the_world_on_the_screen_is_left_as_it_is(world: Client) -> None:
    world.image(png((200, 30, 60)))
    until(world, 6)
    frame = world.latest()
    assert frame is not None and not (frame.pixels[20:, :, :3] == [200, 30, 60]).all()


def test_a_picture_can_be_taken_back(world: Client) -> None:
    world.image(png((200, 30, 60)))
    world.image(None)
    assert not (new_world(world)[20:, :, :3] == [200, 30, 60]).all()


def test_a_picture_file_is_sent_by_its_path(world: Client, tmp_path: Path) -> None:
    (tmp_path / "bay.png").write_bytes(png((1, 2, 3)))
    world.image(tmp_path / "bay.png")
    assert (new_world(world)[20:, :, :3] == [1, 2, 3]).all()


def test_a_picture_of_several_megabytes_is_taken(world: Client) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1100, 2000, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="PNG", compress_level=0)
    assert 6e6 < len(file.getvalue()) < protocol.MAX_PICTURE_BYTES
    world.image(file.getvalue())


def test_what_is_no_picture_is_refused_and_the_stream_goes_on(world: Client) -> None:
    with pytest.raises(RequestFailed, match=r"cannot be read as a picture: it is of no kind that .*\(picture\)"):
        world.image(b"no picture")
    with pytest.raises(RequestFailed, match=r"at most 8388608"):
        world.image(bytes(protocol.MAX_PICTURE_BYTES + 1))
    until(world, 4)


def test_an_engine_that_cannot_begin_with_one_says_so(start_server: StartServer) -> None:
    with Client(start_server().endpoint) as world:
        with pytest.raises(RequestFailed, match=r"the test pattern cannot begin with a picture \(picture\)"):
            world.image(png((1, 2, 3)))
        until(world, 4)
        assert world.stats().restarts == 0


@pytest.mark.parametrize(
    "message",
    [{"type": "command", "id": 3, "name": "pause"}, {"type": "prompt", "id": 3, "text": "rain"}, {"type": "ping"}],
)
def test_no_other_message_has_a_second_part(message: dict[str, Any], bare: Bare) -> None:
    bare.hello()
    bare.socket.send_multipart([msgpack.packb(message), png((1, 2, 3))])
    answer = bare.receive()
    assert (answer["type"], answer["code"]) == ("error", "parts")


def test_a_picture_beyond_the_limit_and_a_third_part_are_errors(bare: Bare) -> None:
    bare.hello()
    command = msgpack.packb({"type": "command", "id": 3, "name": "image"})
    bare.socket.send_multipart([command, bytes(protocol.MAX_PICTURE_BYTES + 1)])
    assert bare.receive()["code"] == "too_long"
    bare.socket.send_multipart([command, b"", b""])
    assert bare.receive()["code"] == "parts"


def test_an_engine_that_is_made_anew_has_the_picture(start_server: StartServer) -> None:
    broken, made = [False], list[Painter]()

    class Fragile(Painter):
        def generate(self, interrupted: Callable[[], bool], *finished: Any) -> GeneratedChunk | None:
            if broken[0] and made[0] is self:
                raise RuntimeError("the device is lost")
            return super().generate(interrupted, *finished)

    def make() -> Painter:
        made.append(Fragile())
        return made[-1]

    server = start_server(make)
    with Client(server.endpoint) as world:
        world.image(png((200, 30, 60)))
        broken[0] = True
        deadline = time.monotonic() + 10
        while server.stream.timeline.totals.restarts == 0:
            assert time.monotonic() < deadline, "the engine was not made anew"
            time.sleep(0.01)
        assert (new_world(world)[20:, :, :3] == [200, 30, 60]).all()


def test_a_run_with_pictures_is_the_same_again(tmp_path: Path) -> None:
    def script(world: Client) -> None:
        until(world, 4)
        for colour in ((200, 30, 60), (1, 2, 3)):
            world.image(png(colour))
            world.prompt("another place", "reset").wait("applied", 5)
            until(world, 4)
        world.image(None)

    path = record(tmp_path, script, Painter)
    files = [line["file"] for line in lines(path, "image")]
    assert len(set(files)) == 3 and files[-1] is None

    def again(choice: EngineChoice) -> Painter:
        return Painter()

    assert replay(path, again) == ReplayResult(len(lines(path, "frame")), None, [])


def test_without_its_picture_another_run_comes_of_it(tmp_path: Path) -> None:
    def script(world: Client) -> None:
        world.image(png((200, 30, 60)))
        world.prompt("another place", "reset").wait("applied", 5)
        until(world, 4)

    path = record(tmp_path, script, Painter)

    class Plain(Painter):
        def begin_with(self, picture: NDArray[np.uint8] | None) -> None:
            """Forgets it."""

    assert replay(path, lambda choice: Plain()).first_difference is not None
