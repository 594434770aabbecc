"""A memory fence for a language that has none.

On x86-64 stores become visible in program order and the fence is nothing. Elsewhere taking and giving back a lock twice
orders the stores before it against those after it: a release cannot pass a later acquire. The protocol does not
lean on this alone: clients learn of a frame by a message sent after its commit, and check the slot's lock again after
they copied it.
"""

import platform
import threading
from collections.abc import Callable

_lock = threading.Lock()


def _nothing() -> None:
    pass


def _by_lock() -> None:
    with _lock:
        pass
    with _lock:
        pass


fence: Callable[[], None] = _nothing if platform.machine().lower() in ("x86_64", "amd64", "i686", "x86") else _by_lock
