"""`everscene bench load`: a hail of events from several clients, and whether each has its one final receipt.

The server runs in this process, the clients are sockets of another, so that what is measured is the server. Every
event is answered by `accepted` and one final receipt, or by `rejected` alone: anything else is counted as wrong. The
memory is this process's resident set, from time to time.
"""

import multiprocessing
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgpack
import zmq

from everscene_bridge import protocol
from everscene_bridge.bench_server import START_S
from everscene_bridge.client import Client
from everscene_bridge.errors import ClientError, SettingsError
from everscene_bridge.scene import Scene
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings
from everscene_bridge.stats import Distribution
from everscene_engine.port import EnginePort

WARM_FRAMES = 32
SAMPLES = 12
"""So often is the memory looked at. Growth is from the middle of the hail to its end: before, automatic snapshots and
the conditionings that an engine remembers (64 of 0.4 MB for `pocket`, one for each new prompt) take what they need."""
RECEIPT_S = 60.0
LONGEST_GAP_MS = 1000.0
MEMORY_GROWTH = 0.05
RATE_REACHED = 0.95
FINAL = ("applied", "superseded", "rejected")


@dataclass
class Tally:
    """What the clients saw."""

    sent: int = 0
    by_state: dict[str, int] = field(default_factory=dict)  # final receipts
    without_final: int = 0
    wrong: int = 0  # a second final receipt, one without `accepted` before it, one for no event, or an error
    accepted_ms: Distribution = field(default_factory=Distribution)  # from sending to `accepted`
    seconds: float = 0.0  # that sending took


class _Hail:
    """The clients: so many DEALERs, one thread."""

    def __init__(self, endpoint: str, names: list[str], clients: int, seed: int) -> None:
        self._names = names
        self._chance = random.Random(seed)
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._open: list[dict[int, float | None]] = []  # by client: id → when sent, None once accepted
        self.tally = Tally()
        for number in range(clients):
            socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
            socket.linger = 0
            socket.set_hwm(protocol.MAX_UNREAD)
            socket.connect(endpoint)
            hello = {"type": "hello", "protocol": list(protocol.VERSION), "client": f"hail {number}"}
            socket.send(msgpack.packb({**hello, "client_id": number + 1}))
            self._poller.register(socket, zmq.POLLIN)
            self._sockets.append(socket)
            self._open.append({})

    def run(self, rate: float, seconds: float) -> Tally:
        """Send evenly, then wait for what is still open."""
        start = time.monotonic()
        total = round(rate * seconds)
        while self.tally.sent < total:
            due = min(total, int((time.monotonic() - start) * rate) + 1)
            while self.tally.sent < due:
                self._send()
            self._read(max(0.0, start + due / rate - time.monotonic()))
        self.tally.seconds = time.monotonic() - start
        end = time.monotonic() + RECEIPT_S
        while any(self._open) and time.monotonic() < end:
            self._read(0.1)
        self.tally.without_final = sum(map(len, self._open))
        for socket in self._sockets:
            socket.close()
        self._context.term()
        return self.tally

    def _send(self) -> None:
        client = self.tally.sent % len(self._sockets)
        number = self.tally.sent + 1
        self._open[client][number] = time.monotonic()
        event = {"type": "event", "id": number, "name": self._chance.choice(self._names)}
        self._sockets[client].send(msgpack.packb(event))
        self.tally.sent += 1

    def _read(self, seconds: float) -> None:
        for socket, _ in self._poller.poll(round(seconds * 1e3)):
            client = self._sockets.index(socket)
            while True:
                try:
                    self._take(client, msgpack.unpackb(socket.recv(zmq.NOBLOCK)))
                except zmq.Again:
                    break

    def _take(self, client: int, message: dict[str, Any]) -> None:
        if message["type"] == "welcome":
            return
        waiting, number, state = self._open[client], message.get("id"), message.get("state")
        if message["type"] != "receipt" or number not in waiting:
            self.tally.wrong += 1
        elif state == "accepted":
            sent = waiting[number]
            self.tally.wrong += sent is None
            self.tally.accepted_ms.add((time.monotonic() - (sent or 0.0)) * 1e3)
            waiting[number] = None
        elif state in FINAL:
            self.tally.wrong += waiting.pop(number) is not None and state != "rejected"
            self.tally.by_state[state] = self.tally.by_state.get(state, 0) + 1


def _hail(pipe: Connection, endpoint: str, names: list[str], clients: int, rate: float, seconds: float) -> None:
    pipe.send(_Hail(endpoint, names, clients, seed=0).run(rate, seconds))


