"""The C# Core against the real server, with the test pattern as its model; under Mono and under CoreCLR."""

import itertools
import zlib
from typing import Any

import pytest

from everscene_bridge.client import Client
from everscene_bridge.server import Server

from .conftest import Connect, Serve

pytestmark = pytest.mark.slow  # make test-unity runs it


def crcs_of_python(server: Server, frames: int) -> dict[int, int]:
    with Client(server.endpoint, server.settings.token) as world:
        taken = itertools.islice(world.frames(in_order=True, timeout=10.0), frames)
        return {frame.number: zlib.crc32(frame.pixels.tobytes()) for frame in taken}


def same_frames(server: Server, shown: list[dict[str, Any]], python: dict[int, int]) -> int:
    common = [frame for frame in shown if frame["number"] in python]
    for frame in common:
        assert frame["crc"] == python[frame["number"]], frame
    return len(common)


@pytest.mark.parametrize(
    ("options", "transport", "mapped"),
    [((), "Ring", True), (("map=no",), "Ring", False), (("transport=Raw",), "Raw", False)],
    ids=["mapped", "read", "raw"],
)
def test_frames_are_those_of_the_python_client(
    serve: Serve, connect: Connect, options: tuple[str, ...], transport: str, mapped: bool
) -> None:
    server = serve(fps=50.0)
    session = connect(server.endpoint, "playback=InOrder", *options)
    assert session.expect("connected")["mapped"] is mapped
    session.do("frames 40")
    python = crcs_of_python(server, 60)
    shown = [session.expect("frame") for _ in range(40)]
    assert {frame["transport"] for frame in shown} == {transport}
    assert same_frames(server, shown, python) >= 20
    numbers = [frame["number"] for frame in shown]
    assert numbers == list(range(numbers[0], numbers[0] + 40))
    assert session.close()["lost"] == 0


def test_a_server_without_a_ring_sends_jpeg_when_asked(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint, "transport=Jpeg")
    frames = session.frames(5)
    assert all(frame["transport"] == "Jpeg" and frame["jpeg"] > 500 for frame in frames)


def test_the_prompt_and_the_stamps_come_with_the_frame(serve: Serve, connect: Connect) -> None:
    server = serve()
    session = connect(server.endpoint)
    prompt = session.expect("connected")["prompt"]
    frames = session.frames(20)
    assert frames[-1]["prompt"] == prompt
    assert sum(frame["published"] > 0 for frame in frames) >= 5  # a notice may come after the frame was shown


def test_an_event_is_accepted_then_applied_and_its_frame_shows_it(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint, "playback=InOrder")
    session.expect("connected")
    session.do("frames 100000")
    session.do("event storm intensity=0.8")
    order = session.expect("receipt", state="Accepted", name="storm")["order"]
    applied = session.expect("receipt", state="Applied", name="storm")
    session.ever("frame", number=applied["frame"])
    numbers = [said["number"] for said in session.heard if said["kind"] == "frame" and said["order"] == order]
    assert numbers[0] == applied["frame"]
    assert applied["prompt"]
    assert applied["latency_ms"] > 0
    assert session.ever("prompt")["text"] == applied["prompt"]


def test_a_prompt_takes_hold(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint)
    session.expect("connected")
    session.do("prompt a calm harbour at dawn")
    assert session.expect("receipt", state="Applied")["prompt"] == "a calm harbour at dawn"


def test_a_prompt_can_blend(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint)
    session.expect("connected")
    session.do("blend 0.5 a calm harbour at dawn")
    assert session.expect("receipt", state="Applied")["prompt"] == "a calm harbour at dawn"


def test_a_blend_of_too_many_seconds_is_rejected_with_the_reason(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint)
    session.expect("connected")
    session.do("blend 601 a calm harbour at dawn")
    assert "601" in session.expect("receipt", state="Rejected")["reason"]


def test_words_are_put_into_slots_and_others_hear_of_it(serve: Serve, connect: Connect) -> None:
    server = serve()
    session, other = connect(server.endpoint, "name=one"), connect(server.endpoint)
    slots = session.expect("connected")["slots"]
    with Client(server.endpoint) as python:
        known = python.scene.slots
    assert slots == [{"name": one.name, "default": one.default, "choices": one.choices or []} for one in known]
    other.expect("connected")
    other.frames(2)  # its subscription stands
    session.do(f"slots {slots[0]['name']}=a thick fog")
    session.expect("receipt", state="Accepted")
    assert "a thick fog" in session.expect("receipt", state="Applied")["prompt"]
    assert other.expect("input")["name"] == f"{slots[0]['name']}: a thick fog"


