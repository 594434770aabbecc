"""The server over real sockets: whatever a client sends, it gets a readable answer and the stream goes on."""

import itertools
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from tests.bridge.harness import Bare, make_engine
from typer.testing import CliRunner

from everscene_bridge import protocol, ring_layout
from everscene_bridge.cli import app
from everscene_bridge.errors import PortTaken, SceneError, SettingsError
from everscene_bridge.frame_ring import RingReader
from everscene_bridge.pattern import PatternEngine, PatternTimes, read_mark
from everscene_bridge.scene import load_scene
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings
from everscene_engine.errors import PromptRejected
from everscene_engine.port import FrameBlock, GeneratedChunk

StartServer = Callable[..., Server]


def frames_go_on(server: Server) -> None:
    """Fails if no new frame comes within 2 s."""
    before = server.stream.timeline.latest
    end = time.monotonic() + 2
    while server.stream.timeline.latest <= before + 1:
        assert time.monotonic() < end, "the stream has stopped"
        time.sleep(0.01)


# Handshake


def test_welcome_says_what_there_is(server: Server, bare: Bare) -> None:
    welcome = bare.hello()
    assert welcome["type"] == "welcome" and welcome["protocol"] == [1, 0]
    assert (welcome["width"], welcome["height"], welcome["fps"], welcome["frames_per_chunk"]) == (64, 36, 16.0, 8)
    assert welcome["frames_endpoint"] == server.frames_endpoint
    assert welcome["ring"]["path"] == str(server.ring and server.ring.path)
    assert [event["name"] for event in welcome["scene"]["events"]][:2] == ["storm", "rain"]


def test_another_major_version_is_refused_and_both_are_named(bare: Bare) -> None:
    refused = bare.hello(protocol=(2, 3))
    assert (refused["type"], refused["code"]) == ("refused", "version")
    assert "1.0" in refused["reason"] and "2.3" in refused["reason"]


def test_another_minor_version_is_welcome(bare: Bare) -> None:
    assert bare.hello(protocol=(1, 7))["type"] == "welcome"


def test_nothing_is_taken_before_hello(bare: Bare) -> None:
    error = bare.ask(type="event", id=1, name="storm")
    assert (error["type"], error["code"], error["id"]) == ("error", "no_hello", 1)


def test_ping_is_answered_before_hello(bare: Bare) -> None:
    pong = bare.ask(type="ping", id=4, client_ns=9)
    assert (pong["type"], pong["id"], pong["client_ns"]) == ("pong", 4, 9)
    assert abs(pong["server_ns"] - time.time_ns()) < 1e9


def test_after_bye_a_client_must_say_hello_again(bare: Bare) -> None:
    bare.hello()
    bare.send(type="bye")
    assert bare.ask(type="stats_request", id=1)["code"] == "no_hello"


