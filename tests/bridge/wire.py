"""A wire between a client and a server that can be cut, and that can lose what one side says."""

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Wire:
    """Listens on a port of its own and passes on to the server, until it is cut. `deaf`: the client's words are lost.
    `mute`: the server's are."""

    def __init__(self, endpoint: str) -> None:
        place = urlsplit(endpoint)
        self._server = (str(place.hostname), int(place.port or 0))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self.deaf = self.mute = False
        self._broken = False
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break every connection and let none through until `mend`."""
        self._broken = True
        self._drop()

    def mend(self) -> None:
        """Let connections through again, whole."""
        self.deaf = self.mute = self._broken = False

    def close(self) -> None:
        """Break all and end the threads."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._drop()
        for thread in self._threads:
            thread.join()

    def _drop(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self._broken:
                client.close()
                continue
            server = socket.create_connection(self._server)
            self._ends += [client, server]
            for source, sink, attribute in ((client, server, "deaf"), (server, client, "mute")):
                thread = threading.Thread(target=self._pass_on, args=(source, sink, attribute), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, attribute: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not getattr(self, attribute):
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
