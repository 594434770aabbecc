"""What this machine has for the process around the engine: memory for the ring, ports, and optional packages."""

import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from everscene_bridge import protocol
from everscene_bridge.ring_files import directories
from everscene_bridge.settings import ServeSettings
from everscene_engine.models.presets import PRESETS
from everscene_engine.port import Finding

PORTS = {
    "control": (protocol.CONTROL_PORT, "--control-port"),
    "frames": (protocol.FRAMES_PORT, "--frames-port"),
    "viewer": (protocol.VIEWER_PORT, "--viewer-port"),
}
EXTRAS = {  # package: (extra, what it is for)
    "diffusers": ("large", "the large models"),
    "av": ("record", "everscene record"),
    "pythonosc": ("osc", "OSC"),
}


def examine() -> list[Finding]:
    """All of it."""
    found = directories(None)
    return [
        ring_finding(found[0] if found else None, free_bytes(found[0]) if found else 0),
        *(port_finding(name, port, option, port_is_free(port)) for name, (port, option) in PORTS.items()),
        *(extra_finding(package, *EXTRAS[package], find_spec(package) is not None) for package in EXTRAS),
    ]


def ring_bytes() -> int:
    """Of the ring of the largest preset."""
    pixels = max(preset.stream.width * preset.stream.height for preset in PRESETS)
    return 4 * pixels * ServeSettings().ring_slots


def ring_finding(folder: Path | None, free: int) -> Finding:
    """Whether the frame ring has room. folder: where it would lie; free: bytes there."""
    if folder is None:
        return Finding("frame ring", "problem", "no folder for it can be written to", "give serve --ring-dir")
    found = f"{folder}, {free / 1e6:.0f} MB free; the largest model's ring takes {ring_bytes() / 1e6:.0f} MB"
    if free < ring_bytes():
        advice = "in a container: --shm-size 256m; else serve --ring-dir a folder with room"
        return Finding("frame ring", "problem", found, advice)
    if folder == Path(tempfile.gettempdir()):
        return Finding("frame ring", "note", found, "that may be a disk; a folder in memory, as /dev/shm, is quicker")
    return Finding("frame ring", "ok", found)


def port_finding(name: str, port: int, option: str, free: bool) -> Finding:
    """Whether a server could bind its port."""
    if free:
        return Finding(f"{name} port", "ok", f"{port} is free")
    advice = f"another everscene may be running; serve {option} 0 takes any that is free"
    return Finding(f"{name} port", "note", f"{port} is taken", advice)


def extra_finding(package: str, extra: str, purpose: str, there: bool) -> Finding:
    """Whether an optional package is installed."""
    if there:
        return Finding(package, "ok", f"there, for {purpose}")
    return Finding(package, "note", f"not there, for {purpose}", f"pip install everscene[{extra}]")


def free_bytes(folder: Path, usage: Callable[[Path], Sequence[int]] = shutil.disk_usage) -> int:
    """Bytes that can be written to a folder."""
    return usage(folder)[2]


def port_is_free(port: int) -> bool:
    """Whether this machine's own address lets us listen on a port."""
    with socket.socket() as listener:
        if sys.platform != "win32":  # there it would let us in where another listens
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((protocol.LOOPBACK, port))
            listener.listen()
        except OSError:
            return False
    return True
