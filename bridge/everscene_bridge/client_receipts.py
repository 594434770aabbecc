"""The Python client's open receipts, and what becomes of them when the connection breaks: docs/protocol.md §5.

What was sent and not accepted is sent again: the server takes it once, however often it comes. What was accepted is
either named again by the server right after its welcome, or lost: the server keeps receipts for a while only.
"""

import threading
import time
from dataclasses import dataclass

from everscene_bridge.errors import ClientError, Disconnected, Rejected
from everscene_bridge.messages import ErrorMessage, ReceiptMessage
from everscene_bridge.receipt import Receipt

SEND_AGAIN_S = 20.0
HARMLESS = ("no_hello", "duplicate_id")
"""Errors about an input that came before our hello, and is sent again; or that came twice."""


@dataclass
class _Open:
    receipt: Receipt
    message: bytes
    sent_s: float
    accepted: bool = False
    named: bool = True  # since the latest welcome


class OpenReceipts:
    """By id. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, _Open] = {}

    def add(self, receipt: Receipt, message: bytes) -> None:
        """It is about to be sent."""
        with self._lock:
            self._open[receipt.id] = _Open(receipt, message, time.monotonic())

    def take(self, message: ReceiptMessage) -> None:
        """The server says what became of one; what was known already is passed over."""
        with self._lock:
            one = self._open.get(message.id)
            if one is None:
                return
            one.named = True
            if message.state != "accepted":
                del self._open[message.id]
            elif one.accepted:
                return
            one.accepted = True
        one.receipt.take(message)

    def take_error(self, error: ErrorMessage) -> None:
        """The server could not take one."""
        if error.id is None or error.code in HARMLESS:
            return
        with self._lock:
            one = self._open.pop(error.id, None)
        if one is not None:
            one.receipt.fail(Rejected(error.code, error.reason))

    def welcomed(self) -> list[bytes]:
        """The same server greets again; what to send once more."""
        oldest = time.monotonic() - SEND_AGAIN_S
        with self._lock:
            for one in self._open.values():
                one.named = False
            unanswered = [one for one in self._open.values() if not one.accepted]
        again = [one for one in unanswered if one.sent_s >= oldest]
        for one in again:
            one.named = True
        return [one.message for one in again]

    def all_named(self) -> None:
        """The server has named all that it knows of: the others are lost."""
        with self._lock:
            gone = [number for number, one in self._open.items() if not one.named]
            lost = [self._open.pop(number) for number in gone]
        for one in lost:
            one.receipt.fail(Disconnected("the connection was lost, and its receipt with it"))

    def fail(self, why: ClientError) -> None:
        """No receipts will come."""
        with self._lock:
            lost = list(self._open.values())
            self._open.clear()
        for one in lost:
            one.receipt.fail(why)
