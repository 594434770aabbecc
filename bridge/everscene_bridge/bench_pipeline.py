"""`everscene bench pipeline`: what engine, decoder and publisher did when, as a timeline picture.

A server of its own runs the model; an engine that notes the time around each call stands between them. Halfway an
event is sent, so that a recache is seen too. Times are the server's clock, from the beginning of the first chunk that
is drawn.
"""

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from everscene_bridge.bench_server import START_S, WARM_CHUNKS
from everscene_bridge.client import Client
from everscene_bridge.clock import SystemClock
from everscene_bridge.errors import SettingsError
from everscene_bridge.scene import Scene
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings
from everscene_bridge.stats import Distribution
from everscene_engine.port import EngineInfo, EnginePort, FrameBlock, GeneratedChunk

STAGES = ("recache", "denoise", "clean")
ROWS = {"generate": (*STAGES, "settle", "dropped"), "decode": ("decode",), "publish": ("publish",)}
COLOURS = {
    "recache": "#c0563f",
    "denoise": "#3c6ea5",
    "clean": "#7fa7cf",
    "settle": "#b58bc2",
    "dropped": "#9a9a9a",
    "decode": "#4f9a6a",
    "publish": "#333333",
}
WIDTH, ROW, LEFT, TOP = 1600, 56, 96, 40


@dataclass(frozen=True)
class Span:
    """Something was done from one time to another, ms. chunk: number of the engine's chunk, -1 = none."""

    stage: str
    chunk: int
    start_ms: float
    end_ms: float


class TimedEngine:
    """An engine that notes when `generate`, `settle` and `decode` ran. Everything else is the engine's own."""

    def __init__(self, engine: EnginePort, now_ns: Callable[[], int]) -> None:
        self._engine = engine
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self.spans: list[Span] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def _note(self, stage: str, chunk: int, start_ns: float, end_ns: float) -> None:
        with self._lock:
            self.spans.append(Span(stage, chunk, start_ns / 1e6, end_ns / 1e6))

    def generate(
        self,
        interrupted: Callable[[], bool],
        finished: Callable[[GeneratedChunk], None],
        hurried: Callable[[], bool],
    ) -> GeneratedChunk | None:
        """As the engine does it, divided into the stages that the chunk says it took. They end with the call; but an
        engine that does not say when a chunk is `finished` makes its clean pass afterwards."""
        handed_on: list[GeneratedChunk] = []

        def hand_on(chunk: GeneratedChunk) -> None:
            handed_on.append(chunk)
            finished(chunk)

        start_ns = self._now_ns()
        chunk = self._engine.generate(interrupted, hand_on, hurried)
        end: float = self._now_ns()
        if chunk is None:
            self._note("dropped", -1, start_ns, end)
            return None
        if not handed_on:
            end += chunk.seconds.get("clean", 0.0) * 1e9
        for stage in reversed(STAGES):
            begin = end - chunk.seconds.get(stage, 0.0) * 1e9
            if begin < end:
                self._note(stage, chunk.number, begin, end)
            end = begin
        return chunk

    def settle(self) -> bool:
        """As the engine does it."""
        start_ns = self._now_ns()
        did = self._engine.settle()
        self._note("settle", -1, start_ns, self._now_ns())
        return did

    def decode(self, chunk: GeneratedChunk, ready: Callable[[FrameBlock], None] = lambda part: None) -> FrameBlock:
        """As the engine does it."""
        start_ns = self._now_ns()
        block = self._engine.decode(chunk, ready)
        self._note("decode", chunk.number, start_ns, self._now_ns())
        return block