def test_an_unknown_slot_is_rejected_with_the_reason(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint)
    session.expect("connected")
    session.do("slots mood=sombre")
    assert session.expect("receipt", state="Rejected")["code"] == "unknown_slot"


def test_an_unknown_event_is_rejected_with_the_reason(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint)
    session.expect("connected")
    session.do("event avalanche")
    rejected = session.expect("receipt", name="avalanche", state="Rejected")
    assert rejected["code"] == "unknown_event"
    assert "avalanche" in rejected["reason"]


def test_an_awaited_receipt_goes_on_when_it_is_final_and_on_the_polling_thread(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint)
    session.expect("connected")
    session.do("await night")
    awaited = session.expect("awaited")
    assert awaited["state"] == "Applied"
    assert awaited["thread"] is True


def test_an_event_sent_before_the_connection_stands_is_sent_then(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint)
    session.do("event night")
    session.expect("receipt", name="night", state="Applied")


def test_an_event_without_a_server_is_rejected_after_five_seconds(connect: Connect) -> None:
    session = connect("tcp://127.0.0.1:1")
    session.do("event night")
    rejected = session.expect("receipt", name="night", state="Rejected", timeout=10)
    assert rejected["code"] == "not_connected"
    assert "nothing listens at tcp://127.0.0.1:1" in rejected["reason"]


def test_the_servers_figures_can_be_asked_for(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint)
    session.expect("connected")
    session.do("stats")
    stats = session.expect("stats")
    assert stats["numbers"]["content_fps"] == 16.0
    assert stats["numbers"]["inputs.accepted"] == 0
    assert stats["state"]


def test_the_server_learns_when_an_event_was_seen(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint)
    session.expect("connected")
    session.do("event night")
    session.expect("receipt", name="night", state="Applied")
    session.frames(3)
    for _ in range(50):
        session.do("stats")
        session.expect("stats")
        if session.heard[-1]["latency_n"] == 1:
            break
    last = session.close()
    assert 0 < last["seen_p50_ms"] < 5000


def test_the_right_token_is_let_in(serve: Serve, connect: Connect) -> None:
    session = connect(serve(token="open sesame").endpoint, "token=open sesame")
    session.expect("connected")
    assert session.frames(3)


def test_a_wrong_token_is_refused_in_words_and_not_tried_again(serve: Serve, connect: Connect) -> None:
    session = connect(serve(token="open sesame").endpoint, "token=open barley")
    assert session.expect("failed")["reason"] == "the server refused the token"
    assert session.quiet_for(1.0, "failed")
    session.do("event night")
    assert session.expect("receipt", name="night")["reason"] == "the server refused the token"


def test_a_missing_token_is_asked_for(serve: Serve, connect: Connect) -> None:
    session = connect(serve(token="open sesame").endpoint)
    assert session.expect("failed")["reason"] == "this server needs a token"


def test_a_token_is_not_shown_to_a_server_that_asks_for_none(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint, "token=open sesame")
    session.expect("connected")
    assert session.frames(3)


def test_a_server_that_stops_and_comes_back_is_found_again(serve: Serve, connect: Connect) -> None:
    first = serve()
    session = connect(first.endpoint)
    epoch = session.expect("connected")["epoch"]
    session.frames(3)
    ports = [int(address.rpartition(":")[2]) for address in (first.endpoint, first.frames_endpoint)]
    first.stop()
    session.expect("disconnected")
    serve(control_port=ports[0], frames_port=ports[1])
    assert session.expect("connected", timeout=10)["epoch"] != epoch
    frames = session.frames(5)
    assert {frame["epoch"] for frame in frames} != {epoch}
    assert session.close()["reconnects"] == 1


def test_closing_takes_less_than_100_ms_and_ends_every_thread(serve: Serve, connect: Connect) -> None:
    session = connect(serve().endpoint)
    session.expect("connected")
    session.frames(3)
    closed = session.close()
    assert closed["ms"] < 100
    assert closed["threads_ended"] == 3


def test_closing_takes_less_than_100_ms_while_no_server_answers(connect: Connect) -> None:
    session = connect("tcp://127.0.0.1:1")
    session.expect("failed")
    closed = session.close()
    assert closed["ms"] < 100
    assert closed["threads_ended"] == 3


def test_two_clients_hear_of_each_others_events(serve: Serve, connect: Connect) -> None:
    server = serve()
    one, other = connect(server.endpoint, "name=one"), connect(server.endpoint, "name=other")
    one.expect("connected")
    other.expect("connected")
    one.frames(2)
    other.frames(2)  # both subscriptions stand
    one.do("event night")
    assert other.expect("input")["sender"] == "one"
