"""The client's thread: it owns the sockets, connects again by itself, and hands in what comes.

libzmq makes the connections. What it tells about them (connected, lost, token refused) comes through a monitor
socket. A hello goes out after every handshake, because a server that was restarted knows nobody.
"""

import contextlib
import logging
import queue
import re
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import parse_monitor_message

from everscene_bridge import protocol
from everscene_bridge.errors import MessageError, Refused, SettingsError
from everscene_bridge.message_bytes import unpack_frame_notice, unpack_notice, unpack_server
from everscene_bridge.messages import FrameNotice, Notice, ServerMessage
from everscene_bridge.wording import short

log = logging.getLogger(__name__)

RECONNECT_MS = 100
RECONNECT_MAX_MS = 1000
PROBE_SECONDS = 1.0
_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class Listener:
    """What the link calls, on its own thread."""

    def on_connected(self) -> None:
        """The control socket has a server: say hello."""

    def on_lost(self) -> None:
        """The control socket has none any more; the link is trying."""

    def on_following(self) -> None:
        """The frames socket is connected: what is published from about now on is heard."""

    def on_refused(self, why: Refused) -> None:
        """The server wants another token; the link has given up."""

    def on_message(self, message: ServerMessage) -> None:
        """Something came on the control socket."""

    def on_frame(self, notice: FrameNotice, topic: bytes, picture: bytes | None) -> None:
        """A frame notice, with the picture if it came along."""

    def on_notice(self, notice: Notice) -> None:
        """News."""


