"""Steering over HTTP: receipts as answers, and who may not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from everscene_bridge import http_events, viewer
from everscene_bridge.errors import Superseded
from everscene_bridge.pattern import PatternEngine, PatternTimes
from everscene_bridge.receipt import Receipt
from everscene_bridge.server import Server


@pytest.fixture
def web(server: Server) -> Iterator[httpx.Client]:
    with browse(server) as client:
        yield client


@contextmanager
def browse(server: Server) -> Iterator[httpx.Client]:
    handle = viewer.start(server.endpoint, "127.0.0.1", 0, None)
    try:
        with httpx.Client(base_url=handle.url, timeout=30) as client:
            yield client
    finally:
        handle.stop()


def test_an_event_is_answered_by_its_final_receipt(web: httpx.Client) -> None:
    answer = web.post("/event/storm", json={"params": {"intensity": 0.9}})
    assert answer.status_code == 200
    body = answer.json()
    assert body["state"] == "applied" and body["frame"] > 0 and body["latency_ms"] > 0
    assert body["prompt"].endswith("heavy storm")


def test_an_event_needs_no_body(web: httpx.Client) -> None:
    assert web.post("/event/night").json()["state"] == "applied"


def test_the_answer_can_come_when_it_is_accepted(web: httpx.Client) -> None:
    answer = web.post("/event/storm?wait=accepted")
    assert (answer.status_code, answer.json()) == (202, {"state": "accepted", "order": 1})


def test_prompts_and_slots(web: httpx.Client) -> None:
    answer = web.post("/prompt", json={"text": "a calm sea", "transition": "blend", "seconds": 1.5, "path": "slerp"})
    assert answer.json()["prompt"] == "a calm sea"
    answer = web.post("/slots", json={"slots": {"time": "at dusk"}, "when": "chunk"})
    assert answer.json()["prompt"] == "a red fox trots along the harbour at dusk, clear sky"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "words"),
    [
        ("/event/strom", {}, 422, "unknown_event", "no event 'strom'"),
        ("/event/storm", {"params": {"intensity": 7}}, 422, "out_of_range", "from 0 to 1"),
        ("/event/storm", {"params": {"name": 1, "when": 2}}, 422, "unknown_param", "name"),
        ("/event/storm", {"force": 1}, 400, "out_of_range", "force there is no such field"),
        ("/event/storm?wait=long", {}, 400, "out_of_range", "must be accepted or applied (got 'long')"),
        ("/event/storm?timeout=9999", {}, 400, "out_of_range", "timeout must be at most 120 (got '9999')"),
        ("/prompt", {}, 400, "out_of_range", "text is missing"),
        ("/prompt", {"text": "x", "transition": "fade"}, 400, "out_of_range", "(got 'fade')"),
        ("/slots", {"slots": {"wether": "rain"}}, 422, "unknown_slot", "no slot 'wether'"),
    ],
)
def test_what_is_wrong_is_named(
    web: httpx.Client, path: str, body: dict[str, Any], status: int, code: str, words: str
) -> None:
    answer = web.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert words in answer.json()["reason"]


def test_a_body_that_is_no_json_is_refused(web: httpx.Client) -> None:
    answer = web.post("/event/storm", content=b"intensity=1")
    assert (answer.status_code, answer.json()["code"]) == (400, "not_json")


def test_half_a_character_in_a_name_is_refused(web: httpx.Client) -> None:
    answer = web.post("/event/storm", content=rb'{"\ud800": 1}')
    assert (answer.status_code, answer.json()["reason"]) == (400, r"must be whole Unicode characters (got '\ud800')")


def test_a_body_that_is_nested_too_deep_is_refused(web: httpx.Client) -> None:
    for levels in (400, 30_000):
        answer = web.post("/event/storm", content=b'{"params":' + b"[" * levels + b"]" * levels + b"}")
        assert answer.status_code == 400


def test_a_body_that_is_too_long_is_refused(web: httpx.Client) -> None:
    assert web.post("/prompt", content=b'{"text": "' + b"x" * 70_000 + b'"}').status_code == 413


def test_a_page_from_elsewhere_may_not_steer(web: httpx.Client) -> None:
    answer = web.post("/event/storm", headers={"origin": "https://example.org"})
    assert (answer.status_code, answer.json()["reason"]) == (403, "this page may not steer the world")


def test_steering_by_get_is_not_offered(web: httpx.Client) -> None:
    assert web.get("/event/storm").status_code == 405


def test_a_receipt_that_is_not_in_time_is_told_as_it_stands(start_server: Callable[..., Server]) -> None:
    server = start_server(lambda: PatternEngine(width=64, height=36, times=PatternTimes(forward=5.0)))
    with browse(server) as web:
        answer = web.post("/event/storm?timeout=0.3")
        assert (answer.status_code, answer.json()["state"]) == (504, "accepted")


class Crowded:
    """A world in which something else always takes an event's place."""

    def send_event(self, name: str, params: dict[str, Any], when: Any = None) -> Receipt:
        receipt = Receipt(1, name)
        receipt.fail(Superseded(4))
        return receipt


def test_a_superseded_event_is_told_which_took_its_place() -> None:
    app = Starlette(routes=http_events.routes(Crowded))  # type: ignore[arg-type]
    answer = TestClient(app).post("/event/storm")
    assert (answer.status_code, answer.json()) == (409, {"state": "superseded", "by": 4})
