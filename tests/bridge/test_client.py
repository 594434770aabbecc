"""The Python client against a real server."""

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bridge.harness import make_engine
from tests.serve_process import ServeProcess
from tests.waiting import wait_for

from everscene_bridge.client import Client
from everscene_bridge.client_link import Link, Listener
from everscene_bridge.errors import Disconnected, NotInTime, Refused, Rejected, RequestFailed, SettingsError, Superseded
from everscene_bridge.messages import Notice
from everscene_bridge.pattern import PatternEngine, PatternTimes, read_mark
from everscene_bridge.scene import load_scene
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings

StartServer = Callable[..., Server]


def test_the_readmes_example(server: Server) -> None:
    with Client(server.endpoint) as world:
        receipt = world.event("storm", intensity=0.8)
        applied = receipt.wait("applied", timeout=5.0)
        for frame in world.frames():
            assert frame.pixels.shape == (36, 64, 4) and frame.pixels.dtype == np.uint8
            if frame.number >= applied.frame:
                assert frame.prompt.endswith("heavy storm")
                break


def test_the_client_needs_no_torch() -> None:
    code = "import sys; import everscene_bridge.client; assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_info_scene_and_prompt_come_with_the_handshake(world: Client, server: Server) -> None:
    assert world.info.model == "pattern"
    assert world.info.epoch == server.epoch
    assert world.scene.events[0].name == "storm"
    assert world.prompt_now == "a red fox trots along the harbour by day, clear sky"


def test_who_waits_until_it_follows_misses_no_frame() -> None:
    for _ in range(5):  # a race that would be lost only sometimes
        server = Server(make_engine(), make_engine, load_scene(), ServeSettings(control_port=0, frames_port=0))
        server.stream.timeline.pause()
        with server, Client(server.endpoint) as world:
            world.wait_until_following()
            frames = world.frames(in_order=True, timeout=5)
            world.resume()
            assert [next(frames).number for _ in range(3)] == [1, 2, 3]


def test_frames_can_be_asked_for_again_after_a_while_without_any(world: Client) -> None:
    frames = world.frames(in_order=True, timeout=5)
    first = next(frames).number
    frames.timeout = 0.1
    world.pause()
    seen = []
    for _ in range(3):
        try:
            seen.extend(frame.number for frame in frames)
        except NotInTime:
            continue
    world.resume()
    frames.timeout = 5
    seen += [next(frames).number for _ in range(3)]
    assert seen == list(range(first + 1, first + 1 + len(seen)))


def test_frames_in_order_are_all_frames(world: Client) -> None:
    numbers, marks = [], []
    for frame in world.frames(in_order=True, timeout=5):
        numbers.append(frame.number)
        marks.append(read_mark(frame.pixels)[0])
        if len(numbers) == 25:
            break
    assert numbers == list(range(numbers[0], numbers[0] + 25))
    assert marks == [number - 1 for number in numbers]
    assert world.lost_frames == world.torn_copies == 0


def test_newest_wins_leaves_out_what_came_meanwhile(world: Client) -> None:
    numbers = []
    for frame in world.frames(timeout=5):
        numbers.append(frame.number)
        if len(numbers) == 4:
            break
        wait_for(lambda enough=frame.number + 4: world.stats().frame >= enough, "the frames do not come")
    assert all(later - earlier >= 3 for earlier, later in itertools.pairwise(numbers))


def test_in_order_jumps_when_the_caller_is_too_slow_and_counts(server: Server, world: Client) -> None:
    frames = world.frames(in_order=True, timeout=5)
    first = next(frames)
    wait_for(lambda: world.stats().frame > first.number + 12, "the frames do not come", 20)
    second = next(frames)
    assert second.number - first.number > 8
    assert world.lost_frames == second.number - first.number - 1


def test_latest_is_the_newest_frame_or_none(start_server: StartServer) -> None:
    server = start_server(lambda: PatternEngine(width=64, height=36, times=PatternTimes(forward=0.1)))
    with Client(server.endpoint) as world:
        assert world.latest() is None
        wait_for(lambda: world.latest() is not None, "no frame came")
        frame = world.latest()
        assert frame is not None and frame.pts == pytest.approx((frame.number - 1) / 16)


def test_the_frame_is_the_callers_to_keep(world: Client) -> None:
    kept = next(world.frames(timeout=5))
    before = kept.pixels.copy()
    time.sleep(1.0)
    assert (kept.pixels == before).all()
    kept.pixels[:] = 0


def test_frames_wait_no_longer_than_told(start_server: StartServer) -> None:
    server = start_server(lambda: PatternEngine(width=64, height=36, times=PatternTimes(forward=1.0)))
    with Client(server.endpoint) as world, pytest.raises(NotInTime):
        next(world.frames(timeout=0.1))


@pytest.mark.parametrize("inline", ["raw", "jpeg"])
def test_pictures_come_through_the_socket_when_asked(server: Server, inline: str) -> None:
    with Client(server.endpoint, inline=inline) as world:  # type: ignore[arg-type]
        frame = next(world.frames(timeout=5))
        assert frame.pixels.shape == (36, 64, 4)
        assert inline == "jpeg" or read_mark(frame.pixels)[0] == frame.number - 1
        assert world._frames.ring is None


