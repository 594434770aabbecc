"""The viewer's side of the sidecar: one client behind all browsers, made usable from the event loop.

A thread follows the client's frames. Calls that wait for the server run in threads too; receipts are looked at every
few milliseconds, so that a thousand open ones cost no thread at all.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from everscene_bridge.client_frames import Frame
from everscene_bridge.errors import ClientError, NotInTime, Rejected, RequestFailed, Superseded
from everscene_bridge.feed_player import Player
from everscene_bridge.messages import Notice, SceneDescription, Stats, Welcome
from everscene_bridge.receipt import Receipt
from everscene_bridge.viewer.watch import Picture, Watch

if TYPE_CHECKING:
    from everscene_bridge.viewer.live import Browser

ASK_EVERY_S = 0.5
LOOK_EVERY_S = 0.015
RECEIPT_TIMEOUT_S = 120.0
STATUS_FIELDS = {"fps", "latency_ms", "seen_ms", "stages_ms"}
REASONS = {
    "starting": "Waiting for the first frame.",
    "stalled": "No new frame for a while: the last one stands.",
    "restarting": "The engine failed and starts again. The last frame stands.",
    "paused": "Paused.",
    "closing": "The sidecar is stopping.",
    "disconnected": "The sidecar does not answer. Connecting again by itself.",
}


class World(Player, Protocol):
    """What the viewer needs of a `Client`."""

    client_id: int

    @property
    def info(self) -> Welcome: ...
    @property
    def scene(self) -> SceneDescription: ...
    def frames(self) -> Iterator[Frame]: ...
    def seen(self, frame: Frame) -> None: ...
    def stats(self) -> Stats: ...
    def command(self, name: str, /, **args: Any) -> dict[str, Any]: ...
    def close(self) -> None: ...


class Relay:
    """Opened and closed on the event loop of the viewer's server; everything else is called there too."""

    def __init__(self, connect: Callable[[Callable[[Notice], None]], World]) -> None:
        """`connect` makes the client; it is given the function that the client calls with news."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.watch = Watch()
        self.browsers: set[Browser] = set()
        self.seen_order = 0
        self.status = status_message("starting", REASONS["starting"])
        self.reason = ""  # what the sidecar last said of its state
        self.world = connect(self.on_notice)

    async def open(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.watch.open(self.loop, self.wake_browsers)
        self.follower = threading.Thread(target=self.follow, name="everscene-viewer-frames", daemon=True)
        self.follower.start()
        self.asker = asyncio.create_task(self.ask_again_and_again())

    async def close(self) -> None:
        self.asker.cancel()
        await asyncio.to_thread(self.world.close)
        await asyncio.to_thread(self.follower.join, 5.0)

    # From the sidecar to the browsers

    def follow(self) -> None:
        """Shows every frame of the world, until the client is closed. The following thread."""
        for frame in self.world.frames():
            self.watch.show(frame)

    def on_notice(self, notice: Notice) -> None:
        """News, on the client's thread."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.take_notice, notice)

    def take_notice(self, notice: Notice) -> None:
        if notice.kind == "state" and notice.state is not None:
            self.reason = notice.reason or ""
            self.status = {**self.status, **status_message(notice.state, self.reason)}
            self.tell_browsers(self.status)
        elif notice.kind == "scene":
            self.tell_browsers(self.world_message())
        elif notice.kind == "input" and notice.client_id != self.world.client_id:
            self.tell_browsers({"type": "input", **notice.model_dump(include=INPUT_FIELDS)})

    def wake_browsers(self) -> None:
        for browser in self.browsers:
            browser.awake.set()

    def tell_browsers(self, message: dict[str, Any]) -> None:
        for browser in self.browsers:
            browser.tell(message)

    def world_message(self) -> dict[str, Any]:
        """What the page needs to build itself."""
        return {
            "type": "world",
            **self.world.info.model_dump(include=WORLD_FIELDS),
            "scene": self.world.scene.model_dump(),
        }

    async def ask_again_and_again(self) -> None:
        """Keeps `status` true and tells the pages; also that the world is another one after a restart of the server."""
        epoch = self.world.info.epoch
        while True:
            stats = await self.ask_stats()
            if stats is None:
                self.status = status_message("disconnected", REASONS["disconnected"])
            else:
                reason = self.reason or REASONS.get(stats.state, "")
                self.status = {**status_message(stats.state, reason), **stats.model_dump(include=STATUS_FIELDS)}
            self.tell_browsers(self.status)
            if self.world.info.epoch != epoch:
                epoch = self.world.info.epoch
                self.seen_order, self.reason = 0, ""
                self.tell_browsers(self.world_message())
            await asyncio.sleep(ASK_EVERY_S)

    async def ask_stats(self) -> Stats | None:
        """The sidecar's stats, None if it does not answer."""
        try:
            return await asyncio.to_thread(self.world.stats)
        except ClientError:
            return None

    # From the browsers to the sidecar

    def event(self, name: str, params: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Sends an event; gives its receipts as the page wants them."""
        return self.receipts(lambda: self.world.send_event(name, params))

    def prompt(self, text: str) -> AsyncIterator[dict[str, Any]]:
        """Sends a prompt; gives its receipts as the page wants them."""
        return self.receipts(lambda: self.world.prompt(text))

    async def command(self, name: str, args: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Has a command of docs/protocol.md §4 done; gives what became of it as the page wants it."""
        try:
            await asyncio.to_thread(lambda: self.world.command(name, **args))
            yield {"state": "done"}
        except RequestFailed as refusal:
            yield {"state": "rejected", "reason": refusal.reason}
        except ClientError as error:
            yield {"state": "lost", "reason": str(error)}

    async def receipts(self, ask: Callable[[], Receipt]) -> AsyncIterator[dict[str, Any]]:
        try:
            receipt = ask()
            await until(lambda: receipt.state != "sent")
            receipt.wait("accepted", 0.0)
            yield {"state": "accepted"}
            await until(lambda: receipt.done)
            applied = receipt.wait("applied", 0.0)
            yield {"state": "applied", "frame": applied.frame, "latency_ms": applied.latency_ms}
        except Rejected as refusal:
            yield {"state": "rejected", "reason": refusal.reason}
        except Superseded:
            yield {"state": "superseded", "reason": "A later one took its place before it was seen."}
        except ClientError as error:
            yield {"state": "lost", "reason": str(error)}

    def seen(self, picture: Picture) -> None:
        """A page has drawn the picture. If it is the first that shows an event, the sidecar wants to know."""
        if picture.frame.order > self.seen_order:
            self.seen_order = picture.frame.order
            self.world.seen(picture.frame)


INPUT_FIELDS = {"client", "event", "params", "prompt", "slots", "order"}
WORLD_FIELDS = {"model", "width", "height", "fps", "steps", "device", "prompt", "epoch"}


def status_message(state: str, reason: str) -> dict[str, Any]:
    return {"type": "status", "state": state, "reason": reason}


async def until(true: Callable[[], bool]) -> None:
    """Waits for it. Raises NotInTime."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RECEIPT_TIMEOUT_S
    while not true():
        if loop.time() > deadline:
            raise NotInTime(f"no receipt came within {RECEIPT_TIMEOUT_S:g} s")
        await asyncio.sleep(LOOK_EVERY_S)