def test_more_clients_than_allowed_are_refused(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CLIENTS", 1)
    assert bare.hello(5)["type"] == "welcome"
    other = Bare(bare.socket.getsockopt_string(zmq.LAST_ENDPOINT))
    assert other.hello(6)["code"] == "busy"
    other.close()


def test_a_gone_client_makes_room_for_another(server: Server, bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CLIENTS", 1)
    bare.hello(5)
    other = Bare(server.endpoint)
    bare.socket.close()
    end = time.monotonic() + 5
    while (answer := other.hello(6))["type"] != "welcome":
        assert time.monotonic() < end, answer
        time.sleep(0.05)
    other.close()


def test_receipts_follow_a_client_that_connects_again(server: Server, bare: Bare) -> None:
    bare.hello(5)
    bare.ask(type="event", id=1, name="night")
    again = Bare(server.endpoint)
    again.hello(5)
    assert again.final(1)["state"] == "applied"
    again.close()


# Messages that are wrong


GARBAGE: list[tuple[bytes, str]] = [
    (b"", "not_msgpack"),
    (b"\xc1\xff\x00garbage", "not_msgpack"),
    (msgpack.packb([1, 2]), "not_map"),
    (msgpack.packb({"type": "dance"}), "unknown_type"),
    (msgpack.packb({"kind": "event"}), "unknown_type"),
    (msgpack.packb({"type": "event", "name": "storm"}), "missing_field"),
    (msgpack.packb({"type": "event", "id": "one", "name": "storm"}), "wrong_type"),
    (msgpack.packb({"type": "seen", "frame": 0, "seen_ns": 1}), "out_of_range"),
    (msgpack.packb({"type": "prompt", "id": 1, "text": "x" * 10_000_000}), "too_long"),
    (b"\x81\xa4type" + b"\x91" * 1000 + b"\x90", "unknown_type"),
]


@pytest.mark.parametrize(("data", "code"), GARBAGE, ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_message_gets_a_clear_error_and_the_stream_goes_on(
    server: Server, bare: Bare, data: bytes, code: str
) -> None:
    bare.hello()
    bare.socket.send(data)
    error = bare.receive()
    assert (error["type"], error["code"]) == ("error", code)
    assert error["reason"]
    frames_go_on(server)
    assert bare.ask(type="ping", id=1)["type"] == "pong"


def test_an_arg_nested_too_deep_to_print_gets_a_reply(server: Server, bare: Bare) -> None:
    bare.hello()
    head = msgpack.packb({"type": "command", "id": 1, "name": "rewind", "args": {"seconds": 0}})
    bare.socket.send(head[:-1] + b"\x91" * 1000 + b"\x90")
    reply = bare.receive()
    assert (reply["id"], reply["code"]) == (1, "wrong_type")
    frames_go_on(server)


def test_more_than_one_part_is_an_error(bare: Bare) -> None:
    bare.hello()
    bare.socket.send_multipart([b"", msgpack.packb({"type": "ping"})])
    assert bare.receive()["code"] == "parts"


def test_a_message_beyond_the_wire_limit_costs_the_connection_and_nothing_else(server: Server, bare: Bare) -> None:
    bare.hello()
    bare.socket.send(bytes(protocol.MAX_WIRE_BYTES + 1))
    frames_go_on(server)
    other = Bare(server.endpoint)
    assert other.hello(6)["type"] == "welcome"
    other.close()


def test_raw_garbage_on_the_port_changes_nothing(server: Server, bare: Bare) -> None:
    port = int(server.endpoint.rsplit(":", 1)[1])
    for data in (b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\xff" * 1000):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(data)
    frames_go_on(server)
    assert bare.hello()["type"] == "welcome"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"type": "event", "name": "no_such_event"}, "unknown_event"),
        ({"type": "event", "name": "storm", "params": {"force": 1}}, "unknown_param"),
        ({"type": "event", "name": "storm", "params": {"intensity": 7}}, "out_of_range"),
        ({"type": "event", "name": "storm", "params": {"intensity": [1]}}, "wrong_type"),
        ({"type": "event"}, "missing_field"),
        ({"type": "prompt", "text": "x" * 2001}, "too_long"),
        ({"type": "prompt", "text": "   "}, "out_of_range"),
        ({"type": "prompt", "text": "a harbour", "transition": "fade"}, "out_of_range"),
    ],
)
def test_a_wrong_input_is_rejected_in_its_receipt(bare: Bare, fields: dict[str, Any], code: str) -> None:
    bare.hello()
    receipt = bare.ask(id=3, **fields)
    assert (receipt["type"], receipt["id"], receipt["state"], receipt["code"]) == ("receipt", 3, "rejected", code)
    assert receipt["reason"]


def test_a_word_that_the_model_does_not_know_is_rejected_with_the_models_reason(start_server: StartServer) -> None:
    words = frozenset(["a", "red", "fox", "trots", "along", "the", "harbour", "by", "day", "clear", "sky"])
    server = start_server(lambda: PatternEngine(width=64, height=36, vocabulary=words))
    bare = Bare(server.endpoint)
    bare.hello()
    receipt = bare.ask(type="prompt", id=1, text="a red dragonn")
    assert (receipt["code"], receipt["reason"]) == ("prompt", "no such word: 'dragonn'")
    bare.close()


def test_an_id_whose_receipt_is_open_cannot_be_used_again(start_server: StartServer) -> None:
    server = start_server(lambda: PatternEngine(width=64, height=36, times=PatternTimes(forward=0.2)))
    bare = Bare(server.endpoint)
    bare.hello()
    bare.send(type="event", id=1, name="storm")
    bare.send(type="event", id=1, name="night")
    assert [bare.receive().get("state"), bare.receive().get("code")] == ["accepted", "duplicate_id"]
    bare.close()


def test_an_unknown_command_gets_a_reply(bare: Bare) -> None:
    bare.hello()
    reply = bare.ask(type="command", id=2, name="dance")
    assert (reply["type"], reply["ok"], reply["code"]) == ("reply", False, "unknown_command")


# Receipts


