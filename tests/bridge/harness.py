"""What tests of a running server share: a quick engine, and a bare client that can say anything."""

from typing import Any

import msgpack
import zmq

from everscene_bridge.pattern import PatternEngine, PatternTimes

QUICK = PatternTimes(recache=0.004, forward=0.004, forwards=5, decode=0.002)
"""A reaction of 26 ms, for tests that wait for one."""


def make_engine() -> PatternEngine:
    """Small and quick."""
    return PatternEngine(width=64, height=36, times=QUICK, vocabulary=None)


class Bare:
    """A DEALER without manners: sends what it is told to and reads what comes."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def send(self, **fields: Any) -> None:
        """One message."""
        self.socket.send(msgpack.packb(fields))

    def receive(self, timeout_ms: int = 5000) -> dict[str, Any]:
        """The next message; an assertion fails when none comes."""
        assert self.socket.poll(timeout_ms), "nothing came"
        message: dict[str, Any] = msgpack.unpackb(self.socket.recv())
        return message

    def ask(self, **fields: Any) -> dict[str, Any]:
        """Send, and the next message."""
        self.send(**fields)
        return self.receive()

    def hello(self, client_id: int = 5, protocol: tuple[int, int] = (1, 0)) -> dict[str, Any]:
        """Say hello properly."""
        return self.ask(type="hello", protocol=list(protocol), client="bare", client_id=client_id)

    def final(self, message_id: int) -> dict[str, Any]:
        """The final receipt of an input; what else comes is passed over."""
        while True:
            message = self.receive()
            if message.get("id") == message_id and message.get("state") != "accepted":
                return message

    def close(self) -> None:
        """Go without a word."""
        self.socket.close()
        self._context.term()