def load(make: Callable[[], EnginePort], scene: Scene, rate: float, seconds: float, clients: int) -> dict[str, Any]:
    """Send `rate` events a second (1 and up) for so many seconds from so many clients (1 to 63).

    `ok`: so many were sent, every event has its one final receipt, the stream never stood still for a second, and the
    memory grew by no more than a twentieth. `broken` names what of that does not hold; what was measured stands beside
    it. Raises SettingsError.
    """
    if not 1 <= clients < protocol.MAX_CLIENTS:
        raise SettingsError(f"--clients is {clients}; 1 to {protocol.MAX_CLIENTS - 1} can send")
    names = [event.name for event in scene.describe().events]
    engine = make()
    gaps = _Gaps()
    with (
        TemporaryDirectory() as folder,
        Server(engine, make, scene, ServeSettings(control_port=0, frames_port=0, state_dir=Path(folder))) as server,
        Client(server.endpoint, name="everscene bench") as world,
    ):
        for frame in world.frames(timeout=START_S):
            if frame.number >= WARM_FRAMES:
                break
        before = world.stats()
        ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
        hail = multiprocessing.get_context("spawn").Process(
            target=_hail, args=(theirs, server.endpoint, names, clients, rate, seconds)
        )
        hail.start()
        theirs.close()
        memory = _watch(world, ours, seconds, gaps)
        tally: Tally = ours.recv()
        hail.join()
        after = world.stats()
        memory.append(resident_bytes())
    counts = {"held": after.held - before.held, "restarts": after.restarts}
    return _result(engine, rate, tally, gaps, memory, counts, after)


class _Gaps:
    """Times from frame to frame, ms, and the longest of them all."""

    def __init__(self) -> None:
        self.latest = Distribution()
        self.longest = 0.0

    def add(self, milliseconds: float) -> None:
        self.latest.add(milliseconds)
        self.longest = max(self.longest, milliseconds)


def _watch(world: Client, pipe: Connection, seconds: float, gaps: _Gaps) -> list[int | None]:
    """Follow the frames until the hail is over; the memory from time to time."""
    start, last = time.monotonic(), 0
    memory: list[int | None] = []
    frames = world.frames(in_order=True, timeout=RECEIPT_S)
    while not pipe.poll():
        try:
            frame = next(frames)
        except ClientError as why:
            raise SettingsError(f"the stream ended under the hail: {why}") from why
        if last:
            gaps.add((frame.stamps.published - last) / 1e6)
        last = frame.stamps.published
        if time.monotonic() - start >= seconds * (len(memory) + 1) / SAMPLES:
            memory.append(resident_bytes())
    return memory


def _result(
    engine: EnginePort,
    rate: float,
    tally: Tally,
    gaps: _Gaps,
    memory: list[int | None],
    counts: dict[str, int],
    stats: Any,
) -> dict[str, Any]:
    latest, accepted = gaps.latest.message(), tally.accepted_ms.message()
    known = [size for size in memory if size is not None]
    growth = known[-1] / known[SAMPLES // 2 - 1] - 1 if len(known) >= SAMPLES // 2 else None
    per_second = tally.sent / tally.seconds
    broken = {
        f"only {per_second:.0f} events a second were sent": per_second < RATE_REACHED * rate,
        f"{tally.without_final} events have no final receipt": tally.without_final > 0,
        f"{tally.wrong} receipts are wrong": tally.wrong > 0,
        f"{sum(tally.by_state.values())} final receipts for {tally.sent} events": (
            sum(tally.by_state.values()) + tally.without_final != tally.sent
        ),
        f"the stream stood for {gaps.longest:.0f} ms": gaps.longest >= LONGEST_GAP_MS,
        f"the engine was made anew {counts['restarts']} times": counts["restarts"] > 0,
        f"the memory grew by {growth or 0:.1%}": growth is not None and growth > MEMORY_GROWTH,
    }
    return {
        "ok": not any(broken.values()),
        "broken": [what for what, is_so in broken.items() if is_so],
        "sent": tally.sent,
        "per_second": per_second,
        "final": tally.by_state,
        "without_final": tally.without_final,
        "wrong": tally.wrong,
        "accepted_ms": {"p50": accepted.p50, "p95": accepted.p95, "max": accepted.max},
        "latency_ms": {"p50": stats.latency_ms.p50, "p95": stats.latency_ms.p95, "max": stats.latency_ms.max},
        "frame_gap_ms": {"p50": latest.p50, "p95": latest.p95, "max": gaps.longest},
        "frames": latest.n,
        "held": counts["held"],
        "restarts": counts["restarts"],
        "resident_bytes": known,
        "resident_growth": growth,
        "model": engine.info.model,
        "device": engine.info.device,
    }


def resident_bytes(process: int | None = None) -> int | None:
    """Memory of this process, or of another, that is in use; None where the system does not tell as Linux does."""
    try:
        pages = int(Path(f"/proc/{process or 'self'}/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * 4096
