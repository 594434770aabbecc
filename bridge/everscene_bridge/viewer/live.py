"""One browser: the pictures it can take, and what it wants of the world.

At most two pictures are on their way to a browser at a time; it confirms each one that it has drawn. So what a slow
browser or a slow line gets is the newest picture at its own pace, and nothing waits in a queue. A page in a hidden
tab confirms nothing and is sent nothing.

JSON to the page: `world` (first), `status`, `receipt`, `input`. JSON from it: `event {id, name, params}`,
`prompt {id, text}`, `command {id, name, args}` (a receipt with the state `done` or `rejected` answers it), `shown
{serial, drawn}`. Pictures: u32 little-endian length of a JSON header, the header, the
JPEG file.
"""

import asyncio
import json
import struct
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from everscene_bridge.viewer.relay import Relay
from everscene_bridge.viewer.watch import Picture

AHEAD = 2  # pictures sent and not yet confirmed
OPEN_RECEIPTS = 64  # events and prompts of one page whose final receipt is still to come
OLD_NEWS = 256  # messages that may wait for a page that does not read; the oldest go first


class Browser:
    """Serves one WebSocket until it closes."""

    def __init__(self, websocket: WebSocket, relay: Relay) -> None:
        self.websocket = websocket
        self.relay = relay
        self.news: deque[dict[str, Any]] = deque(maxlen=OLD_NEWS)
        self.awake = asyncio.Event()
        self.sent = 0  # serial of the last picture sent
        self.on_the_way: dict[int, Picture] = {}  # by serial
        self.open_receipts = 0

    async def serve(self) -> None:
        await self.websocket.accept()
        self.relay.browsers.add(self)
        self.tell(self.relay.world_message())
        self.tell(self.relay.status)
        try:
            async with asyncio.TaskGroup() as self.tasks:
                self.tasks.create_task(self.send_news())
                await self.hear()
        except* WebSocketDisconnect:
            pass  # how every visit ends
        finally:
            self.relay.browsers.discard(self)

    def tell(self, message: dict[str, Any]) -> None:
        """Puts JSON in the way of the next send. On the event loop."""
        self.news.append(message)
        self.awake.set()

    async def send_news(self) -> None:
        """The only writer of the socket: news first, then the newest picture if the page can take it."""
        while True:
            await self.awake.wait()
            self.awake.clear()
            while self.news:
                await self.websocket.send_text(json.dumps(self.news.popleft()))
            picture = self.relay.watch.latest
            if picture is not None and picture.serial > self.sent and len(self.on_the_way) < AHEAD:
                self.sent = picture.serial
                self.on_the_way[picture.serial] = picture
                jpeg = await asyncio.to_thread(picture.jpeg)
                await self.websocket.send_bytes(picture_message(picture, jpeg))
                self.awake.set()  # a newer one may have come while this one was made

    async def hear(self) -> None:
        """Takes what the page says. Ends by `WebSocketDisconnect`; a page that breaks the rules is sent away."""
        while True:
            try:
                self.obey(json.loads(await self.websocket.receive_text()))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                await self.websocket.close(1008, f"not understood: {error!r}"[:120])
                raise WebSocketDisconnect(1008) from error

    def obey(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "shown":
                picture = self.on_the_way.pop(message["serial"], None)
                if picture is not None and message["drawn"]:
                    self.relay.seen(picture)
                self.awake.set()
            case "event" | "prompt" | "command":
                self.steer(message)
            case other:
                raise ValueError(f"no such message: {other!r}")

    def steer(self, message: dict[str, Any]) -> None:
        """Sends an event, a prompt or a command into the world; its receipts go back to the page."""
        number = int(message["id"])
        if self.open_receipts >= OPEN_RECEIPTS:
            reason = f"{OPEN_RECEIPTS} of this page's events are still open"
            self.tell({"type": "receipt", "id": number, "state": "rejected", "reason": reason})
            return
        if message["type"] == "event":
            receipts = self.relay.event(str(message["name"]), dict(message.get("params") or {}))
        elif message["type"] == "command":
            receipts = self.relay.command(str(message["name"]), dict(message.get("args") or {}))
        else:
            receipts = self.relay.prompt(str(message["text"]))

        self.open_receipts += 1
        self.tasks.create_task(self.follow(number, receipts))

    async def follow(self, number: int, receipts: AsyncIterator[dict[str, Any]]) -> None:
        async for receipt in receipts:
            self.tell({"type": "receipt", "id": number, **receipt})
        self.open_receipts -= 1


def picture_message(picture: Picture, jpeg: bytes) -> bytes:
    header = {
        "serial": picture.serial,
        "frame": picture.frame.number,
        "order": picture.frame.order,
        "prompt": picture.frame.prompt,
    }
    described = json.dumps(header).encode()
    return struct.pack("<I", len(described)) + described + jpeg
