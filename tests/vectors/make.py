"""Write the golden vectors of docs/protocol.md §10: `python tests/vectors/make.py [FOLDER]`.

Everything here is built from the tables of the document with `msgpack` and `struct`. Nothing is imported from
Everscene, so that the vectors can disagree with the code.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import msgpack

EPOCH = 0x1122334455667788
RING_ID = 0x0123456789ABCDEF
T0 = 1_790_000_000_000_000_000  # a server clock reading, ns
WIDTH, HEIGHT, SLOTS = 20, 9, 3
STRIDE = WIDTH * 4
PAYLOAD = STRIDE * HEIGHT
SLOT_STRIDE = 65536
DATA_OFFSET = 65536

SCENE = {
    "name": "harbour story",
    "events": [
        {
            "name": "storm",
            "label": "Storm",
            "group": "weather",
            "when": "now",
            "for_s": None,
            "params": [
                {
                    "name": "intensity",
                    "label": "Intensity",
                    "type": "number",
                    "min": 0.0,
                    "max": 1.0,
                    "default": 0.7,
                }
            ],
        },
        {
            "name": "banner",
            "label": "Banner",
            "group": "moment",
            "when": "chunk",
            "for_s": 2.5,
            "params": [
                {
                    "name": "colour",
                    "label": "Colour",
                    "type": "choice",
                    "choices": ["red", "blue"],
                    "default": "red",
                },
                {"name": "motto", "label": "Motto", "type": "text", "max_length": 40, "default": ""},
                {"name": "large", "label": "Large", "type": "flag", "default": False},
            ],
        },
    ],
    "slots": [
        {"name": "weather", "default": "clear sky", "choices": ["clear sky", "rain"]},
        {"name": "moment", "default": "", "choices": None},
    ],
}
RING = {
    "path": "/dev/shm/everscene-4242-0a1b2c3d.ring",
    "ring_id": RING_ID,
    "slot_count": SLOTS,
    "file_bytes": DATA_OFFSET + SLOTS * SLOT_STRIDE,
}
FRAME = {
    "frame": 5,
    "epoch": EPOCH,
    "ring_id": RING_ID,
    "slot": 5 % SLOTS,
    "width": WIDTH,
    "height": HEIGHT,
    "stride": STRIDE,
    "pts_ns": 166666667,
    "chunk": 1,
    "index": 0,
    "order": 2,
    "prompt": "a calm harbour at dawn, heavy rain",
    "flags": 8,
    "stamps_ns": {
        "received": T0 + 1_000_000,
        "recached": T0 + 41_000_000,
        "denoised": T0 + 141_000_000,
        "decoded": T0 + 161_000_000,
        "published": T0 + 166_666_667,
    },
}
DISTRIBUTION = {"n": 40, "p50": 131.5, "p95": 188.25, "max": 201.0}
NOTHING = {"n": 0, "p50": 0.0, "p95": 0.0, "max": 0.0}


def client_messages() -> dict[str, dict[str, Any]]:
    """Every message of §4, by the name of its file."""
    hello = {"type": "hello", "protocol": [1, 0], "client": "front desk", "client_id": 0x7FFFFFFFFFFFFFFF}
    return {
        "hello": {**hello, "language": "csharp", "version": "0.1.0"},
        "hello_short": hello,
        "event": {
            "type": "event",
            "id": 7,
            "name": "storm",
            "params": {"intensity": 0.8},
            "when": "now",
            "client_ns": T0,
        },
        "event_short": {"type": "event", "id": 8, "name": "calm"},
        "event_params": {
            "type": "event",
            "id": 300,
            "name": "banner",
            "params": {"colour": "blue", "motto": "größer ☂", "large": True, "count": -3},
            "when": "chunk",
        },
        "prompt": {
            "type": "prompt",
            "id": 9,
            "text": "a calm harbour at dawn",
            "transition": "recache",
            "when": "now",
            "client_ns": T0,
        },
        "prompt_long": {"type": "prompt", "id": 70000, "text": "snow over the mountains, " * 20},
        "prompt_blend": {
            "type": "prompt",
            "id": 10,
            "text": "a calm harbour at night",
            "transition": "blend",
            "seconds": 4.0,
            "ease": "cosine",
            "path": "slerp",
        },
        "slots": {
            "type": "slots",
            "id": 11,
            "slots": {"weather": "rain", "moment": ""},
            "transition": "blend",
            "seconds": 2.5,
            "when": "now",
            "client_ns": T0,
        },
        "slots_short": {"type": "slots", "id": 12, "slots": {"weather": "rain"}},
        "seen": {"type": "seen", "frame": 5, "seen_ns": T0 + 180_000_000},
        "ping": {"type": "ping", "id": 1, "client_ns": T0},
        "stats_request": {"type": "stats_request", "id": 2},
        "command": {"type": "command", "id": 3, "name": "snapshot", "args": {"name": "before the storm"}},
        "command_pause": {"type": "command", "id": 4, "name": "pause"},
        "command_restore": {
            "type": "command",
            "id": 5,
            "name": "restore",
            "args": {"name": "before the storm", "seed": 7},
        },
        "command_image": {"type": "command", "id": 7, "name": "image"},  # its second part is a picture file
        "command_rewind": {"type": "command", "id": 6, "name": "rewind", "args": {"seconds": 2.5}},
        "bye": {"type": "bye"},
    }


def server_messages() -> dict[str, dict[str, Any]]:
    """Every message of §5."""
    receipt = {"type": "receipt", "id": 7, "client_ns": T0}
    welcome = {
        "type": "welcome",
        "protocol": [1, 0],
        "epoch": EPOCH,
        "server": "0.1.0",
        "model": "pocket",
        "width": WIDTH,
        "height": HEIGHT,
        "fps": 24.0,
        "frames_per_chunk": 8,
        "steps": 4,
        "seed": 0,
        "device": "cpu",
        "ring": RING,
        "frames_endpoint": "tcp://127.0.0.1:7465",
        "viewer": "http://127.0.0.1:7466/",
        "scene": SCENE,
        "prompt": "a calm harbour at dawn",
        "frame": 5,
        "state": "live",
        "now_ns": T0,
    }
    return {
        "welcome": welcome,
        "welcome_without_ring": {
            **welcome,
            "ring": None,
            "viewer": None,
            "frames_endpoint": "tcp://*:7465",
            "state": "starting",
            "frame": 0,
        },
        "refused": {
            "type": "refused",
            "code": "version",
            "reason": "this server speaks protocol 1.0, the client 2.0: use a client for protocol 1",
            "protocol": [1, 0],
        },
        "accepted": {**receipt, "state": "accepted", "order": 2},
        "applied": {
            **receipt,
            "state": "applied",
            "order": 2,
            "frame": 5,
            "chunk": 1,
            "latency_ms": 165.666667,
            "prompt": FRAME["prompt"],
        },
        "superseded": {**receipt, "state": "superseded", "order": 2, "by": 3},
        "rejected": {
            **receipt,
            "state": "rejected",
            "code": "prompt",
            "reason": "no such word: 'dragonn' (did you mean 'dragon'?)",
        },
        "rejected_late": {
            **receipt,
            "state": "rejected",
            "order": 2,
            "code": "closing",
            "reason": "the server stops",
        },
        "error": {
            "type": "error",
            "id": 7,
            "code": "unknown_type",
            "reason": "no such message type: 'dance'",
        },
        "error_without_id": {
            "type": "error",
            "id": None,
            "code": "not_msgpack",
            "reason": "the message is not msgpack",
        },
        "pong": {"type": "pong", "id": 1, "client_ns": T0, "server_ns": T0 + 250_000, "epoch": EPOCH},
        "reply": {"type": "reply", "id": 3, "ok": True, "result": {"bytes": 1_048_576}},
        "reply_snapshot": {
            "type": "reply",
            "id": 3,
            "ok": True,
            "result": {"name": "before the storm", "frame": 5, "bytes": 1_048_576},
        },
        "reply_not_now": {
            "type": "reply",
            "id": 6,
            "ok": False,
            "code": "not_now",
            "reason": "no frame of this world was shown yet",
        },
        "reply_error": {
            "type": "reply",
            "id": 3,
            "ok": False,
            "code": "unknown_command",
            "reason": "no such command: 'snapshot'",
        },
        "stats": stats_message(),
    }


def stats_message() -> dict[str, Any]:
    """The `stats` message, every field set."""
    return {
        "type": "stats",
        "id": 2,
        "epoch": EPOCH,
        "uptime_s": 12.5,
        "state": "live",
        "frame": 5,
        "chunk": 1,
        "prompt": FRAME["prompt"],
        "fps": 23.9,
        "content_fps": 24.0,
        "generation_fps": 51.25,
        "lead_ms": 291.0,
        "held": 0,
        "shifted_ms": 0.0,
        "frames": 5,
        "chunks": 2,
        "dropped_chunks": 1,
        "discarded_frames": 3,
        "restarts": 0,
        "clients": 2,
        "inputs": {"accepted": 41, "applied": 40, "superseded": 0, "rejected": 1, "waiting": 0},
        "errors": 0,
        "latency_ms": DISTRIBUTION,
        "seen_ms": NOTHING,
        "stages_ms": dict.fromkeys(("recache", "denoise", "clean", "decode", "publish"), DISTRIBUTION),
    }


def frames_messages() -> dict[str, tuple[str, dict[str, Any]]]:
    """Every map of §6, with its topic."""
    notice = {"epoch": EPOCH, "at_ns": T0}
    return {
        "frame": ("frame.ring", FRAME),
        "frame_jpeg": ("frame.jpeg", FRAME),
        "frame_raw": ("frame.raw", {**FRAME, "ring_id": 0, "slot": 0}),
        "notice_prompt": (
            "notice",
            {
                "kind": "prompt",
                **notice,
                "text": FRAME["prompt"],
                "order": 2,
                "frame": 5,
                "chunk": 1,
            },
        ),
        "notice_input_event": (
            "notice",
            {
                "kind": "input",
                **notice,
                "order": 2,
                "client_id": 77,
                "client": "unity",
                "event": "storm",
                "params": {"intensity": 0.8},
                "prompt": None,
                "skipped": 0,
            },
        ),
        "notice_input_prompt": (
            "notice",
            {
                "kind": "input",
                **notice,
                "order": 3,
                "client_id": 77,
                "client": "unity",
                "event": None,
                "params": None,
                "prompt": "a calm harbour at dawn",
                "skipped": 12,
            },
        ),
        "notice_state": (
            "notice",
            {
                "kind": "state",
                **notice,
                "state": "restarting",
                "reason": "out of memory; trying again in 2 s",
            },
        ),
        "notice_ring_changed": ("notice", {"kind": "ring_changed", **notice, "ring": RING}),
        "notice_scene": ("notice", {"kind": "scene", **notice, "scene": SCENE}),
    }


def write_messages(folder: Path) -> None:
    """One .msgpack and one .json for each message."""
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[tuple[str, dict[str, Any]]] = []
    entries += [(n, {"direction": "client", "message": m}) for n, m in client_messages().items()]
    entries += [(n, {"direction": "server", "message": m}) for n, m in server_messages().items()]
    entries += [
        (n, {"direction": "frames", "topic": topic, "message": m}) for n, (topic, m) in frames_messages().items()
    ]
    for name, entry in entries:
        (folder / f"{name}.msgpack").write_bytes(msgpack.packb(entry["message"]))
        write_json(folder / f"{name}.json", entry)


def write_values(path: Path) -> None:
    """Single values in all widths; what is not canonical has to be decoded but is never written by us."""
    values: list[dict[str, Any]] = []
    integers = [0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1]
    integers += [-1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1, -(2**63)]
    samples: list[tuple[str, Any]] = [(f"int {i}", i) for i in integers]
    samples += [("nil", None), ("false", False), ("true", True)]
    samples += [(f"float {f}", f) for f in (0.0, -1.5, 0.1, 1e300)]
    samples += [(f"text of {n}", "x" * n) for n in (0, 31, 32, 255, 256, 65535, 65536)]
    samples += [("text beyond ASCII", "größer ☂ 🌊")]
    samples += [(f"list of {n}", [1] * n) for n in (0, 15, 16)]
    samples += [(f"map of {n}", {f"k{i}": i for i in range(n)}) for n in (0, 15, 16)]
    samples += [("nested", {"a": [{"b": None}, [True, -1]], "c": {"d": 0.5}})]
    values += [
        {"name": n, "hex": msgpack.packb(v).hex(), "value": v, "canonical": True}
        for n, v in samples
        if len(msgpack.packb(v)) <= 400
    ]
    wide = [
        ("int 5 as uint 64", b"\xcf" + struct.pack(">Q", 5), 5),
        ("int 5 as int 8", b"\xd0\x05", 5),
        ("int -5 as int 64", b"\xd3" + struct.pack(">q", -5), -5),
        ("float 32 of 0.5", b"\xca" + struct.pack(">f", 0.5), 0.5),
        ("text in str 32", b"\xdb\x00\x00\x00\x02hi", "hi"),
        ("list in array 32", b"\xdd\x00\x00\x00\x01\x01", [1]),
        ("map in map 32", b"\xdf\x00\x00\x00\x01\xa1a\x01", {"a": 1}),
    ]
    values += [{"name": n, "hex": b.hex(), "value": v, "canonical": False} for n, b, v in wide]
    write_json(path, values)


def header_bytes(values: dict[str, int]) -> bytes:
    """The 4,096 bytes of §7 without descriptors."""
    out = bytearray(4096)
    out[0:8] = b"EVERRING"
    table = [
        ("<I", 0x008, "version"),
        ("<I", 0x00C, "header_bytes"),
        ("<Q", 0x010, "file_bytes"),
        ("<I", 0x018, "slot_count"),
        ("<I", 0x01C, "desc_offset"),
        ("<I", 0x020, "desc_stride"),
        ("<I", 0x024, "data_offset"),
        ("<Q", 0x028, "slot_stride"),
        ("<Q", 0x030, "slot_capacity"),
        ("<Q", 0x038, "ring_id"),
        ("<Q", 0x040, "writer_pid"),
        ("<Q", 0x048, "created_unix_ns"),
        ("<q", 0x050, "clock_offset_ns"),
        ("<I", 0x058, "byte_order"),
        ("<I", 0x05C, "flags"),
        ("<Q", 0x060, "epoch"),
        ("<I", 0x068, "fps_numerator"),
        ("<I", 0x06C, "fps_denominator"),
        ("<Q", 0x080, "latest_seq"),
        ("<Q", 0x088, "heartbeat_unix_ns"),
        ("<I", 0x090, "state"),
    ]
    for form, offset, name in table:
        struct.pack_into(form, out, offset, values[name])
    return bytes(out)


def descriptor_bytes(values: dict[str, int]) -> bytes:
    """The 128 bytes of one slot descriptor."""
    names = "lock seq pts_ns commit_unix_ns width height stride_bytes payload_bytes fourcc primaries transfer "
    names += "matrix full_range flags crc32 epoch order generation_us index chunk"
    form = "<QQqqIIIIIBBBBIIQQIIQ"
    return struct.pack(form, *(values[name] for name in names.split())).ljust(128, b"\0")


def descriptor_of(seq: int, lock: int, order: int, chunk: int, index: int, flags: int) -> dict[str, int]:
    """Field values of a frame of our ring."""
    pts_ns = round((seq - 1) * 1e9 / 24)
    return {
        "lock": lock,
        "seq": seq,
        "pts_ns": pts_ns,
        "commit_unix_ns": T0 + pts_ns,
        "width": WIDTH,
        "height": HEIGHT,
        "stride_bytes": STRIDE,
        "payload_bytes": PAYLOAD,
        "fourcc": 0x41424752,
        "primaries": 1,
        "transfer": 13,
        "matrix": 0,
        "full_range": 1,
        "flags": flags,
        "crc32": 0,
        "epoch": EPOCH,
        "order": order,
        "generation_us": 125_000,
        "index": index,
        "chunk": chunk,
    }


def write_rings(folder: Path) -> None:
    """A ring just made, one with five frames behind it, and the same while frame 6 is being written."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = {
        "version": 0x00010000,
        "header_bytes": 4096,
        "file_bytes": DATA_OFFSET + SLOTS * SLOT_STRIDE,
        "slot_count": SLOTS,
        "desc_offset": 0x200,
        "desc_stride": 128,
        "data_offset": DATA_OFFSET,
        "slot_stride": SLOT_STRIDE,
        "slot_capacity": PAYLOAD,
        "ring_id": RING_ID,
        "writer_pid": 4242,
        "created_unix_ns": T0 - 5_000_000_000,
        "clock_offset_ns": T0 - 90_000_000_000,
        "byte_order": 0x01020304,
        "flags": 0,
        "epoch": EPOCH,
        "fps_numerator": 24,
        "fps_denominator": 1,
        "latest_seq": 0,
        "heartbeat_unix_ns": T0 - 5_000_000_000,
        "state": 0,
    }
    live = {**fresh, "latest_seq": 5, "heartbeat_unix_ns": T0 + 166_666_667, "state": 1}
    third = descriptor_of(3, 6, 0, 0, 2, 8)
    fourth = descriptor_of(4, 8, 1, 1, 0, 8 | 1)
    fifth = descriptor_of(5, 10, 1, 1, 1, 8)
    writing = {**third, "lock": 11}  # frame 6 goes where frame 3 was: the lock is first, the rest is old yet
    for name, header, slots in (
        ("fresh", fresh, [None, None, None]),
        ("live", live, [third, fourth, fifth]),
        ("writing", live, [writing, fourth, fifth]),
    ):
        data = bytearray(header_bytes(header))
        for i, slot in enumerate(slots):
            if slot is not None:
                data[0x200 + 128 * i : 0x200 + 128 * (i + 1)] = descriptor_bytes(slot)
        (folder / f"{name}.bin").write_bytes(bytes(data))
        write_json(folder / f"{name}.json", {"header": {"magic": "EVERRING", **header}, "slots": slots})


