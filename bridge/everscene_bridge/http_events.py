"""Events, prompts and slots over HTTP, with the same receipts as over ZeroMQ; routes of the viewer's server.

    curl -X POST localhost:7466/event/storm -d '{"params": {"intensity": 0.8}}'
    {"state": "applied", "order": 3, "frame": 412, "chunk": 51, "latency_ms": 640.1, "prompt": "…"}

The answer comes with the final receipt, or with `?wait=accepted` sooner. A page from elsewhere may not steer: a browser
says where a request comes from, and only this very address is taken.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from everscene_bridge.errors import ClientError, NotInTime, Rejected, Superseded
from everscene_bridge.feed_player import Player
from everscene_bridge.messages import Params
from everscene_bridge.protocol import MAX_MESSAGE_BYTES, Transition, When
from everscene_bridge.receipt import Receipt
from everscene_bridge.viewer.guard import same_origin
from everscene_bridge.ways import Ease
from everscene_bridge.wording import first_of
from everscene_engine.port import BlendPath

LOOK_EVERY_S = 0.01
LONGEST_WAIT_S = 120.0
DEFAULT_WAIT_S = 30.0

Awaited = Literal["accepted", "applied"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    when: When | None = None


class _EventBody(_Body):
    params: Params = {}


class _Way(_Body):
    transition: Transition | None = None
    seconds: float | None = None
    ease: Ease | None = None
    path: BlendPath | None = None

    @property
    def blend(self) -> dict[str, Any]:
        """As the client takes it."""
        return {"seconds": self.seconds, "ease": self.ease, "path": self.path}


class _PromptBody(_Way):
    text: str


class _SlotsBody(_Way):
    slots: dict[str, str] = Field(min_length=1)


class _Query(BaseModel):
    model_config = ConfigDict(extra="ignore")

    wait: Awaited = "applied"
    timeout: float = Field(default=DEFAULT_WAIT_S, ge=0, le=LONGEST_WAIT_S)


def routes(world: Callable[[], Player]) -> list[Route]:
    """`POST /event/NAME`, `POST /prompt`, `POST /slots`. world: gives the client that sends."""

    async def event(request: Request) -> Response:
        name: str = request.path_params["name"]
        return await _steer(request, _EventBody, lambda body: world().send_event(name, body.params, body.when))

    async def prompt(request: Request) -> Response:
        return await _steer(
            request,
            _PromptBody,
            lambda body: world().prompt(body.text, body.transition, body.when, **body.blend),
        )

    async def slots(request: Request) -> Response:
        return await _steer(
            request,
            _SlotsBody,
            lambda body: world().slots(body.slots, body.transition, body.when, **body.blend),
        )

    return [
        Route("/event/{name}", event, methods=["POST"]),
        Route("/prompt", prompt, methods=["POST"]),
        Route("/slots", slots, methods=["POST"]),
    ]


async def _steer(request: Request, model: type[Any], send: Callable[[Any], Receipt]) -> Response:
    if not same_origin(request.headers.get("origin"), request.headers.get("host", "")):
        return _problem(403, "forbidden", "this page may not steer the world")
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_MESSAGE_BYTES:
            return _problem(413, "too_long", f"at most {MAX_MESSAGE_BYTES} bytes are taken")
    try:
        query = _Query.model_validate(dict(request.query_params))
        body = model.model_validate(json.loads(content or b"{}"))
    except ValidationError as problem:
        return _problem(400, "out_of_range", first_of(problem))
    except (ValueError, RecursionError) as problem:
        return _problem(400, "not_json", f"the body is not JSON: {problem}")
    try:
        receipt = send(body)
    except ClientError as problem:
        return _answer(problem)
    return await _await(receipt, query)


async def _await(receipt: Receipt, query: _Query) -> Response:
    """The answer once the receipt is there, or is not in time."""
    clock = asyncio.get_running_loop().time
    end = clock() + query.timeout
    while True:
        try:
            result = receipt.wait(query.wait, 0.0)
            return JSONResponse({"state": query.wait, **asdict(result)}, 202 if query.wait == "accepted" else 200)
        except NotInTime as late:
            if clock() >= end:
                return _problem(504, "not_in_time", str(late), receipt.state)
        except ClientError as problem:
            return _answer(problem)
        await asyncio.sleep(LOOK_EVERY_S)


def _answer(problem: ClientError) -> Response:
    """What a bad end is in HTTP."""
    if isinstance(problem, Rejected):
        return _problem(422, problem.code, problem.reason, "rejected")
    if isinstance(problem, Superseded):
        return JSONResponse({"state": "superseded", "by": problem.by}, 409)
    return _problem(503, "disconnected", str(problem), "lost")


def _problem(status: int, code: str, reason: str, state: str = "rejected") -> Response:
    return JSONResponse({"state": state, "code": code, "reason": reason}, status)
