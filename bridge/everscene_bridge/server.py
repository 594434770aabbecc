"""The server: binds the sockets, makes the ring, and starts and stops the threads.

control  (control.py)    answers messages; always there
engine   (live.py)       generates
decoder  (live.py)       decodes
publisher (publisher.py) shows frames when they are due
"""

import errno
import logging
import secrets
import threading
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType

import zmq

from everscene_bridge import messages, protocol, ring_files, snapshots
from everscene_bridge.clock import Clock, SystemClock
from everscene_bridge.commands import Commands
from everscene_bridge.control import Control
from everscene_bridge.errors import PortTaken, RingError, SceneError, SettingsError, SnapshotUnreadable
from everscene_bridge.frame_ring import RingWriter
from everscene_bridge.ledger import Outcome
from everscene_bridge.live import LiveStream
from everscene_bridge.messages import Notice
from everscene_bridge.publisher import Publisher
from everscene_bridge.ring_layout import RingShape
from everscene_bridge.run_log import RunLog
from everscene_bridge.scene import Scene
from everscene_bridge.settings import ServeSettings
from everscene_engine.errors import PromptRejected, SnapshotError
from everscene_engine.port import EnginePort

log = logging.getLogger(__name__)

LINGER_MS = 200
"""How long last words may take to leave when the server stops."""

try:
    VERSION = version("everscene")
except PackageNotFoundError:  # run from the source tree, not installed
    VERSION = "0+source"


