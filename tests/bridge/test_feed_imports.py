"""Feeds of other tools. The files in feeds/ have the form of published ones, with words of our own:

scope_timeline_2_0.json     daydreamlive/scope, pipelines/longlive/docs/examples/timeline-panda.json
scope_timeline.json         version 2.1: src/scope/core/pipelines/memflow/docs/examples/timeline-memflow-detective.json;
                            with two prompts in a block, and a transition as timelines/0.01bias.json has it
odyssey_script.json         the example of `simulate` in the documentation of Odyssey's Python library
longlive_interactive.jsonl  NVlabs/LongLive 1.0, example/interactive_example.jsonl; `switch_frames` as users add it
"""

import json
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


def test_a_scope_timeline_of_the_version_before() -> None:
    feed = load_any_feed(FEEDS / "scope_timeline_2_0.json")
    assert [(step.at, step.prompt, step.transition) for step in feed.steps] == [
        (0.0, "A clay boat stands on a table in the sun.", None),
        (11.4555, "The clay boat floats in a bowl of water.", None),
    ]


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
    ("text", "says"),
    [
        ("{", "1:2: this is not JSON"),
        ("3", "1:1: this is no feed that is known here"),
        ('{"worlds": []}', "1:1: this is no feed that is known here"),
        ('{"prompts": []}', "1:2: prompts: must not be empty"),
        ('{"prompts": [\n {"startTime": 1}]}', "2:2: prompts.0.endTime: is missing"),
        ('{"prompts": [\n {"startTime": 1, "endTime": 2}]}', "2:2: prompts.0: a block needs prompts"),
        ('[{"timestamp_ms": 0, "wave": {}}]', "script.0: an entry has either start, interact or end"),
        ('{"script":\n[{"timestamp_ms": "soon", "end": {}}]}', "2:3: script.0.timestamp_ms: must be a number"),
        ('[{"timestamp_ms": 9, "start": {"prompt": "a"}}, {"timestamp_ms": 1, "end": {}}]', "length"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "strange.json"
    path.write_text(text)
    with pytest.raises(SceneError) as error:
        load_any_feed(path)
    assert str(error.value).startswith(str(path)) and says in str(error.value)


def test_switches_that_do_not_fit_the_prompts_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"prompts": ["a"]}\n{"prompts": ["a", "b"], "switch_frames": [3, 4]}\n')
    with pytest.raises(SceneError, match=r"list\.jsonl:2:1: switch_frames: 2 prompts need 1 of them; there are 2"):
        load_any_feed(path, line=2)


def test_one_of_several_odyssey_scripts(tmp_path: Path) -> None:
    path = tmp_path / "several.json"
    script = json.loads((FEEDS / "odyssey_script.json").read_text())
    path.write_text(json.dumps({"scripts": [script[:1], script]}))
    assert len(load_any_feed(path).steps) == 1
    assert load_any_feed(path, line=2).steps == load_any_feed(FEEDS / "odyssey_script.json").steps


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