def test_an_event_is_accepted_then_applied(bare: Bare) -> None:
    bare.hello()
    accepted = bare.ask(type="event", id=7, name="storm", params={"intensity": 0.9}, client_ns=123)
    assert accepted == {"type": "receipt", "id": 7, "client_ns": 123, "state": "accepted", "order": 1}
    applied = bare.final(7)
    assert (applied["state"], applied["order"], applied["client_ns"]) == ("applied", 1, 123)
    assert applied["prompt"].endswith("heavy storm")
    assert applied["frame"] >= 1 and applied["latency_ms"] > 0


def test_events_of_several_clients_build_on_each_other(server: Server, bare: Bare) -> None:
    other = Bare(server.endpoint)
    bare.hello(5)
    other.hello(6)
    bare.send(type="event", id=1, name="storm")
    assert bare.final(1)["state"] == "applied"
    other.send(type="event", id=1, name="night")
    assert other.final(1)["prompt"] == "a red fox trots along the harbour at night, storm"
    other.close()


def test_every_event_of_a_burst_from_several_clients_has_one_final_receipt(server: Server) -> None:
    finals: list[dict[int, int]] = []

    def client(number: int) -> None:
        bare = Bare(server.endpoint)
        bare.hello(number)
        names = ["storm", "night", "lightning", "calm", "day", "birds"]
        for message_id in range(1, 301):
            bare.send(type="event", id=message_id, name=names[(message_id + number) % 6])
        counts: dict[int, int] = {}
        while len(counts) < 300:
            message = bare.receive(10_000)
            if message["type"] == "receipt" and message["state"] != "accepted":
                counts[message["id"]] = counts.get(message["id"], 0) + 1
        assert not bare.socket.poll(200), "more came than was asked for"
        finals.append(counts)
        bare.close()

    threads = [threading.Thread(target=client, args=(10 + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finals) == 4
    assert all(set(counts.values()) == {1} for counts in finals)
    frames_go_on(server)


def test_stopping_gives_every_open_event_its_end(start_server: StartServer) -> None:
    server = start_server(lambda: PatternEngine(width=64, height=36, times=PatternTimes(forward=0.3)))
    bare = Bare(server.endpoint)
    bare.hello()
    assert bare.ask(type="event", id=1, name="storm")["state"] == "accepted"
    server.stop()
    final = bare.final(1)
    assert (final["state"], final["code"]) == ("rejected", "closing")
    bare.close()


def test_a_client_that_dies_changes_nothing(server: Server, bare: Bare) -> None:
    bare.hello()
    bare.send(type="event", id=1, name="storm")
    bare.close()
    frames_go_on(server)


# Frames


def subscribe(context: "zmq.Context[zmq.Socket[bytes]]", server: Server, *topics: bytes) -> "zmq.Socket[bytes]":
    made = context.socket(zmq.SUB)
    made.linger = 0
    for topic in topics:
        made.setsockopt(zmq.SUBSCRIBE, topic)
    made.connect(server.frames_endpoint)
    return made


@pytest.fixture
def context() -> "Iterator[zmq.Context[zmq.Socket[bytes]]]":
    with zmq.Context() as made:
        yield made


def take(socket: "zmq.Socket[bytes]") -> list[bytes]:
    assert socket.poll(5000), "nothing came"
    return socket.recv_multipart()


def test_a_notice_names_a_frame_that_is_in_the_ring(server: Server, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    assert server.ring is not None
    reader = RingReader(server.ring.path, server.ring.ring_id)
    with subscribe(context, server, b"frame.ring") as frames:
        topic, body = take(frames)
        notice = msgpack.unpackb(body)
        pixels, words = reader.read(notice["frame"])
    assert topic == b"frame.ring"
    assert notice["slot"] == notice["frame"] % 8 and notice["ring_id"] == reader.ring_id
    assert (words.pts_ns, words.chunk, words.index) == (notice["pts_ns"], notice["chunk"], notice["index"])
    assert notice["pts_ns"] == round((notice["frame"] - 1) * 1e9 / 16)
    assert read_mark(pixels)[0] == notice["frame"] - 1


def test_raw_and_jpeg_pictures_come_to_those_who_ask(server: Server, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    with subscribe(context, server, b"frame.raw") as raw, subscribe(context, server, b"frame.jpeg") as jpeg:
        _, body, picture = take(raw)
        pixels = np.frombuffer(picture, np.uint8).reshape(36, 64, 4)
        assert read_mark(pixels)[0] == msgpack.unpackb(body)["frame"] - 1
        assert take(jpeg)[2].startswith(b"\xff\xd8\xff")


def test_pictures_are_not_made_when_nobody_asks(server: Server, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    with subscribe(context, server, b"frame.jpeg") as jpeg:
        take(jpeg)
        assert server.publisher._wanted(b"frame.jpeg") and not server.publisher._wanted(b"frame.raw")
    end = time.monotonic() + 5
    while server.publisher._wanted(b"frame.jpeg"):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_first_frame_under_an_event_bears_its_stamps_in_order(
    server: Server, bare: Bare, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    bare.hello()
    with subscribe(context, server, b"frame.ring") as frames:
        take(frames)
        bare.send(type="event", id=1, name="storm")
        applied = bare.final(1)
        notice: dict[str, Any] = {"frame": 0}
        while notice["frame"] != applied["frame"]:
            notice = msgpack.unpackb(take(frames)[1])
    stamps = [notice["stamps_ns"][key] for key in ("received", "recached", "denoised", "decoded", "published")]
    assert stamps == sorted(stamps) and stamps[0] > 0
    assert applied["latency_ms"] == pytest.approx((stamps[4] - stamps[0]) / 1e6)
    assert notice["order"] == 1 and notice["prompt"] == applied["prompt"]


def test_notices_tell_inputs_and_prompts(server: Server, bare: Bare, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    bare.hello(5)
    with subscribe(context, server, b"notice", b"frame.ring") as news:
        take(news)
        bare.send(type="event", id=1, name="storm", params={"intensity": 0.1})
        notices: list[dict[str, Any]] = []
        while not notices or notices[-1]["kind"] != "prompt":
            topic, body = take(news)
            if topic == b"notice" and msgpack.unpackb(body)["kind"] != "state":
                notices.append(msgpack.unpackb(body))
    applied = bare.final(1)
    assert [one["kind"] for one in notices] == ["input", "prompt"]
    assert (notices[0]["event"], notices[0]["params"], notices[0]["client_id"]) == ("storm", {"intensity": 0.1}, 5)
    assert (notices[1]["frame"], notices[1]["text"]) == (applied["frame"], applied["prompt"])


def test_frames_are_published_at_the_contents_rate(server: Server, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    """By the median: what a busy machine holds up, and the shift that follows, are single gaps."""
    with subscribe(context, server, b"frame.ring") as frames:
        take(frames)
        published = [msgpack.unpackb(take(frames)[1])["stamps_ns"]["published"] for _ in range(33)]
    gaps_ms = [(later - earlier) / 1e6 for earlier, later in itertools.pairwise(published)]
    assert statistics.median(gaps_ms) == pytest.approx(1000 / 16, rel=0.1)


def test_stats_count_what_happened(server: Server, bare: Bare) -> None:
    bare.hello()
    bare.send(type="event", id=1, name="storm")
    frame = bare.final(1)["frame"]
    bare.send(type="seen", frame=frame, seen_ns=time.time_ns())
    stats = bare.ask(type="stats_request", id=9)
    assert (stats["type"], stats["id"], stats["epoch"]) == ("stats", 9, server.epoch)
    assert stats["inputs"] == {"accepted": 1, "applied": 1, "superseded": 0, "rejected": 0, "waiting": 0}
    assert stats["latency_ms"]["n"] == stats["seen_ms"]["n"] == 1
    assert stats["seen_ms"]["max"] >= stats["latency_ms"]["max"]
    assert stats["clients"] == 1 and stats["frames"] >= frame


def test_seen_times_that_cannot_be_are_left_out(bare: Bare) -> None:
    bare.hello()
    bare.send(type="event", id=1, name="storm")
    frame = bare.final(1)["frame"]
    for seen_ns in (0, time.time_ns() + 20 * 10**9):
        bare.send(type="seen", frame=frame, seen_ns=seen_ns)
    assert bare.ask(type="stats_request", id=9)["seen_ms"]["n"] == 0


# Trouble in the engine


class FailingEngine(PatternEngine):
    """Fails once under a prompt with `storm` in it."""

    failures = 1

    def generate(self, interrupted: Callable[[], bool], *finished: Any) -> GeneratedChunk | None:
        if "storm" in self._prompt and FailingEngine.failures:
            FailingEngine.failures -= 1
            raise RuntimeError("CUDA error: out of memory")
        return super().generate(interrupted, *finished)


def test_an_engine_that_fails_is_made_anew_and_the_event_is_applied(
    start_server: StartServer, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    FailingEngine.failures = 1
    server = start_server(lambda: FailingEngine(width=64, height=36))
    bare = Bare(server.endpoint)
    bare.hello()
    with subscribe(context, server, b"notice", b"frame.ring") as news:
        take(news)
        bare.send(type="event", id=1, name="storm")
        assert bare.final(1)["state"] == "applied"
        states = []
        while news.poll(0):
            topic, body = news.recv_multipart()
            if topic == b"notice" and msgpack.unpackb(body)["kind"] == "state":
                states.append(msgpack.unpackb(body))
    assert any(one["state"] == "restarting" and "out of memory" in one["reason"] for one in states)
    assert bare.ask(type="stats_request")["restarts"] == 1
    bare.close()


class FailingDecoder(PatternEngine):
    """Fails at the third chunk of its life; the next of its kind does not."""

    alive = True

    def decode(self, chunk: GeneratedChunk, ready: Callable[[FrameBlock], None] = lambda part: None) -> FrameBlock:
        if FailingDecoder.alive and chunk.number == 2:
            FailingDecoder.alive = False
            raise RuntimeError("the decoder broke")
        return super().decode(chunk, ready)


def test_a_decoder_that_fails_is_made_anew(start_server: StartServer) -> None:
    FailingDecoder.alive = True
    server = start_server(lambda: FailingDecoder(width=64, height=36))
    end = time.monotonic() + 10
    while not server.stream.timeline.totals.restarts:
        assert time.monotonic() < end
        time.sleep(0.02)
    frames_go_on(server)


class StubbornEngine(PatternEngine):
    """Accepts every prompt and then refuses those with `storm`."""

    def steer(self, prompt: str, transition: Any) -> None:
        if "storm" in prompt:
            raise PromptRejected("not today")
        super().steer(prompt, transition)


def test_a_prompt_that_the_engine_refuses_late_is_rejected(start_server: StartServer) -> None:
    server = start_server(lambda: StubbornEngine(width=64, height=36))
    bare = Bare(server.endpoint)
    bare.hello()
    bare.send(type="event", id=1, name="storm")
    final = bare.final(1)
    assert (final["state"], final["code"], final["reason"]) == ("rejected", "prompt", "not today")
    frames_go_on(server)
    bare.close()


# Start and stop


def test_a_taken_port_is_named_with_the_option_to_change(server: Server, tmp_path: Path) -> None:
    port = int(server.endpoint.rsplit(":", 1)[1])
    settings = ServeSettings(control_port=port, frames_port=0, ring_dir=tmp_path)
    with pytest.raises(PortTaken, match=f"{port}.*--control-port"):
        Server(make_engine(), make_engine, server.stream.timeline.ledger.scene, settings)


def test_a_first_prompt_that_the_model_does_not_know_stops_the_start(server: Server, tmp_path: Path) -> None:
    engine = PatternEngine(vocabulary=frozenset({"a", "red"}))
    settings = ServeSettings(control_port=0, frames_port=0, ring_dir=tmp_path)
    with pytest.raises(SceneError, match="first prompt"):
        Server(engine, lambda: engine, server.stream.timeline.ledger.scene, settings)


def test_a_start_that_fails_gives_its_ports_back(server: Server, tmp_path: Path) -> None:
    taken = int(server.frames_endpoint.rsplit(":", 1)[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ServeSettings(control_port=port, frames_port=taken, ring_dir=tmp_path)
    for _ in range(2):  # the second time the control port would be the one that is taken
        with pytest.raises(PortTaken, match="--frames-port"):
            Server(make_engine(), make_engine, load_scene(), settings)


def test_stopping_unlinks_the_ring_and_says_so_in_it(start_server: StartServer) -> None:
    server = start_server()
    assert server.ring is not None
    reader = RingReader(server.ring.path)
    server.stop()
    assert reader.state == ring_layout.STATE_CLOSED
    assert not server.ring.path.exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, "--token"),
        ({"host": "192.168.1.4"}, "--token"),
        ({"host": "studio.example"}, "--token"),
        ({"control_port": 70_000}, "--control-port"),
        ({"control_port": 7464, "frames_port": 7464}, "must differ"),
        ({"token": ""}, "1 to 255"),
        ({"token": "x" * 256}, "1 to 255"),
        ({"ring_dir": Path("/no/such/folder")}, "--ring-dir"),
        ({"ring_slots": 2}, "--ring-slots"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        ServeSettings(**settings)


def test_the_number_of_ring_slots_is_an_option_of_serve() -> None:
    result = CliRunner().invoke(app, ["serve", "--ring-slots", "2"])
    assert result.exit_code == 1
    assert "--ring-slots is 2; a ring has 3 to 28" in result.output


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_this_machines_own_addresses_need_no_token(host: str) -> None:
    ServeSettings(host=host)


def test_a_wildcard_address_is_told_as_such(start_server: StartServer) -> None:
    server = start_server(host="0.0.0.0", token="sesame")
    assert server.frames_endpoint.startswith("tcp://*:")
