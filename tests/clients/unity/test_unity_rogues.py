"""The C# Core against servers that do not behave: it says in words what is wrong, and goes on."""

import itertools
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from tests.waiting import wait_for

from .conftest import Connect, Serve
from .rogues import GREETING, READY, raw_server, router
from .runtimes import Runtime
from .test_unity_sidecar import free_ports

pytestmark = pytest.mark.slow  # make test-unity runs it

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
WELCOME = json.loads((VECTORS / "messages" / "welcome.json").read_text(encoding="utf-8"))["message"]


def welcome(**changes: Any) -> bytes:
    body: bytes = msgpack.packb({**WELCOME, "ring": None, "frames_endpoint": "tcp://127.0.0.1:1", **changes})
    return body


def test_another_protocol_version_is_refused_in_the_servers_words(connect: Connect) -> None:
    reason = "this server speaks protocol 2.0, the client 1.0: use a client for protocol 2"
    refused = msgpack.packb({"type": "refused", "code": "version", "reason": reason, "protocol": [2, 0]})
    hellos: list[dict[str, Any]] = []

    def answer(message: dict[str, Any]) -> list[bytes]:
        hellos.append(message)
        return [refused]

    with router(answer) as endpoint:
        session = connect(endpoint)
        assert session.expect("failed")["reason"] == reason
        assert session.quiet_for(6.0, "failed")
        session.do("event night")
        assert session.expect("receipt")["reason"] == reason
    assert len(hellos) == 1, "a server of another version stays one"


def test_a_server_that_is_full_is_told_once_and_asked_again(connect: Connect) -> None:
    reason = "64 clients are connected; no more are taken"
    refused = msgpack.packb({"type": "refused", "code": "busy", "reason": reason, "protocol": [1, 0]})
    answers = iter([refused, refused, welcome()])
    with router(lambda message: [next(answers)] if message["type"] == "hello" else []) as endpoint:
        session = connect(endpoint)
        session.expect("connected", timeout=30)
    assert [said["reason"] for said in session.heard if said["kind"] == "failed"] == [reason]


def test_a_welcome_of_another_major_version_is_not_trusted(connect: Connect) -> None:
    with router(lambda message: [welcome(protocol=[2, 0])]) as endpoint:
        assert "protocol 2.0" in connect(endpoint).expect("failed")["reason"]


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xc1", b"\x00", b"\x81\xa4type", b"\xdf\xff\xff\xff\xff", b"\x91" * 4000, b"\x81\xa4type\xa7welcome"],
    ids=["empty", "no msgpack", "no map", "cut short", "huge count", "deep", "welcome without fields"],
)
def test_a_garbage_message_is_told_and_the_next_one_is_read(connect: Connect, garbage: bytes) -> None:
    with router(lambda message: [garbage, welcome()] if message["type"] == "hello" else []) as endpoint:
        session = connect(endpoint)
        assert "breaks the protocol" in session.expect("failed")["reason"]
        session.expect("connected")


def test_a_ring_without_a_path_is_told_and_stops_nothing(connect: Connect) -> None:
    with router(
        lambda message: [welcome(ring={"ring_id": 7}), welcome()] if message["type"] == "hello" else []
    ) as endpoint:
        session = connect(endpoint)
        assert session.expect("failed")["reason"].endswith("a ring without a path")
        session.expect("connected")
        assert session.close()["threads_ended"] == 3


