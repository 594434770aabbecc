"""The files that docs/director.md shows are files that can be read, and its error is the one that is given."""

import re
import textwrap
from pathlib import Path

import pytest

from everscene_bridge.errors import SceneError
from everscene_bridge.feed import Feed
from everscene_bridge.scene import parse_scene
from everscene_bridge.show_file import ShowFile
from everscene_bridge.yaml_file import parse

DOCS = (Path(__file__).parents[2] / "docs" / "director.md").read_text(encoding="utf-8")
INDENTED = re.findall(r"^((?: {4}.*\n|\n(?= {4}))+)", DOCS, re.MULTILINE)
FILES = [text for block in INDENTED for text in re.findall(r"^name: (?s:.*)", textwrap.dedent(block), re.MULTILINE)]
BLOCKS = {text.splitlines()[0].removeprefix("name: "): text for text in FILES}


def test_the_scene() -> None:
    scene = parse_scene(BLOCKS["bay"])
    assert scene.compose(scene.initial) == "a small boat in the harbour by day, clear sky"


def test_the_error_of_the_scene() -> None:
    (shown,) = re.findall(r"^    (bay\.yaml:.*)$", DOCS, re.MULTILINE)
    with pytest.raises(SceneError) as caught:
        parse_scene(BLOCKS["bay"].replace("set: {weather", "set: {wether"), "bay.yaml")
    assert str(caught.value) == shown


def test_the_feed() -> None:
    feed = parse(BLOCKS["story"], "docs").check(Feed)
    assert feed.every == 240 and len(feed.steps) == 8


def test_the_show() -> None:
    show = parse(BLOCKS["lobby"], "docs").check(ShowFile)
    assert show.idle is not None and show.prompts == ["a * harbour"]
