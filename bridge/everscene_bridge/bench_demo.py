"""`everscene bench demo`: the demo for ten minutes, before a client that counts every frame.

The demo is a process of its own, started as `make demo` starts it but for free ports, a state folder of its own and no
browser. The client takes every frame in order and sends an event every few seconds. How long the picture stood is told
by when frames arrive at the client; the memory is the resident set of the demo's process.
"""

import queue
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from everscene_bridge.bench_load import LONGEST_GAP_MS, RECEIPT_S, resident_bytes
from everscene_bridge.bench_server import START_S
from everscene_bridge.client import Client
from everscene_bridge.client_frames import Frame
from everscene_bridge.errors import ClientError, Rejected, SettingsError, Superseded
from everscene_bridge.receipt import Receipt
from everscene_bridge.show import start_python

EVENT_EVERY_S = 6.0
MEMORY_GROWTH = 0.10
SETTLE_S = 60.0
"""From then on the memory counts, or from the middle of a run that is shorter than two of it: before, automatic
snapshots and the conditionings that an engine remembers take what they need."""
STOP_S = 30.0


@dataclass
class Count:
    """What the client saw."""

    first_frame_s: float = 0.0  # from the start of the process
    seconds: float = 0.0  # from the first frame to the last
    frames: int = 0
    missed: int = 0  # numbers that were left out between two frames
    longest_gap_ms: float = 0.0
    held: int = 0  # frame periods in which the last frame had to stand
    events: dict[str, int] = field(default_factory=dict)  # by their end
    resident_bytes: list[int] = field(default_factory=list)  # at first, settled, at last; empty where nothing tells

    def take(self, frame: Frame, before: Frame, gap_s: float) -> None:
        """One more frame, so long after the one before."""
        self.frames += 1
        self.missed += frame.number - before.number - 1
        self.longest_gap_ms = max(self.longest_gap_ms, gap_s * 1e3)
        self.seconds += gap_s

    @property
    def growth(self) -> float | None:
        """Of the memory, as a part of what it was once settled."""
        return self.resident_bytes[-1] / self.resident_bytes[1] - 1 if len(self.resident_bytes) > 2 else None

    @property
    def broken(self) -> list[str]:
        """What does not hold."""
        found = {
            f"{self.missed} frames were missed": self.missed > 0,
            f"the picture stood for {self.longest_gap_ms:.0f} ms": self.longest_gap_ms > LONGEST_GAP_MS,
            f"{self.events.get('lost', 0)} events have no final receipt": self.events.get("lost", 0) > 0,
            f"the memory grew by {self.growth or 0:.1%}": self.growth is not None and self.growth > MEMORY_GROWTH,
        }
        return [what for what, is_so in found.items() if is_so]


def demo(model: str, threads: int | None, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Run the demo for so many seconds after its first frame; what was counted, and `ok`: no frame was missed, the
    picture never stood for more than a second, every event has its final receipt, the memory grew by a tenth at most.
    `broken` names what of that does not hold. seed: of the events. Raises SettingsError, ClientError."""
    start = time.monotonic()
    with _process(model, threads) as (process, endpoint), Client(endpoint, name="everscene bench") as world:
        count = _watch(world, process.pid, start, seconds, random.Random(seed))
        info = world.info
    about = {"model": info.model, "device": info.device, "size": [info.width, info.height], "steps": info.steps}
    return {
        "ok": not count.broken,
        "broken": count.broken,
        "first_frame_s": count.first_frame_s,
        "seconds": count.seconds,
        "frames": count.frames,
        "missed": count.missed,
        "fps": (count.frames - 1) / count.seconds if count.seconds else 0.0,
        "longest_gap_ms": count.longest_gap_ms,
        "held": count.held,
        "events": count.events,
        "resident_bytes": count.resident_bytes,
        "resident_growth": count.growth,
        **about,
    }


def _watch(world: Client, process: int, start: float, seconds: float, chance: random.Random) -> Count:
    frames = world.frames(in_order=True, timeout=START_S)
    before = next(frames)
    begun = now = time.monotonic()
    held = world.stats().held
    count = Count(first_frame_s=begun - start, frames=1)
    _note_memory(count, process)
    names = [event.name for event in world.scene.events]
    receipts: list[Receipt] = []
    while now - begun < seconds:
        frame = next(frames)
        last, now = now, time.monotonic()
        count.take(frame, before, now - last)
        before = frame
        if now - begun >= EVENT_EVERY_S * (len(receipts) + 1):
            receipts.append(world.event(chance.choice(names)))
        if len(count.resident_bytes) == 1 and now - begun >= min(SETTLE_S, seconds / 2):
            _note_memory(count, process)
    _note_memory(count, process)
    count.held = world.stats().held - held
    count.events = dict(Counter(map(_end_of, receipts)))
    return count


def _note_memory(count: Count, process: int) -> None:
    size = resident_bytes(process)
    if size is not None:
        count.resident_bytes.append(size)


def _end_of(receipt: Receipt) -> str:
    """Waits for a receipt's end, and names it."""
    try:
        receipt.wait("applied", RECEIPT_S)
        return "applied"
    except Superseded:
        return "superseded"
    except Rejected:
        return "rejected"
    except ClientError:
        return "lost"


@contextmanager
def _process(model: str, threads: int | None) -> "Iterator[tuple[subprocess.Popen[bytes], str]]":
    """The demo and its control address, until the end of the context. Raises SettingsError when it does not start."""
    ports = ["--control-port", "0", "--frames-port", "0", "--viewer-port", "0"]
    command = ["demo", "--model", model, "--no-browser", *ports]
    if threads is not None:
        command += ["--threads", str(threads)]
    with TemporaryDirectory() as folder:
        process = start_python(command, {"XDG_STATE_HOME": folder, "LOCALAPPDATA": folder})
        try:
            said: queue.SimpleQueue[str] = queue.SimpleQueue()
            Thread(target=_listen, args=(process, said), name="everscene-demo", daemon=True).start()
            yield process, _endpoint(said)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listen(process: "subprocess.Popen[bytes]", said: "queue.SimpleQueue[str]") -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            said.put(line.decode(errors="replace"))
    said.put("")


def _endpoint(said: "queue.SimpleQueue[str]") -> str:
    """The control address among what the demo says as it starts."""
    end = time.monotonic() + START_S
    while True:
        try:
            line = said.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise SettingsError(f"the demo has not started after {START_S:g} s") from None
        if not line:
            raise SettingsError("the demo ended before it had started")
        name, _, place = line.partition(" ")
        if name == "control":
            return place.strip()
