"""A small peer that speaks docs/protocol.md to the Godot addon, and misbehaves when an event asks it to.

It shares no code with the bridge: what the addon and this peer agree on is the document. Frame n is a pattern that
n alone determines (`pattern`), so that a test can tell which frame it sees and that every byte of it is right.

    python -m tests.clients.godot.peer --width 1280 --height 720 --fps 60    prints {"endpoint": …, "ring": …}
"""

import argparse
import functools
import io
import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zmq
from numpy.typing import NDArray
from PIL import Image

from .ring_file import SLOTS, RingFile

EVENTS = ("storm", "calm", "failing", "superseded", "silent")
TROUBLES = ("garbage", "malformed", "error", "forget", "hang_up", "restart", "ring", "no_ring")


@functools.lru_cache(maxsize=4)
def still(width: int, height: int) -> NDArray[np.uint8]:
    """uint8 [height, width, 4]: red rises to the right, green downwards; alpha 255."""
    picture = np.zeros((height, width, 4), np.uint8)
    picture[..., 0] = np.arange(width) * 255 // width
    picture[..., 1] = (np.arange(height) * 255 // height)[:, None]
    picture[..., 3] = 255
    return picture


def pattern(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """uint8 [height, width, 4]: the still picture with its colours turned on by the frame number, modulo 256."""
    turn = np.array([number * 3 & 255, number * 5 & 255, number * 7 & 255, 0], np.uint8)
    return still(width, height) + turn


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    """A JPEG file, quality 85, 4:2:0."""
    out = io.BytesIO()
    Image.fromarray(picture[..., :3]).save(out, "JPEG", quality=85, subsampling=2)
    return out.getvalue()


def bind(socket: zmq.Socket[bytes], host: str, port: int) -> int:
    """Bind to a port of this machine, 0 = any; a port that was just left may take a moment."""
    if port == 0:
        return int(socket.bind_to_random_port(f"tcp://{host}"))
    for _ in range(100):
        try:
            socket.bind(f"tcp://{host}:{port}")
            return port
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            time.sleep(0.02)
    raise OSError(f"port {port} stays taken")


class Peer:
    """Serves one endpoint until `stop()`. `refuse_version` answers every hello with `refused`; `frames_endpoint` is
    named in place of the real one; `host` is an address of this machine, IPv6 in brackets."""

    def __init__(
        self,
        folder: Path,
        *,
        width: int = 64,
        height: int = 36,
        fps: int = 60,
        token: str = "",
        has_ring: bool = True,
        refuse_version: bool = False,
        host: str = "127.0.0.1",
        frames_endpoint: str = "",
        frames_per_chunk: int = 4,
    ) -> None:
        self.width, self.height, self.fps = width, height, fps
        self.frames_per_chunk = frames_per_chunk
        self.inputs: list[str] = []
        self.seen: list[int] = []
        self.hellos: list[dict[str, Any]] = []
        self.topics: set[bytes] = set()
        self._folder, self._has_ring, self._refuse = folder, has_ring, refuse_version
        self._token = token
        self._host, self._named_frames_endpoint = host, frames_endpoint
        self._context = zmq.Context()
        if token:
            self._start_zap()
        self._control_port = self._frames_port = 0
        self._open_sockets()
        self._greeted: set[bytes] = set()
        self._begin_epoch()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"tcp://{self._host}:{self._control_port}"

    @property
    def ring_path(self) -> str:
        return str(self._ring.path) if self._ring else ""

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        if self._ring:
            self._ring.close()
        self._control.close(linger=0)
        self._frames.close(linger=0)
        self._context.term()

    def _open_sockets(self) -> None:
        self._control = self._context.socket(zmq.ROUTER)
        self._frames = self._context.socket(zmq.XPUB)
        self._poller = zmq.Poller()
        for socket in (self._control, self._frames):
            socket.linger = 0
            socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
            socket.setsockopt(zmq.IPV6, self._host.startswith("["))
            if self._token:
                socket.plain_server = True
                socket.zap_domain = b"everscene"
            self._poller.register(socket, zmq.POLLIN)
        self._control_port = bind(self._control, self._host, self._control_port)
        self._frames_port = bind(self._frames, self._host, self._frames_port)

    def _start_zap(self) -> None:
        """libzmq asks this socket whether a user and password are right."""
        replies = self._context.socket(zmq.REP)
        replies.bind("inproc://zeromq.zap.01")

        def answer() -> None:
            while True:
                try:
                    request = replies.recv_multipart()
                except zmq.ContextTerminated:
                    replies.close(linger=0)
                    return
                is_right = request[6:8] == [b"everscene", self._token.encode()]
                status = [b"200", b"OK"] if is_right else [b"400", b"no"]
                replies.send_multipart([*request[:2], *status, b"", b""])

        threading.Thread(target=answer, daemon=True).start()

    def _begin_epoch(self) -> None:
        self._epoch = random.getrandbits(62) + 1
        self._number = self._order = self._applied_order = 0
        self._prompt = "a calm harbour at dawn"
        self._waiting: list[tuple[bytes, dict[str, Any], int, int]] = []
        self._start = time.monotonic_ns()
        self._ring: RingFile | None = None
        if self._has_ring:
            self._ring = RingFile(self._folder, self._epoch, self.width, self.height, self.fps)

    def _run(self) -> None:
        while not self._stopping.is_set():
            due = self._start + self._number * 1_000_000_000 // self.fps
            wait_ms = max(0, (due - time.monotonic_ns()) // 1_000_000)
            ready = dict(self._poller.poll(wait_ms))
            if self._control in ready:
                sender, *parts = self._control.recv_multipart()
                self._take(sender, msgpack.unpackb(parts[0]))
            if self._frames in ready:
                word = self._frames.recv()
                (self.topics.add if word[0] else self.topics.discard)(word[1:])
            if time.monotonic_ns() >= due:
                self._publish()

    def _publish(self) -> None:
        self._number += 1
        chunk, index = divmod(self._number - 1, self.frames_per_chunk)
        received = 0
        if index == 0 and self._waiting:
            _, message, self._applied_order, received = self._waiting[-1]
            self._prompt = message.get("text") or f"a harbour, {message['name']}"
        now = time.time_ns()
        frame = {
            "frame": self._number,
            "epoch": self._epoch,
            "ring_id": self._ring.ring_id if self._ring else 0,
            "slot": self._number % SLOTS if self._ring else 0,
            "width": self.width,
            "height": self.height,
            "stride": self.width * 4,
            "pts_ns": round((self._number - 1) * 1e9 / self.fps),
            "chunk": chunk,
            "index": index,
            "order": self._applied_order,
            "prompt": self._prompt,
            "flags": 8,
            "stamps_ns": {"received": received, "recached": 0, "denoised": 0, "decoded": 0, "published": now},
        }
        picture = pattern(self._number, self.width, self.height)
        notice = msgpack.packb(frame)
        if self._ring:
            self._ring.commit(frame, picture)
            self._ring.beat()
        self._frames.send_multipart([b"frame.ring", notice])
        if b"frame.raw" in self.topics:
            self._frames.send_multipart([b"frame.raw", notice, picture.tobytes()])
        if b"frame.jpeg" in self.topics:
            self._frames.send_multipart([b"frame.jpeg", notice, jpeg(picture)])
        if index == 0:
            self._apply(chunk, now)

    def _apply(self, chunk: int, now: int) -> None:
        for sender, message, order, received in self._waiting:
            self._receipt(
                sender,
                message,
                "applied",
                order=order,
                frame=self._number,
                chunk=chunk,
                latency_ms=(now - received) / 1e6,
                prompt=self._prompt,
            )
        if self._waiting:
            self._waiting = []
            self._notice("prompt", text=self._prompt, order=self._order, frame=self._number, chunk=chunk)

    def _take(self, sender: bytes, message: dict[str, Any]) -> None:
        match message["type"]:
            case "hello":
                self._hello(sender, message)
            case "seen":
                self.seen.append(message["frame"])
            case "event" | "prompt" if sender in self._greeted:
                self._input(sender, message)
            case "event" | "prompt":
                self._send(sender, {"type": "error", "id": message["id"], "code": "no_hello", "reason": "say hello"})
            case "stats_request":
                nothing = {"n": 0, "p50": 0.0, "p95": 0.0, "max": 0.0}
                self._send(
                    sender,
                    {"type": "stats", "state": "live", "fps": self.fps, "latency_ms": nothing, "frames": 1},
                )

    def _hello(self, sender: bytes, message: dict[str, Any]) -> None:
        self.hellos.append(message)
        if self._refuse:
            reason = "this server speaks protocol 2.0, the client 1.0: use a client for protocol 2"
            self._send(sender, {"type": "refused", "code": "version", "reason": reason, "protocol": [2, 0]})
            return
        self._greeted.add(sender)
        events: list[dict[str, Any]] = [
            {"name": n, "label": n.title(), "group": "weather", "when": "now", "for_s": None, "params": []}
            for n in EVENTS + TROUBLES
        ]
        self._send(
            sender,
            {
                "type": "welcome",
                "protocol": [1, 0],
                "epoch": self._epoch,
                "server": "0.1.0",
                "model": "peer",
                "width": self.width,
                "height": self.height,
                "fps": float(self.fps),
                "frames_per_chunk": self.frames_per_chunk,
                "steps": 2,
                "seed": 0,
                "device": "cpu",
                "ring": self._ring.description() if self._ring else None,
                "frames_endpoint": self._named_frames_endpoint or f"tcp://*:{self._frames_port}",
                "viewer": None,
                "scene": {"name": "peer", "events": events},
                "prompt": self._prompt,
                "frame": self._number,
                "state": "live",
                "now_ns": time.time_ns(),
                "a field of a later version": 1,
            },
        )

    def _input(self, sender: bytes, message: dict[str, Any]) -> None:
        name = message.get("name", "")
        self.inputs.append(name)
        if name in TROUBLES:
            getattr(self, f"_trouble_{name}")(sender, message)
            return
        if message["type"] == "event" and name not in EVENTS:
            self._receipt(sender, message, "rejected", code="unknown_event", reason=f"the scene has no event {name!r}")
            return
        if name == "silent":
            return
        self._order += 1
        self._receipt(sender, message, "accepted", order=self._order)
        if name == "superseded":
            self._receipt(sender, message, "superseded", order=self._order, by=self._order + 1)
        elif name == "failing":
            self._receipt(
                sender, message, "rejected", order=self._order, code="engine", reason="the engine failed on it"
            )
        else:
            self._waiting.append((sender, message, self._order, time.time_ns()))

    def _trouble_garbage(self, sender: bytes, message: dict[str, Any]) -> None:
        noise = random.Random(3)
        for _ in range(200):
            junk = bytes(noise.choice(b"\x80\x93\xc1\xc7\xca\xdd\xff\x00\x05") for _ in range(noise.randrange(60)))
            self._control.send_multipart([sender, junk])
            self._frames.send_multipart([b"frame.ring", junk])
            self._frames.send_multipart([b"notice", junk])
        self._frames.send_multipart([b"frame.ring"])
        self._receipt(sender, message, "rejected", code="engine", reason="that was garbage")

    def _trouble_malformed(self, sender: bytes, message: dict[str, Any]) -> None:
        for bad in (
            {"type": "receipt", "id": "seven", "state": "applied"},
            {"type": "receipt", "id": message["id"], "state": 5},
            {"type": "receipt", "id": message["id"], "state": "applied", "frame": "x"},
            {"type": "welcome"},
            {"type": "a kind of a later version"},
            {"type": 5},
            [1, 2],
        ):
            self._send(sender, bad)
        self._notice("state", state=5)
        self._notice("a kind of a later version")
        self._receipt(sender, message, "rejected", code="engine", reason="that was malformed")

    def _trouble_error(self, sender: bytes, message: dict[str, Any]) -> None:
        self._send(
            sender,
            {"type": "error", "id": message["id"], "code": "wrong_type", "reason": "params.colour is no text"},
        )

    def _trouble_restart(self, sender: bytes, message: dict[str, Any]) -> None:
        """A new epoch without a word to anybody, as after a crash that nobody saw."""
        self._order += 1
        self._receipt(sender, message, "accepted", order=self._order)
        self._greeted.clear()
        if self._ring:
            self._ring.path.unlink()
        self._begin_epoch()

    def _trouble_ring(self, sender: bytes, message: dict[str, Any]) -> None:
        """Frames of another size: another ring."""
        self.width, self.height = self.width + 8, self.height + 2
        self._change_ring(RingFile(self._folder, self._epoch, self.width, self.height, self.fps))
        self._input(sender, {**message, "name": "calm"})

    def _trouble_no_ring(self, sender: bytes, message: dict[str, Any]) -> None:
        """From now on inline frames only."""
        self._change_ring(None)
        self._input(sender, {**message, "name": "calm"})

    def _change_ring(self, ring: RingFile | None) -> None:
        assert self._ring is not None
        old, self._ring = self._ring, ring
        old.set_state(3)
        old.path.unlink()
        self._notice("ring_changed", ring=ring.description() if ring else None)

    def _trouble_hang_up(self, sender: bytes, message: dict[str, Any]) -> None:
        """Both sockets close and open again on the same ports, in the same epoch."""
        self._order += 1
        self._receipt(sender, message, "accepted", order=self._order)
        time.sleep(0.1)  # so that the receipt is out
        self._control.close(linger=0)
        self._frames.close(linger=0)
        self._greeted.clear()
        self.topics.clear()
        self._open_sockets()

    def _trouble_forget(self, sender: bytes, message: dict[str, Any]) -> None:
        """As after 20,000 unread messages: this is answered `no_hello`; sent again, it is taken."""
        if self.inputs.count("forget") == 1:
            self._greeted.discard(sender)
        self._take(sender, {**message, "name": "storm"})

    def _receipt(self, sender: bytes, message: dict[str, Any], state: str, **fields: Any) -> None:
        self._send(
            sender,
            {
                "type": "receipt",
                "id": message["id"],
                "state": state,
                "client_ns": message.get("client_ns"),
                **fields,
            },
        )

    def _notice(self, kind: str, **fields: Any) -> None:
        notice = {"kind": kind, "epoch": self._epoch, "at_ns": time.time_ns(), **fields}
        self._frames.send_multipart([b"notice", msgpack.packb(notice)])

    def _send(self, sender: bytes, message: Any) -> None:
        self._control.send_multipart([sender, msgpack.packb(message)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--height", type=int, default=36)
    parser.add_argument("--fps", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    options = parser.parse_args()
    peer = Peer(options.folder, width=options.width, height=options.height, fps=options.fps)
    print(json.dumps({"endpoint": peer.endpoint, "ring": peer.ring_path}), flush=True)
    sys.stdin.read()  # until whoever started it closes the pipe
    peer.stop()


if __name__ == "__main__":
    main()
