"""The control thread: it owns the control socket, knows the clients, and answers every message.

Other threads hand it receipts through a queue and wake it by a byte on a socket pair. It also answers ZeroMQ's
questions about tokens (ZAP), for both sockets of the server.
"""

import contextlib
import hmac
import logging
import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from everscene_bridge import protocol
from everscene_bridge.commands import Commands
from everscene_bridge.errors import InputRejected, MessageError
from everscene_bridge.inputs import Action
from everscene_bridge.kept_receipts import KeptReceipts
from everscene_bridge.ledger import Outcome
from everscene_bridge.live import LiveStream
from everscene_bridge.message_bytes import pack, unpack_client
from everscene_bridge.messages import (
    Bye,
    ClientMessage,
    Command,
    ErrorMessage,
    Event,
    Hello,
    Message,
    Notice,
    Ping,
    Pong,
    Prompt,
    ReceiptMessage,
    Refusal,
    Reply,
    Seen,
    Slots,
    Stats,
    StatsRequest,
    Welcome,
)
from everscene_bridge.protocol import NS
from everscene_bridge.publisher import Publisher

log = logging.getLogger(__name__)

MESSAGES_BETWEEN_RECEIPTS = 64
LONGEST_SEEN_NS = 10 * NS


@dataclass
class Session:
    """A client that said hello."""

    route: bytes  # ZeroMQ's name for its connection
    client_id: int
    name: str


