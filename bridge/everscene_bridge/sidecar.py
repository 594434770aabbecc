"""What `everscene serve` and `everscene demo` run: engine, server, viewer and feed, until a signal comes."""

import logging
import os
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console

from everscene_bridge import protocol, viewer
from everscene_bridge.client import Client
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.errors import SettingsError
from everscene_bridge.feed_imports import load_any_feed
from everscene_bridge.feed_player import play
from everscene_bridge.messages import Notice
from everscene_bridge.osc import OscInput
from everscene_bridge.run_log import RunLog
from everscene_bridge.scene import DEFAULT_SCENE, load_scene
from everscene_bridge.scene_watch import SceneWatch
from everscene_bridge.server import VERSION, Server
from everscene_bridge.settings import ServeSettings
from everscene_engine.port import EngineInfo

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SidecarOptions:
    """All that can be said to `everscene serve`."""

    engine: EngineChoice = field(default_factory=EngineChoice)
    serve: ServeSettings = field(default_factory=ServeSettings)
    scene: Path = DEFAULT_SCENE
    viewer_port: int | None = protocol.VIEWER_PORT  # None: no viewer
    feed: Path | None = None  # played until another client sends something
    open_browser: bool = False
    log: Path | None = None  # of the run, for `everscene replay`
    osc: tuple[str, int] | None = None  # address and UDP port to listen on
    paused: bool = False  # show no frame before `resume`


@dataclass(frozen=True)
class Running:
    """A sidecar that runs."""

    server: Server
    endpoint: str  # of the control socket, from this machine
    stopping: threading.Event  # set by SIGINT and SIGTERM


def run(options: SidecarOptions, console: Console) -> None:
    """Serve until SIGINT or SIGTERM. Raises what `sidecar` raises."""
    with sidecar(options, console) as running:
        running.stopping.wait()


@contextmanager
def sidecar(options: SidecarOptions, console: Console) -> Iterator[Running]:
    """Serve. Raises what Server, the viewer, the feed, OSC and the engine raise at their start."""
    scene = load_scene(options.scene)
    feed = load_any_feed(options.feed) if options.feed is not None else None
    load = loader(options.engine)
    with console.status(f"loading {options.engine.model} …"):
        engine = load()
    with ExitStack() as stack:
        stopping = stack.enter_context(_signals())
        with ExitStack() as undo:
            undo.callback(engine.close)  # it may have started other processes
            run_log = (
                None
                if options.log is None
                else stack.enter_context(_open_log(options.log, options.engine, engine.info))
            )
            server = Server(engine, load, scene, options.serve, run_log=run_log)
            undo.pop_all()  # the server closes whatever engine it has then
        if options.paused:
            server.stream.timeline.pause()
        stack.enter_context(server)
        endpoint = server.endpoint.replace("://*:", f"://{protocol.LOOPBACK}:")
        if options.viewer_port is not None:
            handle = viewer.start(endpoint, options.serve.host, options.viewer_port, options.serve.token)
            stack.callback(handle.stop)
            server.viewer_url = handle.url
        watch = SceneWatch(options.scene, server.change_scene, server.tell_scene_problem)
        watch.start()
        stack.callback(watch.stop)
        osc = stack.enter_context(_osc(options, endpoint)) if options.osc is not None else None
        _print_addresses(console, server, osc)
        if feed is not None:
            player = _FeedPlayer(endpoint, options.serve.token)
            stack.callback(player.stop)
            args = (player.client, feed, player.done, time.monotonic, log.warning)
            threading.Thread(target=play, args=args, name="everscene-feed", daemon=True).start()
        if options.open_browser and server.viewer_url is not None and _has_display():
            webbrowser.open(server.viewer_url)
        yield Running(server, endpoint, stopping)
        console.print("stopping")


@contextmanager
def _osc(options: SidecarOptions, endpoint: str) -> Iterator[OscInput]:
    assert options.osc is not None
    with Client(endpoint, options.serve.token, name="osc") as world:
        listening = OscInput(world, *options.osc)
        listening.start()
        try:
            yield listening
        finally:
            listening.stop()


def _open_log(path: Path, choice: EngineChoice, info: EngineInfo) -> RunLog:
    try:
        return RunLog(path, choice, info)
    except OSError as problem:
        raise SettingsError(f"--log {path} cannot be written: {problem}") from None


class _FeedPlayer:
    """A client that plays a feed until another client sends an event or a prompt."""

    def __init__(self, endpoint: str, token: str | None) -> None:
        self.done = threading.Event()
        self.client = Client(endpoint, token, name="feed", on_notice=self._on_notice)

    def _on_notice(self, notice: Notice) -> None:
        if notice.kind == "input" and notice.client_id != self.client.client_id and not self.done.is_set():
            log.info("the feed ends: %s has taken over", notice.client)
            self.done.set()

    def stop(self) -> None:
        """End the feed."""
        self.done.set()
        self.client.close()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set. A second one ends the process as it would without us."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        for one in before:
            signal.signal(one, signal.SIG_DFL)

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {one: signal.getsignal(one) for one in kinds}
    for one in kinds:
        signal.signal(one, stop)
    try:
        yield stopping
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _has_display() -> bool:
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


def _print_addresses(console: Console, server: Server, osc: OscInput | None) -> None:
    info = server.stream.timeline.info
    scene = server.stream.timeline.ledger.scene.describe()
    rows = {
        "viewer": server.viewer_url and f"[bold]{server.viewer_url}[/bold]",
        "control": server.endpoint,
        "frames": server.frames_endpoint,
        "ring": str(server.ring.path) if server.ring is not None else "none: frames go through the socket",
        "osc": osc and f"udp {osc.port}",
        "scene": f"{scene.name}: {', '.join(event.name for event in scene.events)}",
    }
    console.print(
        f"[bold]Everscene {VERSION}[/bold]  {info.model}, {info.width}×{info.height} at {info.fps:g} fps, "
        f"{info.steps} steps on {info.device}",
        soft_wrap=True,
    )
    for name, place in rows.items():
        if place is not None:
            console.print(f"{name:8} {place}", soft_wrap=True)
    console.print("Ctrl-C stops it.", soft_wrap=True)
