"""The viewer's routes: the page, its WebSocket, health, metrics, snapshots, and steering over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from everscene_bridge import http_events
from everscene_bridge.viewer import metrics
from everscene_bridge.viewer.guard import Guard
from everscene_bridge.viewer.live import Browser
from everscene_bridge.viewer.relay import Relay

PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/viewer.css": "viewer.css", "/viewer.js": "viewer.js"}
STALE_S = 2.0  # frames flow as long as the newest is not older


def make_app(relay: Relay, *, loopback: bool, token: str | None) -> Guard:
    """The ASGI app. `relay` is opened when the server starts and closed when it stops; for the rest see `Guard`."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await relay.open()
        try:
            yield
        finally:
            await relay.close()

    async def page(request: Request) -> Response:
        return FileResponse(PAGE / FILES[request.url.path])

    async def live(websocket: WebSocket) -> None:
        await Browser(websocket, relay).serve()

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        age = relay.watch.age_s()
        ready = age < STALE_S
        latest = relay.watch.latest
        body = {
            "ready": ready,
            "state": relay.status["state"],
            "reason": "" if ready else relay.status["reason"] or "no frame yet",
            "frame": 0 if latest is None else latest.frame.number,
            "age_s": None if latest is None else round(age, 3),
        }
        return JSONResponse(body, 200 if ready else 503)

    async def measure(_: Request) -> Response:
        text = metrics.render(await relay.ask_stats(), len(relay.browsers))
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def snapshot(request: Request) -> Response:
        picture = relay.watch.latest
        if picture is None:
            return PlainTextResponse("no frame yet\n", 503)
        exact = request.url.path.endswith(".png")
        content = await asyncio.to_thread(picture.png if exact else picture.jpeg)
        media_type = "image/png" if exact else "image/jpeg"
        return Response(content, media_type=media_type, headers={"x-everscene-frame": str(picture.frame.number)})

    app = Starlette(
        routes=[
            *(Route(path, page) for path in FILES),
            WebSocketRoute("/live", live),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", measure),
            Route("/snapshot.jpg", snapshot),
            Route("/snapshot.png", snapshot),
            *http_events.routes(lambda: relay.world),
        ],
        lifespan=lifespan,
    )
    return Guard(app, loopback=loopback, token=token)
