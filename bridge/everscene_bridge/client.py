"""The Python client. It needs no torch.

    from everscene_bridge.client import Client
    with Client("tcp://127.0.0.1:7464") as world:
        receipt = world.event("storm", intensity=0.8)
        applied = receipt.wait("applied", timeout=5.0)
        for frame in world.frames():
            show(frame.pixels)

A thread of its own holds the sockets; every method may be called from any thread. Pixels are copied once, from the
shared memory straight into the array that the frame owns. When the server goes away the client connects again by
itself; frames go on when it is back.
"""

import itertools
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import ValidationError

from everscene_bridge import protocol
from everscene_bridge.client_frames import Following, Frame, FrameInbox
from everscene_bridge.client_link import Link, Listener, check_endpoint
from everscene_bridge.client_receipts import OpenReceipts
from everscene_bridge.errors import (
    ClientError,
    Disconnected,
    NotInTime,
    Refused,
    Rejected,
    RequestFailed,
    RingUnreadable,
    SettingsError,
)
from everscene_bridge.frame_ring import RingReader
from everscene_bridge.message_bytes import pack
from everscene_bridge.messages import (
    Bye,
    Command,
    ErrorMessage,
    Event,
    FrameNotice,
    Hello,
    Message,
    Notice,
    ParamValue,
    Ping,
    Pong,
    Prompt,
    ReceiptMessage,
    Refusal,
    Reply,
    RingPlace,
    SceneDescription,
    Seen,
    ServerMessage,
    Slots,
    Stats,
    StatsRequest,
    Welcome,
)
from everscene_bridge.protocol import Transition, When
from everscene_bridge.receipt import Receipt
from everscene_bridge.settings import is_loopback, token_from_environment
from everscene_bridge.ways import Ease
from everscene_bridge.wording import first_of
from everscene_engine.port import BlendPath

log = logging.getLogger(__name__)

Inline = Literal["raw", "jpeg"]