@pytest.mark.parametrize("mapping", ["map=yes", "map=no"])
@pytest.mark.parametrize("path", ["\0", "empty", "short", "."], ids=["no path", "empty", "short", "folder"])
def test_a_ring_that_cannot_be_opened_is_done_without(
    connect: Connect, tmp_path: Path, path: str, mapping: str
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"EVERRING" + bytes(100))
    place = {"path": path if path == "\0" else str(tmp_path / path), "ring_id": 7, "slot_count": 3, "file_bytes": 4096}
    with router(lambda message: [welcome(ring=place)] if message["type"] == "hello" else []) as endpoint:
        session = connect(endpoint, mapping)
        assert session.expect("connected")["statistics"] != "Ring"
        assert session.close()["threads_ended"] == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" * 3, "Does another program use this port?"),
        (GREETING[:10] + b"\x01" + GREETING[11:], "a greeting of ZMTP 1"),
        (GREETING.replace(b"NULL\0", b"CURVE"), "the server asks for CURVE"),
        (GREETING + b"\xff" * 40, "a frame with the flags 0xFF"),
        (GREETING + b"\x02" + b"\x7f" * 8 + b"x" * 100, "bytes, the limit is"),
        (GREETING + b"\x04\x0a\x05ERROR\x03999", "the server refused the handshake: 999"),
        (GREETING + READY.replace(b"\x06ROUTER", b"\x06XPUBXX"), "is a XPUBXX socket"),
        (GREETING + READY + b"\x02" + b"\x00\x00\x00\x7f" * 2, "bytes, the limit is"),
    ],
    ids=["http", "old zmtp", "curve", "flags", "endless", "error", "other socket", "endless message"],
)
def test_a_server_that_breaks_zmtp_is_told_in_words(connect: Connect, words: bytes, reason: str) -> None:
    def play(connection: socket.socket) -> None:
        connection.sendall(words)
        while connection.recv(4096):
            pass

    with raw_server(play) as endpoint:
        assert reason in connect(endpoint).expect("failed")["reason"]


def test_a_server_that_hangs_up_is_tried_again_with_growing_pauses(connect: Connect) -> None:
    calls: list[float] = []

    def play(connection: socket.socket) -> None:
        calls.append(time.monotonic())

    with raw_server(play) as endpoint:
        connect(endpoint).expect("failed")
        time.sleep(2.2)
    pauses = [later - earlier for earlier, later in itertools.pairwise(calls)]
    assert 4 <= len(calls) <= 7  # 0, 0.1, 0.3, 0.7, 1.5, 3.1 s
    assert pauses == sorted(pauses)


def test_a_server_that_hangs_up_says_nothing_twice(connect: Connect) -> None:
    with raw_server(lambda connection: None) as endpoint:
        session = connect(endpoint)
        session.expect("failed")
        assert session.quiet_for(1.5, "failed")


def test_a_silent_server_is_left_within_100_ms_when_we_close(connect: Connect) -> None:
    with raw_server(lambda connection: time.sleep(1.5)) as endpoint:
        session = connect(endpoint)
        time.sleep(0.5)
        closed = session.close()
    assert closed["ms"] < 100
    assert closed["threads_ended"] == 3


CONNECT_ON_CORECLR = "CoreCLR before .NET 5 cannot end a connect by closing its socket; the system gives up later"


@contextmanager
def full_backlog() -> Iterator[str]:
    """An address that lets nobody in: connections hang, as to a machine that is switched off."""
    with socket.socket() as listener, ExitStack() as callers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def test_a_connection_that_hangs_is_left_within_100_ms_when_we_close(runtime: Runtime, connect: Connect) -> None:
    with full_backlog() as endpoint:
        session = connect(endpoint)
        time.sleep(0.8)
        closed = session.close()
    assert closed["ms"] < 100
    if runtime.name != "coreclr":  # CONNECT_ON_CORECLR
        assert closed["threads_ended"] == 3


def test_a_connection_that_hangs_is_given_up_after_five_seconds(runtime: Runtime, connect: Connect) -> None:
    if runtime.name == "coreclr":
        pytest.skip(CONNECT_ON_CORECLR)
    with full_backlog() as endpoint:
        session = connect(endpoint)
        assert session.expect("failed", timeout=9)["reason"] == f"no answer from {endpoint}"


def test_a_ping_is_answered_with_its_context(connect: Connect) -> None:
    answers: list[bytes] = []

    def play(connection: socket.socket) -> None:
        connection.sendall(GREETING + READY + b"\x04\x0a\x04PING\x01\x2cctx")
        seen = b""
        while b"PONG" not in seen and (more := connection.recv(4096)):
            seen += more
        answers.append(seen)

    with raw_server(play) as endpoint:
        session = connect(endpoint)
        session.expect("failed")
    assert b"\x04\x08\x04PONGctx" in answers[0]


def test_a_receipt_for_nothing_we_sent_is_passed_over(connect: Connect) -> None:
    stray = msgpack.packb({"type": "receipt", "id": 999, "state": "accepted", "order": 1})
    with router(lambda message: [stray, welcome()] if message["type"] == "hello" else []) as endpoint:
        session = connect(endpoint)
        session.expect("connected")
        assert session.quiet_for(0.3, "receipt")


