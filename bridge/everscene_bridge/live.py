"""The threads that keep the stream going: one generates, one decodes. The timeline says what; here is only who and
when.

Everything that the timeline knows is guarded by one condition, `changed`. It is held for bookkeeping only, never
while an engine works, so the sockets always get their answers.

An engine that raises is closed and made anew, sooner the first time and later each time after. The frames that it
had decoded are still shown, the last of them stands until the new one gives a frame. It goes on from the latest
automatic snapshot; each of these serves once, so that one at fault does not bring the fault back for ever.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from everscene_bridge.back_off import BackOff
from everscene_bridge.chunk_record import DueFrame, Work
from everscene_bridge.clock import Clock
from everscene_bridge.errors import CommandFailed, SceneError
from everscene_bridge.ledger import Outcome
from everscene_bridge.pacing import Recent
from everscene_bridge.protocol import NS
from everscene_bridge.run_log import RunLog
from everscene_bridge.scene import Scene
from everscene_bridge.snapshots import Snapshot
from everscene_bridge.stats import Meter
from everscene_bridge.timeline import Timeline, TimelineSettings
from everscene_engine.errors import ConfigError, PromptRejected
from everscene_engine.port import EnginePort, FrameBlock, GeneratedChunk

log = logging.getLogger(__name__)

AUTOSAVES_KEPT = 3
SETTLE_ESTIMATE = 8
PUBLISHED_WITHIN_S = 5.0
"""Far longer than the copy of a picture takes: whoever waits for one that never comes goes on at last."""
NOT_NOW = "no frame of this world was shown yet, or the engine is being made anew: try again"


class Settle:
    """Idle time to be used for what a recache has left for later."""


@dataclass(frozen=True)
class Task:
    """Something to do with the engine between two chunks, while nothing is decoded."""

    act: Callable[[EnginePort], None]  # on the engine's thread
    give_up: Callable[[CommandFailed], None]  # told why, in place of `act` or when it raised


class LiveStream:
    """Runs an engine along a timeline."""

    def __init__(
        self,
        engine: EnginePort,
        rebuild: Callable[[], EnginePort],
        scene: Scene,
        clock: Clock,
        tell: Callable[[list[Outcome]], None],
        settings: TimelineSettings | None = None,
        autosave_s: float = 0.0,
        run_log: RunLog | None = None,
        keep: Callable[[Snapshot], None] = lambda snapshot: None,
    ) -> None:
        """`rebuild` makes a new engine after a failure. `tell` takes the outcomes of inputs; any thread calls it.

        autosave_s: seconds from one automatic snapshot, kept in memory, to the next; 0: none are taken. keep: takes
        each of them on the engine's thread, which it must not hold up.
        """
        self.changed = threading.Condition()
        self.clock = clock
        self.meter = Meter()
        self.timeline = Timeline(engine.info, scene, self._check, settings)
        self._engine = engine
        self._engine_closed = False
        self._serial = 0  # counts engines: what an old one still hands in is not taken
        self._rebuild = rebuild
        self._tell = tell
        self.run_log = run_log
        self._keep = keep
        self._memory: NDArray[np.uint8] | None = None  # where pictures are put
        self._begins_with: tuple[NDArray[np.uint8] | None, ...] = ()  # as a client said, if one did
        self._settling = Recent(SETTLE_ESTIMATE)
        self._tasks: deque[Task] = deque()
        self._in_task = False
        self._autosave_ns = round(autosave_s * NS)
        self._next_autosave_ns = self.clock.now_ns() + self._autosave_ns
        self._autosaves: deque[Snapshot] = deque(maxlen=AUTOSAVES_KEPT)
        self._stopping = threading.Event()
        self._back_off = BackOff()
        self._threads = [
            threading.Thread(target=self._generate_on, name="everscene-engine", daemon=True),
            threading.Thread(target=self._decode_on, name="everscene-decoder", daemon=True),
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads, after the forward and the decode that are under way, and close the engine."""
        self._stopping.set()
        with self.changed:
            self.changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        with self.changed:
            self._drop_tasks(CommandFailed("closing", "the server stops"))
        self._close_engine()

    def hand_out(self) -> None:
        """Tell the outcomes that have come up. Called with `changed` held."""
        outcomes, self.timeline.ledger.outcomes = self.timeline.ledger.outcomes, []
        if outcomes:
            self._tell(outcomes)

    def _check(self, prompt: str) -> None:
        self._engine.check(prompt)

    def check_scene(self, scene: Scene) -> None:
        """Raise SceneError when the engine cannot take the scene's first prompt."""
        try:
            self._engine.check(scene.compose(scene.initial))
        except PromptRejected as why:
            raise SceneError(f"the engine cannot take the scene's first prompt: {why}") from None

    # Generating

    def _generate_on(self) -> None:
        while not self._stopping.is_set():
            if self.timeline.engine_down:
                self._restart()
                continue
            work = self._await_work()
            if isinstance(work, Work):
                self._generate(work)
            elif isinstance(work, Settle):
                self._settle()
            elif work is not None:
                self._run(work)

    def _await_work(self) -> Work | Task | Settle | None:
        """The next work or task; None when there is something else to do."""
        with self.changed:
            while not self._stopping.is_set() and not self.timeline.engine_down:
                now_ns = self.clock.now_ns()
                self._autosave_if_due(now_ns)
                if self._tasks and not self.timeline.decoding:
                    self._in_task = True
                    return self._tasks.popleft()
                work = None if self._tasks else self.timeline.next_work(now_ns)
                if work is not None:
                    self.hand_out()
                    return work
                wake_ns = None if self._tasks else self.timeline.next_work_ns(now_ns)
                if wake_ns is not None and wake_ns - now_ns >= self._settling.longest and self._engine.unsettled:
                    return Settle()
                self.changed.wait(None if wake_ns is None else max(0.0005, (wake_ns - now_ns) / NS))
        return None

    def _generate(self, work: Work) -> None:
        engine, serial = self._engine, self._serial
        handed_on: list[int] = []

        def hand_on(chunk: GeneratedChunk | None) -> None:
            with self.changed:
                if serial != self._serial or self._stopping.is_set():
                    return
                self._log_work(work, "dropped" if chunk is None else "made", chunk)
                handed_on.append(self.clock.now_ns())
                self.timeline.generated(chunk, handed_on[0])
                self.changed.notify_all()

        left_out = False  # the clean pass

        def hurried() -> bool:
            nonlocal left_out
            with self.changed:
                left_out = self._abandoned(serial) or self.timeline.hurried(self.clock.now_ns())
            return left_out

        try:
            if work.rollback is not None:
                engine.rollback(work.rollback)
            if work.steer is not None:
                if work.steer[1] == "reset":
                    self._autosaves.clear()
                engine.steer(*work.steer)
            self._steered(serial)
            chunk = engine.generate(lambda: self._must_drop(serial), hand_on, hurried)
        except PromptRejected as why:
            self._log_work(work, "refused")
            self._refuse(serial, why)
            return
        except Exception as failure:  # noqa: BLE001 — whatever an engine raises, the show goes on
            if not handed_on:
                self._log_work(work, "failed")
            self._fail(serial, failure)
            return
        if not handed_on:
            hand_on(chunk)
        if left_out and self.run_log is not None:
            self.run_log.write("unclean", number=work.number)
        with self.changed:
            if chunk is not None and serial == self._serial and handed_on:
                if not left_out:
                    self.timeline.cleaned(self.clock.now_ns() - handed_on[0])
                self._note(chunk)

    def _settle(self) -> None:
        engine, serial = self._engine, self._serial
        start_ns = self.clock.now_ns()
        try:
            engine.settle()
        except Exception as failure:  # noqa: BLE001 — as above
            self._fail(serial, failure)
            return
        self._settling.add(self.clock.now_ns() - start_ns)
        if self.run_log is not None:
            self.run_log.write("settle")

    def _log_work(self, work: Work, outcome: str, chunk: GeneratedChunk | None = None) -> None:
        if self.run_log is not None:
            self.run_log.write(
                "work",
                number=work.number,
                latent_frame=None if chunk is None else chunk.first_latent_frame,
                rollback=work.rollback,
                steer=work.steer,
                inputs=work.orders,
                outcome=outcome,
            )

    def _refuse(self, serial: int, why: PromptRejected) -> None:
        with self.changed:
            if serial != self._serial:
                return
            log.warning("the engine refused the prompt that was accepted before: %s", why)
            goes_on = self.timeline.refused(str(why))
            self.hand_out()
        if not goes_on:
            self._fail(serial, why)

    def _steered(self, serial: int) -> None:
        with self.changed:
            if serial == self._serial:
                self.timeline.steered(self.clock.now_ns())

    def _must_drop(self, serial: int) -> bool:
        with self.changed:
            return self._abandoned(serial) or self.timeline.must_drop(self.clock.now_ns())

    def _abandoned(self, serial: int) -> bool:
        """Whether nobody wants what this engine makes any more."""
        return self._stopping.is_set() or serial != self._serial

    def _note(self, chunk: GeneratedChunk) -> None:
        for stage in ("recache", "denoise", "clean"):
            if stage in chunk.seconds and (stage != "recache" or chunk.seconds[stage] > 0):
                self.meter.stages_ms[stage].add(chunk.seconds[stage] * 1e3)
        self._back_off.made_a_chunk()

    # Tasks, and what they can do

    def do(self, act: Callable[[EnginePort], None], give_up: Callable[[CommandFailed], None]) -> None:
        """Have this done on the engine's thread between two chunks; or `give_up` is told why not. Any thread."""
        with self.changed:
            self._tasks.append(Task(act, give_up))
            if self._stopping.is_set():
                self._drop_tasks(CommandFailed("closing", "the server stops"))
            elif self.timeline.engine_down:
                self._drop_tasks(_being_made_anew(self.timeline.engine_down))
            self.changed.notify_all()

    def _run(self, task: Task) -> None:
        serial = self._serial
        try:
            task.act(self._engine)
        except Exception as failure:  # noqa: BLE001 — whatever an engine raises, the show goes on
            task.give_up(CommandFailed("engine", f"{type(failure).__name__}: {failure}"))
            self._fail(serial, failure)
        with self.changed:
            self._in_task = False
            self.hand_out()
            self.changed.notify_all()

    def _drop_tasks(self, why: CommandFailed) -> None:
        while self._tasks:
            self._tasks.popleft().give_up(why)

    def take_snapshot(self, engine: EnginePort) -> Snapshot:
        """The world as it is on the screen. In a task. Raises CommandFailed, ConfigError if the engine forgot it."""
        with self.changed:
            moment = self.timeline.moment()
            scene = self.timeline.ledger.scene.file.name
        if moment is None:
            raise CommandFailed("not_now", NOT_NOW)
        return Snapshot(engine.snapshot(moment.latent_frame + 1), moment, scene)

    def put_back(self, engine: EnginePort, snapshot: Snapshot, seed: int | None) -> int:
        """Go on from a snapshot; the seed of what follows. In a task, or before `start`. Raises SnapshotError."""
        if seed is not None:
            snapshot = replace(snapshot, engine=snapshot.engine.with_seed(seed))
        engine.restore(snapshot.engine)
        if self.run_log is not None:
            self.run_log.write_snapshot("restore", snapshot)
        self._autosaves.clear()
        self._autosaves.append(snapshot)
        with self.changed:
            self.await_published()
            self.timeline.go_back(snapshot.moment, same_world=False)
        return int(snapshot.engine.facts["seed"])

    def begin_with(self, engine: EnginePort, picture: NDArray[np.uint8] | None) -> None:
        """Let worlds of this engine and those after it begin with a picture. In a task. Raises EngineError."""
        engine.begin_with(picture)
        self._begins_with = (picture,)
        if self.run_log is not None:
            self.run_log.write_picture(picture)

    def rewind(self, engine: EnginePort, seconds: float) -> float:
        """Go back by so much content, or as far as the engine remembers; how far. In a task. Raises CommandFailed."""
        with self._standing_picture():
            with self.changed:
                moment = self.timeline.reachable(seconds, engine.earliest)
            if moment is None:
                raise CommandFailed("not_now", NOT_NOW)
            engine.rollback(moment.latent_frame + 1)
            if self.run_log is not None:
                self.run_log.write("rollback", latent_frame=moment.latent_frame + 1)
            with self.changed:
                went = self.timeline.seconds_since(moment)
                self.timeline.go_back(moment, same_world=True)
        return went

    def branch(self, engine: EnginePort, seed: int) -> int:
        """Go on from the picture on the screen with another seed; that seed. In a task. Raises as `take_snapshot`."""
        with self._standing_picture():
            return self.put_back(engine, self.take_snapshot(engine), seed)

    @contextmanager
    def _standing_picture(self) -> Iterator[None]:
        """The picture on the screen stays the one that it is, so that there is one to go back from."""
        with self.changed:
            self.timeline.stands = True
            self.await_published()
        try:
            yield
        finally:
            with self.changed:
                self.timeline.stands = False
                self.changed.notify_all()

    def await_published(self) -> None:
        """Wait until a frame that was taken is out, as the receipts of its inputs depend on it. `changed` is held."""
        self.changed.wait_for(lambda: not self.timeline.publishing, PUBLISHED_WITHIN_S)

    def _autosave_if_due(self, now_ns: int) -> None:
        if not self._autosave_ns or now_ns < self._next_autosave_ns or self.timeline.moment() is None:
            return
        self._next_autosave_ns = now_ns + self._autosave_ns
        self._tasks.append(Task(self._autosave, lambda why: log.warning("no automatic snapshot: %s", why)))

    def _autosave(self, engine: EnginePort) -> None:
        try:
            snapshot = self.take_snapshot(engine)
        except (CommandFailed, ConfigError) as why:
            log.info("no automatic snapshot this time: %s", why)
            return
        self._autosaves.append(snapshot)
        self._keep(snapshot)

    # Decoding

    def _decode_on(self) -> None:
        while not self._stopping.is_set():
            with self.changed:
                chunk = None if self._in_task else self.timeline.next_decode(self.clock.now_ns())
                if chunk is None:
                    self.changed.wait()
                    continue
                engine, serial = self._engine, self._serial
            start_ns = self.clock.now_ns()
            try:
                block = engine.decode(chunk, partial(self._take_part, serial))
            except Exception as failure:  # noqa: BLE001 — as above
                self._fail(serial, failure)
                continue
            self._take_block(block, serial, start_ns)

    def _take_part(self, serial: int, part: FrameBlock) -> None:
        with self.changed:
            if serial == self._serial:
                self.timeline.decoded_part(part, self.clock.now_ns())
                self.changed.notify_all()

    def _take_block(self, block: FrameBlock, serial: int, start_ns: int) -> None:
        with self.changed:
            if serial != self._serial:
                return
            now_ns = self.clock.now_ns()
            self.meter.stages_ms["decode"].add((now_ns - start_ns) / 1e6)
            self.timeline.decoded(block, now_ns)
            self.changed.notify_all()

    # Trouble

    def _fail(self, serial: int, failure: Exception) -> None:
        with self.changed:
            if serial != self._serial or self._stopping.is_set():
                return
            self._serial += 1
            self._back_off.failed()
            reason = f"{type(failure).__name__}: {failure}"
            log.error("the engine failed: %s", reason, exc_info=failure)
            self._drop_tasks(_being_made_anew(reason))
            self.timeline.failed(f"{reason}; trying again in {self._back_off.seconds:g} s")
            self.hand_out()
            self.changed.notify_all()

    def frame_failed(self, due: DueFrame, failure: Exception) -> None:
        """The pixels of a frame could not be had: their engine has lost its device. The publisher's thread."""
        if not due.old and not self.timeline.engine_down:
            self._fail(self._serial, failure)

    def pin(self, memory: NDArray[np.uint8]) -> None:
        """Pictures will be put into this memory, by this engine and those that come after it."""
        self._memory = memory
        self._engine.pin(memory)

    def unpin(self) -> None:
        """That memory goes away."""
        self._memory = None
        self._engine.unpin()

    def _restart(self) -> None:
        if self._stopping.wait(self._back_off.seconds):
            return
        self._back_off.tried()
        try:
            self._close_engine()
            engine, snapshot = self._made_anew()
        except Exception as failure:
            log.error("the engine could not be made anew: %s", failure, exc_info=failure)
            with self.changed:
                self.timeline.engine_down = f"{failure}; trying again in {self._back_off.seconds:g} s"
                self.changed.notify_all()
            return
        with self.changed:
            self._engine, self._engine_closed = engine, False
            self.timeline.restarted()
            self.changed.notify_all()
        log.info("the engine is back, with %s", "a new world" if snapshot is None else "its last automatic snapshot")

    def _close_engine(self) -> None:
        """Close it, once: a second try would only meet again what the first one left undone."""
        if not self._engine_closed:
            self._engine_closed = True
            self._engine.close()

    def _made_anew(self) -> tuple[EnginePort, Snapshot | None]:
        """A new engine and the snapshot whose world it has. It is closed again when it cannot be made ready."""
        engine = self._rebuild()
        snapshot = self._autosaves.pop() if self._autosaves else None
        try:
            if self._memory is not None:
                engine.pin(self._memory)
            if snapshot is not None:
                engine.restore(snapshot.engine)
            if self.run_log is not None:
                self.run_log.write_snapshot("engine", snapshot)
            for picture in self._begins_with:
                self.begin_with(engine, picture)
        except Exception:
            engine.close()
            raise
        return engine, snapshot


def _being_made_anew(why: str) -> CommandFailed:
    return CommandFailed("not_now", f"the engine is being made anew ({why})")
