"""The viewer's server: what it serves, whom it lets in, and how it feeds a page. The world behind it is a fake."""

import io
import json
import time
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image
from tests.bridge.fake_world import HEIGHT, WIDTH, FakeWorld
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from everscene_bridge.errors import PortTaken, SettingsError
from everscene_bridge.messages import Notice
from everscene_bridge.server import Server
from everscene_bridge.viewer import ViewerHandle, serving, start


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def viewer(world: FakeWorld) -> Iterator[ViewerHandle]:
    handle = serving.serve(world.relay(), serving.listen("127.0.0.1", 0), None)
    yield handle
    handle.stop()


@pytest.fixture
def guarded(world: FakeWorld) -> Iterator[ViewerHandle]:
    handle = serving.serve(world.relay(), serving.listen("127.0.0.1", 0), "open sesame")
    yield handle
    handle.stop()


def open_page(viewer: ViewerHandle, **options: object) -> ClientConnection:
    address = viewer.url.partition("?")[0].replace("http", "ws") + "live"
    return connect(address, **options)  # type: ignore[arg-type]


def next_news(page: ClientConnection, kind: str, **fields: object) -> dict:
    """The next JSON message of this type with these fields; pictures on the way are confirmed."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        message = page.recv(timeout=5)
        if isinstance(message, bytes):
            confirm(page, message)
        elif (news := json.loads(message))["type"] == kind and all(
            news.get(name) == value for name, value in fields.items()
        ):
            return news
    raise TimeoutError(f"no {kind} with {fields}")


def next_picture(page: ClientConnection) -> bytes:
    while not isinstance(message := page.recv(timeout=5), bytes):
        pass
    return message


def split(picture: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(picture[:4], "little")
    return json.loads(picture[4 : 4 + length]), picture[4 + length :]


def confirm(page: ClientConnection, picture: bytes) -> None:
    page.send(json.dumps({"type": "shown", "serial": split(picture)[0]["serial"], "drawn": True}))


def wait_for_frame(viewer: ViewerHandle) -> None:
    deadline = time.monotonic() + 5
    while httpx.get(f"{viewer.url}readyz").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def receipts_of(page: ClientConnection, number: int) -> list[dict]:
    """All receipts of one input, up to the final one."""
    receipts = [next_news(page, "receipt", id=number)]
    while receipts[-1]["state"] == "accepted":
        receipts.append(next_news(page, "receipt", id=number))
    return receipts


# What it serves


@pytest.mark.parametrize("path", ["", "viewer.css", "viewer.js"])
def test_the_page_comes_with_all_its_parts(viewer: ViewerHandle, path: str) -> None:
    answer = httpx.get(viewer.url + path)
    assert answer.status_code == 200
    assert len(answer.content) > 1000


def test_the_page_loads_nothing_from_elsewhere(viewer: ViewerHandle) -> None:
    for path in ("", "viewer.css", "viewer.js"):
        text = httpx.get(viewer.url + path).text.replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
    assert "default-src 'self'" in httpx.get(viewer.url).headers["content-security-policy"]


def test_it_is_healthy_before_the_first_frame_and_ready_after_it(viewer: ViewerHandle, world: FakeWorld) -> None:
    assert httpx.get(f"{viewer.url}healthz").status_code == 200
    wait_for_frame(viewer)
    assert httpx.get(f"{viewer.url}readyz").json()["frame"] >= 1


def test_it_is_not_ready_while_no_frame_comes(viewer: ViewerHandle, world: FakeWorld) -> None:
    world.silent.set()
    time.sleep(0.1)
    answer = httpx.get(f"{viewer.url}readyz")
    if answer.status_code == 200:  # a frame came before the silence: it goes stale
        time.sleep(2.1)
        answer = httpx.get(f"{viewer.url}readyz")
    assert answer.status_code == 503
    assert answer.json()["reason"]
    assert httpx.get(f"{viewer.url}healthz").status_code == 200


@pytest.mark.parametrize(("name", "kind"), [("snapshot.png", "PNG"), ("snapshot.jpg", "JPEG")])
def test_a_snapshot_is_the_latest_frame(viewer: ViewerHandle, name: str, kind: str) -> None:
    wait_for_frame(viewer)
    answer = httpx.get(viewer.url + name)
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.size) == (kind, (WIDTH, HEIGHT))
    assert int(answer.headers["x-everscene-frame"]) >= 1


def test_there_is_no_snapshot_before_the_first_frame(world: FakeWorld) -> None:
    world.silent.set()
    viewer = serving.serve(world.relay(), serving.listen("127.0.0.1", 0), None)
    assert httpx.get(f"{viewer.url}snapshot.png").status_code == 503
    viewer.stop()


def test_metrics_say_what_stats_say(viewer: ViewerHandle, world: FakeWorld) -> None:
    world.latencies = [200.0, 300.0, 400.0]
    lines = httpx.get(f"{viewer.url}metrics").text.splitlines()
    assert "everscene_up 1.0" in lines
    assert "everscene_content_fps 16.0" in lines
    assert "everscene_clock_shift_seconds_total 0.04" in lines
    assert 'everscene_state{state="live"} 1.0' in lines
    assert 'everscene_inputs_total{outcome="applied"} 2.0' in lines
    assert 'everscene_event_to_frame_seconds{quantile="0.5"} 0.3' in lines
    assert "everscene_event_to_frame_seconds_count 3.0" in lines
    assert 'everscene_stage_seconds{quantile="1",stage="denoise"} 0.4' in lines


def test_metrics_say_that_the_sidecar_is_gone(viewer: ViewerHandle, world: FakeWorld) -> None:
    world.gone.set()
    lines = httpx.get(f"{viewer.url}metrics").text.splitlines()
    assert "everscene_up 0.0" in lines
    assert not any(line.startswith("everscene_fps") for line in lines)


# Whom it lets in


def test_a_foreign_page_cannot_open_the_live_socket(viewer: ViewerHandle) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_page(viewer, origin="https://example.org")
    assert refused.value.response.status_code == 403


def test_its_own_page_can_open_the_live_socket(viewer: ViewerHandle) -> None:
    with open_page(viewer, origin=viewer.url.rstrip("/")) as page:
        assert next_news(page, "world")["model"] == "fake"


def test_a_page_of_another_port_cannot_open_the_live_socket(viewer: ViewerHandle) -> None:
    with pytest.raises(InvalidStatus):
        open_page(viewer, origin="http://127.0.0.1:1")


@pytest.mark.parametrize("path", ["", "snapshot.png", "metrics"])
def test_a_foreign_name_for_this_machine_is_refused(viewer: ViewerHandle, path: str) -> None:
    answer = httpx.get(viewer.url + path, headers={"host": "rebound.example.org"})
    assert answer.status_code == 421
    assert "rebound.example.org" in answer.text


@pytest.mark.parametrize("name", ["localhost", "[::1]", "127.0.0.1"])
def test_a_forwarded_port_is_let_in_by_loopback_name(viewer: ViewerHandle, name: str) -> None:
    assert httpx.get(viewer.url, headers={"host": f"{name}:8080"}).status_code == 200


@pytest.mark.parametrize("path", ["", "viewer.js", "snapshot.jpg", "metrics", "readyz"])
def test_with_a_token_nothing_is_told_without_it(guarded: ViewerHandle, path: str) -> None:
    assert httpx.get(guarded.url.partition("?")[0] + path).status_code == 401


def test_with_a_token_health_is_told_to_anyone(guarded: ViewerHandle) -> None:
    assert httpx.get(guarded.url.partition("?")[0] + "healthz").status_code == 200


def test_the_printed_address_opens_the_page_and_hides_the_token(guarded: ViewerHandle) -> None:
    with httpx.Client(follow_redirects=True) as browser:
        answer = browser.get(guarded.url)
        assert answer.status_code == 200
        assert "token" not in str(answer.url)
        assert browser.get(answer.url.join("viewer.js")).status_code == 200
        assert not any("sesame" in cookie.value for cookie in browser.cookies.jar if cookie.value)


def test_a_wrong_token_is_refused(guarded: ViewerHandle) -> None:
    base = guarded.url.partition("?")[0]
    assert httpx.get(f"{base}?token=open").status_code == 401
    assert httpx.get(base, headers={"authorization": "Bearer nonsense"}).status_code == 401


def test_a_scraper_shows_the_token_as_bearer(guarded: ViewerHandle) -> None:
    base = guarded.url.partition("?")[0]
    headers = {"authorization": "Bearer open sesame"}
    assert httpx.get(f"{base}metrics", headers=headers).status_code == 200


def test_the_live_socket_needs_the_token_too(guarded: ViewerHandle) -> None:
    with pytest.raises(InvalidStatus):
        open_page(guarded)
    with open_page(guarded, additional_headers={"authorization": "Bearer open sesame"}) as page:
        assert next_news(page, "world")


def test_another_address_than_loopback_needs_a_token() -> None:
    with pytest.raises(SettingsError, match="token"):
        start("tcp://127.0.0.1:1", "0.0.0.0", 0)


def test_a_taken_port_is_named_with_the_option_to_change() -> None:
    with serving.listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"{port}.*--viewer-port"):
            serving.listen("127.0.0.1", port)


# How it feeds a page


def test_a_page_learns_the_world_first(viewer: ViewerHandle) -> None:
    with open_page(viewer) as page:
        first = json.loads(page.recv(timeout=5))
    assert first["type"] == "world"
    assert (first["width"], first["height"], first["fps"]) == (WIDTH, HEIGHT, 16)
    assert [event["name"] for event in first["scene"]["events"]][:2] == ["dawn", "day"]


def test_pictures_are_jpeg_files_with_frame_number_and_prompt(viewer: ViewerHandle) -> None:
    with open_page(viewer) as page:
        header, jpeg = split(next_picture(page))
    assert header["frame"] >= 1
    assert "harbour" in header["prompt"]
    assert Image.open(io.BytesIO(jpeg)).size == (WIDTH, HEIGHT)


def test_a_page_that_confirms_nothing_is_sent_two_pictures(viewer: ViewerHandle, world: FakeWorld) -> None:
    with open_page(viewer) as page:
        next_picture(page), next_picture(page)
        at = world.number
        while world.number < at + 8:  # the page goes on to hear the news, and no picture among it
            assert isinstance(page.recv(timeout=5), str)


def test_a_page_that_was_slow_goes_on_with_the_newest_picture(viewer: ViewerHandle, world: FakeWorld) -> None:
    with open_page(viewer) as page:
        pictures = [next_picture(page), next_picture(page)]
        at = world.number
        while world.number <= at + 6:  # number at + 6 has been given out
            time.sleep(0.02)
        for picture in pictures:
            confirm(page, picture)
        late, _ = split(next_picture(page))
    assert late["frame"] >= at + 6
    assert late["frame"] > split(pictures[1])[0]["frame"] + 1


def test_an_event_comes_back_accepted_and_then_applied(viewer: ViewerHandle, world: FakeWorld) -> None:
    with open_page(viewer) as page:
        page.send(json.dumps({"type": "event", "id": 1, "name": "storm", "params": {"intensity": 0.3}}))
        receipts = receipts_of(page, 1)
    assert [receipt["state"] for receipt in receipts] == ["accepted", "applied"]
    assert receipts[1]["frame"] >= 1
    assert receipts[1]["latency_ms"] >= 100
    assert world.asked == [("event", "storm", {"intensity": 0.3})]


def test_a_refused_prompt_comes_back_with_the_reason(viewer: ViewerHandle) -> None:
    with open_page(viewer) as page:
        page.send(json.dumps({"type": "prompt", "id": 4, "text": "a xragon"}))
        (receipt,) = receipts_of(page, 4)
    assert receipt["state"] == "rejected"
    assert "xragon" in receipt["reason"]


def test_a_page_hears_of_the_stream_and_its_latency(viewer: ViewerHandle, world: FakeWorld) -> None:
    world.latencies = [250.0]
    with open_page(viewer) as page:
        times = {"n": 1, "p50": 250.0, "p95": 250.0, "max": 250.0}
        news = next_news(page, "status", state="live", latency_ms=times)
        assert (news["fps"], news["seen_ms"], news["stages_ms"]) == (16.0, times, {"denoise": times})


def test_a_command_of_a_page_is_done_and_said_to_be(viewer: ViewerHandle, world: FakeWorld) -> None:
    with open_page(viewer) as page:
        page.send(json.dumps({"type": "command", "id": 3, "name": "rewind", "args": {"seconds": 5}}))
        assert receipts_of(page, 3) == [{"type": "receipt", "id": 3, "state": "done"}]
        assert world.asked == [("rewind", {"seconds": 5})]


def test_a_command_that_fails_says_why(viewer: ViewerHandle) -> None:
    with open_page(viewer) as page:
        page.send(json.dumps({"type": "command", "id": 3, "name": "restore", "args": {"name": "viewer"}}))
        (receipt,) = receipts_of(page, 3)
        assert (receipt["state"], receipt["reason"]) == ("rejected", "there is no snapshot of this name")


def test_a_page_hears_that_the_sidecar_is_gone_and_back(viewer: ViewerHandle, world: FakeWorld) -> None:
    with open_page(viewer) as page:
        world.gone.set()
        assert next_news(page, "status", state="disconnected")["reason"]
        world.gone.clear()
        assert next_news(page, "status", state="live")


@pytest.mark.parametrize(
    "nonsense",
    [
        '{"type": "event", "id": Infinity, "name": "storm"}',
        pytest.param("[" * 30_000, id="nested"),
        "{",
        "[]",
        '{"type": "dance"}',
        '{"type": "event"}',
        '"x"',
        b"\x00\xff",
    ],
)
def test_a_page_that_talks_nonsense_is_sent_away_and_others_go_on(viewer: ViewerHandle, nonsense: str | bytes) -> None:
    with open_page(viewer) as other, open_page(viewer) as page:
        page.send(nonsense)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                page.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert next_picture(other)


def test_a_page_cannot_leave_more_than_its_share_of_receipts_open(world: FakeWorld) -> None:
    world.delay_s = 3600.0
    viewer = serving.serve(world.relay(), serving.listen("127.0.0.1", 0), None)
    with open_page(viewer) as page:
        for number in range(1, 66):
            page.send(json.dumps({"type": "event", "id": number, "name": "storm"}))
        assert next_news(page, "receipt", state="rejected")["id"] == 65
    viewer.stop()


def test_stopping_frees_the_port_while_a_page_is_open(world: FakeWorld) -> None:
    viewer = serving.serve(world.relay(), serving.listen("127.0.0.1", 0), None)
    with open_page(viewer) as page:
        next_picture(page)
        viewer.stop()
    assert not viewer.thread.is_alive()
    with pytest.raises(httpx.ConnectError):
        httpx.get(viewer.url)


def test_a_page_hears_what_other_clients_do(viewer: ViewerHandle, world: FakeWorld) -> None:
    with open_page(viewer) as page:
        next_picture(page)
        notice = Notice(kind="input", epoch=7, at_ns=0, order=5, client_id=99, client="feed", event="night", params={})
        world.on_notice(notice)
        heard = next_news(page, "input")
    assert (heard["client"], heard["event"], heard["order"]) == ("feed", "night", 5)


def test_a_page_hears_which_slots_other_clients_set(viewer: ViewerHandle, world: FakeWorld) -> None:
    with open_page(viewer) as page:
        next_picture(page)
        world.on_notice(
            Notice(kind="input", epoch=7, at_ns=0, order=5, client_id=99, client="fader", slots={"time": "at night"})
        )
        assert next_news(page, "input")["slots"] == {"time": "at night"}


def test_a_page_does_not_hear_what_the_viewer_itself_did(viewer: ViewerHandle, world: FakeWorld) -> None:
    with open_page(viewer) as page:
        next_picture(page)
        for client_id in (world.client_id, 99):
            world.on_notice(Notice(kind="input", epoch=7, at_ns=0, order=5, client_id=client_id, client=str(client_id)))
        assert next_news(page, "input")["client"] == "99"


def test_a_state_and_its_reason_reach_the_page_at_once(viewer: ViewerHandle, world: FakeWorld) -> None:
    with open_page(viewer) as page:
        next_picture(page)
        notice = Notice(kind="state", epoch=7, at_ns=0, state="restarting", reason="the engine ran out of memory")
        world.on_notice(notice)
        assert next_news(page, "status", state="restarting")["reason"] == "the engine ran out of memory"


def test_the_sidecar_hears_once_when_an_event_was_seen(viewer: ViewerHandle, world: FakeWorld) -> None:
    with open_page(viewer) as page:
        page.send(json.dumps({"type": "event", "id": 1, "name": "night"}))
        orders = {}
        while max(orders.values(), default=0) < 1 or len(orders) < 8:
            picture = next_picture(page)
            header, _ = split(picture)
            orders[header["frame"]] = header["order"]
            confirm(page, picture)
    first = min(frame for frame, order in orders.items() if order == 1)
    assert world.shown == [first]


def test_after_a_restart_of_the_sidecar_pages_learn_the_new_world(viewer: ViewerHandle, world: FakeWorld) -> None:
    with open_page(viewer) as page:
        next_picture(page)
        world.info = world.info.model_copy(update={"epoch": 8, "model": "another", "width": 128})
        next_news(page, "world", model="another", width=128, epoch=8)


def test_a_page_hears_why_its_command_cannot_be_sent_and_stays(server: Server) -> None:
    viewer = start(server.endpoint, "127.0.0.1", 0, None)
    with open_page(viewer) as page:
        page.send(json.dumps({"type": "command", "id": 1, "name": ""}))
        assert next_news(page, "receipt", id=1)["reason"] == "name must not be empty (got '')"
        page.send(json.dumps({"type": "event", "id": 2, "name": "storm", "params": {"when": 1}}))
        assert "no param 'when'" in next_news(page, "receipt", id=2)["reason"]
    viewer.stop()
