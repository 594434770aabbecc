"""Feeds of other tools. The files in feeds/ have the form of published ones, with words of our own:

scope_timeline.json         daydreamlive/scope, pipelines/longlive/docs/examples/timeline-panda.json (version 2.0) and
                            pipelines/memflow/docs/examples/timeline-memflow-detective.json (version 2.1)
odyssey_script.json         the example of `simulate` in the documentation of Odyssey's Python library
longlive_interactive.jsonl  NVlabs/LongLive 1.0, example/interactive_example.jsonl; `switch_frames` as users add it
"""

import shutil
from pathlib import Path

import pytest

from everscene_bridge.errors import SceneError
from everscene_bridge.feed import load_feed
from everscene_bridge.feed_imports import load_any_feed

FEEDS = Path(__file__).parent / "feeds"


def test_a_scope_timeline() -> None:
    feed = load_any_feed(FEEDS / "scope_timeline.json")
    assert [(round(step.at, 3), step.prompt) for step in feed.steps] == [
        (0.0, "A small boat lies in a quiet harbour."),
        (11.456, "Rain falls on the small boat in the harbour."),
        (24.168, "Night falls, lamps are lit along the quay."),
    ]
    ways = [(step.transition, step.seconds, step.path) for step in feed.steps]
    assert ways == [(None, None, None), ("blend", 3.0, "slerp"), (None, None, None)]
    assert feed.length == pytest.approx(36.9446)


def test_an_odyssey_script() -> None:
    feed = load_any_feed(FEEDS / "odyssey_script.json")
    assert [(step.at, step.prompt, step.transition) for step in feed.steps] == [
        (0.0, "A lighthouse above the sea.", "reset"),
        (3.0, "A lighthouse above the sea. The lamp is lit", None),
        (6.0, "A lighthouse above the sea. A storm comes up", None),
    ]
    assert feed.length == 9.0


def test_a_longlive_list_without_times_holds_each_prompt() -> None:
    feed = load_any_feed(FEEDS / "longlive_interactive.jsonl", hold_s=8.0)
    assert [step.at for step in feed.steps] == [0.0, 8.0, 16.0]
    assert feed.length == 24.0 and feed.looped(8.0).every == 24.0


def test_another_video_of_a_longlive_list_with_its_own_times() -> None:
    feed = load_any_feed(FEEDS / "longlive_interactive.jsonl", line=2)
    assert [(step.at, step.prompt) for step in feed.steps] == [
        (0.0, "A baker kneads dough in a small kitchen."),
        (7.5, "A baker puts the bread into the oven."),
    ]


def test_a_line_that_is_not_there_is_named() -> None:
    with pytest.raises(SceneError, match="line 3 was asked for; the file has 2"):
        load_any_feed(FEEDS / "longlive_interactive.jsonl", line=3)


@pytest.mark.parametrize(
    "text", ["{", "3", '{"prompts": [{"startTime": 1}]}', '[{"timestamp_ms": 0, "wave": {}}]', '{"prompts": []}']
)
def test_what_is_none_of_them_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "strange.json"
    path.write_text(text)
    with pytest.raises(SceneError, match=r"strange\.json"):
        load_any_feed(path)


def test_a_feed_of_our_own_is_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(
        '{"name": "own", "every": 20}\n{"at": "0:05", "event": "rain"}\n{"at": 7, "slots": {"time": "at dusk"}}\n'
    )
    feed = load_any_feed(path)
    assert (feed.name, feed.every, [step.at for step in feed.steps]) == ("own", 20, [5.0, 7.0])


@pytest.mark.parametrize("name", ["scope_timeline.json", "odyssey_script.json", "longlive_interactive.jsonl"])
def test_an_imported_feed_can_be_kept_as_one_of_ours(tmp_path: Path, name: str) -> None:
    feed = load_any_feed(FEEDS / name)
    kept = tmp_path / "kept.yaml"
    kept.write_text(feed.to_yaml(), encoding="utf-8")
    assert load_feed(kept) == feed


def test_the_kind_is_told_by_what_a_file_holds_not_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "anything.json"
    shutil.copy(FEEDS / "odyssey_script.json", path)
    assert load_any_feed(path).steps[0].transition == "reset"
