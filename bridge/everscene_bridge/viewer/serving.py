"""The viewer's HTTP server, in a background thread of the process that serves the world."""

import errno
import socket
import threading
import time
from dataclasses import dataclass
from urllib.parse import quote

import uvicorn

from everscene_bridge.client import Client
from everscene_bridge.errors import ClientError, PortTaken, SettingsError
from everscene_bridge.settings import is_loopback
from everscene_bridge.viewer.app import make_app
from everscene_bridge.viewer.relay import Relay

START_TIMEOUT_S = 10.0
MOST_MESSAGE_BYTES = 65_536  # of a page; a prompt of 2,000 characters is far below


@dataclass(frozen=True)
class ViewerHandle:
    """A running viewer. `url`: what a person opens, with the token if there is one."""

    url: str
    server: uvicorn.Server
    thread: threading.Thread

    def stop(self) -> None:
        """Closes the page's connections and the port; returns when the thread has ended."""
        self.server.should_exit = True
        self.thread.join(10.0)


def start(control_endpoint: str, host: str, port: int, token: str | None = None) -> ViewerHandle:
    """Serves the viewer at `host`:`port` (0: any free port) for the sidecar at `control_endpoint`.

    `token` is the sidecar's; with one, the page asks for it too. Raises `SettingsError` for another address than
    loopback without a token, `PortTaken` when the address is in use, `ClientError` when the sidecar does not answer.
    """
    if not is_loopback(host) and not token:
        raise SettingsError(f"the viewer would be open to anyone on {host}: give a token, or serve on 127.0.0.1")
    listener = listen(host, port)
    try:
        relay = Relay(lambda news: Client(control_endpoint, token=token, name="viewer", on_notice=news))
    except ClientError:
        listener.close()
        raise
    return serve(relay, listener, token)


def serve(relay: Relay, listener: socket.socket, token: str | None) -> ViewerHandle:
    """Serves a relay on a listening socket; both belong to the viewer from here on."""
    host, port = listener.getsockname()[:2]
    app = make_app(relay, loopback=is_loopback(host), token=token)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=MOST_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # the pictures are JPEG already
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="everscene-viewer", daemon=True)
    thread.start()
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the viewer's server did not start; its log says why")
        time.sleep(0.01)
    return ViewerHandle(page_url(host, port, token), server, thread)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises `PortTaken`, or `SettingsError` if it is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"port {port} on {host} is in use: choose another with --viewer-port") from error
        raise SettingsError(f"the viewer cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def page_url(host: str, port: int, token: str | None) -> str:
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")
