"""A C# client in a process of its own, led line by line."""

import json
import queue
import subprocess
import threading
import time
from types import TracebackType
from typing import Any

from .runtimes import Runtime

Said = dict[str, Any]


class Session:
    """`Checks.exe session …`. What it says is kept in order; `expect` takes the next line that fits."""

    def __init__(self, runtime: Runtime, program: str, endpoint: str, *options: str) -> None:
        self._process = subprocess.Popen(
            [*runtime.command, program, "session", f"endpoint={endpoint}", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._lines: queue.Queue[Said] = queue.Queue()
        self._errors = ""
        self.heard: list[Said] = []
        self._readers = [
            threading.Thread(target=self._read_lines, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors += line

    def do(self, command: str) -> None:
        """Send one command."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def expect(self, kind: str, timeout: float = 20.0, **fields: Any) -> Said:
        """The next thing said of this kind and with these values; what comes before it goes to `heard`."""
        end = time.monotonic() + timeout
        while True:
            try:
                said = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {kind} {fields}; heard {self.heard[-10:]}; {self._errors}") from None
            self.heard.append(said)
            if said["kind"] == kind and all(said[name] == value for name, value in fields.items()):
                return said

    def ever(self, kind: str, timeout: float = 20.0, **fields: Any) -> Said:
        """Like `expect`, but what was said before counts too."""
        for said in self.heard:
            if said["kind"] == kind and all(said[name] == value for name, value in fields.items()):
                return said
        return self.expect(kind, timeout, **fields)

    def frames(self, count: int, timeout: float = 30.0) -> list[Said]:
        """The next frames it shows."""
        self.do(f"frames {count}")
        return [self.expect("frame", timeout) for _ in range(count)]

    def quiet_for(self, seconds: float, kind: str) -> bool:
        """Whether nothing of this kind is said for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                said = self._lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                return True
            self.heard.append(said)
            if said["kind"] == kind:
                return False
        return True

    def close(self) -> Said:
        """End the client and give its last figures."""
        self.do("close")
        last = self.expect("closed")
        assert self._process.wait(timeout=10) == 0, self._errors
        return last
