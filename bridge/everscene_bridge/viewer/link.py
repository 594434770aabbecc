"""The viewer's side of the sidecar: one client for all browsers, made usable from the event loop.

The client's calls may wait, so they run in threads: one follows the frames, and a small pool asks for stats and
waits for receipts.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from everscene_bridge.errors import ClientError, Rejected, Superseded
from everscene_bridge.messages import SceneDescription, Stats, Welcome
from everscene_bridge.viewer.watch import Watch

if TYPE_CHECKING:
    from everscene_bridge.viewer.live import Browser

ASK_EVERY_S = 0.5
RECEIPT_TIMEOUT_S = 60.0
THREADS = 24
REASONS = {
    "starting": "Waiting for the first frame.",
    "stalled": "No new frame for a while: the last one stands.",
    "restarting": "The engine failed and starts again. The last frame stands.",
    "paused": "Paused.",
    "closing": "The sidecar is stopping.",
}

T = TypeVar("T")


class Frame(Protocol):
    """What the viewer shows of a frame."""

    @property
    def number(self) -> int: ...
    @property
    def order(self) -> int: ...
    @property
    def prompt(self) -> str: ...
    @property
    def pixels(self) -> npt.NDArray[np.uint8]: ...


class Applied(Protocol):
    """What the viewer shows of the last receipt."""

    @property
    def frame(self) -> int: ...
    @property
    def latency_ms(self) -> float: ...


class Receipt(Protocol):
    def wait(self, state: Any, timeout: float | None = None) -> Any: ...


class World(Protocol):
    """What the viewer needs of a `Client`."""

    @property
    def info(self) -> Welcome: ...
    @property
    def scene(self) -> SceneDescription: ...
    def event(self, name: str, when: Any = None, **params: Any) -> Receipt: ...
    def prompt(self, text: str) -> Receipt: ...
    def frames(self) -> Iterator[Frame]: ...
    def stats(self) -> Stats: ...
    def close(self) -> None: ...


class Link:
    """Opened and closed on the event loop of the viewer's server."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.watch = Watch()
        self.browsers: set[Browser] = set()
        self.status: dict[str, Any] = {"type": "status", "state": "starting", "reason": REASONS["starting"]}
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="everscene-viewer")

    async def open(self) -> None:
        self.watch.open(asyncio.get_running_loop(), self.wake_browsers)
        self.follower = threading.Thread(target=self.follow, name="everscene-viewer-frames", daemon=True)
        self.follower.start()
        self.asker = asyncio.create_task(self.ask_again_and_again())

    async def close(self) -> None:
        self.asker.cancel()
        self.world.close()
        await asyncio.to_thread(self.follower.join, 5.0)
        self.pool.shutdown(wait=False, cancel_futures=True)

    def follow(self) -> None:
        """Shows every frame of the world, until the client is closed."""
        for frame in self.world.frames():
            self.watch.show(frame.number, frame.order, frame.prompt, frame.pixels)

    def wake_browsers(self) -> None:
        for browser in self.browsers:
            browser.awake.set()

    def tell_browsers(self, message: dict[str, Any]) -> None:
        for browser in self.browsers:
            browser.tell(message)

    def world_message(self) -> dict[str, Any]:
        """What the page needs to build itself."""
        info = self.world.info
        fields = {"model", "width", "height", "fps", "steps", "device", "prompt", "epoch"}
        return {"type": "world", **info.model_dump(include=fields), "scene": self.world.scene.model_dump()}

    async def ask_again_and_again(self) -> None:
        """Keeps `status` true and tells the pages; also that the world is another one after a restart of the server."""
        described = self.world_message()
        while True:
            stats = await self.ask_stats()
            self.status = self.status_message(stats)
            self.tell_browsers(self.status)
            if stats is not None and (now := self.world_message()) != described:
                described = now
                self.tell_browsers(described)
            await asyncio.sleep(ASK_EVERY_S)

    async def ask_stats(self) -> Stats | None:
        """The sidecar's stats, None if it does not answer."""
        try:
            return await self.in_pool(self.world.stats)
        except ClientError:
            return None

    def status_message(self, stats: Stats | None) -> dict[str, Any]:
        if stats is None:
            reason = "The sidecar does not answer. Connecting again by itself."
            return {"type": "status", "state": "disconnected", "reason": reason}
        state, reason = stats.state, REASONS.get(stats.state, "")
        return {
            "type": "status",
            "state": state,
            "reason": reason,
            "fps": stats.fps,
            "latency_ms": stats.latency_ms.model_dump(),
        }

    def event(self, name: str, params: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Sends an event; gives its receipts as the page wants them."""
        return self.receipts(lambda: self.world.event(name, **params))

    def prompt(self, text: str) -> AsyncIterator[dict[str, Any]]:
        """Sends a prompt; gives its receipts as the page wants them."""
        return self.receipts(lambda: self.world.prompt(text))

    async def receipts(self, ask: Callable[[], Receipt]) -> AsyncIterator[dict[str, Any]]:
        try:
            receipt = await self.in_pool(ask)
            await self.in_pool(receipt.wait, "accepted", RECEIPT_TIMEOUT_S)
            yield {"state": "accepted"}
            applied = await self.in_pool(receipt.wait, "applied", RECEIPT_TIMEOUT_S)
            yield {"state": "applied", "frame": applied.frame, "latency_ms": applied.latency_ms}
        except Rejected as refusal:
            yield {"state": "rejected", "reason": refusal.reason}
        except Superseded:
            yield {"state": "superseded", "reason": "A later one took its place."}
        except ClientError as error:
            yield {"state": "lost", "reason": str(error)}

    async def in_pool(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, call, *args)
