"""The golden bytes of docs/protocol.md are what their generator writes, and the code reads and writes the same."""

import importlib.util
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from everscene_bridge import message_bytes, messages, ring_layout
from everscene_bridge.frame_ring import RingReader, RingWriter
from everscene_bridge.ring_layout import RingShape

VECTORS = Path(__file__).parents[1] / "vectors"
MESSAGES = sorted((VECTORS / "messages").glob("*.json"))
RINGS = ["fresh", "live", "writing"]


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def without_nil(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nil(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nil(inner) for inner in value]
    return value


def zmtp(name: str) -> bytes:
    return next(bytes.fromhex(one["hex"]) for one in load(VECTORS / "zmtp.json") if one["name"] == name)


def test_the_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make", VECTORS / "make.py")
    assert spec is not None and spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    make.main(tmp_path)
    written = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = {
        str(path.relative_to(VECTORS)): path.read_bytes()
        for path in VECTORS.rglob("*")
        if path.suffix in (".json", ".msgpack", ".bin")
    }
    assert written == kept


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_a_message_is_read_and_written_as_the_vector_says(path: Path) -> None:
    entry, data = load(path), path.with_suffix(".msgpack").read_bytes()
    read = {
        "client": message_bytes.unpack_client,
        "server": message_bytes.unpack_server,
        "notice": message_bytes.unpack_notice,
    }.get(entry.get("topic", entry["direction"]), message_bytes.unpack_frame_notice)
    message: messages.Message = read(data)
    assert msgpack.unpackb(message_bytes.pack(message)) == without_nil(entry["message"])


def test_every_message_type_has_a_vector() -> None:
    kinds = {load(path)["message"].get("type") for path in MESSAGES}
    assert kinds - {None} == set(message_bytes.CLIENT_TYPES) | set(message_bytes.SERVER_TYPES)


@pytest.mark.parametrize("entry", load(VECTORS / "values.json"), ids=lambda entry: entry["name"])
def test_a_single_value_is_msgpacks(entry: dict[str, Any]) -> None:
    assert msgpack.unpackb(bytes.fromhex(entry["hex"])) == entry["value"]
    if entry["canonical"]:
        assert msgpack.packb(entry["value"]).hex() == entry["hex"]


@pytest.mark.parametrize("name", RINGS)
def test_the_layout_reads_every_field_of_a_ring(name: str) -> None:
    data, meaning = (VECTORS / "ring" / f"{name}.bin").read_bytes(), load(VECTORS / "ring" / f"{name}.json")
    header = np.frombuffer(data, ring_layout.HEADER, 1)[0]
    read = {key: header[key].item() for key in ring_layout.HEADER.names or ()}
    assert {**read, "magic": read["magic"].decode()} == meaning["header"]
    slots = np.frombuffer(data, ring_layout.DESCRIPTOR, 3, offset=ring_layout.DESC_OFFSET)
    for slot, expected in zip(slots, meaning["slots"], strict=True):
        fields = {key: slot[key].item() for key in ring_layout.DESCRIPTOR.names or ()}
        assert fields == (expected or dict.fromkeys(fields, 0))


def ring_file(name: str, path: Path) -> dict[str, Any]:
    """A whole ring made of a vector and pixels whose every byte is the seq."""
    meaning: dict[str, Any] = load(VECTORS / "ring" / f"{name}.json")
    data = bytearray(meaning["header"]["file_bytes"])
    data[:4096] = (VECTORS / "ring" / f"{name}.bin").read_bytes()
    for i, slot in enumerate(meaning["slots"]):
        if slot is not None:
            start = meaning["header"]["data_offset"] + i * meaning["header"]["slot_stride"]
            data[start : start + slot["payload_bytes"]] = bytes([slot["seq"]]) * slot["payload_bytes"]
    path.write_bytes(bytes(data))
    return meaning


def test_the_reader_reads_the_live_ring(tmp_path: Path) -> None:
    meaning = ring_file("live", tmp_path / "x.ring")
    reader = RingReader(tmp_path / "x.ring", meaning["header"]["ring_id"])
    pixels, words = reader.read(reader.latest)
    assert pixels.shape == (9, 20, 4) and (pixels == 5).all()
    assert (words.seq, words.order, words.index, words.chunk) == (5, 1, 1, 1)
    assert reader.fps == 24.0


def test_the_writer_writes_the_live_ring(tmp_path: Path) -> None:
    meaning = load(VECTORS / "ring" / "live.json")
    header, slots = meaning["header"], meaning["slots"]
    times = iter([header["created_unix_ns"], 0, header["heartbeat_unix_ns"]])
    ring = RingWriter(
        RingShape(20, 9, 3),
        epoch=header["epoch"],
        fps=24.0,
        clock_offset_ns=header["clock_offset_ns"],
        now_ns=lambda: next(times),
        directory=tmp_path,
    )
    for slot in slots:
        ring.loan(slot["seq"])
        names = ["pts_ns", "commit_unix_ns", "epoch", "flags", "order", "generation_us", "index", "chunk"]
        ring.commit(slot["seq"], **{name: slot[name] for name in names})
    ring.beat()
    ring.set_state(header["state"])
    data = bytearray(ring.path.read_bytes()[:4096])
    struct.pack_into("<Q", data, 0x038, header["ring_id"])
    struct.pack_into("<Q", data, 0x040, header["writer_pid"])
    ring.close()
    assert bytes(data) == (VECTORS / "ring" / "live.bin").read_bytes()


def read_until(raw: socket.socket, what: bytes) -> bytes:
    """Everything that the peer sends, until this is among it."""
    got = b""
    while what not in got:
        more = raw.recv(65536)
        assert more, f"the peer closed after {got!r}"
        got += more
    return got


@contextmanager
def hand_made(port: int, ready: str) -> Iterator[tuple[socket.socket, bytes]]:
    """A connection after the handshake, made of vectors alone, and what the peer has sent in it."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
        raw.sendall(zmtp("greeting_null") + zmtp(ready))
        got = read_until(raw, b"Socket-Type")
        yield raw, got


@pytest.fixture
def router() -> "Iterator[tuple[zmq.Socket[bytes], int]]":
    with zmq.Context() as context, context.socket(zmq.ROUTER) as made:
        made.linger = 0
        yield made, made.bind_to_random_port("tcp://127.0.0.1")


def test_libzmq_greets_as_the_vector_says(router: "tuple[zmq.Socket[bytes], int]") -> None:
    with hand_made(router[1], "ready_dealer") as (_, got):
        assert got.startswith(zmtp("greeting_libzmq"))
        assert got[64:] == zmtp("ready_router")[: len(got) - 64]


@pytest.mark.parametrize("ready", ["ready_dealer", "ready_dealer_anonymous"])
def test_libzmq_takes_a_message_from_a_hand_made_dealer(router: "tuple[zmq.Socket[bytes], int]", ready: str) -> None:
    with hand_made(router[1], ready) as (raw, _):
        raw.sendall(zmtp("message_bye"))
        assert router[0].poll(5000)
        route, body = router[0].recv_multipart()
    assert msgpack.unpackb(body) == {"type": "bye"}
    assert ready != "ready_dealer" or route == bytes.fromhex("7a00c0ffee")


@pytest.mark.parametrize("form", ["subscribe", "subscribe_minor_0"])
def test_libzmq_publishes_the_frame_vector_to_a_hand_made_subscriber(form: str) -> None:
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.linger = 0
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        with hand_made(port, "ready_sub") as (raw, got):
            assert zmtp("ready_xpub")[:24] in got
            raw.sendall(zmtp(form))
            assert publisher.poll(5000)
            assert publisher.recv() == b"\x01frame.ring"
            publisher.send_multipart([b"frame.ring", (VECTORS / "messages" / "frame.msgpack").read_bytes()])
            read_until(raw, zmtp("message_frame"))


@pytest.mark.parametrize("size", [255, 256])
def test_libzmq_sends_short_and_long_frames_as_the_vectors_say(
    router: "tuple[zmq.Socket[bytes], int]", size: int
) -> None:
    with hand_made(router[1], "ready_dealer") as (raw, _):
        raw.sendall(zmtp("message_bye"))
        assert router[0].poll(5000)
        route, _ = router[0].recv_multipart()
        router[0].send_multipart([route, b"a" * size])
        read_until(raw, zmtp(f"message_{size}"))


def test_libzmq_answers_the_ping_vector(router: "tuple[zmq.Socket[bytes], int]") -> None:
    with hand_made(router[1], "ready_dealer") as (raw, _):
        raw.sendall(zmtp("ping"))
        read_until(raw, zmtp("pong"))


def plain_router(context: "zmq.Context[zmq.Socket[bytes]]") -> "tuple[zmq.Socket[bytes], zmq.Socket[bytes], int]":
    zap = context.socket(zmq.REP)
    zap.bind("inproc://zeromq.zap.01")
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.PLAIN_SERVER, 1)
    router.setsockopt(zmq.ZAP_DOMAIN, b"everscene")
    router.linger = zap.linger = 0
    return zap, router, router.bind_to_random_port("tcp://127.0.0.1")


@pytest.mark.parametrize("right", [True, False])
def test_libzmq_takes_and_refuses_the_token_as_the_vectors_say(right: bool) -> None:
    with zmq.Context() as context:
        zap, router, port = plain_router(context)
        with zap, router, socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            raw.sendall(zmtp("greeting_plain") + zmtp("plain_hello"))
            assert zap.poll(5000)
            question = zap.recv_multipart()
            assert question[-2:] == [b"everscene", b"secret"]
            zap.send_multipart([b"1.0", question[1], b"200" if right else b"400", b"", b"", b""])
            expected = [zmtp("plain_welcome")] if right else [zmtp("error"), zmtp("error_libzmq")]
            got = b""
            while not got[64:]:
                got += raw.recv(65536)
            assert got[64:] in expected