def test_later_kinds_of_messages_and_fields_are_passed_over(connect: Connect) -> None:
    later = msgpack.packb({"type": "weather_report", "wind": [1, {"gusts": True}]})
    with router(lambda message: [later, welcome(mood={"x": [1]})] if message["type"] == "hello" else []) as endpoint:
        session = connect(endpoint)
        session.expect("connected")
        assert not [said for said in session.heard if said["kind"] == "failed"]


def test_an_error_with_the_id_of_an_event_ends_its_receipt(connect: Connect) -> None:
    def answer(message: dict[str, Any]) -> list[bytes]:
        if message["type"] == "hello":
            return [welcome()]
        if message["type"] == "event":
            reason = "the name has 70 characters; at most 64 are taken"
            return [msgpack.packb({"type": "error", "id": message["id"], "code": "too_long", "reason": reason})]
        return []

    with router(answer) as endpoint:
        session = connect(endpoint)
        session.do("event night")
        assert session.expect("receipt", name="night")["code"] == "too_long"


def test_a_server_that_forgot_us_is_told_hello_again(connect: Connect) -> None:
    hellos: list[int] = []

    def answer(message: dict[str, Any]) -> list[bytes]:
        if message["type"] == "hello":
            hellos.append(message["client_id"])
            return [welcome()]
        if message["type"] == "stats_request" and len(hellos) == 1:
            return [msgpack.packb({"type": "error", "id": None, "code": "no_hello", "reason": "say hello first"})]
        return []

    with router(answer) as endpoint:
        session = connect(endpoint)
        session.expect("connected")
        time.sleep(1.1)  # hello is said once a second at most
        session.do("stats")
        session.expect("failed", reason="say hello first")
        wait_for(lambda: len(hellos) == 2, "it does not say hello again", 5)
    assert hellos[0] == hellos[1]


def test_an_unreachable_frames_socket_is_told_once_with_its_cause_until_it_is_there(connect: Connect) -> None:
    (port,) = free_ports(1)
    frames = f"tcp://127.0.0.1:{port}"
    with router(lambda message: [welcome(frames_endpoint=frames)] if message["type"] == "hello" else []) as endpoint:
        session = connect(endpoint)
        session.expect("connected")
        asked = time.monotonic()
        reason = session.expect("failed", timeout=5)["reason"]
        assert time.monotonic() - asked > 1.5, "a server that comes up opens one socket after the other"
        assert f"{frames} cannot be reached" in reason
        assert "nothing listens" in reason
        assert session.quiet_for(3.0, "failed")
        with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
            publisher.bind(frames)
            deadline = time.monotonic() + 10
            session.do("problem")
            while session.expect("problem")["words"] and time.monotonic() < deadline:
                time.sleep(0.1)
                session.do("problem")
        assert session.heard[-1] == {"kind": "problem", "words": ""}


def test_a_server_that_goes_away_is_no_news_of_the_frames_socket(serve: Serve, connect: Connect) -> None:
    server = serve()
    session = connect(server.endpoint)
    session.expect("connected")
    session.frames(3)
    server.stop()
    session.expect("disconnected")
    session.quiet_for(3.0, "connected")
    assert not [said for said in session.heard if said["kind"] == "failed" and "frames" in said["reason"]]


def test_a_server_without_a_ring_is_told_to_who_wants_nothing_else(connect: Connect) -> None:
    with router(lambda message: [welcome()] if message["type"] == "hello" else []) as endpoint:
        session = connect(endpoint, "transport=Ring")
        assert "the server has no ring" in session.expect("failed")["reason"]
        session.do("problem")
        assert "the server has no ring" in session.expect("problem")["words"]


def test_receipts_under_way_are_lost_when_another_server_answers(connect: Connect) -> None:
    epochs = iter([5, 6])

    def answer(message: dict[str, Any]) -> list[bytes]:
        if message["type"] == "hello":
            return [welcome(epoch=next(epochs))]
        if message["type"] == "event":
            return [b"\x82\xa4type\xa5error\xa4code\xa8no_hello"]
        return []

    with router(answer) as endpoint:
        session = connect(endpoint)
        session.expect("connected")
        time.sleep(1.1)
        session.do("event night")
        lost = session.expect("receipt", name="night")
    assert lost["state"] == "Lost"
    assert lost["reason"] == "the server was started anew"