def frame(body: bytes, *, more: bool = False, command: bool = False) -> bytes:
    """One ZMTP frame."""
    flags = (1 if more else 0) | (4 if command else 0)
    if len(body) > 255:
        return bytes([flags | 2]) + struct.pack(">Q", len(body)) + body
    return bytes([flags, len(body)]) + body


def command(name: bytes, data: bytes = b"") -> bytes:
    """One ZMTP command frame."""
    return frame(bytes([len(name)]) + name + data, command=True)


def metadata(**properties: bytes) -> bytes:
    """ZMTP metadata; `_` in a name stands for `-`."""
    out = b""
    for key, value in properties.items():
        name = key.replace("_", "-").encode()
        out += bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
    return out


def greeting(mechanism: bytes, minor: int) -> bytes:
    """The 64 bytes a client may send in one go."""
    return b"\xff" + bytes(8) + b"\x7f" + bytes([3, minor]) + mechanism.ljust(20, b"\0") + bytes(32)


def write_zmtp(path: Path) -> None:
    """Byte strings of ZMTP 3.x."""
    identity = bytes.fromhex("7a00c0ffee")
    login = b"\x09everscene\x06secret"
    entries = [
        ("greeting_null", greeting(b"NULL", 1), "client: greeting without a token, ZMTP 3.1"),
        ("greeting_null_minor_0", greeting(b"NULL", 0), "client: the same as ZMTP 3.0"),
        ("greeting_plain", greeting(b"PLAIN", 1), "client: greeting with a token"),
        (
            "greeting_libzmq_first",
            bytes.fromhex("ff00000000000000017f"),
            "server: first ten bytes as libzmq sends them; the eight in the middle are not to be checked",
        ),
        (
            "greeting_libzmq",
            bytes.fromhex("ff00000000000000017f") + greeting(b"NULL", 1)[10:],
            "server: whole greeting of a server without a token",
        ),
        (
            "greeting_libzmq_plain",
            bytes.fromhex("ff00000000000000017f") + greeting(b"PLAIN", 1)[10:],
            "server: whole greeting of a server with a token; byte 32, as-server, may be 0 or 1",
        ),
        (
            "ready_dealer",
            command(b"READY", metadata(Socket_Type=b"DEALER", Identity=identity)),
            "client: READY of the control socket with an identity of five bytes",
        ),
        (
            "ready_dealer_anonymous",
            command(b"READY", metadata(Socket_Type=b"DEALER")),
            "client: READY of the control socket",
        ),
        ("ready_sub", command(b"READY", metadata(Socket_Type=b"SUB")), "client: READY of the frames socket"),
        (
            "ready_router",
            command(b"READY", metadata(Socket_Type=b"ROUTER", Identity=b"")),
            "server: READY of the control socket",
        ),
        (
            "ready_xpub",
            command(b"READY", metadata(Socket_Type=b"XPUB")),
            "server: READY of the frames socket",
        ),
        ("plain_hello", command(b"HELLO", login), "client: PLAIN, user everscene, token secret"),
        ("plain_welcome", command(b"WELCOME"), "server: PLAIN, the token is right"),
        (
            "plain_initiate",
            command(b"INITIATE", metadata(Socket_Type=b"DEALER")),
            "client: PLAIN, in place of READY",
        ),
        ("error", command(b"ERROR", b"\x03400"), "server: the token is wrong"),
        (
            "error_libzmq",
            frame(b"^RROR\x03400", command=True),
            "server: the same as libzmq up to 4.3.5 spells it",
        ),
        ("subscribe", command(b"SUBSCRIBE", b"frame.ring"), "client: subscribe, ZMTP 3.1"),
        ("subscribe_minor_0", frame(b"\x01frame.ring"), "client: subscribe, ZMTP 3.0, a message"),
        ("cancel", command(b"CANCEL", b"frame.ring"), "client: unsubscribe, ZMTP 3.1"),
        ("cancel_minor_0", frame(b"\x00frame.ring"), "client: unsubscribe, ZMTP 3.0, a message"),
        ("ping", command(b"PING", b"\x01\x2cctx"), "either: PING, TTL 30.0 s, context ctx"),
        ("pong", command(b"PONG", b"ctx"), "either: its answer"),
        ("message_empty", frame(b""), "a message of no bytes"),
        ("message_bye", frame(msgpack.packb({"type": "bye"})), "client: the message bye in one short frame"),
        ("message_255", frame(b"a" * 255), "longest short frame"),
        ("message_256", frame(b"a" * 256), "shortest long frame"),
        (
            "message_frame",
            frame(b"frame.ring", more=True) + frame(msgpack.packb(FRAME)),
            "server: a frame notice in two parts",
        ),
    ]
    write_json(path, [{"name": n, "hex": b.hex(), "meaning": m} for n, b, m in entries])


def write_json(path: Path, value: Any) -> None:
    """Readable, one final newline, the same bytes on every machine."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def main(folder: Path) -> None:
    """Write all of them below `folder`."""
    write_messages(folder / "messages")
    write_values(folder / "values.json")
    write_rings(folder / "ring")
    write_zmtp(folder / "zmtp.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
