"""What becomes of the C# Core's receipts when its connection breaks: docs/protocol.md §5."""

import time
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from everscene_bridge.client import Client
from everscene_bridge.server import Server
from tests.bridge.wire import Wire
from tests.waiting import wait_for

from .conftest import Connect, Serve
from .rogues import router
from .session import Session
from .test_unity_rogues import welcome

pytestmark = pytest.mark.slow  # make test-unity runs it


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve()


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    made = Wire(server.endpoint)
    yield made
    made.close()


@pytest.fixture
def other(server: Server) -> Iterator[Client]:
    """A client that sees what becomes of the first one's events."""
    with Client(server.endpoint) as made:
        yield made


@pytest.fixture
def session(wire: Wire, connect: Connect) -> Session:
    """Its control socket goes through the wire."""
    made = connect(wire.endpoint)
    made.expect("connected")
    return made


def cut(wire: Wire, session: Session) -> None:
    wire.cut()
    session.expect("disconnected")


def test_a_final_receipt_that_came_while_it_was_away_reaches_it(wire: Wire, other: Client, session: Session) -> None:
    other.pause()
    session.do("event storm")
    session.expect("receipt", state="Accepted")
    cut(wire, session)
    other.resume()
    wait_for(lambda: other.stats().inputs.applied == 1, "it was not applied")
    wire.mend()
    assert session.expect("receipt")["state"] == "Applied"


def test_what_still_waits_when_it_is_back_is_not_lost(wire: Wire, other: Client, session: Session) -> None:
    other.pause()
    session.do("event storm")
    session.expect("receipt", state="Accepted")
    cut(wire, session)
    wire.mend()
    session.expect("connected")
    session.do("stats")
    session.expect("stats")  # its pong has come too
    other.resume()
    assert session.expect("receipt")["state"] == "Applied"


def test_an_event_that_never_arrived_is_sent_again(wire: Wire, other: Client, session: Session) -> None:
    wire.deaf = True
    session.do("event storm")
    time.sleep(0.3)
    cut(wire, session)
    wire.mend()
    session.expect("receipt", state="Applied")
    assert other.stats().inputs.accepted == 1


def test_an_event_whose_receipts_were_lost_is_applied_once(wire: Wire, other: Client, session: Session) -> None:
    wire.mute = True
    session.do("event storm")
    wait_for(lambda: other.stats().inputs.applied == 1, "it was not applied")
    cut(wire, session)
    wire.mend()
    assert session.expect("receipt")["state"] == "Applied"
    assert other.stats().inputs.accepted == 1


def test_an_event_sent_while_it_was_away_is_not_lost(wire: Wire, other: Client, session: Session) -> None:
    cut(wire, session)
    session.do("event storm")
    wire.mend()
    assert session.expect("receipt")["state"] == "Accepted"
    assert session.expect("receipt")["state"] == "Applied"


def test_an_accepted_event_that_the_server_names_no_more_is_lost_as_soon_as_it_is_back(
    server: Server, wire: Wire, other: Client, session: Session
) -> None:
    other.pause()
    session.do("event storm")
    session.expect("receipt", state="Accepted")
    cut(wire, session)
    other.resume()
    wait_for(lambda: other.stats().inputs.applied == 1, "it was not applied")
    for client_id in list(server.control._receipts._final):
        server.control._receipts.forget(client_id)
    wire.mend()
    session.expect("connected")
    lost = session.expect("receipt", timeout=5)
    assert lost["state"] == "Lost"
    assert lost["reason"] == "the connection was lost, and its receipt with it"


def test_an_event_is_lost_when_its_server_never_comes_back(wire: Wire, other: Client, session: Session) -> None:
    other.pause()
    session.do("await night")
    session.expect("receipt", state="Accepted")
    cut(wire, session)
    assert session.expect("awaited", timeout=40)["state"] == "Lost"


def test_an_event_that_a_forgetful_server_did_not_take_is_sent_again(connect: Connect) -> None:
    events: list[int] = []

    def answer(message: dict[str, Any]) -> list[bytes]:
        if message["type"] == "hello":
            return [welcome()]
        if message["type"] != "event":
            return []
        events.append(message["id"])
        if len(events) == 1:
            return [msgpack.packb({"type": "error", "id": events[0], "code": "no_hello", "reason": "say hello first"})]
        return [msgpack.packb({"type": "receipt", "id": message["id"], "state": "accepted", "order": 1})]

    with router(answer) as endpoint:
        session = connect(endpoint)
        session.expect("connected")
        time.sleep(1.1)  # hello is said once a second at most
        session.do("event night")
        assert session.expect("receipt")["state"] == "Accepted"
    assert len(events) == 2
    assert events[0] == events[1]
