"""OSC in: faders, buttons and sequencers steer the world over UDP.

    /everscene/event/NAME  args…                   params in the order of the scene file, or name and value in turn
    /everscene/prompt      text [transition] [seconds]
    /everscene/slot/NAME   words [transition] [seconds]

A button sends 1 when it is pressed and 0 when it is let go: a lone 0 for an event without params does nothing. A number
for a slot or param with choices is the place of the choice, from 0. UDP has no answers: what is refused is logged.
Time tags of bundles are not waited for.

OSC knows no password, so the socket is bound to this machine alone unless another address is asked for.
"""

import errno
import logging
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from everscene_bridge.errors import ClientError, NotInTime, PortTaken, SettingsError
from everscene_bridge.feed_player import Player
from everscene_bridge.messages import ParamDescription, ParamValue, SceneDescription
from everscene_bridge.protocol import LOOPBACK
from everscene_bridge.receipt import Receipt
from everscene_bridge.wording import short

log = logging.getLogger(__name__)

OSC_PORT = 7467
PREFIX = "/everscene/"
LONGEST_PACKET = 65_536
LOOK_EVERY_S = 0.25
RECEIPTS_WATCHED = 256
BUNDLE = b"#bundle\0"
BUNDLE_HEAD_BYTES = 16
DEEPEST_BUNDLE = 8


class OscWorld(Player, Protocol):
    """What OSC needs of a `Client`."""

    @property
    def scene(self) -> SceneDescription: ...


class OscInput:
    """Listens, and sends what it hears to a world."""

    def __init__(self, world: OscWorld, host: str = LOOPBACK, port: int = OSC_PORT) -> None:
        """port 0: any that is free. Raises PortTaken, SettingsError for an address that cannot be, or without
        python-osc."""
        try:
            from pythonosc.osc_packet import OscPacket, ParseError
        except ImportError:
            raise SettingsError('OSC needs python-osc: pip install "everscene[osc]"') from None
        self._parse, self._parse_error = OscPacket, ParseError
        self._world = world
        self._receipts: deque[tuple[str, Receipt]] = deque(maxlen=RECEIPTS_WATCHED)
        self._next_look = 0.0  # monotonic seconds
        self._stopping = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.settimeout(LOOK_EVERY_S)
        try:
            self._socket.bind((host.strip("[]"), port))
        except OSError as problem:
            self._socket.close()
            if problem.errno == errno.EADDRINUSE:
                raise PortTaken(f"UDP port {port} on {host} is taken; choose another with --osc-port") from None
            raise SettingsError(f"cannot listen for OSC on {host}, port {port}: {problem}") from None
        self._thread = threading.Thread(target=self._listen, name="everscene-osc", daemon=True)

    @property
    def port(self) -> int:
        """The UDP port that it listens on."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and close the socket."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                packet = self._socket.recv(LONGEST_PACKET)
            except TimeoutError:
                self._look_at_receipts()
                continue
            except OSError as problem:
                log.error("OSC stops: %s", problem)
                return
            try:
                _check_bundles(packet)
                messages = self._parse(packet).messages
            except (self._parse_error, ValueError) as problem:
                log.warning("a packet that is no OSC was left out: %s", problem)
                continue
            for timed in messages:
                self.take(timed.message.address, list(timed.message))
            self._look_at_receipts()

    def take(self, address: str, args: Sequence[Any]) -> None:
        """Do what one message says; what cannot be done is logged."""
        try:
            receipt = self._send(address, args)
        except (ClientError, ValueError) as problem:
            log.warning("OSC %s: %s", address, problem)
            return
        if receipt is not None:
            self._receipts.append((address, receipt))

    def _send(self, address: str, args: Sequence[Any]) -> Receipt | None:
        kind, _, name = address.removeprefix(PREFIX).partition("/")
        if not address.startswith(PREFIX):
            raise ValueError(f"no such address; they begin with {PREFIX}")
        for place, value in enumerate(args, start=1):
            if not isinstance(value, int | str) and not (isinstance(value, float) and math.isfinite(value)):
                raise ValueError(f"argument {place} is {short(value)}; finite numbers, text, true and false are taken")
        if kind == "event" and name:
            return self._event(name, args)
        if kind == "prompt" and not name:
            text, transition, seconds = _steering(args)
            receipt: Receipt = self._world.prompt(str(text), transition, seconds=seconds)
            return receipt
        if kind == "slot" and name:
            words, transition, seconds = _steering(args)
            receipt = self._world.slots({name: self._words(name, words)}, transition, seconds=seconds)
            return receipt
        raise ValueError("no such address; there are event/NAME, prompt and slot/NAME")

    def _event(self, name: str, args: Sequence[Any]) -> Receipt | None:
        described = next((event for event in self._world.scene.events if event.name == name), None)
        params = [] if described is None else described.params
        if described is not None and not params:
            if len(args) > 1:
                raise ValueError(f"{name} takes no params; there came {len(args)}")
            if args and not args[0]:
                return None  # a button was let go
            args = []
        receipt: Receipt = self._world.send_event(name, _named(name, params, args))
        return receipt

    def _words(self, name: str, value: Any) -> str:
        slot = next((slot for slot in self._world.scene.slots if slot.name == name), None)
        chosen = _choice(value, slot.choices if slot is not None else None)
        return f"{chosen:g}" if isinstance(chosen, float) else str(chosen)

    def _look_at_receipts(self) -> None:
        """Log what was refused, a few times a second."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_EVERY_S
        for _ in range(len(self._receipts)):
            address, receipt = self._receipts.popleft()
            try:
                receipt.wait("applied", 0.0)
            except NotInTime:
                self._receipts.append((address, receipt))
            except ClientError as problem:
                if receipt.state == "rejected":
                    log.warning("OSC %s: %s", address, problem)


