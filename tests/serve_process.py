"""`everscene serve` as a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path


class ServeProcess:
    """The test pattern unless the options name a model, on free ports unless they name some, and no viewer."""

    def __init__(self, ring_dir: Path, *options: str) -> None:
        """Returns when it serves, or has ended."""
        command = [sys.executable, "-m", "everscene_bridge", "serve", "--model", "pattern", "--no-viewer"]
        ports = ["--control-port", "0", "--frames-port", "0"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [*command, *(options if "--control-port" in options else [*ports, *options]), "--ring-dir", str(ring_dir)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.serves = False
        self.lines: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            self.serves = line.startswith("Ctrl-C")
            if self.serves:
                break

    def address(self, name: str) -> str:
        """Of `control` or `frames`, as it printed it."""
        return next(line.split()[1] for line in self.lines if line.startswith(name))

    def end(self, kind: int = signal.SIGTERM) -> int:
        """Send the signal; its exit status."""
        self.process.send_signal(kind)
        return self.process.wait(10)

    def close(self) -> None:
        """End it whatever it does, for the end of a test."""
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
