"""What became of an event or prompt, as a client sees it."""

import threading
from dataclasses import dataclass
from typing import Literal, overload

from everscene_bridge.errors import ClientError, NotInTime, Rejected, Superseded
from everscene_bridge.messages import ReceiptMessage


@dataclass(frozen=True)
class Accepted:
    """The server took it."""

    order: int  # the server's number for it


@dataclass(frozen=True)
class Applied:
    """It is visible."""

    order: int
    frame: int  # first frame number that shows it
    chunk: int
    latency_ms: float  # from its arrival at the server to the publishing of that frame
    prompt: str  # in force from that frame on


class Receipt:
    """Made by `Client.event` and `Client.prompt`."""

    def __init__(self, message_id: int, what: str) -> None:
        self.id = message_id
        self._what = what  # for error texts
        self._changed = threading.Condition()
        self._accepted: Accepted | None = None
        self._applied: Applied | None = None
        self._failure: ClientError | None = None

    @property
    def state(self) -> str:
        """`sent`, `accepted`, `applied`, `superseded`, `rejected` or `lost` (the server went away)."""
        with self._changed:
            if self._applied is not None:
                return "applied"
            if isinstance(self._failure, Superseded):
                return "superseded"
            if isinstance(self._failure, Rejected):
                return "rejected"
            if self._failure is not None:
                return "lost"
            return "sent" if self._accepted is None else "accepted"

    @property
    def done(self) -> bool:
        """Whether the final receipt has come."""
        return self.state not in ("sent", "accepted")

    @overload
    def wait(self, state: Literal["accepted"], timeout: float | None = ...) -> Accepted: ...
    @overload
    def wait(self, state: Literal["applied"] = ..., timeout: float | None = ...) -> Applied: ...
    def wait(
        self, state: Literal["accepted", "applied"] = "applied", timeout: float | None = None
    ) -> Accepted | Applied:
        """Wait until it is accepted, or applied. `timeout` in seconds, None: for ever.

        Raises Rejected or Superseded when that is how it ended, Disconnected when the server went away before,
        NotInTime.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._result(state) is not None or self._failure is not None, timeout)
            result = self._result(state)
            if result is not None:
                return result
            if self._failure is not None:
                raise self._failure
            raise NotInTime(f"{self._what} was not {state} within {timeout:g} s")

    def _result(self, state: str) -> Accepted | Applied | None:
        return self._accepted if state == "accepted" else self._applied

    def take(self, message: ReceiptMessage) -> None:
        """A receipt message for it came."""
        with self._changed:
            if message.state == "accepted":
                self._accepted = Accepted(message.order or 0)
            elif message.state == "applied":
                self._applied = Applied(
                    message.order or 0,
                    message.frame or 0,
                    message.chunk or 0,
                    message.latency_ms or 0.0,
                    message.prompt or "",
                )
            elif message.state == "superseded":
                self._failure = Superseded(message.by or 0)
            else:
                self._failure = Rejected(message.code or "", message.reason or "")
            self._changed.notify_all()

    def fail(self, why: ClientError) -> None:
        """No receipt will come."""
        with self._changed:
            if self._applied is None and self._failure is None:
                self._failure = why
            self._changed.notify_all()