class Client(Listener):
    """A connection to an Everscene server."""

    def __init__(
        self,
        endpoint: str = f"tcp://{protocol.LOOPBACK}:{protocol.CONTROL_PORT}",
        token: str | None = None,
        name: str | None = None,
        timeout: float = 5.0,
        *,
        inline: Inline | None = None,
        on_notice: Callable[[Notice], None] | None = None,
    ) -> None:
        """Connect and say hello.

        token: None takes EVERSCENE_TOKEN if it is set. name: for people. timeout: seconds to wait for the server, here
        and in `stats`. inline: have pictures sent through the socket though the ring could be read. on_notice: called
        with news, on the client's own thread, which it must not hold up.
        Raises SettingsError for an endpoint, a token or a name that cannot be, NotInTime when no server answers,
        Refused when it does not want this client.
        """
        check_endpoint(endpoint)
        token = token_from_environment() if token is None else token
        if token is not None and not 1 <= len(token.encode()) <= protocol.MAX_TOKEN_BYTES:
            raise SettingsError(f"the token must have 1 to {protocol.MAX_TOKEN_BYTES} bytes")
        self.endpoint = endpoint
        self.name = name or f"python-{os.getpid()}"
        self.client_id = secrets.randbelow(protocol.MAX_ID) + 1
        self._hello = self._packed_hello()
        self._timeout = timeout
        self._inline = inline
        self._on_notice = on_notice
        self._changed = threading.Condition()
        self._ids = itertools.count(1)
        self._welcome: Welcome | None = None
        self._connected = False
        self._following = False
        self._closed = False
        self._refused: Refused | None = None
        self._state = "starting"
        self._prompt = ""
        self._frames = FrameInbox(self._changed, lambda: self._closed)
        self._receipts = OpenReceipts()
        self._marker = 0  # id of the ping whose answer follows all receipts that the server knows of
        self._answers: dict[int, Stats | Pong | Reply | None] = {}
        self._link = Link(endpoint, token, self)
        self._link.start()
        try:
            unanswered = "no server answers (`everscene serve` starts one)"
            self._await(lambda: self._connected or self._refused is not None, timeout, unanswered)
            if self._refused is not None:
                raise self._refused
        except ClientError:
            self.close()
            raise

    def _packed_hello(self) -> bytes:
        version = list(protocol.VERSION)
        try:
            return pack(Hello(protocol=version, client=self.name, client_id=self.client_id, language="python"))
        except ValidationError as problem:
            raise SettingsError(f"the client's name: {first_of(problem)}") from None

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye. Iterators over frames end, open receipts fail. Twice does nothing."""
        with self._changed:
            self._closed = True
            self._connected = False
            self._changed.notify_all()
        self._receipts.fail(Disconnected("the client was closed"))
        self._link.close(pack(Bye()))

    # What is known of the server

    @property
    def connected(self) -> bool:
        """Whether the server is there now."""
        return self._connected

    @property
    def info(self) -> Welcome:
        """What the server said of itself at the latest hello."""
        assert self._welcome is not None
        return self._welcome

    @property
    def scene(self) -> SceneDescription:
        """Events that can be sent, with their params."""
        return self.info.scene

    @property
    def state(self) -> str:
        """State of the stream, docs/protocol.md §6; `disconnected` while no server is there."""
        return self._state if self._connected else "disconnected"

    @property
    def prompt_now(self) -> str:
        """Prompt of the latest frame."""
        return self._prompt

    # Steering

    def event(self, name: str, when: When | None = None, **params: ParamValue) -> Receipt:
        """Send an event of the scene. `when`: `now`, `chunk`, or None for what the scene says.

        Raises Rejected at once for values that the protocol does not allow, Disconnected while no server is there.
        What else is wrong with it, the receipt says.
        """
        return self.send_event(name, params, when)

    def send_event(self, name: str, params: Mapping[str, ParamValue], when: When | None = None) -> Receipt:
        """The same for params that may have any name, `when` among them."""
        return self._submit(Event, f"the event {name!r}", name=name, params=dict(params) or None, when=when)

    def prompt(
        self,
        text: str,
        transition: Transition | None = None,
        when: When | None = None,
        *,
        seconds: float | None = None,
        ease: Ease | None = None,
        path: BlendPath | None = None,
    ) -> Receipt:
        """Send a whole prompt in place of the scene's. seconds, ease, path: of a blend. Raises as `event` does."""
        way = {"transition": transition, "seconds": seconds, "ease": ease, "path": path}
        return self._submit(Prompt, "the prompt", text=text, when=when, **way)

    def slots(
        self,
        words: Mapping[str, str],
        transition: Transition | None = None,
        when: When | None = None,
        *,
        seconds: float | None = None,
        ease: Ease | None = None,
        path: BlendPath | None = None,
    ) -> Receipt:
        """Put words into slots of the scene. seconds, ease, path: of a blend. Raises as `event` does."""
        way = {"transition": transition, "seconds": seconds, "ease": ease, "path": path}
        return self._submit(Slots, f"the slots {', '.join(words)}", slots=dict(words), when=when, **way)

    def _submit(self, kind: type[Message], what: str, **fields: Any) -> Receipt:
        receipt = Receipt(next(self._ids), what)
        try:
            packed = pack(kind.model_validate({"id": receipt.id, "client_ns": time.time_ns(), **fields}))
        except ValidationError as problem:
            raise Rejected("out_of_range", first_of(problem)) from None
        with self._changed:
            self._must_be_connected()
            self._receipts.add(receipt, packed)
        self._link.send(packed)
        return receipt

    def seen(self, frame: Frame) -> None:
        """Tell the server that this frame was shown just now."""
        self._link.send(pack(Seen(frame=frame.number, seen_ns=time.time_ns())))

    # Asking

    def stats(self) -> Stats:
        """Counts and times of the run. Raises NotInTime, Disconnected."""
        answer = self._ask(lambda number: StatsRequest(id=number))
        assert isinstance(answer, Stats)
        return answer

    def ping(self) -> float:
        """Milliseconds to the server and back. Raises NotInTime, Disconnected."""
        start = time.perf_counter()
        self._ask(lambda number: Ping(id=number))
        return (time.perf_counter() - start) * 1e3

    def command(self, name: str, /, **args: Any) -> dict[str, Any]:
        """Send a command; its result. Raises RequestFailed, NotInTime, Disconnected."""
        return self._result(self._ask(lambda number: Command(id=number, name=name, args=args or None)))

    @staticmethod
    def _result(answer: Stats | Pong | Reply) -> dict[str, Any]:
        assert isinstance(answer, Reply)
        if not answer.ok:
            raise RequestFailed(answer.code or "", answer.reason or "")
        return answer.result or {}

    def pause(self) -> None:
        """Let the picture stand; what is sent meanwhile is applied after `resume`. Raises as `command`."""
        self.command("pause")

    def resume(self) -> None:
        """Go on."""
        self.command("resume")

    def snapshot(self, name: str) -> int:
        """Keep the world as it is on the screen under a name; the bytes of its file."""
        return int(self.command("snapshot", name=name)["bytes"])

    def restore(self, name: str, seed: int | None = None) -> None:
        """Go on from a snapshot; with a seed of one's own, into another future than the first time."""
        self.command("restore", name=name, **({} if seed is None else {"seed": seed}))

    def rewind(self, seconds: float) -> float:
        """Go back by so many seconds of content, as far as the engine remembers; how far it went."""
        return float(self.command("rewind", seconds=float(seconds))["seconds"])

    def branch(self, seed: int | None = None) -> int:
        """Go on from the picture on the screen into another future; its seed."""
        return int(self.command("branch", **({} if seed is None else {"seed": seed}))["seed"])

    def image(self, picture: Path | bytes | None) -> None:
        """Let worlds that begin from now on begin with this picture: a file, or the bytes of one (PNG, JPEG, WebP, at
        most 8 MiB); None: without one again. A `prompt` with the transition `reset` begins one. Raises as `command`,
        OSError for a file that cannot be read."""
        data = picture.read_bytes() if isinstance(picture, Path) else picture
        if data is not None and len(data) > protocol.MAX_PICTURE_BYTES:
            limit = protocol.MAX_PICTURE_BYTES
            raise RequestFailed("too_long", f"the picture has {len(data)} bytes; at most {limit} are taken")
        self._result(self._ask(lambda number: Command(id=number, name="image"), *([] if data is None else [data])))

    def _ask(self, make: Callable[[int], Message], *more: bytes) -> Stats | Pong | Reply:
        number = next(self._ids)
        try:
            packed = pack(make(number))
        except ValidationError as problem:
            raise RequestFailed("out_of_range", first_of(problem)) from None
        except (ValueError, TypeError, OverflowError, RecursionError) as problem:
            raise RequestFailed("out_of_range", f"an arg cannot be sent: {problem}") from None
        with self._changed:
            self._must_be_connected()
            self._answers[number] = None
        self._link.send(packed, *more)
        try:
            self._await(lambda: self._answers[number] is not None, self._timeout, "the server does not answer")
            answer = self._answers[number]
            assert answer is not None
            return answer
        finally:
            with self._changed:
                del self._answers[number]

    def _must_be_connected(self) -> None:
        if not self._connected:
            raise Disconnected("the client was closed" if self._closed else "no server is there now")

    def _await(self, ready: Callable[[], bool], timeout: float, otherwise: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: ready() or self._closed, timeout)
            if not ready():
                if self._closed:
                    raise Disconnected("the client was closed")
                raise NotInTime(f"{otherwise}: {self.endpoint}, {timeout:g} s")

    # Frames

    def latest(self) -> Frame | None:
        """The newest frame; None before there is one."""
        return self._frames.latest()

    def frames(self, in_order: bool = False, timeout: float | None = None) -> Following:
        """Frames as they come, until the client is closed.

        in_order False: always the newest, leaving out what came while the caller was busy. True: each from the newest
        at the time of this call on, unless the caller is slower than the ring is long (counted in `lost_frames`).
        timeout: seconds without a frame after which NotInTime is raised (`next` may be called again after it); None
        waits, also while the server is away.
        """
        return self._frames.follow(in_order, timeout)

    def wait_until_following(self) -> None:
        """Wait until no frame that is published from now on can be missed for want of a connection. Raises NotInTime,
        Disconnected."""
        self._await(lambda: self._following, self._timeout, "the frames endpoint does not answer")
        self.ping()  # the subscription went out before this question

    @property
    def lost_frames(self) -> int:
        """Frames that `frames(in_order=True)` came too late for."""
        return self._frames.lost

    @property
    def torn_copies(self) -> int:
        """Copies thrown away because the writer came round."""
        return self._frames.torn

    # What the link hands in, on its thread

    def on_connected(self) -> None:
        """Say hello."""
        self._link.send(self._hello)

    def on_following(self) -> None:
        """Remember that frames are heard."""
        with self._changed:
            self._following = True
            self._changed.notify_all()

    def on_lost(self) -> None:
        """Remember that no server is there."""
        with self._changed:
            self._connected = self._following = False
            self._changed.notify_all()

    def on_refused(self, why: Refused) -> None:
        """Remember why; nothing more will come."""
        with self._changed:
            self._refused = why
            self._connected = False
            self._changed.notify_all()
        self._receipts.fail(why)

    def on_message(self, message: ServerMessage) -> None:
        """Hand it to whoever waits for it."""
        if isinstance(message, Welcome):
            self._take_welcome(message)
        elif isinstance(message, Refusal):
            self.on_refused(Refused(message.code, message.reason))
        elif isinstance(message, ReceiptMessage):
            self._receipts.take(message)
        elif isinstance(message, ErrorMessage):
            self._take_error(message)
        elif isinstance(message, Stats | Pong | Reply):
            if isinstance(message, Pong) and message.id == self._marker:
                self._receipts.all_named()
            with self._changed:
                if message.id in self._answers:
                    self._answers[message.id] = message
                self._changed.notify_all()

    def _take_welcome(self, welcome: Welcome) -> None:
        ring = self._open_ring(welcome.ring)
        topics = [protocol.TOPIC_NOTICE]
        if ring is not None:
            topics.append(protocol.TOPIC_RING)
        else:
            kind = self._inline or ("raw" if is_loopback(self._host()) else "jpeg")
            topics.append(protocol.TOPIC_RAW if kind == "raw" else protocol.TOPIC_JPEG)
        with self._changed:
            same = self._welcome is not None and self._welcome.epoch == welcome.epoch
            again: list[bytes] = []
            if same:
                again = self._receipts.welcomed()
            else:
                self._frames.forget()
                self._receipts.fail(Disconnected("the server was restarted before it was applied"))
            self._welcome = welcome
            self._frames.ring = ring
            self._state = welcome.state
            self._prompt = welcome.prompt
            self._connected = True
            self._changed.notify_all()
        self._link.follow(welcome.frames_endpoint.replace("://*:", f"://{self._host()}:"), topics)
        for message in again:
            self._link.send(message)
        self._marker = next(self._ids)
        self._link.send(pack(Ping(id=self._marker)))

    def _host(self) -> str:
        host = urlsplit(self.endpoint).hostname or protocol.LOOPBACK
        return f"[{host}]" if ":" in host else host

    def _open_ring(self, place: RingPlace | None) -> RingReader | None:
        if place is None or self._inline is not None:
            return None
        try:
            return RingReader(Path(place.path), place.ring_id)
        except RingUnreadable as why:
            log.info("frames come through the socket: %s", why)
            return None

    def _take_error(self, message: ErrorMessage) -> None:
        log.warning("the server could not take a message: %s (%s)", message.reason, message.code)
        self._receipts.take_error(message)
        if message.code == "no_hello":
            self._link.send(self._hello)

    def on_frame(self, notice: FrameNotice, topic: bytes, picture: bytes | None) -> None:
        """Keep the notice, and the picture if there is one."""
        with self._changed:
            if self._welcome is None or notice.epoch != self._welcome.epoch:
                return
            self._frames.take(notice, topic, picture)
            self._prompt = notice.prompt
            self._changed.notify_all()

    def on_notice(self, notice: Notice) -> None:
        """Note what the client itself needs, then pass it on."""
        if notice.kind == "state" and notice.state is not None:
            with self._changed:
                self._state = notice.state
                self._changed.notify_all()
        elif notice.kind == "ring_changed":
            ring = self._open_ring(notice.ring)
            with self._changed:
                self._frames.ring = ring
        elif notice.kind == "scene" and notice.scene is not None and self._welcome is not None:
            self._welcome = self._welcome.model_copy(update={"scene": notice.scene})
        if self._on_notice is not None:
            self._on_notice(notice)
