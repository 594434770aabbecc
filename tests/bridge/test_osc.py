"""OSC in: what messages mean, and the way over UDP to the picture."""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.bridge.fake_world import FakeWorld

from everscene_bridge.client import Client
from everscene_bridge.errors import PortTaken, SettingsError
from everscene_bridge.messages import EventDescription, ParamDescription, SceneDescription, SlotDescription
from everscene_bridge.osc import OscInput
from everscene_bridge.server import Server

pytest.importorskip("pythonosc")

SCENE = SceneDescription(
    name="osc",
    events=[
        EventDescription(name="flash", label="Flash"),
        EventDescription(
            name="storm",
            label="Storm",
            params=[
                ParamDescription(name="force", label="Force", type="number", min=0, max=1),
                ParamDescription(name="kind", label="Kind", type="choice", choices=["rain", "snow"]),
                ParamDescription(name="loud", label="Loud", type="flag"),
                ParamDescription(name="word", label="Word", type="text"),
            ],
        ),
    ],
    slots=[
        SlotDescription(name="time", default="day", choices=["day", "night"]),
        SlotDescription(name="sky", default=""),
    ],
)


@pytest.fixture
def world() -> FakeWorld:
    world = FakeWorld(delay_s=0.0)
    world.info = world.info.model_copy(update={"scene": SCENE})
    return world


@pytest.fixture
def osc(world: FakeWorld) -> Iterator[OscInput]:
    made = OscInput(world, port=0)
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("address", "args", "asked"),
    [
        ("event/storm", [0.5], ("event", "storm", {"force": 0.5})),
        (
            "event/storm",
            [0.5, 1.0, 1.0, 7],
            ("event", "storm", {"force": 0.5, "kind": "snow", "loud": True, "word": "7"}),
        ),
        ("event/storm", ["kind", "rain", "force", 0.2], ("event", "storm", {"kind": "rain", "force": 0.2})),
        ("event/storm", [], ("event", "storm", {})),
        ("event/flash", [1.0], ("event", "flash", {})),
        ("event/unknown", [], ("event", "unknown", {})),
        ("slot/time", [1], ("slots", {"time": "night"}, None, None, {"seconds": None})),
        ("slot/time", ["night", "blend", 3], ("slots", {"time": "night"}, "blend", None, {"seconds": 3.0})),
        ("slot/sky", [0.25], ("slots", {"sky": "0.25"}, None, None, {"seconds": None})),
        ("prompt", ["a calm sea", "cut"], ("prompt", "a calm sea")),
    ],
)
def test_what_a_message_asks_for(
    osc: OscInput, world: FakeWorld, address: str, args: list[Any], asked: tuple[Any, ...]
) -> None:
    osc.take(f"/everscene/{address}", args)
    assert world.asked == [asked]


def test_a_button_that_is_let_go_does_nothing(osc: OscInput, world: FakeWorld) -> None:
    osc.take("/everscene/event/flash", [0.0])
    assert world.asked == []


@pytest.mark.parametrize(
    ("address", "args", "words"),
    [
        ("/other/event/storm", [], "they begin with /everscene/"),
        ("/everscene/dance", [], "event/NAME, prompt and slot/NAME"),
        ("/everscene/event/storm", [1, 2, 3, 4, 5], "storm takes force, kind, loud, word, so at most 4"),
        ("/everscene/event/flash", [1, 2], "flash takes no params"),
        ("/everscene/slot/time", [5], "2 choices, so their places are 0 to 1, not 5"),
        ("/everscene/prompt", [], "one to three arguments"),
        ("/everscene/prompt", ["x", "blend", None], "argument 3 is None; finite numbers, text, true and false are"),
        ("/everscene/prompt", [b"blob"], "argument 1 is b'blob'"),
        ("/everscene/slot/time", [float("inf")], "argument 1 is inf"),
        ("/everscene/event/storm", [0.5, float("nan")], "argument 2 is nan"),
        ("/everscene/event/storm", [0.5, [1]], "argument 2 is [1]"),
    ],
)
def test_what_cannot_be_done_is_logged(
    osc: OscInput, world: FakeWorld, caplog: pytest.LogCaptureFixture, address: str, args: list[Any], words: str
) -> None:
    with caplog.at_level(logging.WARNING):
        osc.take(address, args)
    assert words in caplog.text and not world.asked


def test_a_taken_port_is_named(osc: OscInput, world: FakeWorld) -> None:
    with pytest.raises(PortTaken, match=f"UDP port {osc.port} on 127.0.0.1 is taken"):
        OscInput(world, port=osc.port)


def test_an_address_that_is_not_ours_is_named(world: FakeWorld) -> None:
    with pytest.raises(SettingsError, match=r"cannot listen for OSC on 192\.0\.2\.1"):
        OscInput(world, "192.0.2.1", 0)


NOW = bytes(7) + b"\x01"


def part(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


def bundles(depth: int) -> bytes:
    inner = b"/everscene/event/flash\0\0"
    for _ in range(depth):
        inner = b"#bundle\0" + NOW + part(inner)
    return inner


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (b"this is no OSC", "at least contain"),
        (b"/everscene/prompt\0\0\0,s\0\0d\xe9j\xe0\0\0\0\0", "utf-8"),  # Latin-1
        (b"#bundle\0" + NOW + b"\xff\xff\xff\xfc", "a part of a bundle has -4 bytes"),
        (b"#bundle\0" + NOW + b"\0\0\0\x08/a\0\0", "at least 4 must be, and 4 are left"),
        (b"#bundle\0" + NOW + b"\0\0", "and 0 are left"),
        (bundles(3000), "bundles within bundles go down to 8 at most"),
    ],
)
def test_a_packet_that_is_no_osc_is_left_out_and_the_next_is_taken(
    osc: OscInput, world: FakeWorld, caplog: pytest.LogCaptureFixture, packet: bytes, words: str
) -> None:
    osc.start()
    with caplog.at_level(logging.WARNING), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rough:
        rough.sendto(packet, ("127.0.0.1", osc.port))
        rough.sendto(bundles(2), ("127.0.0.1", osc.port))
        wait_until(lambda: bool(world.asked))
    assert "a packet that is no OSC was left out" in caplog.text and words in caplog.text
    assert world.asked == [("event", "flash", {})]


def wait_until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_packets_go_all_the_way_to_the_picture(start_server: Callable[..., Server]) -> None:
    from pythonosc.udp_client import SimpleUDPClient

    server = start_server()
    with Client(server.endpoint, name="osc") as sender, Client(server.endpoint) as watcher:
        osc = OscInput(sender, port=0)
        osc.start()
        SimpleUDPClient("127.0.0.1", osc.port).send_message("/everscene/event/storm", 0.9)
        prompts = (frame.prompt for frame in watcher.frames(timeout=10))
        assert next(prompt for prompt in prompts if "storm" in prompt).endswith("heavy storm")
        osc.stop()
