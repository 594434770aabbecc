"""Servers that do not behave, one for each way: raw TCP, or ZeroMQ with words of our own choosing."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import zmq

GREETING = bytes.fromhex("ff00000000000000017f") + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = bytes.fromhex("04290552454144590b536f636b65742d5479706500000006524f55544552084964656e7469747900000000")


@contextmanager
def raw_server(play: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server that gives each connection to `play`; its endpoint."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    stopping = threading.Event()

    def accept() -> None:
        while not stopping.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            connection.settimeout(2.0)
            with connection:
                try:
                    play(connection)
                except (OSError, TimeoutError):
                    continue  # the client went first

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopping.set()
        thread.join()
        listener.close()


@contextmanager
def router(answer: Callable[[dict[str, Any]], list[bytes]]) -> Iterator[str]:
    """A ROUTER that answers each message with the bodies that `answer` gives; its endpoint."""
    context = zmq.Context()
    control = context.socket(zmq.ROUTER)
    control.linger = 0
    control.bind("tcp://127.0.0.1:*")
    stopping = threading.Event()

    def listen() -> None:
        while not stopping.is_set():
            if not control.poll(50):
                continue
            peer, body = control.recv_multipart()
            for reply in answer(msgpack.unpackb(body)):
                control.send_multipart([peer, reply])

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield control.getsockopt_string(zmq.LAST_ENDPOINT)
    finally:
        stopping.set()
        thread.join()
        control.close()
        context.term()
