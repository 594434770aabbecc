"""The stream's bookkeeping: what is generated, decoded and due, and which input is in which frame.

No threads, no sockets, no clock of its own: every method is told what time it is (ns on the server's clock), so
that tests run it on a simulated one. The threads of live.py call it under one lock and do what it says.

A chunk passes through: in flight (being generated) → undecoded → decoding → ready (frames waiting for their due
time) → published. Frame numbers are given at the last step, so they have no gaps, whatever was thrown away before.

Interrupt. An input that says `now` does not wait: the chunk in flight is dropped at its next forward, frames that
nobody has seen yet are discarded, the engine rolls back to the latent frame before them, and the next chunk is
generated under the new words. So many ready frames are kept as are shown while that chunk is being made. What must
not be thrown away is a chunk that carries an input nobody has seen yet: otherwise a hail of events would keep every
one of them from the screen.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from everscene_bridge import protocol
from everscene_bridge.chunk_record import ChunkRecord, DueFrame, ReadyFrame, Work
from everscene_bridge.history import History, Moment
from everscene_bridge.inputs import Input, way_of
from everscene_bridge.ledger import Ledger
from everscene_bridge.momentary import Beginnings
from everscene_bridge.pacing import ContentClock, Estimates
from everscene_bridge.protocol import NS, State
from everscene_bridge.scene import Scene
from everscene_bridge.stats import StreamTotals
from everscene_bridge.steering import Steering
from everscene_bridge.ways import RECACHE, Way
from everscene_engine.port import EngineInfo, FrameBlock, GeneratedChunk

HIDE_RATIO = 1.05
"""Frames that are kept to be shown during a reaction may take this much longer than the reaction is expected to."""
STALLED_NS = NS
FAILURES_TO_BLAME = 2
"""So many engine failures in a row on the same new inputs, and the inputs are rejected."""


@dataclass(frozen=True)
class TimelineSettings:
    """How the stream is run."""

    interrupt: bool = True  # False: every input waits for the chunk in flight
    max_lead_ms: float | None = None  # bound on content generated ahead; None: as much as generation time asks for
    max_waiting: int = protocol.MAX_WAITING


class Timeline:
    """See the module's docstring. Not thread-safe."""

    def __init__(
        self,
        info: EngineInfo,
        scene: Scene,
        check: Callable[[str], None],
        settings: TimelineSettings | None = None,
    ) -> None:
        self.info = info
        self.settings = settings or TimelineSettings()
        self.ledger = Ledger(scene, check, self.settings.max_waiting)
        self.clock = ContentClock(info.fps)
        self.totals = StreamTotals()
        self.estimates = Estimates()
        self.latest = 0  # frame number
        self.latest_chunk = -1  # chunk number
        self.prompt = scene.compose(scene.initial)  # of the latest frame
        self.published_ns = 0
        self.engine_down = ""  # why the engine is not there; empty: it is
        self._beginnings = Beginnings(info.fps)  # of momentary events
        self._steering = Steering(info.fps, info.frames_per_chunk)
        self.paused = False
        self.stands = False  # no frame is taken: the world goes back, or the server stops
        self.publishing = False  # a frame was taken and is not out yet
        self._works = 0
        self._world = 0
        self.history = History(self._beginnings.left_s)
        self._shown = ChunkRecord(
            (), 0, self.prompt, 0, scene.initial, scene.initial, (), 0, 0, 0, 0
        )  # of the latest frame
        self._kept = self._shown  # the newest chunk that is not discarded
        self._unusable = ""  # a prompt that the engine did not take
        self._flags = 0  # that the first frame of the next chunk must have, whatever it is
        self._in_flight: ChunkRecord | None = None
        self._undecoded: deque[ChunkRecord] = deque()
        self._decoding: ChunkRecord | None = None
        self._ready: deque[ReadyFrame] = deque()
        self._shown_latent = -1  # latent frame of the latest frame shown
        self._old_frames = 0  # ready frames of an engine that failed: nothing can be rolled back to them
        self._blamed: tuple[set[int], int] = (set(), 0)  # inputs on which the engine failed, how often in a row

    # What there is

    @property
    def unshown(self) -> int:
        """Frames generated and not taken for publishing yet (those of undecoded chunks at their usual number)."""
        chunks = len(self._undecoded) + (self._decoding is not None)
        decoded = 0 if self._decoding is None else self._decoding.decoded_frames  # they are among the ready ones
        return len(self._ready) + chunks * self.info.frames_per_chunk - decoded

    @property
    def lead_ns(self) -> int:
        """Content that is decoded and not yet published."""
        return len(self._ready) * self.clock.nominal_ns

    def state(self, now_ns: int) -> State:
        """As docs/protocol.md §6 has it, but for `closing`."""
        if self.engine_down:
            return "restarting"
        if self.paused:
            return "paused"
        if self.latest == 0:
            return "starting"
        if now_ns - self.published_ns > STALLED_NS + self.clock.period_ns:
            return "stalled"
        return "slow" if self.clock.slow else "live"

    # Generating

    def next_work(self, now_ns: int) -> Work | None:
        """What to generate now, which is then in flight; None: nothing yet, and `next_work_ns` may say when."""
        assert self._in_flight is None
        if self.engine_down:
            return None
        self.ledger.release(now_ns)
        cut = self._cut(now_ns)
        if cut is None:
            return None
        kept, rollback = cut
        if kept and self._show_ns(kept, now_ns) > self._start_ahead_ns():
            return None
        if rollback is not None:
            self._drop_unshown(kept)
            self._steering.forget()
        return self._start_chunk(now_ns, rollback)

    def next_work_ns(self, now_ns: int) -> int | None:
        """When `next_work` may have something that it has not now, if nothing else happens; None: not by time alone."""
        cut = None if self._in_flight or self.engine_down or self.paused else self._cut(now_ns)
        if cut is None:
            return None
        start_ns = max(now_ns, now_ns + self._show_ns(cut[0], now_ns) - self._start_ahead_ns())
        release_ns = self.ledger.next_release_ns(now_ns)
        return start_ns if release_ns is None else min(start_ns, release_ns)

    def _start_ahead_ns(self) -> int:
        ahead = self.estimates.start_ahead_ns + 2 * self.clock.period_ns
        if self.settings.max_lead_ms is not None:
            ahead = min(ahead, round(self.settings.max_lead_ms * 1e6))
        return ahead

    def _show_ns(self, frames: int, now_ns: int) -> int:
        """How long it takes to show so many more frames."""
        wait = max(0, (self.clock.due_ns or now_ns) - now_ns)
        return wait + frames * self.clock.period_ns

    def _cut(self, now_ns: int) -> tuple[int, int | None] | None:
        """How many unshown frames to keep before the next chunk, and the latent frame to roll back to, if any.

        None: this cannot be said before what is being decoded is decoded.
        """
        if not (self.settings.interrupt and self.ledger.urgent):
            if self.ledger.resets and (self._undecoded or self._decoding is not None):
                return None  # a reset takes the decoder back to its beginning
            return self.unshown, None
        if self._decoding is not None or any(record.inputs for record in self._undecoded):
            return None
        kept = self._frames_to_keep(now_ns)
        if kept < len(self._ready):
            return kept, self._ready[kept].latent_frame
        if self._undecoded:
            chunk = self._undecoded[0].chunk
            assert chunk is not None
            return kept, chunk.first_latent_frame
        return kept, None

    def _frames_to_keep(self, now_ns: int) -> int:
        """Ready frames to be shown while the engine reacts.

        They end at a latent-frame boundary, and past the first frame of every chunk that carries inputs.
        """
        first = self._old_frames
        for position, ready in enumerate(self._ready):
            if ready.record.inputs and ready.index == 0:
                first = position + 1
        hidden_ns = self.estimates.reaction_ns * HIDE_RATIO - self._show_ns(0, now_ns)
        enough = max(0, int(hidden_ns / self.clock.period_ns))
        kept: int | None = None
        before = self._shown_latent
        for position, ready in enumerate(self._ready):
            boundary = ready.latent_frame != before or 0 < position == self._old_frames
            before = ready.latent_frame
            if boundary and position >= first and (kept is None or position <= enough):
                kept = position
        if kept is None or len(self._ready) <= enough:
            return len(self._ready)
        return kept

    def _drop_unshown(self, kept: int) -> None:
        """Discard what was generated, but for so many ready frames."""
        self.totals.discarded_frames += self.unshown - kept
        discarded = [self._ready.pop() for _ in range(len(self._ready) - kept)]
        self._pass_flags_on([*(ready.record for ready in discarded if ready.index == 0), *self._undecoded])
        self._undecoded.clear()

    def _pass_flags_on(self, lost: Iterable[ChunkRecord]) -> None:
        """What the first frames of these chunks were to say, the next chunk's first frame says."""
        for record in lost:
            self._flags |= record.flags

    def _start_chunk(self, now_ns: int, rollback: int | None) -> Work:
        state_before = self.ledger.state
        inputs = self.ledger.use()
        frame = self.latest + 1 + self.unshown
        momentary = self.ledger.state.momentary
        self._beginnings.begin((one.order for one in inputs if one.action.for_s is not None), frame, momentary)
        holding = tuple(one for one in momentary if self._beginnings.holds(one, frame))
        prompt = self.ledger.scene.compose(self.ledger.state, lambda one: one in holding)
        if prompt == self._unusable and not inputs:
            prompt = self._kept.prompt
        way = way_of(inputs) if inputs else self._way_back(frame)
        steer = self._steering.next(prompt, way, frame, self._recache_every(), decays=not inputs)
        self._note_blend(inputs)
        cuts = way.transition in ("cut", "reset") and self.latest + self.unshown > 0
        if way.transition == "reset":
            self._world += 1
        newest = max(inputs, key=lambda one: one.order, default=None)
        if newest is not None and newest.order < self._kept.order:
            newest = None  # it was kept back while later ones went through
        self._works += 1
        self._in_flight = ChunkRecord(
            work=self._works,
            inputs=inputs,
            order=newest.order if newest else self._kept.order,
            prompt=prompt,
            flags=self._flags | (protocol.FLAG_CUT if cuts else 0),
            state_before=state_before,
            state=self.ledger.state,
            holding=holding,
            world=self._world,
            started_ns=now_ns,
            received_ns=newest.received_ns if newest else self._kept.received_ns,
            recached_ns=0 if newest else self._kept.recached_ns,
        )
        return Work(rollback, steer, self._works, tuple(one.order for one in inputs))

    def _way_back(self, frame: int) -> Way:
        """The way to a prompt that no input asks for: that of the momentary events which the chunk before held.

        What the scene holds does not say: with a short lead they are out of it before the next chunk begins.
        """
        ways = [one.back for one in self._kept.holding if not self._beginnings.holds(one, frame)]
        return ways[-1] if ways else RECACHE

    def _note_blend(self, inputs: tuple[Input, ...]) -> None:
        """Let the director know whether a blend is under way, and with which priority."""
        if not self._steering.blending:
            self.ledger.blending = None
        elif inputs or self.ledger.blending is None:
            self.ledger.blending = max((one.action.rules.priority for one in inputs), default=0)

    def _recache_every(self) -> int:
        """Chunks from one recache of a blend to the next, so that generation keeps up; 0: it cannot at all."""
        chunk_ns = self.clock.nominal_ns * self.info.frames_per_chunk
        spare_ns = chunk_ns - self.estimates.generate.longest - self.estimates.clean.longest
        return -(-self.estimates.recache.longest // spare_ns) if spare_ns > 0 else 0

    def must_drop(self, now_ns: int) -> bool:
        """Whether the chunk in flight is to be given up. The engine asks before each forward."""
        in_flight = self._in_flight
        return self.hurried(now_ns) and in_flight is not None and not in_flight.inputs

    def hurried(self, now_ns: int) -> bool:
        """Whether an input waits that is not to wait for the end of a clean pass."""
        self.ledger.release(now_ns)
        return self.settings.interrupt and self.ledger.urgent

    def steered(self, now_ns: int) -> None:
        """For the chunk in flight the engine was rolled back and steered, where that was asked; now it generates."""
        assert self._in_flight is not None
        self._in_flight.steered_ns = now_ns

    def generated(self, chunk: GeneratedChunk | None, now_ns: int) -> None:
        """The chunk in flight is generated, or was given up (None)."""
        record, self._in_flight = self._in_flight, None
        assert record is not None
        if chunk is None:
            assert not record.inputs, "an engine gave up a chunk that it was not asked to"
            self.totals.dropped_chunks += 1
            return
        recache_ns = round(chunk.seconds.get("recache", 0.0) * NS)
        record.chunk = chunk
        record.denoised_ns = now_ns
        if recache_ns:
            self.estimates.recache.add(recache_ns)
            if record.inputs:
                record.recached_ns = now_ns - round(chunk.seconds["denoise"] * NS)
        self.estimates.generate.add(record.generation_ns - recache_ns)
        self.totals.chunks += 1
        self._flags = 0
        self._kept = record
        self._undecoded.append(record)

    def cleaned(self, took_ns: int) -> None:
        """The engine is done with a chunk that it handed on so long ago."""
        self.estimates.clean.add(took_ns)

    # Decoding

    def next_decode(self, now_ns: int) -> GeneratedChunk | None:
        """The next chunk to decode, which is then being decoded; None: there is none yet."""
        assert self._decoding is None
        if not self._undecoded:
            return None
        self._decoding = self._undecoded.popleft()
        self._decoding.decode_started_ns = now_ns
        return self._decoding.chunk

    @property
    def decoding(self) -> bool:
        """Whether a chunk is being decoded."""
        return self._decoding is not None

    def decoded_part(self, part: FrameBlock, now_ns: int) -> None:
        """The next frames of the chunk that is being decoded."""
        record = self._decoding
        assert record is not None
        if not record.decoded_frames:
            self.estimates.first_decode.add(now_ns - record.decode_started_ns)
        self._ready.extend(
            ReadyFrame(record, index, latent_frame, pixels, now_ns)
            for index, (latent_frame, pixels) in enumerate(
                zip(part.latent_frame_of, part.pixels, strict=True), record.decoded_frames
            )
        )
        record.decoded_frames += len(part.latent_frame_of)

    def decoded(self, block: FrameBlock, now_ns: int) -> None:
        """All frames of the chunk that was being decoded; those that came in parts are there already."""
        record = self._decoding
        assert record is not None
        first = record.decoded_frames
        if first < len(block.latent_frame_of):
            self.decoded_part(FrameBlock(block.pixels[first:], block.latent_frame_of[first:]), now_ns)
        self._decoding = None
        decode_ns = now_ns - record.decode_started_ns
        self.estimates.pace.add(max(record.generation_ns + self.estimates.clean.median, decode_ns))
        self.clock.set_pace(self.estimates.pace.median, self.info.frames_per_chunk)

    # Publishing

    def next_due_ns(self) -> int | None:
        """When the next frame is to be published (0: at once); None: there is none yet."""
        if not self._ready or self.paused or self.stands:
            return None
        return 0 if self.clock.due_ns is None else self.clock.due_ns

    def take_due(self, now_ns: int) -> DueFrame | None:
        """The frame that is due, which is then the latest; None: none is."""
        due_ns = self.next_due_ns()
        if due_ns is None or now_ns < due_ns:
            return None
        ready = self._ready.popleft()
        late_ns = self.clock.shown(now_ns, ready.decoded_ns)
        self.publishing = True
        self.latest += 1
        if ready.record.number < 0:
            self.latest_chunk += 1
            ready.record.number = self.latest_chunk
        self._shown = ready.record
        self._shown_latent = ready.latent_frame
        old = self._old_frames > 0
        if old:
            self._old_frames -= 1
            self._shown_latent = -1
        self.history.shown(
            ready.record.world, Moment(self.latest, ready.latent_frame, ready.record.state, ready.record.prompt)
        )
        flags = protocol.FLAG_OPAQUE | (ready.record.flags if ready.index == 0 else 0)
        return DueFrame(self.latest, self.clock.pts_ns(self.latest), flags, now_ns - late_ns, ready, old)

    def published(self, due: DueFrame, now_ns: int) -> list[Input]:
        """The frame is out; the inputs for which it was the first frame. Their outcomes are in the ledger."""
        record = due.ready.record
        self.publishing = False
        self.published_ns = now_ns
        self.prompt = record.prompt
        over = {m.order for m in self.ledger.state.momentary if self._beginnings.is_over(m, due.number)}
        if over:
            self.ledger.passed(over)
        return self.ledger.applied(
            record.inputs,
            frame=due.number,
            chunk=record.number,
            prompt=record.prompt,
            published_ns=now_ns,
        )

    def pause(self) -> None:
        """No frame is due until `resume`."""
        self.paused = True

    def resume(self) -> None:
        """Frames are due again, the next one now."""
        if self.paused:
            self.paused = False
            self.clock.due_ns = None

    # Going back

    def moment(self, seconds_ago: float = 0.0) -> Moment | None:
        """What the picture of so many seconds of content ago stands for, or the oldest that is remembered.

        None: there is nothing to go back to, because no frame of this world was shown yet or the engine is not there.
        """
        if self.engine_down or self._kept.world != self._world or self._shown.world != self._world:
            return None
        ago = round(seconds_ago * self.info.fps / self.info.frames_per_latent_frame)
        return self.history.find(self._world, self._shown_latent - ago)

    def reachable(self, seconds_ago: float, earliest: int) -> Moment | None:
        """The same, but not before what the engine can go back to: latent frame `earliest`."""
        furthest = max(0, self._shown_latent + 1 - earliest)
        reach = furthest * self.info.frames_per_latent_frame / self.info.fps
        return self.moment(min(seconds_ago, reach))

    def seconds_since(self, moment: Moment) -> float:
        """Seconds of content from a moment of this world to the picture that is shown."""
        return (self._shown_latent - moment.latent_frame) * self.info.frames_per_latent_frame / self.info.fps

    def go_back(self, moment: Moment, same_world: bool) -> None:
        """The engine has gone back to after this moment (of the world that is shown, or of another): so does the rest.

        Frames not shown yet are discarded; inputs in none of the frames shown are rejected.
        """
        assert self._in_flight is None and self._decoding is None
        self.ledger.reject_all("went_back", "the world went back before it was in a frame")
        self._drop_unshown(0)
        self._old_frames = 0
        self._world += 1
        if same_world:
            self.history.cut_after(moment, self._world)
        state = self.history.renumbered(moment, self.ledger.scene)
        self._beginnings.begin((one.order for one in state.momentary), self.latest + 1, state.momentary)
        self.ledger.stand(state)
        if not self.latest:
            self.prompt = moment.prompt
        self._kept = replace(self._shown, holding=())
        self._shown_latent = moment.latent_frame
        self._steering.clear()
        self._unusable = ""
        self._flags |= protocol.FLAG_CUT

    # Trouble

    def failed(self, reason: str) -> None:
        """The engine failed: what it had not decoded is lost, and there is none until `restarted`.

        Inputs in the lost chunks wait again (a chunk with decoded frames is not one of them); if the engine fails on
        the same ones twice in a row, they are rejected.
        """
        begun = self._decoding if self._decoding is not None and not self._decoding.decoded_frames else None
        lost = [record for record in (begun, *self._undecoded, self._in_flight) if record is not None]
        inputs = [one for record in lost for one in record.inputs]
        if lost:
            self.ledger.put_back(inputs, lost[0].state_before)
        self._pass_flags_on(lost)
        self._in_flight = self._decoding = None
        self._undecoded.clear()
        self._kept = self._ready[-1].record if self._ready else self._shown
        self._old_frames = len(self._ready)
        self._steering.forget()
        self._flags |= protocol.FLAG_DISCONTINUITY
        self.engine_down = reason
        orders = {one.order for one in inputs}
        before, times = self._blamed
        times = times + 1 if orders & before else 1
        self._blamed = (orders, times)
        if orders and times >= FAILURES_TO_BLAME:
            self.ledger.reject(inputs, "engine", f"the engine failed on it {times} times: {reason}")

    def restarted(self) -> None:
        """A new engine stands in for the one that failed, with a new world or that of a snapshot."""
        self._world += 1
        self.totals.restarts += 1
        self.engine_down = ""

    def refused(self, reason: str) -> bool:
        """The engine did not take the prompt that the chunk in flight was to have.

        Its inputs are rejected. If it has none (a momentary event passed), the prompt before it stays in force.
        False: that was refused as well, so there is nothing to go on with.
        """
        record, self._in_flight = self._in_flight, None
        assert record is not None
        if not record.inputs and record.prompt == self._kept.prompt:
            return False
        self._unusable = record.prompt
        self.ledger.put_back(record.inputs, record.state_before)
        self.ledger.reject(record.inputs, "prompt", reason)
        self._steering.forget()
        return True
