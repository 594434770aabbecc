"""The viewer's page in a real Chromium, before a world that answers as a test wants it."""

from collections.abc import Iterator

import pytest
from tests.bridge.fake_world import FakeWorld
from tests.browser.chromium import Chromium

from everscene_bridge.messages import Notice
from everscene_bridge.viewer import ViewerHandle, serving

pytestmark = pytest.mark.browser

FRAME = "Number(document.querySelector('#picture').dataset.frame)"
CAPTION = "document.querySelector('#prompt-now').textContent"
STATE = "document.body.dataset.state"


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture
def viewer(world: FakeWorld) -> Iterator[ViewerHandle]:
    handle = serving.serve(world.relay(), serving.listen("127.0.0.1", 0), None)
    yield handle
    handle.stop()


@pytest.fixture
def page(browser: Chromium, viewer: ViewerHandle) -> Chromium:
    browser.open(viewer.url)
    browser.until(f"{FRAME} > 0")
    return browser


def pixels(page: Chromium) -> list[int]:
    """What the canvas shows, as 16 × 9 values of red."""
    return page.evaluate(
        "(() => { const c = document.createElement('canvas'); c.width = 16; c.height = 9; const p = c.getContext('2d');"
        "p.drawImage(document.querySelector('#picture'), 0, 0, 16, 9);"
        "return [...p.getImageData(0, 0, 16, 9).data].filter((_, i) => i % 4 === 0); })()"
    )


def test_the_picture_moves(page: Chromium) -> None:
    before = pixels(page)
    shown = page.evaluate(FRAME)
    page.until(f"{FRAME} > {shown + 16}")
    assert pixels(page) != before
    assert len(set(before)) > 10


def test_the_page_says_nothing_to_the_console(page: Chromium) -> None:
    page.click("[data-event=storm]")
    page.until("document.querySelector('#receipts .applied')")
    assert page.complaints == []


def test_a_click_on_storm_sends_it_with_its_slider_and_shows_the_receipt(page: Chromium, world: FakeWorld) -> None:
    page.click("[data-event=storm]")
    page.until("document.querySelector('#receipts .applied')")
    assert world.asked == [("event", "storm", {"intensity": 0.7})]
    assert page.evaluate("document.querySelector('#receipts li').textContent").endswith("ms")
    page.until(f"{CAPTION}.includes('storm')")


def test_of_others_inputs_only_the_one_a_frame_was_made_under_is_marked(page: Chromium, world: FakeWorld) -> None:
    for order, sent in enumerate(({"event": "rain"}, {"slots": {"time": "at night"}}), start=4):
        world.on_notice(Notice(kind="input", epoch=7, at_ns=0, order=order, client_id=99, client="feed", **sent))
    page.until("document.querySelectorAll('#receipts li').length === 2")
    world.order = 5
    page.until("document.querySelector('#receipts .applied')")
    latest, before = (
        page.evaluate(f"[...document.querySelectorAll('#receipts li')[{row}].children].map((part) => part.textContent)")
        for row in (0, 1)
    )
    assert latest[0] == "feed: time: at night" and latest[1].startswith("frame ")
    assert before == ["feed: rain", "accepted"]


def test_pause_becomes_resume_and_back(page: Chromium, world: FakeWorld) -> None:
    page.click("[data-command=pause]")
    page.until("document.querySelector('[data-command=pause]').textContent === 'Resume'")
    page.click("[data-command=pause]")
    page.until("document.querySelector('[data-command=pause]').textContent === 'Pause'")
    assert world.asked == [("pause", {}), ("resume", {})]


def test_the_world_can_be_kept_rewound_and_gone_back_to(page: Chromium, world: FakeWorld) -> None:
    for command in ("snapshot", "rewind", "restore"):
        page.click(f"[data-command={command}]")
    page.until("document.querySelectorAll('#receipts .applied').length === 2")
    page.until("document.querySelector('#receipts .rejected .why')")
    assert sorted(world.asked) == [
        ("restore", {"name": "viewer"}),
        ("rewind", {"seconds": 5}),
        ("snapshot", {"name": "viewer"}),
    ]


def test_a_slider_sets_what_the_event_sends(page: Chromium, world: FakeWorld) -> None:
    page.evaluate("document.querySelector('[data-event=rain]').parentElement.querySelector('input').focus()")
    for _ in range(40):
        page.press("ArrowLeft", 37)
    page.click("[data-event=rain]")
    page.until("document.querySelector('#receipts .applied')")
    ((_, name, params),) = world.asked
    assert name == "rain"
    assert params["intensity"] == pytest.approx(0.3)
    page.until(f"{CAPTION}.includes('light rain')")