def test_pictures_come_through_the_socket_when_the_ring_cannot_be_opened(server: Server) -> None:
    assert server.ring is not None
    server.ring.path.unlink()
    with Client(server.endpoint) as world:
        frame = next(world.frames(in_order=True, timeout=5))
        assert read_mark(frame.pixels)[0] == frame.number - 1


def test_an_event_goes_from_sent_to_applied(world: Client) -> None:
    receipt = world.event("night")
    accepted = receipt.wait("accepted", 5)
    applied = receipt.wait("applied", 5)
    assert receipt.state == "applied" and receipt.done
    assert applied.order == accepted.order == 1
    assert applied.prompt == "a red fox trots along the harbour at night, clear sky"
    assert 0 < applied.latency_ms < 2000


def test_a_prompt_is_applied(world: Client) -> None:
    assert world.prompt("a calm harbour at dawn").wait(timeout=5).prompt == "a calm harbour at dawn"


def test_a_rejected_event_raises_with_the_servers_reason(world: Client) -> None:
    with pytest.raises(Rejected, match="from 0 to 1") as caught:
        world.event("storm", intensity=3.0).wait(timeout=5)
    assert caught.value.code == "out_of_range"


def test_values_that_the_protocol_does_not_allow_are_rejected_at_once(world: Client) -> None:
    with pytest.raises(Rejected, match="2000"):
        world.prompt("x" * 2001)
    with pytest.raises(Rejected, match="params"):
        world.event("storm", intensity=[1])  # type: ignore[arg-type]


def test_a_value_nested_too_deep_to_print_is_rejected_at_once(world: Client) -> None:
    value: list[Any] = []
    for _ in range(1000):
        value = [value]
    with pytest.raises(Rejected, match=r"must be a bool, a number or text \(got \[\[\["):
        world.event("storm", intensity=value)  # type: ignore[arg-type]


def test_a_superseded_prompt_raises_with_the_order_of_the_other(start_server: StartServer) -> None:
    server = start_server(lambda: PatternEngine(width=64, height=36, times=PatternTimes(forward=0.05)))
    with Client(server.endpoint) as world:
        next(world.frames(timeout=5))
        receipts = [world.prompt(f"prompt {i}", when="chunk") for i in range(3)]
        with pytest.raises(Superseded) as caught:
            receipts[0].wait(timeout=5)
        assert caught.value.by == receipts[1].wait("accepted").order
        assert receipts[2].wait(timeout=5).prompt == "prompt 2"


def test_waiting_for_a_receipt_ends_in_time(start_server: StartServer) -> None:
    server = start_server(lambda: PatternEngine(width=64, height=36, times=PatternTimes(forward=1.0)))
    with Client(server.endpoint) as world, pytest.raises(NotInTime, match=r"'storm'.*applied"):
        world.event("storm").wait("applied", 0.05)


def test_stats_and_ping(world: Client) -> None:
    next(world.frames(timeout=5))
    assert world.stats().frames >= 1
    assert 0 < world.ping() < 1000


def test_a_command_that_is_not_known_fails(world: Client) -> None:
    with pytest.raises(RequestFailed, match="snapshot"):
        world.command("snapshot")


def test_a_param_may_be_called_like_an_argument_of_ours(world: Client) -> None:
    with pytest.raises(Rejected, match="name"):
        world.send_event("storm", {"name": 1, "when": 2, "self": 3}).wait(timeout=5)


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("", {}, r"name must not be empty \(got ''\)"),
        ("x" * 65, {}, "at most 64 characters"),
        ("rewind", {"seconds": 2**70}, "an arg cannot be sent"),
        ("rewind", {"seconds": object()}, "an arg cannot be sent"),
    ],
)
def test_a_command_that_cannot_be_sent_fails_and_leaves_nothing(
    world: Client, name: str, args: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestFailed, match=words):
        world.command(name, **args)
    assert world._answers == {}


def test_seen_frames_are_accounted(world: Client) -> None:
    applied = world.event("storm").wait(timeout=5)
    for frame in world.frames(in_order=True, timeout=5):
        world.seen(frame)
        if frame.number >= applied.frame:
            break
    again = world.event("night").wait(timeout=5)
    for frame in world.frames(in_order=True, timeout=5):
        if frame.number >= again.frame:
            world.seen(frame)
            break
    wait_for(lambda: world.stats().seen_ms.n >= 1, "it was not taken into account")


def test_news_reaches_the_callback(server: Server) -> None:
    news: list[Notice] = []
    with Client(server.endpoint) as other, Client(server.endpoint, on_notice=news.append) as world:
        next(world.frames(timeout=5))
        other.event("storm").wait(timeout=5)
        wait_for(lambda: {one.kind for one in news} >= {"input", "prompt"}, "the notices did not come")
    assert next(one for one in news if one.kind == "input").client_id == other.client_id


