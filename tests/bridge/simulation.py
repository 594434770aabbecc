"""A timeline run on a simulated clock: an engine with set times, no threads, no sleeping, exact to the nanosecond."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from everscene_bridge.chunk_record import DueFrame, Work
from everscene_bridge.errors import InputRejected
from everscene_bridge.inputs import Action, Input
from everscene_bridge.ledger import Outcome
from everscene_bridge.scene import Scene, parse_scene
from everscene_bridge.timeline import Timeline, TimelineSettings
from everscene_engine.errors import PromptRejected
from everscene_engine.port import EngineInfo, FrameBlock, GeneratedChunk, goal_of

MS = 1_000_000
SCENE = """
name: test
template: "{place} {time} {weather} {moment}"
slots: {place: harbour, time: day, weather: clear, moment: ""}
events:
  storm: {set: {weather: storm}}
  rain: {set: {weather: rain}}
  night: {set: {time: night}}
  storm_night: {set: {weather: storm, time: night}}
  flash: {set: {moment: flash}, for: 1s}
  drizzle: {set: {weather: drizzle}, for: 1s}
  patient: {set: {weather: fog}, when: chunk}
  elsewhere: {set: {place: city}, transition: cut}
  anew: {set: {place: desert}, transition: reset}
"""


@dataclass
class Shown:
    """A published frame."""

    number: int
    at_ns: int
    prompt: str
    order: int
    chunk: int
    index: int
    content: int  # index in the engine's stream
    flags: int


@dataclass
class Simulation:
    """Times in ms. Frames are one pixel; it is all about when."""

    steer_ms: float = 0  # a prompt into a conditioning
    recache_ms: float = 20
    forward_ms: float = 20
    forwards: int = 5
    clean_ms: float = 0  # after a chunk was handed on
    decode_ms: float = 10
    in_parts: bool = True  # frames of a latent frame are ready before those of the next
    fps: float = 16
    latent_frames: int = 2
    frames_per_latent: int = 4
    settings: TimelineSettings = field(default_factory=TimelineSettings)
    scene: Scene = field(default_factory=lambda: parse_scene(SCENE))
    bad_words: set[str] = field(default_factory=set)
    bad_prompts: set[str] = field(default_factory=set)
    fail: Callable[[Work], bool] = lambda work: False  # whether generating this fails at its end
    back_off_ms: float = 500

    def __post_init__(self) -> None:
        info = EngineInfo(
            "sim", 1, 1, self.fps, self.latent_frames, self.frames_per_latent, steps=1, seed=0, device="none"
        )
        self.now = 0
        self.timeline = Timeline(info, self.scene, self.check, self.settings)
        self.shown: list[Shown] = []
        self.outcomes: list[Outcome] = []
        self.accepted: list[Input] = []
        self.rejected: list[InputRejected] = []
        self.work_log: list[tuple[int, Work]] = []
        self.rollbacks: list[tuple[int, int]] = []
        self._count = itertools.count()
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._engine_busy = False
        self._engine_serial = 0
        self._latent = 0
        self._prompt = ""

    def check(self, prompt: str) -> None:
        if prompt in self.bad_prompts:
            raise PromptRejected(f"no such prompt: {prompt!r}")
        for word in prompt.split():
            if word in self.bad_words:
                raise PromptRejected(f"no such word: {word!r}")

    # Script

    def at(self, ms: float, action: Callable[[], None]) -> None:
        """Call this at that time."""
        heapq.heappush(self._heap, (round(ms * MS), next(self._count), action))

    def event(self, ms: float, name: str, when: str | None = None) -> None:
        """Send an event of the scene at that time."""
        self.at(ms, lambda: self._accept(self.scene.action(name, {}, when)))  # type: ignore[arg-type]

    def prompt(self, ms: float, text: str) -> None:
        """Send a prompt at that time."""
        self.at(ms, lambda: self._accept(Action(prompt=text)))

    def _accept(self, action: Action) -> None:
        try:
            self.accepted.append(self.timeline.ledger.accept(action, self.now, 1, len(self.accepted) + 1))
        except InputRejected as why:
            self.rejected.append(why)

    # Running

    def run(self, until_ms: float) -> "Simulation":
        """Go on to that time."""
        end = round(until_ms * MS)
        while True:
            self._settle_now()
            times = [self._heap[0][0]] if self._heap else []
            due = self.timeline.next_due_ns()
            if due is not None:
                times.append(max(due, self.now))
            wake = None if self._engine_busy else self.timeline.next_work_ns(self.now)
            if wake is not None:
                times.append(max(wake, self.now + 1))
            following = min(times, default=end)
            if following >= end:
                self.now = end
                return self
            self.now = max(self.now, following)
            while self._heap and self._heap[0][0] <= self.now:
                heapq.heappop(self._heap)[2]()

    def _settle_now(self) -> None:
        """Everything that happens at this very time."""
        moved = True
        while moved:
            moved = False
            due = self.timeline.take_due(self.now)
            if due is not None:
                self._publish(due)
                moved = True
            if not self.timeline.decoding:
                chunk = self.timeline.next_decode(self.now)
                if chunk is not None:
                    self._decode(chunk)
                    moved = True
            if not self._engine_busy:
                work = self.timeline.next_work(self.now)
                if work is not None:
                    self._generate(work)
                    moved = True
            self.outcomes += self.timeline.ledger.outcomes
            self.timeline.ledger.outcomes = []

    def _publish(self, due: DueFrame) -> None:
        content = due.ready.latent_frame * self.frames_per_latent + due.ready.index % self.frames_per_latent
        record = due.ready.record
        self.shown.append(
            Shown(due.number, self.now, record.prompt, record.order, record.number, due.ready.index, content, due.flags)
        )
        self.timeline.published(due, self.now)

    def _decode(self, chunk: GeneratedChunk) -> None:
        serial = self._engine_serial

        def frames(first: int, latents: int) -> FrameBlock:
            numbers = range(first, first + latents)
            sources = tuple(number for number in numbers for _ in range(self.frames_per_latent))
            return FrameBlock(np.zeros((len(sources), 1, 1, 4), np.uint8), sources)

        def part(number: int) -> None:
            if serial == self._engine_serial:
                self.timeline.decoded_part(frames(number, 1), self.now)

        def done() -> None:
            if serial == self._engine_serial:
                self.timeline.decoded(frames(chunk.first_latent_frame, self.latent_frames), self.now)

        start = self.now / MS
        for place in range(self.latent_frames if self.in_parts else 0):
            at = start + self.decode_ms * (place + 1) / self.latent_frames
            self.at(at, lambda number=chunk.first_latent_frame + place: part(number))
        self.at(start + self.decode_ms, done)

    def _generate(self, work: Work) -> None:
        self.work_log.append((self.now, work))
        self._engine_busy = True
        if work.rollback is not None:
            assert work.rollback <= self._latent
            self.rollbacks.append((self.now, work.rollback))
            self._latent = work.rollback
        recache, steered_ms = 0.0, 0.0
        if work.steer is not None:
            try:
                self.check(goal_of(work.steer[0]))
            except PromptRejected as why:
                self._engine_busy = False
                assert self.timeline.refused(str(why))
                return
            self._prompt = goal_of(work.steer[0])
            recache, steered_ms = self.recache_ms if work.steer[1] == "recache" else 0.0, self.steer_ms
        steps = [recache] * (recache > 0) + [self.forward_ms] * self.forwards

        def go_on() -> None:
            self.timeline.steered(self.now)
            self._forward(work, steps, recache)

        if steered_ms:
            self.at(self.now / MS + steered_ms, go_on)
        else:
            go_on()

    def _forward(self, work: Work, steps: list[float], recache: float) -> None:
        if self.timeline.must_drop(self.now):
            self._engine_busy = False
            self.timeline.generated(None, self.now)
        elif steps:
            self.at(self.now / MS + steps[0], lambda: self._forward(work, steps[1:], recache))
        elif self.fail(work):
            self._engine_busy = True  # until it is made anew
            self._engine_serial += 1
            self.timeline.failed("it broke")
            self.at(self.now / MS + self.back_off_ms, self._restart)
        else:
            denoise = self.forward_ms * self.forwards
            seconds = {"recache": recache / 1e3, "denoise": denoise / 1e3, "clean": 0.0}
            chunk = GeneratedChunk(0, self._latent, self.latent_frames, self._prompt, seconds)
            self._latent += self.latent_frames
            self.timeline.generated(chunk, self.now)
            if self.clean_ms:
                self.at(self.now / MS + self.clean_ms, self._cleaned)
            else:
                self._cleaned()

    def _cleaned(self) -> None:
        self._engine_busy = False
        self.timeline.cleaned(round(self.clean_ms * MS))

    def _restart(self) -> None:
        self._latent = 0
        self._prompt = ""
        self._engine_busy = False
        self.timeline.restarted()

    # Looking

    def outcome(self, order: int) -> Outcome:
        """The one outcome of an input."""
        found = [one for one in self.outcomes if one.input.order == order]
        assert len(found) == 1, found
        return found[0]

    def first_with(self, word: str) -> Shown:
        """The first frame with this word in its prompt."""
        return next(frame for frame in self.shown if word in frame.prompt.split())

    @property
    def gaps_ms(self) -> list[float]:
        """From frame to frame."""
        return [(b.at_ns - a.at_ns) / MS for a, b in itertools.pairwise(self.shown)]
