"""A world for the viewer's tests: the calls of a Client without sockets, and pictures that numpy paints."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from everscene_bridge.client_frames import Frame
from everscene_bridge.errors import Disconnected, Rejected, RequestFailed
from everscene_bridge.messages import (
    EventDescription,
    Notice,
    ParamDescription,
    ReceiptMessage,
    SceneDescription,
    Stamps,
    Stats,
    Welcome,
)
from everscene_bridge.receipt import Receipt
from everscene_bridge.viewer.relay import Relay

WIDTH, HEIGHT, FPS = 256, 144, 16
SKIES = {"day": (0.45, 0.65, 0.9), "night": (0.03, 0.05, 0.15), "dawn": (0.95, 0.6, 0.45), "dusk": (0.5, 0.3, 0.5)}
GROUPS = {
    "time": ["dawn", "day", "dusk", "night"],
    "weather": ["calm", "rain", "storm", "snow", "fog"],
    "setting": ["harbour", "forest", "desert", "mountains", "city"],
    "moment": ["lightning", "fireworks", "meteor", "birds"],
}
WITH_INTENSITY = {"rain", "storm", "snow", "fog"}


def scene() -> SceneDescription:
    intensity = ParamDescription(name="intensity", label="intensity", type="number", min=0, max=1, default=0.7)
    events = [
        EventDescription(
            name=name,
            label=name.capitalize(),
            group=group,
            params=[intensity] if name in WITH_INTENSITY else [],
        )
        for group, names in GROUPS.items()
        for name in names
    ]
    return SceneDescription(name="harbour story", events=events)


def welcome() -> Welcome:
    return Welcome(
        protocol=[1, 0],
        epoch=7,
        server="0.1.0",
        model="fake",
        width=WIDTH,
        height=HEIGHT,
        fps=FPS,
        frames_per_chunk=8,
        steps=4,
        seed=1,
        device="cpu",
        frames_endpoint="tcp://127.0.0.1:1",
        scene=scene(),
        prompt="a small boat in a harbour at day, clear sky",
        frame=0,
        state="live",
        now_ns=0,
    )


@dataclass
class FakeWorld:
    """Set `silent` to stop the frames, `gone` to lose the server."""

    delay_s: float = 0.1  # from an event to the frame that shows it
    info: Welcome = field(default_factory=welcome)
    client_id: int = 11
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    state: str = "live"

    def __post_init__(self) -> None:
        self.closed = threading.Event()
        self.silent = threading.Event()
        self.gone = threading.Event()
        self.time = "day"
        self.weather = "clear sky"
        self.setting = "harbour"
        self.moment = ""
        self.number = 0
        self.order = 0
        self.latencies: list[float] = []
        self.shown: list[int] = []  # frame numbers that a page told it drew
        self.on_notice: Callable[[Notice], None] = lambda notice: None

    def relay(self) -> Relay:
        """A relay that this world is behind."""

        def connect(on_notice: Callable[[Notice], None]) -> "FakeWorld":
            self.on_notice = on_notice
            return self

        return Relay(connect)

    @property
    def scene(self) -> SceneDescription:
        return self.info.scene

    def prompt_text(self) -> str:
        return f"a small boat in a {self.setting} at {self.time}, {self.weather}{self.moment}"

    def send_event(self, name: str, params: Mapping[str, Any], when: None = None) -> Receipt:
        self.asked.append(("event", name, dict(params)))
        if name not in {event.name for event in self.scene.events}:
            return self.answer(Rejected("unknown_event", f"the scene has no event {name!r}"))
        if name in SKIES:
            self.time = name
        elif name == "calm":
            self.weather = "clear sky"
        elif name in GROUPS["weather"]:
            self.weather = ("light " if params.get("intensity", 1) < 0.35 else "") + name
        elif name in GROUPS["setting"]:
            self.setting = name
        else:
            self.moment = f", {name}"
        return self.answer()

    def slots(self, words: Mapping[str, str], transition: Any = None, when: Any = None, **how: Any) -> Receipt:
        self.asked.append(("slots", dict(words), transition, when, how))
        return self.answer()

    def prompt(self, text: str, transition: Any = None, when: Any = None, **how: Any) -> Receipt:
        self.asked.append(("prompt", text))
        unknown = [word for word in text.split() if word.startswith("x")]
        if unknown:
            return self.answer(Rejected("prompt", f"no such word: {unknown[0]!r}; did you mean 'boat'?"))
        self.time = next((time for time in SKIES if time in text), self.time)
        return self.answer()

    def answer(self, refusal: Rejected | None = None) -> Receipt:
        """A receipt that is accepted now and applied after the delay, or refused."""
        receipt = Receipt(len(self.asked), "it")
        if refusal is not None:
            receipt.fail(refusal)
            return receipt
        order = self.order + 1
        receipt.take(ReceiptMessage(id=receipt.id, state="accepted", order=order))

        def apply() -> None:
            self.order = order
            self.latencies.append(1000 * self.delay_s)
            receipt.take(
                ReceiptMessage(
                    id=receipt.id,
                    state="applied",
                    order=order,
                    frame=self.number + 1,
                    chunk=1,
                    latency_ms=1000 * self.delay_s,
                    prompt=self.prompt_text(),
                )
            )

        timer = threading.Timer(self.delay_s, apply)
        timer.daemon = True
        timer.start()
        return receipt

    def frames(self) -> Iterator[Frame]:
        while not self.closed.wait(1 / FPS):
            if not self.silent.is_set() and not self.gone.is_set():
                self.number += 1
                yield Frame(
                    pixels=self.paint(self.number / FPS),
                    number=self.number,
                    pts=self.number / FPS,
                    prompt=self.prompt_text(),
                    stamps=Stamps(),
                    order=self.order,
                    chunk=self.number // 8,
                    index=self.number % 8,
                    flags=0,
                )

    def seen(self, frame: Frame) -> None:
        self.shown.append(frame.number)

    def command(self, name: str, /, **args: Any) -> dict[str, Any]:
        self.asked.append((name, args))
        if name == "restore":
            raise RequestFailed("no_snapshot", "there is no snapshot of this name")
        if name in ("pause", "resume"):
            self.state = "paused" if name == "pause" else "live"
        return {}

    def stats(self) -> Stats:
        if self.gone.is_set():
            raise Disconnected("no server answers at tcp://127.0.0.1:1")
        ordered = sorted(self.latencies) or [0.0]
        times = {
            "n": len(self.latencies),
            "p50": ordered[len(ordered) // 2],
            "p95": ordered[-1],
            "max": ordered[-1],
        }
        return Stats.model_validate(
            {
                **{name: 0 for name in Stats.model_fields if name not in ("type", "id")},
                "epoch": 7,
                "uptime_s": 12.0,
                "state": self.state,
                "frame": self.number,
                "frames": self.number,
                "prompt": self.prompt_text(),
                "fps": 16.0,
                "content_fps": 16.0,
                "generation_fps": 21.0,
                "inputs": {"accepted": 3, "applied": 2, "superseded": 0, "rejected": 1, "waiting": 0},
                "latency_ms": times,
                "seen_ms": times,
                "stages_ms": {"denoise": times},
                "shifted_ms": 40.0,
                "lead_ms": 250.0,
                "held": 2,
                "clients": 1,
            }
        )

    def close(self) -> None:
        self.closed.set()

    def paint(self, seconds: float) -> np.ndarray:
        """A sky, three rows of hills, water, a boat that crosses it and what the weather adds: [H, W, 4] uint8."""
        x = np.arange(WIDTH)
        y = np.arange(HEIGHT)[:, None] / HEIGHT
        sky = np.array(SKIES[self.time])
        picture = sky * (0.55 + 0.6 * y[..., None]) * np.ones((1, WIDTH, 1))
        for row in range(3):
            ridge = 0.5 + 0.07 * row + 0.06 * np.sin((x + seconds * (row + 1) * 4) / (31 - 7 * row) + row)
            picture = np.where((y > ridge)[..., None], sky * (0.62 - 0.16 * row), picture)
        waves = 0.9 + 0.12 * np.sin(x / 5 + 60 * y + seconds * 2)
        picture = np.where((y > 0.72)[..., None], (sky * 0.5 + [0, 0.06, 0.1]) * waves[..., None], picture)
        at = (seconds * 9) % (WIDTH + 40) - 20
        hull = (abs(x - at) < 14 - 60 * (y - 0.72)) & (y > 0.72) & (y < 0.79)
        sail = (x - at > -1) & (x - at < 34 * (y - 0.5)) & (y > 0.5) & (y < 0.71)
        picture = np.where(hull[..., None], [0.35, 0.16, 0.1], picture)
        picture = np.where(sail[..., None], [0.95, 0.92, 0.85], picture)
        if self.weather != "clear sky":
            drops = np.random.default_rng(int(seconds * FPS)).random((HEIGHT, WIDTH)) > 0.97
            picture = np.where(drops[..., None], 0.8, picture * 0.7 + 0.08)
        rgb = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
        return np.dstack([rgb, np.full((HEIGHT, WIDTH), 255, np.uint8)])