class Server:
    """One engine, one stream, any number of clients."""

    def __init__(
        self,
        engine: EnginePort,
        rebuild: Callable[[], EnginePort],
        scene: Scene,
        settings: ServeSettings | None = None,
        clock: Clock | None = None,
        run_log: RunLog | None = None,
    ) -> None:
        """Bind and make the ring; `start` sets things moving. `rebuild` makes the engine anew after a failure.

        run_log: takes down what is needed to do the run again; whoever made it closes it after `stop`.

        Raises PortTaken, SceneError when the engine cannot take the scene's first prompt, SettingsError; for a snapshot
        to start from SnapshotUnreadable, and SnapshotError if it is another model's.
        """
        self.settings = settings or ServeSettings()
        self.epoch = secrets.randbelow(protocol.MAX_ID) + 1
        self.viewer_url: str | None = None  # set by whoever starts a viewer
        self._info = engine.info
        self._clock = clock or SystemClock()
        self._start_ns = self._clock.now_ns()
        self._closing = False
        self._stopped = threading.Lock()
        try:
            engine.check(scene.compose(scene.initial))
        except PromptRejected as why:
            raise SceneError(f"the engine cannot take the scene's first prompt: {why}") from None
        with ExitStack() as undo:
            self._make(engine, rebuild, scene, run_log, undo)
            undo.pop_all()

    def _make(
        self,
        engine: EnginePort,
        rebuild: Callable[[], EnginePort],
        scene: Scene,
        run_log: RunLog | None,
        undo: ExitStack,
    ) -> None:
        """What `__init__` says. undo: gets what takes back what lies outside this object."""
        self._context = zmq.Context()
        undo.callback(self._context.destroy, linger=0)
        zap = self._bind_zap()
        control = self._bind(zmq.ROUTER, self.settings.control_port, "--control-port")
        frames = self._bind(zmq.XPUB, self.settings.frames_port, "--frames-port")
        self.endpoint = _endpoint(control)
        self.frames_endpoint = _endpoint(frames)
        self.ring = self._make_ring()
        if self.ring is not None:
            undo.callback(self.ring.close)
        self.stream = LiveStream(
            engine,
            rebuild,
            scene,
            self._clock,
            self._tell,
            self.settings.timeline,
            self.settings.autosave_s,
            run_log,
            lambda snapshot: self._commands.keep_automatic(snapshot),
        )
        self.stream.timeline.ledger.allow = self.settings.prompts
        self._put_back_first(engine)
        self._commands = Commands(self.stream, self.settings.state_folder, self._info.model)
        self.publisher = Publisher(self.stream, frames, self.ring, self.epoch)
        self.control = Control(
            self.stream,
            self.publisher,
            control,
            zap,
            self.settings.token,
            self.epoch,
            self._welcome,
            self._stats,
            self._commands,
        )

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the threads."""
        self.control.start()
        self.publisher.start()
        self.stream.start()

    def stop(self) -> None:
        """Give every open input its end, tell the clients, stop the threads, unlink the ring. Twice does nothing.

        In an order in which whoever has to answer is still there: commands are done, or given up, before the control
        thread sends its last words.
        """
        if not self._stopped.acquire(blocking=False):
            return
        with self.stream.changed:
            self._closing = True
            self.control.closing = True
            self.stream.timeline.stands = True
            self.stream.await_published()
            self.stream.timeline.ledger.reject_all("closing", "the server stops")
            self.stream.hand_out()
            notice = Notice(
                kind="state", epoch=self.epoch, at_ns=self._clock.now_ns(), state="closing", reason="the server stops"
            )
            self.publisher.announce(notice)
        self.publisher.stop()
        try:
            self.stream.stop()
        finally:
            self._commands.close()
            self.control.stop()
            self._context.term()

    def change_scene(self, scene: Scene) -> None:
        """Go by another scene from the next chunk on; what events put into slots stays where it has these slots.

        Raises SceneError when the engine cannot take its first prompt, and then nothing has changed.
        """
        self.stream.check_scene(scene)
        with self.stream.changed:
            self.stream.timeline.ledger.change_scene(scene)
            now_ns = self._clock.now_ns()
            self.publisher.announce(Notice(kind="scene", epoch=self.epoch, at_ns=now_ns, scene=scene.describe()))
            self.stream.changed.notify_all()

    def tell_scene_problem(self, reason: str) -> None:
        """Let the clients know why a scene file that was written anew is not taken."""
        with self.stream.changed:
            notice = Notice(kind="scene_problem", epoch=self.epoch, at_ns=self._clock.now_ns(), reason=reason)
            self.publisher.announce(notice)

    def _put_back_first(self, engine: EnginePort) -> None:
        """Go on from the snapshot to start from, if there is one. Raises SnapshotUnreadable, SnapshotError.

        For LAST, of the automatic ones the newest that can be used; if none can, a new world begins.
        """
        name, folder = self.settings.restore, self.settings.state_folder
        if name is None:
            return
        if name != snapshots.LAST:
            self.stream.put_back(engine, snapshots.find(folder, name, self._info.model), None)
            return
        for path in snapshots.automatic(folder, self._info.model):
            try:
                self.stream.put_back(engine, snapshots.load(path), None)
                return
            except (SnapshotUnreadable, SnapshotError) as why:
                log.warning("an automatic snapshot is passed over: %s", why)
        log.warning("a new world begins: there is no automatic snapshot of %s to go on from", self._info.model)

    # Binding

    def _bind_zap(self) -> "zmq.Socket[bytes] | None":
        if self.settings.token is None:
            return None
        zap: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        zap.linger = 0
        zap.bind("inproc://zeromq.zap.01")
        return zap

    def _bind(self, kind: int, port: int, option: str) -> "zmq.Socket[bytes]":
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.linger = LINGER_MS
        socket.setsockopt(zmq.HEARTBEAT_IVL, protocol.HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, protocol.HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TTL, protocol.HEARTBEAT_TTL_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, protocol.MAX_WIRE_BYTES)
        if kind == zmq.ROUTER:
            socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            socket.setsockopt(zmq.SNDHWM, protocol.MAX_UNREAD)
        else:
            socket.setsockopt(zmq.SNDHWM, protocol.MAX_UNREAD_NOTICES)
        if self.settings.token is not None:
            socket.setsockopt(zmq.PLAIN_SERVER, 1)
            socket.setsockopt(zmq.ZAP_DOMAIN, b"everscene")
        host = self.settings.host
        if ":" in host:
            socket.setsockopt(zmq.IPV6, 1)
            host = f"[{host.strip('[]')}]"
        try:
            socket.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as problem:
            if problem.errno == errno.EADDRINUSE:
                raise PortTaken(f"port {port} on {host} is taken; choose another with {option}") from None
            raise SettingsError(f"cannot listen on --host {host}, port {port}: {problem}") from None
        return socket

    def _make_ring(self) -> RingWriter | None:
        for directory in ring_files.directories(self.settings.ring_dir):
            for ring in ring_files.sweep(directory):
                log.info("removed %s, whose server is dead", ring)
        try:
            return RingWriter(
                RingShape(self._info.width, self._info.height, self.settings.ring_slots),
                epoch=self.epoch,
                fps=self._info.fps,
                clock_offset_ns=self._clock.offset_ns,
                now_ns=self._clock.now_ns,
                directory=self.settings.ring_dir,
            )
        except RingError as problem:
            log.warning("no frame ring, frames go through the socket only: %s", problem)
            return None

    # Answers

    def _tell(self, outcomes: list[Outcome]) -> None:
        self.control.tell(outcomes)

    def _state(self) -> str:
        return "closing" if self._closing else self.stream.timeline.state(self._clock.now_ns())

    def _welcome(self) -> messages.Welcome:
        with self.stream.changed:
            timeline = self.stream.timeline
            return messages.Welcome(
                protocol=list(protocol.VERSION),
                epoch=self.epoch,
                server=VERSION,
                model=self._info.model,
                width=self._info.width,
                height=self._info.height,
                fps=self._info.fps,
                frames_per_chunk=self._info.frames_per_chunk,
                steps=self._info.steps,
                seed=self._info.seed,
                device=self._info.device,
                ring=self.ring.place if self.ring is not None else None,
                frames_endpoint=self.frames_endpoint,
                viewer=self.viewer_url,
                scene=timeline.ledger.scene.describe(),
                prompt=timeline.prompt,
                frame=timeline.latest,
                state=self._state(),
                now_ns=self._clock.now_ns(),
            )

    def _stats(self, request_id: int | None) -> messages.Stats:
        with self.stream.changed:
            timeline, meter, now_ns = self.stream.timeline, self.stream.meter, self._clock.now_ns()
            totals, clock = timeline.totals, timeline.clock
            inputs = timeline.ledger.totals
            generate_ns = timeline.estimates.generate.median + timeline.estimates.clean.median
            return messages.Stats(
                id=request_id,
                epoch=self.epoch,
                uptime_s=(now_ns - self._start_ns) / protocol.NS,
                state=self._state(),
                frame=timeline.latest,
                chunk=max(0, timeline.latest_chunk),
                prompt=timeline.prompt,
                fps=meter.published.per_second(now_ns),
                content_fps=self._info.fps,
                generation_fps=self._info.frames_per_chunk * protocol.NS / generate_ns if generate_ns else 0.0,
                lead_ms=timeline.lead_ns / 1e6,
                held=clock.held,
                shifted_ms=clock.shifted_ns / 1e6,
                frames=timeline.latest,
                chunks=totals.chunks,
                dropped_chunks=totals.dropped_chunks,
                discarded_frames=totals.discarded_frames,
                restarts=totals.restarts,
                clients=self.control.clients,
                inputs=messages.InputCounts(
                    accepted=inputs.accepted,
                    applied=inputs.applied,
                    superseded=inputs.superseded,
                    rejected=inputs.rejected,
                    waiting=timeline.ledger.waiting,
                ),
                errors=self.control.errors,
                latency_ms=meter.latency_ms.message(),
                seen_ms=meter.seen_ms.message(),
                stages_ms={name: stage.message() for name, stage in meter.stages_ms.items()},
            )


def _endpoint(socket: "zmq.Socket[bytes]") -> str:
    """Where a socket was bound, `*` in place of an address that means all of them."""
    bound: str = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return bound.replace("://0.0.0.0:", "://*:").replace("://[::]:", "://*:")
