"""`everscene show`: an unattended show. The sidecar with its feed, OSC and viewer, watched over.

Once every half second the stage manager looks at the clock and at the frames: it opens and closes by the schedule,
plays the idle feed when nobody has sent anything for a while, keeps the recorder's process running, and tells systemd
that all is well, as long as it is. When no frame comes for too long although one should, it says so and stops telling
systemd, which then starts the show anew; with `restore: last` the world goes on.
"""

import contextlib
import datetime
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from rich.console import Console

from everscene_bridge.client import Client
from everscene_bridge.errors import ClientError
from everscene_bridge.feed_player import Player, play
from everscene_bridge.messages import Notice
from everscene_bridge.settings import TOKEN_VARIABLE, environment_with, notify_socket, token_from_environment
from everscene_bridge.show_file import Script, Show, load_show
from everscene_bridge.sidecar import sidecar
from everscene_bridge.systemd import Notifier

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
RECORDER_BACK_OFF_S = 10.0
RECORDER_STOP_S = 30.0
RECORDER_START_S = 20.0


class Stage(Protocol):
    """What a stage manager needs of a `Client`."""

    client_id: int

    @property
    def state(self) -> str: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Recording(Protocol):
    """What it needs of the recorder's process."""

    def begin(self) -> None: ...
    def end(self) -> None: ...
    def look(self) -> None: ...


class FeedThread:
    """Plays a script in a thread of its own, as often as it is begun."""

    def __init__(self, client: Player, script: Script) -> None:
        self._client = client
        self._script = script
        self._stop: threading.Event | None = None

    @property
    def playing(self) -> bool:
        """Whether it was begun and not ended."""
        return self._stop is not None

    def begin(self) -> None:
        """From the feed's start. Twice does nothing."""
        if self._stop is not None:
            return
        stop = self._stop = threading.Event()
        say = log.warning
        args = (self._client, self._script.feed, stop, time.monotonic, say, self._script.speed)
        threading.Thread(target=play, args=args, name="everscene-feed", daemon=True).start()

    def end(self) -> None:
        """Stop at the next step."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None


class StageManager:
    """See the module's docstring. One thread calls it."""

    def __init__(
        self,
        show: Show,
        stage: Stage,
        frame: Callable[[], int],
        systemd: Notifier,
        feed: FeedThread | None = None,
        idle: FeedThread | None = None,
        recording: Recording | None = None,
    ) -> None:
        """frame: number of the latest frame."""
        self._show = show
        self._stage = stage
        self._frame = frame
        self._systemd = systemd
        self._feed = feed
        self._idle = idle
        self._recording = recording
        self._open: bool | None = None
        self._ready = False
        self._last_frame = 0
        self._frame_at = 0.0
        self._input_heard = False
        self._input_at = 0.0
        self.healthy = True
        self.own_clients: set[int] = {stage.client_id}

    def heard(self, notice: Notice) -> None:
        """News of the server: somebody sent something."""
        if notice.kind == "input" and notice.client_id not in self.own_clients:
            self._input_heard = True

    def look(self, now: float, local: datetime.datetime) -> None:
        """now: monotonic seconds. local: the time on the wall."""
        opens = self._show.open_at(local)
        if opens != self._open:
            self._turn(opens, now)
        self._look_at_inputs(now)
        if self._recording is not None and self._open:
            self._recording.look()
        self._look_at_frames(now)

    def close(self, now: float) -> None:
        """The show is over: the picture stands, and the recording has every frame that was shown."""
        if self._open:
            self._turn(False, now)
        log.info("the show ends with frame %d", self._frame())

    def _turn(self, opens: bool, now: float) -> None:
        """Open or close."""
        log.info("the show %s", "opens" if opens else "closes")
        self._stage.pause()
        if self._recording is not None:
            (self._recording.begin if opens else self._recording.end)()
        if opens:
            self._stage.resume()
        self._open = opens
        self._frame_at = self._input_at = now
        for feed in (self._feed, None if opens else self._idle):
            if feed is not None:
                (feed.begin if opens else feed.end)()

    def _look_at_inputs(self, now: float) -> None:
        idle, spec = self._idle, self._show.file.idle
        if idle is None or spec is None or not self._open:
            return
        if self._input_heard:
            self._input_heard = False
            self._input_at = now
            if idle.playing:
                log.info("somebody is here: the idle feed ends")
                idle.end()
        elif not idle.playing and now - self._input_at >= spec.after:
            log.info("nobody has sent anything for %g s: the idle feed begins", spec.after)
            idle.begin()

    def _look_at_frames(self, now: float) -> None:
        frame = self._frame()
        if frame != self._last_frame or not self._open:
            self._last_frame, self._frame_at = frame, now
        stalled = now - self._frame_at >= self._show.file.health.stalled_after
        if stalled and self.healthy:
            log.error("no frame for %g s; the stream is %s", now - self._frame_at, self._stage.state)
        self.healthy = not stalled
        if stalled:
            self._systemd.tell(STATUS=f"no frame since {self._last_frame}")
            return
        if (frame or not self._open) and not self._ready:
            self._ready = True
            self._systemd.tell(READY=1)
        self._systemd.tell(WATCHDOG=1, STATUS=f"{'open' if self._open else 'closed'}, frame {frame}")


