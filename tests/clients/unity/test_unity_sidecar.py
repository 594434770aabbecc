"""The C# Core against `everscene serve` as a process: killed, frozen, started anew, and with the pocket model."""

import itertools
import signal
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from everscene_bridge.client import Client
from tests.serve_process import ServeProcess

from .conftest import Connect

pytestmark = pytest.mark.slow  # make test-unity runs it

Launch = Callable[..., ServeProcess]


def free_ports(count: int = 2) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start `everscene serve` on the given ports."""
    started: list[ServeProcess] = []

    def start(ports: list[int], *options: str) -> ServeProcess:
        chosen = ("--control-port", str(ports[0]), "--frames-port", str(ports[1]))
        started.append(ServeProcess(tmp_path, *chosen, *options))
        return started[-1]

    yield start
    for served in started:
        served.close()


def test_a_killed_sidecar_is_found_again_when_it_is_back(launch: Launch, connect: Connect) -> None:
    ports = free_ports()
    session = connect(f"tcp://127.0.0.1:{ports[0]}")
    first = launch(ports)
    epoch = session.expect("connected", timeout=30)["epoch"]
    session.frames(5)
    first.process.kill()
    session.expect("disconnected")
    session.do("event night")  # waits five seconds for a connection, which is not enough for this one
    assert session.expect("receipt", name="night", timeout=10)["code"] == "not_connected"
    launch(ports)
    assert session.expect("connected", timeout=30)["epoch"] != epoch
    assert {frame["epoch"] for frame in session.frames(5)} != {epoch}
    session.do("event storm")
    session.expect("receipt", name="storm", state="Applied")


def test_a_frozen_sidecar_is_taken_up_again_when_it_thaws(launch: Launch, connect: Connect) -> None:
    ports = free_ports()
    session = connect(f"tcp://127.0.0.1:{ports[0]}")
    served = launch(ports)
    session.expect("connected", timeout=30)
    before = session.frames(5)[-1]["number"]
    served.process.send_signal(signal.SIGSTOP)
    time.sleep(4)  # the heartbeat is stale after three seconds
    served.process.send_signal(signal.SIGCONT)
    assert session.frames(5)[-1]["number"] > before


def test_the_pocket_model_gives_both_clients_the_same_frames(launch: Launch, connect: Connect, tmp_path: Path) -> None:
    ports = free_ports()
    endpoint = f"tcp://127.0.0.1:{ports[0]}"
    served = launch(ports, "--model", "pocket")
    if not served.serves:
        pytest.skip(f"everscene serve --model pocket: {served.lines}")
    session = connect(endpoint, "playback=InOrder")
    assert session.expect("connected", timeout=30)["model"] == "pocket"
    session.do("frames 100000")
    with Client(endpoint) as world:
        taken = itertools.islice(world.frames(in_order=True, timeout=30.0), 60)
        python = {frame.number: zlib.crc32(frame.pixels.tobytes()) for frame in taken}
    session.do("event storm intensity=0.9")
    applied = session.expect("receipt", name="storm", state="Applied", timeout=30)
    session.ever("frame", number=applied["frame"], timeout=30)
    shown = {said["number"]: said for said in session.heard if said["kind"] == "frame"}
    common = sorted(set(shown) & set(python))
    assert len(common) >= 40
    assert [shown[number]["crc"] for number in common] == [python[number] for number in common]
    assert shown[applied["frame"]]["order"] == applied["order"]
    assert session.close()["lost"] == 0