def pipeline(load: Callable[[], EnginePort], scene: Scene, chunks: int) -> dict[str, Any]:
    """Run until `chunks` chunks (2 and up) are shown after some to get warm, with an event halfway.

    `spans`: stage, chunk, start_ms, end_ms. `overlap`: the part of all decoding time in which a chunk was being
    generated, 0 to 1. `generating` and `decoding`: the part of the time that each of the two was at work.
    `frame_gap_ms`: between frames shown; p50, p95, max.
    """
    names = [event.name for event in scene.describe().events if event.for_s is None]
    if not names:
        raise SettingsError("the scene needs an event that lasts")
    clock = SystemClock()
    engine = TimedEngine(load(), clock.now_ns)
    settings = ServeSettings(control_port=0, frames_port=0, autosave_s=0.0)
    published: list[float] = []
    with (
        Server(engine, load, scene, settings, clock) as server,
        Client(server.endpoint, name="everscene bench") as world,
    ):
        receipt = None
        world.event(names[0])  # so that the one that is drawn is not the first
        for frame in world.frames(in_order=True, timeout=START_S):
            published.append(frame.stamps.published / 1e6)
            if receipt is None and frame.chunk >= WARM_CHUNKS + chunks // 2:
                receipt = world.event(names[-1])
            if receipt is not None and receipt.done and frame.chunk >= WARM_CHUNKS + chunks:
                break
    shown = [Span("publish", -1, at, at) for at in published]
    return _result(engine.spans + shown, engine.info)


def _result(spans: list[Span], info: EngineInfo) -> dict[str, Any]:
    first = min((span.start_ms for span in spans if span.chunk >= WARM_CHUNKS), default=0.0)
    end = max(span.end_ms for span in spans if span.stage == "publish")
    kept = [
        Span(span.stage, span.chunk, span.start_ms - first, span.end_ms - first)
        for span in sorted(spans, key=lambda span: span.start_ms)
        if span.start_ms >= first and span.end_ms <= end
    ]
    decoding = [(span.start_ms, span.end_ms) for span in kept if span.stage == "decode"]
    generating = [(span.start_ms, span.end_ms) for span in kept if span.stage in ROWS["generate"]]
    decode_ms = sum(b - a for a, b in decoding)
    shown = [span.start_ms for span in kept if span.stage == "publish"]
    gaps = Distribution()
    for before, after in pairwise(shown):
        gaps.add(after - before)
    gap = gaps.message()
    both_ms = sum(max(0.0, min(b, d) - max(a, c)) for a, b in decoding for c, d in generating)
    return {
        "model": info.model,
        "device": info.device,
        "steps": info.steps,
        "size": [info.width, info.height],
        "fps": info.fps,
        "overlap": both_ms / decode_ms if decode_ms else 0.0,
        "generating": sum(b - a for a, b in generating) / (end - first),
        "decoding": decode_ms / (end - first),
        "frame_gap_ms": {"p50": gap.p50, "p95": gap.p95, "max": gap.max},
        "spans": [asdict(span) for span in kept],
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """The timeline as a PNG (or whatever the file's name ends in). Raises SettingsError if it cannot be written."""
    spans = [Span(**span) for span in result["spans"]]
    end = max(span.end_ms for span in spans)
    scale = (WIDTH - LEFT - 20) / end
    image = Image.new("RGB", (WIDTH, TOP + ROW * len(ROWS) + 56), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(15)
    words = f"{result['model']} on {result['device']}, {result['steps']} steps: decode overlaps generation for"
    pen.text((LEFT, 10), f"{words} {result['overlap']:.0%} of its time", "black", font)
    for row, (name, stages) in enumerate(ROWS.items()):
        top = TOP + row * ROW
        pen.text((8, top + 14), name, "black", font)
        for span in (span for span in spans if span.stage in stages):
            left, right = LEFT + span.start_ms * scale, LEFT + span.end_ms * scale
            pen.rectangle((left, top, max(left, right - 1), top + ROW - 12), COLOURS[span.stage])
            if span.stage in ("denoise", "decode") and right - left > 26:
                pen.text((left + 4, top + 12), str(span.chunk), "white", font)
    bottom = TOP + len(ROWS) * ROW
    step = next(step for step in (50, 100, 250, 500, 1000, 5000, 10000) if end / step <= 16)
    for tick in range(0, int(end) + 1, step):
        pen.line((LEFT + tick * scale, TOP - 4, LEFT + tick * scale, bottom), "#cccccc")
        if LEFT + tick * scale + 60 < WIDTH:
            pen.text((LEFT + tick * scale + 3, bottom), f"{tick} ms", "#666666", font)
    left = LEFT
    for stage, colour in COLOURS.items():
        pen.rectangle((left, bottom + 28, left + 14, bottom + 42), colour)
        pen.text((left + 20, bottom + 26), stage, "black", font)
        left += 110
    try:
        image.save(path)
    except (OSError, ValueError) as problem:
        raise SettingsError(f"the picture {path} cannot be written: {problem}") from None
