"""Receipts of a client whose connection breaks: docs/protocol.md §5."""

import time
from collections.abc import Iterator

import pytest
from tests.bridge.harness import Bare
from tests.bridge.wire import Wire
from tests.waiting import wait_for

from everscene_bridge.client import Client
from everscene_bridge.errors import Disconnected
from everscene_bridge.kept_receipts import KeptReceipts
from everscene_bridge.protocol import KEPT_RECEIPTS, KEPT_RECEIPTS_S, NS
from everscene_bridge.server import Server


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    made = Wire(server.endpoint)
    yield made
    made.close()


@pytest.fixture
def other(server: Server) -> Iterator[Client]:
    """A client that sees what becomes of the other's events."""
    with Client(server.endpoint) as made:
        yield made


# What is kept


def test_what_a_client_missed_is_its_final_receipts_and_then_what_waits() -> None:
    kept = KeptReceipts()
    for number in (1, 2, 3):
        kept.opened(5, number, b"a", b"accepted %d" % number)
    kept.closed(5, 2, b"final 2", 10)
    kept.closed(5, 1, b"final 1", 20)
    assert kept.missed(5, 30) == [b"final 2", b"final 1", b"accepted 3"]
    assert kept.missed(6, 30) == []


def test_final_receipts_are_kept_for_their_time() -> None:
    kept = KeptReceipts()
    kept.opened(5, 1, b"a", b"accepted")
    kept.closed(5, 1, b"final", 0)
    assert kept.find_final(5, 1, KEPT_RECEIPTS_S * NS - 1) == b"final"
    assert kept.find_final(5, 1, KEPT_RECEIPTS_S * NS) is None
    assert kept.missed(5, KEPT_RECEIPTS_S * NS) == [] and not kept._final


def test_of_each_client_only_the_newest_are_kept() -> None:
    kept = KeptReceipts()
    for number in range(1, KEPT_RECEIPTS + 11):
        kept.opened(5, number, b"a", b"")
        kept.closed(5, number, b"%d" % number, 1)
    assert len(kept.missed(5, 2)) == KEPT_RECEIPTS
    assert kept.missed(5, 2)[0] == b"11"


def test_those_of_clients_that_never_come_back_are_forgotten_too() -> None:
    kept = KeptReceipts()
    for client in (5, 6):
        kept.opened(client, 1, b"a", b"")
    kept.closed(5, 1, b"", 0)
    kept.closed(6, 1, b"", KEPT_RECEIPTS_S * NS)
    assert list(kept._final) == [6]


def test_after_a_bye_nothing_is_kept() -> None:
    kept = KeptReceipts()
    kept.opened(5, 1, b"a", b"accepted"), kept.opened(5, 2, b"a", b"accepted")
    kept.closed(5, 1, b"final", 1)
    kept.forget(5)
    kept.closed(5, 2, b"final", 2)
    assert kept.missed(5, 3) == []


# In bytes


def test_a_new_connection_hears_what_came_meanwhile_and_each_repetition_is_answered(server: Server) -> None:
    first, second = Bare(server.endpoint), Bare(server.endpoint)
    try:
        first.hello(client_id=9)
        first.send(type="event", id=1, name="storm")
        final = first.final(1)
        assert second.hello(client_id=9)["type"] == "welcome"
        assert second.receive() == final
        assert second.ask(type="event", id=1, name="storm") == final
        assert second.ask(type="stats_request", id=2)["inputs"]["accepted"] == 1
    finally:
        first.close(), second.close()


def test_what_waits_is_named_again_to_a_new_connection_and_taken_once(server: Server) -> None:
    first, second = Bare(server.endpoint), Bare(server.endpoint)
    try:
        first.hello(client_id=9)
        assert first.ask(type="command", id=1, name="pause")["ok"]
        accepted = first.ask(type="event", id=2, name="storm")
        assert second.hello(client_id=9)["type"] == "welcome"
        assert second.receive() == accepted
        assert second.ask(type="event", id=2, name="storm") == accepted
        assert second.ask(type="event", id=2, name="storm")["code"] == "duplicate_id"
        assert second.ask(type="command", id=3, name="resume")["ok"]
        assert second.final(2)["state"] == "applied"
    finally:
        first.close(), second.close()


def test_a_second_hello_on_the_same_connection_repeats_nothing(bare: Bare) -> None:
    bare.hello()
    bare.send(type="event", id=1, name="storm")
    bare.final(1)
    assert bare.hello()["type"] == "welcome"
    assert bare.ask(type="ping", id=7)["type"] == "pong"


# The Python client


def test_a_final_receipt_that_came_while_the_client_was_away_reaches_it(wire: Wire, other: Client) -> None:
    with Client(wire.endpoint) as world:
        other.pause()
        receipt = world.event("storm")
        receipt.wait("accepted", 5)
        wire.cut()
        wait_for(lambda: not world.connected, "the client did not notice")
        other.resume()
        wait_for(lambda: other.stats().inputs.applied == 1, "it was not applied")
        assert not receipt.done
        wire.mend()
        assert receipt.wait("applied", 10).order == 1


def test_an_event_that_never_arrived_is_sent_again(wire: Wire, other: Client) -> None:
    with Client(wire.endpoint) as world:
        wire.deaf = True
        receipt = world.event("storm")
        assert world.connected
        wait_for(lambda: world._link._jobs.empty(), "it was not sent")
        time.sleep(0.1)
        wire.cut()
        wait_for(lambda: not world.connected, "the client did not notice")
        wire.mend()
        receipt.wait("applied", 10)
        assert other.stats().inputs.accepted == 1


def test_an_event_whose_receipts_were_lost_is_applied_once(wire: Wire, other: Client) -> None:
    with Client(wire.endpoint) as world:
        wire.mute = True
        receipt = world.event("storm")
        wait_for(lambda: other.stats().inputs.applied == 1, "it was not applied")
        assert receipt.state == "sent"
        wire.cut()
        wait_for(lambda: not world.connected, "the client did not notice")
        wire.mend()
        receipt.wait("applied", 10)
        assert other.stats().inputs.accepted == 1


def test_a_receipt_that_is_not_kept_any_more_is_lost_and_said_to_be(server: Server, wire: Wire, other: Client) -> None:
    with Client(wire.endpoint) as world:
        other.pause()
        receipt = world.event("storm")
        receipt.wait("accepted", 5)
        wire.cut()
        wait_for(lambda: not world.connected, "the client did not notice")
        other.resume()
        wait_for(lambda: other.stats().inputs.applied == 1, "it was not applied")
        server.control._receipts.forget(world.client_id)
        wire.mend()
        with pytest.raises(Disconnected, match="its receipt with it"):
            receipt.wait("applied", 10)
        assert receipt.state == "lost"
