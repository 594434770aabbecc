"""Receipts for clients whose connection broke: docs/protocol.md §5, “A broken connection”.

Of every event and prompt that waits, how it was accepted and over which connection; of those that have their final
receipt, that receipt, for a while. All are packed already. Memory is bounded: so many of each client, for so long.
"""

from collections import OrderedDict
from dataclasses import dataclass

from everscene_bridge.protocol import KEPT_RECEIPTS, KEPT_RECEIPTS_S, NS


@dataclass
class OpenInput:
    """An event or prompt without a final receipt."""

    route: bytes  # ZeroMQ's name for the connection that it came over, or was last repeated over
    accepted: bytes


class KeptReceipts:
    """By client and id. One thread."""

    def __init__(self) -> None:
        self._open: dict[int, dict[int, OpenInput]] = {}
        self._final: dict[int, OrderedDict[int, tuple[int, bytes]]] = {}
        self._swept_ns = 0

    def opened(self, client_id: int, message_id: int, route: bytes, accepted: bytes) -> None:
        """It was accepted."""
        self._open.setdefault(client_id, {})[message_id] = OpenInput(route, accepted)

    def find_open(self, client_id: int, message_id: int) -> OpenInput | None:
        """What waits under this id."""
        return self._open.get(client_id, {}).get(message_id)

    def closed(self, client_id: int, message_id: int, final: bytes, now_ns: int) -> None:
        """It has its final receipt, which is kept unless the client has said bye."""
        waiting = self._open.get(client_id, {})
        if waiting.pop(message_id, None) is None:
            return
        if not waiting:
            del self._open[client_id]
        kept = self._final.setdefault(client_id, OrderedDict())
        kept[message_id] = (now_ns, final)
        if len(kept) > KEPT_RECEIPTS:
            kept.popitem(last=False)
        if now_ns - self._swept_ns >= NS:
            self._sweep(now_ns)

    def find_final(self, client_id: int, message_id: int, now_ns: int) -> bytes | None:
        """The final receipt under this id, if it is still kept."""
        kept = self._final.get(client_id)
        if kept is None or message_id not in kept:
            return None
        at_ns, final = kept[message_id]
        return final if now_ns - at_ns < KEPT_RECEIPTS_S * NS else None

    def missed(self, client_id: int, now_ns: int) -> list[bytes]:
        """All that the client may have missed while it was away: oldest first, what waits last."""
        self._sweep(now_ns)
        waiting = self._open.get(client_id, {}).values()
        return [final for _, final in self._final.get(client_id, {}).values()] + [one.accepted for one in waiting]

    def forget(self, client_id: int) -> None:
        """The client has said bye."""
        self._open.pop(client_id, None)
        self._final.pop(client_id, None)

    def _sweep(self, now_ns: int) -> None:
        self._swept_ns = now_ns
        for client_id, kept in list(self._final.items()):
            while kept and now_ns - next(iter(kept.values()))[0] >= KEPT_RECEIPTS_S * NS:
                kept.popitem(last=False)
            if not kept:
                del self._final[client_id]