def test_every_event_has_a_key_of_its_own(page: Chromium, world: FakeWorld) -> None:
    keys = page.evaluate("[...document.querySelectorAll('[data-event]')].map((b) => b.ariaKeyShortcuts)")
    assert len(set(keys)) == len(keys) == len(world.scene.events)


def test_a_key_presses_its_event(page: Chromium, world: FakeWorld) -> None:
    page.press("n")
    page.until("document.querySelector('#receipts .applied')")
    assert world.asked == [("event", "night", {})]


def test_keys_typed_into_the_prompt_press_no_event(page: Chromium, world: FakeWorld) -> None:
    page.press("/")
    page.press("n")
    assert page.evaluate("document.activeElement.id") == "prompt"
    assert page.evaluate("document.activeElement.value") == "n"
    assert world.asked == []


def test_enter_sends_the_prompt_and_clears_the_box(page: Chromium, world: FakeWorld) -> None:
    page.click("#prompt")
    page.write("a calm harbour at dawn")
    page.press("Enter", 13)
    page.until("document.querySelector('#receipts .applied')")
    assert world.asked == [("prompt", "a calm harbour at dawn")]
    assert page.evaluate("document.querySelector('#prompt').value") == ""


def test_a_refusal_can_be_read_and_the_prompt_put_right(page: Chromium) -> None:
    page.click("#prompt")
    page.write("a xragon at dawn")
    page.press("Enter", 13)
    page.until("!document.querySelector('#refusal').hidden")
    assert "'xragon'" in page.evaluate("document.querySelector('#refusal').innerText")
    assert page.evaluate("document.querySelector('#prompt').value") == "a xragon at dawn"
    page.write("!")
    assert page.evaluate("document.querySelector('#refusal').hidden") is True


def test_text_from_outside_is_shown_as_text(page: Chromium) -> None:
    page.click("#prompt")
    page.write("<img src=x onerror=alert(1)> x<b>")
    page.press("Enter", 13)
    page.until("!document.querySelector('#refusal').hidden")
    assert page.evaluate("document.querySelectorAll('#receipts img, #receipts b, #refusal b').length") == 0


def test_a_lost_sidecar_is_told_and_its_return_too(page: Chromium, world: FakeWorld) -> None:
    world.gone.set()
    page.until(f"{STATE} === 'disconnected'")
    assert page.evaluate("document.querySelector('#veil').innerText")
    world.gone.clear()
    page.until(f"{STATE} === 'live'")
    assert page.evaluate("document.querySelector('#veil').hidden") is True


def test_the_page_finds_a_viewer_that_came_back(browser: Chromium, world: FakeWorld) -> None:
    first = serving.serve(world.relay(), serving.listen("127.0.0.1", 0), None)
    port = int(first.url.rstrip("/").rpartition(":")[2])
    browser.open(first.url)
    browser.until(f"{FRAME} > 0")
    first.stop()
    browser.until(f"{STATE} === 'disconnected'")
    again = FakeWorld()
    again.send_event("night", {})
    second = serving.serve(again.relay(), serving.listen("127.0.0.1", port), None)
    browser.until(f"{STATE} === 'live' && {CAPTION}.includes('night')")
    second.stop()


def test_the_figures_are_shown(page: Chromium, world: FakeWorld) -> None:
    world.latencies = [210.0, 340.0]
    page.until("document.querySelector('#p95').textContent === '340 ms'")
    page.until("Number(document.querySelector('#fps').textContent) > 4")


def test_the_times_of_each_stage_are_shown_when_they_are_opened(page: Chromium, world: FakeWorld) -> None:
    world.latencies = [100.0, 210.0, 340.0]
    page.click("#times summary")
    rows = (
        "[...document.querySelectorAll('#times tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    page.until(f"{rows}.length === 3 && {rows}[0][2] === '340.0'")
    names = ["event to frame", "event to seen", "denoise"]
    assert page.evaluate(rows) == [[name, "210.0", "340.0", "340.0"] for name in names]


@pytest.mark.parametrize("width", [320, 390, 768, 1024, 1920])
def test_nothing_sticks_out_at_the_side(page: Chromium, width: int) -> None:
    page.resize(width, 800, phone=width < 800)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.evaluate(
        "(() => { const r = document.querySelector('#picture').getBoundingClientRect();"
        "return [r.left, r.right, r.width / r.height]; })()"
    )
    assert box[0] >= 0
    assert box[1] <= width
    assert box[2] == pytest.approx(256 / 144, rel=0.01)


def test_every_control_has_a_name_for_those_who_cannot_see_it(page: Chromium) -> None:
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, a, input, select, canvas:not([aria-hidden])')]"
        ".filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert nameless == []
