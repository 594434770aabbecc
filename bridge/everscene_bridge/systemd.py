"""What systemd wants to hear from a service: that it is ready, that it lives, and how it does.

The protocol of sd_notify: datagrams of `NAME=value` lines to the socket that systemd names. Without one, nothing
happens.
"""

import contextlib
import socket


class Notifier:
    """Talks to systemd."""

    def __init__(self, address: str | None) -> None:
        """address: of NOTIFY_SOCKET; one that begins with @ is abstract. None: nobody listens."""
        self._address = None if address is None else address.replace("@", "\0", 1) if address[:1] == "@" else address

    def tell(self, **news: str | int) -> None:
        """Send news, as READY=1 or STATUS='all is well'."""
        if self._address is None:
            return
        text = "\n".join(f"{name}={value}" for name, value in news.items())
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(text.encode(), self._address)
