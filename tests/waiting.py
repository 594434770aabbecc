"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable


def wait_for(ready: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Until it is so; fails with `what` after so many seconds."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, what
        time.sleep(0.005)