class RecorderProcess:
    """Runs `everscene record` and begins a new file when it ends by itself, or could not begin. `begin` waits until it
    is connected, so that it misses no frame of a stream that stands until then."""

    def __init__(
        self,
        command: Sequence[str],
        path: Callable[[], Path],
        token: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """command: what goes before the file's name. path: of a recording that begins now. clock: seconds."""
        self._command = list(command)
        self._path = path
        self._token = token
        self._clock = clock
        self._recording = False  # or should be
        self._process: subprocess.Popen[bytes] | None = None
        self._next_try = 0.0  # of the clock

    def begin(self) -> None:
        """Start recording. Twice does nothing. What stands in the way is logged, and `look` tries again."""
        if not self._recording:
            self._recording = True
            self._start()

    def _start(self) -> None:
        path = self._path()
        with_token = {} if self._token is None else {TOKEN_VARIABLE: self._token}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._process = start_python([*self._command, str(path)], with_token)
        except OSError as problem:
            log.error("%s cannot be recorded, the show goes on without: %s", path, problem)
            self._next_try = self._clock() + RECORDER_BACK_OFF_S
            return
        connected = threading.Event()
        args = (self._process, connected)
        threading.Thread(target=_listen, args=args, name="everscene-recorder", daemon=True).start()
        if not connected.wait(RECORDER_START_S):
            log.error("the recorder is not there after %g s; the show goes on", RECORDER_START_S)

    def end(self) -> None:
        """Finish the file."""
        self._recording = False
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(RECORDER_STOP_S)
        except subprocess.TimeoutExpired:
            log.error("the recorder does not stop; it is killed")
            process.kill()

    def look(self) -> None:
        """Begin anew if it should record and does not, not too often."""
        process = self._process
        if not self._recording or (process is not None and process.poll() is None) or self._clock() < self._next_try:
            return
        if process is not None:
            log.error("the recorder ended with %s; a new file begins", process.returncode)
        self._next_try = self._clock() + RECORDER_BACK_OFF_S
        self._process = None
        self._start()


def start_python(command: Sequence[str], variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Run this Python with a module of ours; it does not hear the terminal's Ctrl-C, we tell it to stop."""
    line = [sys.executable, "-m", "everscene_bridge", *command]
    return subprocess.Popen(line, env=environment_with(variables), start_new_session=True, stdout=subprocess.PIPE)


def _listen(process: "subprocess.Popen[bytes]", connected: threading.Event) -> None:
    """Log what the recorder says; with its first line it is connected, and at its end nobody need wait."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            log.info("recorder: %s", line.decode(errors="replace").strip())
            connected.set()
    connected.set()


def run(path: Path, console: Console, seconds: float | None = None) -> None:
    """Play a show until SIGINT or SIGTERM, or for so long. Raises what loading it and `sidecar` raise."""
    token = token_from_environment()
    show = load_show(path, token)
    systemd = Notifier(notify_socket())
    with ExitStack() as stack:
        running = stack.enter_context(sidecar(show.options, console))
        news: queue.SimpleQueue[Notice] = queue.SimpleQueue()
        client = stack.enter_context(Client(running.endpoint, token, name="show", on_notice=news.put))
        feed = None if show.feed is None else FeedThread(client, show.feed)
        idle = None if show.idle is None else FeedThread(client, show.idle)
        recording = _recorder(show, running.endpoint, token)
        timeline = running.server.stream.timeline
        manager = StageManager(show, client, lambda: timeline.latest, systemd, feed, idle, recording)
        for thread in (feed, idle, recording):
            if thread is not None:
                stack.callback(thread.end)
        end = None if seconds is None else time.monotonic() + seconds
        wait_s = 0.0
        while not running.stopping.wait(wait_s) and (end is None or time.monotonic() < end):
            wait_s = LOOK_EVERY_S
            while not news.empty():
                manager.heard(news.get())
            try:
                manager.look(time.monotonic(), datetime.datetime.now())
            except ClientError as problem:
                log.error("the stage manager could not do its work this time: %s", problem)
        systemd.tell(STOPPING=1)
        with contextlib.suppress(ClientError):  # the server may be what has gone
            manager.close(time.monotonic())


def _recorder(show: Show, endpoint: str, token: str | None) -> RecorderProcess | None:
    spec = show.file.record
    if spec is None:
        return None
    command = ["record", "--endpoint", endpoint, "--crf", str(spec.crf)]
    if spec.split is not None:
        command += ["--split", str(spec.split)]

    def path() -> Path:
        found = show.recording(datetime.datetime.now())
        assert found is not None
        return found

    return RecorderProcess(command, path, token)
