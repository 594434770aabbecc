"""The whole path in a real Chromium: page, viewer, control socket, engine, ring, and back onto the page."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.browser.chromium import Chromium

import everscene_engine
from everscene_bridge import viewer
from everscene_bridge.engines import EngineChoice, loader
from everscene_bridge.inputs import Input
from everscene_bridge.pattern import PatternEngine
from everscene_bridge.scene import load_scene
from everscene_bridge.server import Server
from everscene_bridge.settings import ServeSettings
from everscene_engine.port import EnginePort

pytestmark = pytest.mark.browser

POCKET = Path(everscene_engine.__file__).parent / "weights" / "pocket"
MODELS = ["pattern", *(["pocket"] if POCKET.is_dir() else [])]
FRAME = "Number(document.querySelector('#picture').dataset.frame)"
CAPTION = "document.querySelector('#prompt-now').textContent"
THUMBNAIL = (
    "(() => { const c = document.createElement('canvas'); c.width = 16; c.height = 9; const p = c.getContext('2d');"
    "p.imageSmoothingQuality = 'high'; p.drawImage(document.querySelector('#picture'), 0, 0, 16, 9);"
    "return [...p.getImageData(0, 0, 16, 9).data].filter((_, i) => i % 4 < 3); })()"
)


def make_engine(model: str) -> EnginePort:
    """The model; the pattern with the default scene's words, so that it refuses others as a real one does."""
    if model == "pocket":
        return loader(EngineChoice("pocket"))()
    scene = load_scene()
    inputs = [Input(1, scene.action(name, {}, None), 0) for name in scene.file.events]
    prompts = [scene.compose(scene.initial), *(scene.compose(scene.initial.after(one)) for one in inputs)]
    return PatternEngine(vocabulary=frozenset(" ".join(prompts).lower().replace(",", " ").split()))


@pytest.fixture(params=MODELS)
def page(request: pytest.FixtureRequest, browser: Chromium, tmp_path: Path) -> Iterator[Chromium]:
    def build() -> EnginePort:
        return make_engine(request.param)

    settings = ServeSettings(control_port=0, frames_port=0, ring_dir=tmp_path)
    with Server(build(), build, load_scene(), settings) as server:
        handle = viewer.start(server.endpoint, "127.0.0.1", 0)
        browser.open(handle.url)
        browser.until(f"{FRAME} > 0", timeout=30)
        yield browser
        handle.stop()


def difference(one: list[int], other: list[int]) -> float:
    """Mean absolute difference of two thumbnails, of 255."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)


def thumbnail_after(page: Chromium, frames: int) -> list[int]:
    """What the page shows so many frames from now."""
    page.until(f"{FRAME} >= {page.evaluate(FRAME) + frames}", timeout=30)
    thumbnail: list[int] = page.evaluate(THUMBNAIL)
    return thumbnail


def test_the_picture_moves(page: Chromium) -> None:
    before = page.evaluate(THUMBNAIL)
    assert thumbnail_after(page, 8) != before


def test_a_click_on_storm_changes_the_prompt_and_then_the_picture(page: Chromium) -> None:
    calm = [thumbnail_after(page, 2) for _ in range(5)]
    motion = max(difference(one, other) for one in calm for other in calm)
    assert "storm" not in page.evaluate(CAPTION)
    page.click("[data-event=storm]")
    page.until(f"{CAPTION}.includes('storm')", timeout=30)
    page.until("document.querySelector('#receipts .applied')", timeout=30)
    changed = difference(calm[-1], thumbnail_after(page, 16))
    assert changed > 2 * motion + 2  # a storm is more than the second's motion
    assert page.complaints == []


def test_a_typed_prompt_takes_hold(page: Chromium) -> None:
    scene = load_scene()
    state = scene.initial
    for order, name in enumerate(("forest", "night", "snow"), 1):
        state = state.after(Input(order, scene.action(name, {}, None), 0))
    prompt = scene.compose(state)
    page.click("#prompt")
    page.write(prompt)
    page.press("Enter", 13)
    page.until(f"{CAPTION} === {json.dumps(prompt)}", timeout=30)
    page.until("document.querySelector('#receipts .applied')", timeout=30)


def test_an_unknown_word_is_refused_readably_and_the_stream_goes_on(page: Chromium) -> None:
    prompt = page.evaluate(CAPTION)
    page.click("#prompt")
    page.write("a red qwertz in a harbour")
    page.press("Enter", 13)
    page.until("!document.querySelector('#refusal').hidden", timeout=30)
    assert "qwertz" in page.evaluate("document.querySelector('#refusal').innerText")
    thumbnail_after(page, 8)
    assert page.evaluate(CAPTION) == prompt


def test_latency_and_rate_of_the_real_stream_are_shown(page: Chromium) -> None:
    page.click("[data-event=night]")
    page.until("/^\\d+ ms$/.test(document.querySelector('#p50').textContent)", timeout=30)
    page.until("Number(document.querySelector('#fps').textContent) > 4", timeout=30)


def test_the_feed_of_the_demo_plays_until_a_control_is_touched(browser: Chromium, tmp_path: Path) -> None:
    steps = ", ".join(f"{{at: {0.4 * n:.1f}, event: {'rain' if n % 2 else 'snow'}}}" for n in range(200))
    feed = tmp_path / "feed.yaml"
    feed.write_text(f"name: quick\nsteps: [{steps}]\n")
    command = [sys.executable, "-c", "from everscene_bridge.cli import main; main()", "serve", "--model", "pattern"]
    ports = ["--control-port", "0", "--frames-port", "0", "--viewer-port", "0", "--ring-dir", str(tmp_path)]
    with subprocess.Popen([*command, *ports, "--feed", str(feed)], stdout=subprocess.PIPE, text=True) as sidecar:
        try:
            assert sidecar.stdout is not None
            address = next(found for line in sidecar.stdout if (found := re.search(r"http://\S+", line)))
            drain = threading.Thread(target=sidecar.stdout.read, daemon=True)
            drain.start()
            browser.open(address[0])
            fed = "[...document.querySelectorAll('#receipts li')].filter((e) => /feed:/.test(e.textContent)).length"
            browser.until(f"{fed} >= 3", timeout=20)
            browser.click("[data-event=night]")
            browser.until("/Night/.test(document.querySelector('#receipts').textContent)")
            time.sleep(0.5)
            played = browser.evaluate(fed)
            time.sleep(1.5)
            assert browser.evaluate(fed) == played
            assert "night" in browser.evaluate(CAPTION)
        finally:
            sidecar.send_signal(signal.SIGTERM)
            assert sidecar.wait(20) == 0
    assert not list(tmp_path.glob("*.ring"))