def _check_bundles(packet: bytes, depth: int = 0) -> None:
    """Raises ValueError for a part that does not lie in its bundle: python-osc would follow its size, if negative
    round and round."""
    if not packet.startswith(BUNDLE):
        return
    if depth == DEEPEST_BUNDLE:
        raise ValueError(f"bundles within bundles go down to {DEEPEST_BUNDLE} at most")
    at = BUNDLE_HEAD_BYTES
    while at < len(packet):
        size = int.from_bytes(packet[at : at + 4], "big", signed=True)
        at += 4
        left = max(0, len(packet) - at)
        if not 4 <= size <= left:
            raise ValueError(f"a part of a bundle has {size} bytes; at least 4 must be, and {left} are left")
        _check_bundles(packet[at : at + size], depth + 1)
        at += size


def _steering(args: Sequence[Any]) -> tuple[Any, Any, float | None]:
    """Value, transition and seconds of a message's arguments."""
    if not 1 <= len(args) <= 3:
        raise ValueError(f"one to three arguments are taken; there came {len(args)}")
    transition = args[1] if len(args) > 1 else None
    return args[0], transition, float(args[2]) if len(args) > 2 else None


def _named(event: str, params: Sequence[ParamDescription], args: Sequence[Any]) -> dict[str, ParamValue]:
    """Arguments as params by name."""
    known = {param.name: param for param in params}
    if len(args) % 2 == 0 and args and all(isinstance(key, str) and key in known for key in args[::2]):
        pairs = list(zip(args[::2], args[1::2], strict=True))
    elif len(args) <= len(params) or not params:
        pairs = [(param.name, value) for param, value in zip(params, args, strict=False)]
    else:
        raise ValueError(f"{event} takes {', '.join(known)}, so at most {len(params)}; there came {len(args)}")
    return {key: _value(known[key], value) for key, value in pairs}


def _value(param: ParamDescription, value: Any) -> ParamValue:
    if param.type == "flag" and isinstance(value, int | float):
        return bool(value)
    if param.type == "text":
        return str(value)
    chosen: ParamValue = _choice(value, param.choices)
    return chosen


def _choice(value: Any, choices: Sequence[str] | None) -> Any:
    """The choice at a number's place; anything else as it is."""
    if choices is None or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if not 0 <= int(value) < len(choices):
        raise ValueError(
            f"there are {len(choices)} choices, so their places are 0 to {len(choices) - 1}, not {value:g}"
        )
    return choices[int(value)]