class Control:
    """See the module's docstring."""

    def __init__(
        self,
        stream: LiveStream,
        publisher: Publisher,
        control: "zmq.Socket[bytes]",
        zap: "zmq.Socket[bytes] | None",
        token: str | None,
        epoch: int,
        welcome: Callable[[], Welcome],
        stats: Callable[[int | None], Stats],
        commands: Commands,
    ) -> None:
        self._stream = stream
        self._publisher = publisher
        self._socket = control
        self._zap = zap
        self._token = (token or "").encode()
        self._epoch = epoch
        self._welcome = welcome
        self._stats = stats
        self._commands = commands
        self._replies: queue.SimpleQueue[tuple[int, Reply]] = queue.SimpleQueue()
        self._by_route: dict[bytes, Session] = {}
        self._by_client: dict[int, Session] = {}
        self._receipts = KeptReceipts()
        self._outbox: queue.SimpleQueue[list[Outcome]] = queue.SimpleQueue()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._stopping = False
        self._notices_since_ns = 0
        self._notices = 0
        self._notices_skipped = 0
        self.closing = False  # no more events, prompts and commands are taken; guarded by the stream's `changed`
        self.errors = 0
        self._thread = threading.Thread(target=self._serve_on, name="everscene-control", daemon=True)

    @property
    def clients(self) -> int:
        """How many there are now."""
        return len(self._by_client)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is in the queue, then close the sockets."""
        self._stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()
        if self._zap is not None:
            self._zap.close()
        self._wake_in.close()
        self._wake_out.close()

    def tell(self, outcomes: list[Outcome]) -> None:
        """Send these receipts soon. Any thread."""
        self._outbox.put(outcomes)
        self._wake()

    def _reply(self, client_id: int, reply: Reply) -> None:
        """Send the answer to a command soon, wherever the client is connected by then. Any thread."""
        self._replies.put((client_id, reply))
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # there are wake-ups enough in it already, or it is closed
            self._wake_in.send(b"!")

    # The loop

    def _serve_on(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_out, zmq.POLLIN)
        if self._zap is not None:
            poller.register(self._zap, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._zap in ready:
                self._answer_zap()
            if self._wake_out.fileno() in ready:
                self._wake_out.recv(4096)
            for _ in range(MESSAGES_BETWEEN_RECEIPTS):
                if not self._take_message():
                    break
            stopping = self._stopping  # before the queue is emptied: what was put before it is sent
            self._send_receipts()
            self._send_replies()
            if stopping:
                return

    def _take_message(self) -> bool:
        try:
            route, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        try:
            picture = _picture_of(parts)
            self._handle(route, unpack_client(parts[0]), picture)
        except MessageError as problem:
            self._send_problem(route, problem)
        return True

    def _send_problem(self, route: bytes, problem: MessageError) -> None:
        if problem.id is not None and problem.type in ("event", "prompt", "slots") and route in self._by_route:
            with self._stream.changed:
                self._stream.timeline.ledger.totals.rejected += 1
            self._send(route, _rejected(problem.id, None, problem.code, problem.reason))
            return
        self.errors += 1
        self._send(route, ErrorMessage(id=problem.id, code=problem.code, reason=problem.reason))

    def _send_replies(self) -> None:
        while True:
            try:
                client_id, reply = self._replies.get_nowait()
            except queue.Empty:
                return
            session = self._by_client.get(client_id)
            if session is not None:
                self._send(session.route, reply)

    def _send_receipts(self) -> None:
        while True:
            try:
                outcomes = self._outbox.get_nowait()
            except queue.Empty:
                return
            for outcome in outcomes:
                one = outcome.input
                final = pack(_receipt(outcome))
                self._receipts.closed(one.client_id, one.id, final, self._now_ns())
                session = self._by_client.get(one.client_id)
                if session is not None:
                    self._send_packed(session.route, final)

    def _send(self, route: bytes, message: Message) -> None:
        self._send_packed(route, pack(message))

    def _send_packed(self, route: bytes, message: bytes) -> None:
        try:
            self._socket.send_multipart([route, message], zmq.NOBLOCK)
        except zmq.Again:
            log.warning("a client does not read its messages; it is forgotten")
            self._forget(route)
        except zmq.ZMQError as problem:
            if problem.errno != zmq.EHOSTUNREACH:
                raise
            self._forget(route)

    def _forget(self, route: bytes) -> None:
        session = self._by_route.pop(route, None)
        if session is not None and self._by_client.get(session.client_id) is session:
            del self._by_client[session.client_id]
            log.info("client %r is gone", session.name)

    # Messages

    def _handle(self, route: bytes, message: ClientMessage, picture: bytes | None = None) -> None:
        if picture is not None and not (isinstance(message, Command) and message.name == "image"):
            reason = "the message has 2 parts; only the command 'image' has a second, all others have one"
            raise MessageError("parts", reason, getattr(message, "id", None))
        if isinstance(message, Ping):
            pong = Pong(id=message.id, client_ns=message.client_ns, server_ns=self._now_ns(), epoch=self._epoch)
            self._send(route, pong)
            return
        if isinstance(message, Hello):
            self._greet(route, message)
            return
        session = self._by_route.get(route)
        if session is None:
            message_id = getattr(message, "id", None)
            raise MessageError("no_hello", "say hello first: this server does not know you", message_id)
        if isinstance(message, Event | Prompt | Slots):
            self._accept(session, message)
        elif isinstance(message, StatsRequest):
            self._send(route, self._stats(message.id))
        elif isinstance(message, Seen):
            self._note_seen(message)
        elif isinstance(message, Command):
            self._command(session, message, picture)
        elif isinstance(message, Bye):
            self._receipts.forget(session.client_id)
            self._forget(route)

    def _now_ns(self) -> int:
        return self._stream.clock.now_ns()

    def _greet(self, route: bytes, hello: Hello) -> None:
        ours = list(protocol.VERSION)
        if hello.protocol[0] != ours[0]:
            theirs = ".".join(map(str, hello.protocol))
            reason = (
                f"this server speaks protocol {ours[0]}.{ours[1]}, the client {theirs}: "
                f"use a client for protocol {ours[0]}"
            )
            self._send(route, Refusal(code="version", reason=reason, protocol=ours))
            return
        if hello.client_id not in self._by_client and len(self._by_client) >= protocol.MAX_CLIENTS:
            self._drop_silent()
        if hello.client_id not in self._by_client and len(self._by_client) >= protocol.MAX_CLIENTS:
            reason = f"{protocol.MAX_CLIENTS} clients are connected; no more are taken"
            self._send(route, Refusal(code="busy", reason=reason, protocol=ours))
            return
        known = self._by_route.get(route)
        again = known is not None and known.client_id == hello.client_id
        self._forget(route)
        before = self._by_client.get(hello.client_id)
        if before is not None:
            self._forget(before.route)
        session = Session(route, hello.client_id, hello.client)
        self._by_route[route] = session
        self._by_client[hello.client_id] = session
        log.info("client %r is here (%s)", hello.client, hello.language or "no language given")
        self._send(route, self._welcome())
        if not again:
            for missed in self._receipts.missed(hello.client_id, self._now_ns()):
                self._send_packed(route, missed)

    def _drop_silent(self) -> None:
        """Forget those whose connection is gone: an empty send to them fails."""
        for route in list(self._by_route):
            self._send(route, Pong(server_ns=self._now_ns(), epoch=self._epoch))

    def _accept(self, session: Session, message: Event | Prompt | Slots) -> None:
        stream = self._stream
        now_ns = self._now_ns()
        if self._repeat(session, message.id, now_ns):
            return
        with stream.changed:
            try:
                if self.closing:
                    raise InputRejected("closing", "the server stops")
                action = self._action(message)
                new = stream.timeline.ledger.accept(action, now_ns, session.client_id, message.id, message.client_ns)
            except InputRejected as why:
                stream.timeline.ledger.totals.rejected += 1
                self._send(session.route, _rejected(message.id, message.client_ns, why.code, why.reason))
                return
            accepted = pack(
                ReceiptMessage(id=message.id, client_ns=message.client_ns, state="accepted", order=new.order)
            )
            self._receipts.opened(session.client_id, message.id, session.route, accepted)
            self._announce(session, message, new.order, now_ns)
            if stream.run_log is not None:
                said = message.model_dump(exclude_none=True, exclude={"id", "client_ns"})
                frame = stream.timeline.latest
                stream.run_log.write("input", order=new.order, client=session.name, after_frame=frame, said=said)
            stream.hand_out()
            stream.changed.notify_all()
        self._send_packed(session.route, accepted)

    def _command(self, session: Session, command: Command, picture: bytes | None) -> None:
        client_id = session.client_id
        with self._stream.changed:  # so that none is begun once the server closes
            if self.closing:
                self._send(session.route, Reply(id=command.id, ok=False, code="closing", reason="the server stops"))
                return
            self._commands.take(command, lambda reply: self._reply(client_id, reply), picture)

    def _repeat(self, session: Session, message_id: int, now_ns: int) -> bool:
        """Whether an event or prompt has come before, over a connection that broke: then its receipt is sent again."""
        waiting = self._receipts.find_open(session.client_id, message_id)
        if waiting is not None and waiting.route == session.route:
            reason = f"the id {message_id} stands for an event or prompt whose receipt is open"
            raise MessageError("duplicate_id", reason, message_id)
        if waiting is not None:
            waiting.route = session.route
            receipt = waiting.accepted
        else:
            final = self._receipts.find_final(session.client_id, message_id, now_ns)
            if final is None:
                return False
            receipt = final
        self._send_packed(session.route, receipt)
        return True

    def _action(self, message: Event | Prompt | Slots) -> Action:
        scene = self._stream.timeline.ledger.scene
        if isinstance(message, Event):
            return scene.action(message.name, message.params or {}, message.when)
        way, when = message.way, message.when or "now"
        if isinstance(message, Slots):
            return scene.slots_action(message.slots, way, when)
        return Action(prompt=message.text, transition=way.transition, when=when, blend=way.blend)

    def _announce(self, session: Session, message: Event | Prompt | Slots, order: int, now_ns: int) -> None:
        if now_ns - self._notices_since_ns >= NS:
            self._notices_since_ns, self._notices = now_ns, 0
        if self._notices >= protocol.MAX_INPUT_NOTICES_PER_SECOND:
            self._notices_skipped += 1
            return
        self._notices += 1
        self._publisher.announce(
            Notice(
                kind="input",
                epoch=self._epoch,
                at_ns=now_ns,
                order=order,
                client_id=session.client_id,
                client=session.name,
                event=message.name if isinstance(message, Event) else None,
                params=message.params or {} if isinstance(message, Event) else None,
                prompt=message.text if isinstance(message, Prompt) else None,
                slots=message.slots if isinstance(message, Slots) else None,
                skipped=self._notices_skipped,
            )
        )
        self._notices_skipped = 0

    def _note_seen(self, seen: Seen) -> None:
        with self._stream.changed:
            for frame, received_ns, published_ns in self._publisher.first_frames:
                if frame == seen.frame and 0 <= seen.seen_ns - published_ns <= LONGEST_SEEN_NS:
                    self._stream.meter.seen_ms.add((seen.seen_ns - received_ns) / 1e6)

    # Tokens

    def _answer_zap(self) -> None:
        """One question of ZeroMQ's (RFC 27): may this peer come in?"""
        assert self._zap is not None
        route, empty, version, request, _domain, _address, _identity, mechanism, *credentials = (
            self._zap.recv_multipart()
        )
        right = (
            mechanism == b"PLAIN"
            and len(credentials) == 2
            and credentials[0] == protocol.PLAIN_USER
            and hmac.compare_digest(credentials[1], self._token)
        )
        if not right:
            log.warning("a client came with a wrong token")
        status = [b"200", b"OK"] if right else [b"400", b"the token is wrong"]
        self._zap.send_multipart([route, empty, version, request, *status, b"", b""])


