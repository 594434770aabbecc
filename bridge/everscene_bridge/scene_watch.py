"""A scene file that is written while the server runs is read anew.

A thread looks at the file twice a second. A file that is right takes the old one's place from the next chunk on; one
that is not is named, and the old one stays. Editors write in several steps, so a file is read when it has been left
alone for one look.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from everscene_bridge.errors import SceneError
from everscene_bridge.scene import Scene, load_scene

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5

Stamp = tuple[int, int]  # time of the last change in ns, bytes


class SceneWatch:
    """Watches one scene file."""

    def __init__(
        self,
        path: Path,
        change: Callable[[Scene], None],
        tell: Callable[[str], None],
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        """change: takes the new scene, or raises SceneError if it cannot be used. tell: takes what is wrong with it."""
        self._path = path
        self._change = change
        self._tell = tell
        self._look_every_s = look_every_s
        self._read = self._seen = _stamp(path)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="everscene-scene", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._stopping.wait(self._look_every_s):
            self.look()

    def look(self) -> None:
        """Read the file if it has changed since it was last read, and not since the last look."""
        stamp = _stamp(self._path)
        settled, self._seen = stamp == self._seen, stamp
        if stamp is None or stamp == self._read or not settled:
            return
        self._read = stamp
        try:
            self._change(load_scene(self._path))
        except SceneError as problem:
            log.error("the scene file is not taken, the old one stays: %s", problem)
            self._tell(str(problem))
            return
        log.info("the scene file was read anew: %s", self._path)


def _stamp(path: Path) -> Stamp | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size