class Link:
    """Sockets to one server. `send`, `follow` and `close` may be called by any thread."""

    def __init__(self, endpoint: str, token: str | None, listener: Listener) -> None:
        self._endpoint = endpoint
        self._token = token
        self._listener = listener
        self._context = zmq.Context()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._closing = False
        self._control: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._frames: zmq.Socket[bytes] | None = None
        self._frames_monitor: zmq.Socket[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="everscene-client", daemon=True)

    def start(self) -> None:
        """Start the thread, and so the calls to the listener."""
        self._thread.start()

    def send(self, data: bytes, *more: bytes) -> None:
        """Send one packed message soon; more: the parts after it."""
        self._do(lambda: self._send(data, *more))

    def follow(self, endpoint: str, topics: list[bytes]) -> None:
        """Take these topics from this frames endpoint, and no others any more."""
        self._do(lambda: self._follow(endpoint, topics))

    def close(self, last_words: bytes) -> None:
        """Send the last words, close the sockets, end the thread."""
        if self._closing:
            return
        self._do(lambda: self._send(last_words))
        self._closing = True
        self._do(lambda: None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _do(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        with contextlib.suppress(OSError):  # the thread has wake-ups enough, or has ended
            self._wake_in.send(b"!")

    # On the thread

    def _run(self) -> None:
        try:
            self._connect()
            while not self._closing or not self._jobs.empty():
                self._turn()
        finally:
            for one in (self._monitor, self._control, self._frames_monitor, self._frames):
                if one is not None:
                    one.close()
            self._context.term()
            self._wake_in.close()
            self._wake_out.close()

    def _turn(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_out, zmq.POLLIN)
        for one in (self._monitor, self._control, self._frames_monitor, self._frames):
            if one is not None:
                poller.register(one, zmq.POLLIN)
        ready = dict(poller.poll())
        if self._wake_out.fileno() in ready:
            self._wake_out.recv(4096)
        while not self._jobs.empty():
            self._jobs.get()()
        if self._monitor is not None and self._monitor in ready:
            self._take_monitor(self._monitor)
        if self._control is not None and self._control in ready:
            self._take_control(self._control)
        if self._frames_monitor is not None and self._frames_monitor in ready:
            self._frames_monitor.recv_multipart()
            self._listener.on_following()
        if self._frames is not None and self._frames in ready:
            self._take_frames(self._frames)

    def _connect(self) -> None:
        control = self._socket(zmq.DEALER)
        control.setsockopt(zmq.SNDHWM, protocol.MAX_UNREAD)
        control.setsockopt(zmq.RCVHWM, protocol.MAX_UNREAD)
        self._control = control  # before anything can fail, so that it is closed
        self._monitor = control.get_monitor_socket(_EVENTS)
        control.connect(self._endpoint)

    def _socket(self, kind: int) -> "zmq.Socket[bytes]":
        made: zmq.Socket[bytes] = self._context.socket(kind)
        made.linger = 200
        made.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        made.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        made.setsockopt(zmq.HEARTBEAT_IVL, protocol.HEARTBEAT_MS)
        made.setsockopt(zmq.HEARTBEAT_TIMEOUT, protocol.HEARTBEAT_TIMEOUT_MS)
        made.setsockopt(zmq.IPV6, 1)
        if self._token is not None:
            made.setsockopt(zmq.PLAIN_USERNAME, protocol.PLAIN_USER)
            made.setsockopt(zmq.PLAIN_PASSWORD, self._token.encode())
        return made

    def _disconnect(self) -> None:
        if self._control is not None:
            self._control.disable_monitor()
            self._control.close(linger=0)
        if self._monitor is not None:
            self._monitor.close()
        self._control = self._monitor = None

    def _send(self, *parts: bytes) -> None:
        if self._control is None:
            return
        with contextlib.suppress(zmq.Again):  # no server takes it: its receipt says so by not coming
            self._control.send_multipart(parts, zmq.NOBLOCK)

    def _follow(self, endpoint: str, topics: list[bytes]) -> None:
        if self._frames is not None and self._frames_monitor is not None:
            self._frames.disable_monitor()
            self._frames_monitor.close()
            self._frames.close(linger=0)
        self._frames = self._socket(zmq.SUB)
        self._frames_monitor = self._frames.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._frames.setsockopt(zmq.RCVHWM, protocol.MAX_UNREAD_NOTICES)
        for topic in topics:
            self._frames.setsockopt(zmq.SUBSCRIBE, topic)
        self._frames.connect(endpoint)

    def _take_monitor(self, monitor: "zmq.Socket[bytes]") -> None:
        event: dict[str, Any] = dict(parse_monitor_message(monitor.recv_multipart()))
        kind = event["event"]
        if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._listener.on_connected()
        elif kind == zmq.EVENT_DISCONNECTED:
            self._listener.on_lost()
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._disconnect()
            self._listener.on_refused(Refused("token", "the server refused the token"))
        else:
            self._compare_mechanisms()

    def _compare_mechanisms(self) -> None:
        """A handshake failed: find out whether that is because one side wants a token and the other does not."""
        mechanism = server_mechanism(self._endpoint)
        if mechanism == "PLAIN" and self._token is None:
            self._disconnect()
            self._listener.on_refused(Refused("token", "this server needs a token"))
        elif mechanism == "NULL" and self._token is not None:
            self._token = None  # the server wants none
            self._disconnect()
            self._connect()

    def _take_control(self, control: "zmq.Socket[bytes]") -> None:
        while True:
            try:
                parts = control.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._listener.on_message(unpack_server(parts[-1]))
            except MessageError as problem:
                log.warning("the server sent what this client does not understand: %s", problem)

    def _take_frames(self, frames: "zmq.Socket[bytes]") -> None:
        while True:
            try:
                topic, body, *picture = frames.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                if topic == protocol.TOPIC_NOTICE:
                    self._listener.on_notice(unpack_notice(body))
                else:
                    notice = unpack_frame_notice(body)
                    self._listener.on_frame(notice, topic, picture[0] if picture else None)
            except MessageError as problem:
                log.warning("the server published what this client does not understand: %s", problem)


def check_endpoint(endpoint: str) -> None:
    """Raises SettingsError for an address that no server can have."""
    match = re.fullmatch(r"tcp://(?:\[[0-9A-Fa-f:.]+(?:%\w+)?]|[\w.-]+):(\d{1,5})", endpoint, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= 65_535:
        example = f"tcp://{protocol.LOOPBACK}:{protocol.CONTROL_PORT}"
        raise SettingsError(f"the endpoint is {short(endpoint)}; it must be tcp://HOST:PORT, as {example}")


def server_mechanism(endpoint: str) -> str | None:
    """The security mechanism in a server's ZMTP greeting, `NULL` or `PLAIN`; None when it cannot be read.

    libzmq does not tell: whichever side sees first that the mechanisms differ hangs up, and the other sees just that.
    The greeting's first 12 bytes, signature and version, are enough to be sent the server's whole one.
    """
    place = urlsplit(endpoint)
    greeting = b""
    try:
        with socket.create_connection((place.hostname, place.port), PROBE_SECONDS) as raw:
            raw.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01")
            while len(greeting) < 64:
                more = raw.recv(64 - len(greeting))
                if not more:
                    return None
                greeting += more
    except OSError:
        return None
    return greeting[12:32].rstrip(b"\0").decode("ascii", "replace")