def _picture_of(parts: list[bytes]) -> bytes | None:
    """The part after the map, if there is one. Raises MessageError."""
    if len(parts) > 2 or (len(parts) == 2 and not parts[0]):
        raise MessageError("parts", f"the message has {len(parts)} parts; it must have one, or a picture after it")
    if len(parts) == 2 and len(parts[1]) > protocol.MAX_PICTURE_BYTES:
        limit = protocol.MAX_PICTURE_BYTES
        raise MessageError("too_long", f"the picture has {len(parts[1])} bytes; at most {limit} are taken")
    return parts[1] if len(parts) == 2 else None


def _rejected(message_id: int, client_ns: int | None, code: str, reason: str) -> ReceiptMessage:
    return ReceiptMessage(id=message_id, client_ns=client_ns, state="rejected", code=code, reason=reason)


def _receipt(outcome: Outcome) -> ReceiptMessage:
    one = outcome.input
    if outcome.state == "applied":
        return ReceiptMessage(
            id=one.id,
            client_ns=one.client_ns,
            state="applied",
            order=one.order,
            frame=outcome.frame,
            chunk=outcome.chunk,
            latency_ms=outcome.latency_ns / 1e6,
            prompt=outcome.prompt,
        )
    if outcome.state == "superseded":
        return ReceiptMessage(id=one.id, client_ns=one.client_ns, state="superseded", order=one.order, by=outcome.by)
    return ReceiptMessage(
        id=one.id,
        client_ns=one.client_ns,
        state="rejected",
        order=one.order,
        code=outcome.code,
        reason=outcome.reason,
    )
