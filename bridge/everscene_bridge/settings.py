"""The settings of `everscene serve`, checked at the door. Environment variables are read here and nowhere else."""

import ipaddress
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from everscene_bridge import protocol, snapshots
from everscene_bridge.allow import PromptRule
from everscene_bridge.errors import SettingsError
from everscene_bridge.ring_layout import MAX_SLOTS, MIN_SLOTS
from everscene_bridge.timeline import TimelineSettings

TOKEN_VARIABLE = "EVERSCENE_TOKEN"


def token_from_environment() -> str | None:
    """The token that programs use when none is given to them."""
    return os.environ.get(TOKEN_VARIABLE) or None


def notify_socket() -> str | None:
    """Where systemd wants to hear from us, if it started us so."""
    return os.environ.get("NOTIFY_SOCKET") or None


def environment_with(variables: Mapping[str, str]) -> dict[str, str]:
    """Our environment with more in it, for a process that we start. systemd hears from us alone."""
    return {name: value for name, value in {**os.environ, **variables}.items() if name != "NOTIFY_SOCKET"}


@dataclass(frozen=True)
class ServeSettings:
    """Where the server listens and how it runs. Raises SettingsError naming option, value and rule."""

    host: str = protocol.LOOPBACK
    control_port: int = protocol.CONTROL_PORT  # 0: any that is free
    frames_port: int = protocol.FRAMES_PORT
    token: str | None = None
    ring_dir: Path | None = None  # None: the first good one of docs/protocol.md §7
    ring_slots: int = 8
    state_dir: Path | None = None  # snapshots; None: this user's, see `state_folder`
    restore: str | None = None  # name of the snapshot to start from; `last`: the newest automatic one, if there is any
    autosave_s: float = 10.0  # between automatic snapshots, from which a failed engine goes on; 0: none
    timeline: TimelineSettings = field(default_factory=TimelineSettings)
    prompts: PromptRule | None = None  # which free prompts are taken; None: any

    @property
    def state_folder(self) -> Path:
        """Where snapshots lie. It need not be there yet."""
        return self.state_dir if self.state_dir is not None else _users_state_folder()

    def __post_init__(self) -> None:
        for option, port in (("--control-port", self.control_port), ("--frames-port", self.frames_port)):
            if not 0 <= port <= 65535:
                raise SettingsError(f"{option} is {port}; a port lies from 0 (any free one) to 65535")
        if self.control_port == self.frames_port != 0:
            raise SettingsError(f"--control-port and --frames-port are both {self.control_port}; they must differ")
        if not MIN_SLOTS <= self.ring_slots <= MAX_SLOTS:
            raise SettingsError(f"--ring-slots is {self.ring_slots}; a ring has {MIN_SLOTS} to {MAX_SLOTS}")
        if self.token is not None and not 1 <= len(self.token.encode()) <= protocol.MAX_TOKEN_BYTES:
            raise SettingsError(f"--token must have 1 to {protocol.MAX_TOKEN_BYTES} bytes")
        if self.ring_dir is not None and not self.ring_dir.is_dir():
            raise SettingsError(f"--ring-dir is {self.ring_dir}, which is no directory")
        if self.state_dir is not None and self.state_dir.exists() and not self.state_dir.is_dir():
            raise SettingsError(f"--state-dir is {self.state_dir}, which is no directory")
        if self.restore is not None:
            try:
                if self.restore != snapshots.LAST:
                    snapshots.path_of(self.state_folder, self.restore)
            except ValueError as rule:
                raise SettingsError(f"--restore: {rule}") from None
        if not (self.autosave_s == 0 or 0.1 <= self.autosave_s <= 3600):
            raise SettingsError(f"--autosave-s is {self.autosave_s:g}; it is 0 (never) or 0.1 to 3600 seconds")
        if not is_loopback(self.host) and self.token is None:
            raise SettingsError(
                f"--host {self.host} can be reached from other machines, so a token is needed: "
                f"give --token or set {TOKEN_VARIABLE}"
            )


def _users_state_folder() -> Path:
    """Where programs keep what outlives them: $XDG_STATE_HOME, %LOCALAPPDATA% on Windows, ~/.local/state."""
    given = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_STATE_HOME")
    return (Path(given) if given else Path.home() / ".local" / "state") / "everscene"


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