def test_no_server_is_a_clear_error() -> None:
    with pytest.raises(NotInTime, match="no server answers"):
        Client("tcp://127.0.0.1:9", timeout=0.2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"endpoint": "localhost:7464"}, "endpoint is 'localhost:7464'; it must be tcp://HOST:PORT"),
        ({"endpoint": "tcp://127.0.0.1"}, "endpoint is 'tcp://127.0.0.1'"),
        ({"endpoint": "tcp://127.0.0.1:99999"}, "endpoint is 'tcp://127.0.0.1:99999'"),
        ({"endpoint": "ipc:///tmp/x"}, "endpoint is 'ipc:///tmp/x'"),
        ({"endpoint": "tcp://a b:7464"}, "endpoint is 'tcp://a b:7464'"),
        ({"token": "x" * 256}, "token must have 1 to 255 bytes"),
        ({"name": "x" * 65}, "client must have at most 64 characters (got 'xxx"),
    ],
)
def test_settings_that_cannot_be_are_named_at_once(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        Client(**settings)


@pytest.mark.parametrize("endpoint", ["tcp://[::1]:9", "tcp://localhost:9", "tcp://front-desk.example:9"])
def test_endpoints_that_can_be_are_tried(endpoint: str) -> None:
    with pytest.raises(NotInTime):
        Client(endpoint, timeout=0.1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_link_whose_endpoint_libzmq_refuses_can_be_closed() -> None:
    link = Link("localhost:9", None, Listener())
    link.start()
    ended = threading.Thread(target=link.close, args=(b"",), daemon=True)
    ended.start()
    ended.join(5.0)
    assert not ended.is_alive()


def test_a_closed_client_ends_its_iterators_and_receipts(start_server: StartServer) -> None:
    server = start_server(lambda: PatternEngine(width=64, height=36, times=PatternTimes(forward=0.5)))
    world = Client(server.endpoint)
    receipt = world.event("storm")
    threading.Timer(0.2, world.close).start()
    assert list(world.frames()) == []
    with pytest.raises(Disconnected):
        receipt.wait(timeout=5)
    with pytest.raises(Disconnected):
        world.event("night")


# Tokens


def test_the_right_token_opens_both_sockets(start_server: StartServer) -> None:
    server = start_server(token="sesame")
    with Client(server.endpoint, token="sesame") as world:
        assert next(world.frames(timeout=5)).number >= 1


def test_a_wrong_token_is_refused_readably(start_server: StartServer) -> None:
    server = start_server(token="sesame")
    with pytest.raises(Refused, match="refused the token") as caught:
        Client(server.endpoint, token="simsala")
    assert caught.value.code == "token"


def test_a_missing_token_is_refused_readably(start_server: StartServer) -> None:
    server = start_server(token="sesame")
    with pytest.raises(Refused, match="needs a token"):
        Client(server.endpoint)


def test_a_token_that_nobody_asks_for_does_no_harm(server: Server) -> None:
    with Client(server.endpoint, token="sesame") as world:
        assert next(world.frames(timeout=5)).number >= 1


# A server that goes away


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_clean_and_unlinks_the_ring(tmp_path: Path, kind: int) -> None:
    served = ServeProcess(tmp_path)
    with Client(served.address("control")) as world:
        next(world.frames(timeout=5))
        assert len(list(tmp_path.glob("*.ring"))) == 1
        assert served.end(kind) == 0
        wait_for(lambda: not world.connected, "the client did not notice")
    assert list(tmp_path.iterdir()) == []


def test_after_a_kill_the_next_server_sweeps_and_the_client_has_the_stream_again(tmp_path: Path) -> None:
    first = ServeProcess(tmp_path)
    control, frames = (first.address(name).rsplit(":", 1)[1] for name in ("control", "frames"))
    with Client(first.address("control")) as world:
        seen = iter(world.frames(timeout=20))
        next(seen)
        open_receipt = world.event("storm")
        open_receipt.wait("accepted", 5)
        assert first.end(signal.SIGKILL) != 0
        left = set(tmp_path.glob("*.ring"))
        assert len(left) == 1
        wait_for(lambda: not world.connected, "the client did not notice")
        assert world.state == "disconnected"
        second = ServeProcess(tmp_path, "--control-port", control, "--frames-port", frames)
        back = time.monotonic()
        with Client(second.address("control"), timeout=20) as newcomer:
            next(newcomer.frames(timeout=20))
        newcomers_s = time.monotonic() - back  # on this machine, as busy as it is
        wait_for(lambda: world.connected, "it did not connect again")
        frame = next(seen)
        assert time.monotonic() - back < newcomers_s + 2  # the longest pause before it tries again, docs/protocol.md §1
        assert read_mark(frame.pixels)[0] == frame.number - 1
        assert open_receipt.done
        assert world.event("night").wait(timeout=5).order == 1
        assert left.isdisjoint(tmp_path.glob("*.ring"))
        assert second.end(signal.SIGTERM) == 0
