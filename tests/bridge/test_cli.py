"""The command line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from everscene_bridge.cli import app
from everscene_bridge.server import Server


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def test_send_prints_both_receipts(server: Server) -> None:
    output = run("send", "storm", "intensity=0.8", "--endpoint", server.endpoint)
    assert "accepted, order 1" in output
    assert "applied from frame" in output and "heavy storm" in output


def test_send_takes_a_prompt(server: Server) -> None:
    output = run("send", "--prompt", "a quiet city", "--transition", "cut", "--endpoint", server.endpoint)
    assert output.rstrip().endswith("a quiet city")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["storm", "intensity=9"], "must lie from 0 to 1"),
        (["no_such"], "no event 'no_such'"),
        (["storm", "intensity"], "KEY=VALUE"),
        (["--prompt", "x", "--transition", "fade"], "one of"),
        (["storm", "--when", "later"], "now or chunk"),
        (["storm", "--transition", "cut"], "not for an event"),
        (["storm", "--seconds", "3"], "not for an event"),
        (["--prompt", "x", "--transition", "cut", "--seconds", "3"], "--seconds belongs to --transition blend"),
        ([], "either"),
        (["storm", "--prompt", "x"], "either"),
    ],
)
def test_send_says_what_is_wrong(server: Server, arguments: list[str], words: str) -> None:
    assert words in run("send", *arguments, "--endpoint", server.endpoint, code=1)


def test_a_param_may_have_the_name_of_an_argument(server: Server) -> None:
    assert "no param 'name'" in run("send", "storm", "name=3", "--endpoint", server.endpoint, code=1)


def test_watch_prints_a_line_a_second(server: Server) -> None:
    output = run("watch", "--seconds", "1", "--endpoint", server.endpoint)
    assert output.startswith("frame ") and " of 16 fps" in output


def test_scene_check_prints_every_events_prompt() -> None:
    output = run("scene", "check")
    assert "a red fox trots along the harbour at night, clear sky" in output


def test_scene_check_can_ask_a_model(tmp_path: Path) -> None:
    assert run("scene", "check", "--model", "pattern").endswith("pattern takes them all\n")
    scene = "name: x\ntemplate: 'a {thing} by day'\nslots: {thing: fox}\nevents: {e: {set: {thing: gryphon}}}\n"
    (tmp_path / "story.yaml").write_text(scene)
    output = run("scene", "check", str(tmp_path / "story.yaml"), "--model", "pocket", code=1)
    assert "pocket does not take 1 of 2:\na gryphon by day: no such word: 'gryphon'" in output


def test_scene_check_names_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "story.yaml").write_text("name: story\n")
    output = run("scene", "check", str(tmp_path / "story.yaml"), code=1)
    assert "template: is missing" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "a token is needed"),
        (["--log-level", "loud"], "--log-level"),
        (["--scene", "no_such.yaml"], "no_such.yaml"),
    ],
)
def test_serve_refuses_to_start_and_says_why(arguments: list[str], words: str) -> None:
    assert words in run("serve", "--model", "pattern", *arguments, code=1)


def test_the_world_is_kept_put_back_rewound_and_paused(server: Server) -> None:
    end = ["--endpoint", server.endpoint]
    run("send", "storm", *end)
    assert run("snapshot", "here", *end).startswith("here: ")
    assert run("restore", "here", "--seed", "4", *end) == "the world goes on from here\n"
    run("send", "night", *end)
    assert run("rewind", "0.1", *end).startswith("went back by ")
    run("send", "calm", *end)
    assert run("branch", "--seed", "8", *end) == "the world goes on under seed 8\n"
    run("pause", *end)
    run("resume", *end)


def test_restore_says_what_is_wrong(server: Server) -> None:
    output = run("restore", "nothing", "--endpoint", server.endpoint, code=1)
    assert "there is no snapshot" in output


def test_replay_says_what_is_wrong(tmp_path: Path) -> None:
    assert "cannot read" in run("replay", str(tmp_path / "none.jsonl"), code=1)


def test_slots_can_be_sent(server: Server) -> None:
    arguments = ["--slot", "time=at dusk", "--slot", "weather=fog", "--transition", "blend", "--seconds", "1"]
    output = run("send", *arguments, "--endpoint", server.endpoint)
    assert output.rstrip().endswith("a red fox trots along the harbour at dusk, fog")


def test_an_endpoint_that_cannot_be_is_named() -> None:
    assert "it must be tcp://HOST:PORT" in run("send", "storm", "--endpoint", "localhost:7464", code=1)


def commands(of: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below this one, with its words."""
    inner = getattr(of, "commands", None)
    if inner is None:
        yield path, of
    for name, command in (inner or {}).items():
        yield from commands(command, (*path, name))


COMMANDS = {" ".join(path): command for path, command in commands(typer.main.get_command(app))}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_explained(name: str) -> None:
    assert COMMANDS[name].help
    assert [option.name for option in COMMANDS[name].params if not option.help] == []


def test_the_endpoint_and_the_token_are_the_same_option_everywhere() -> None:
    told: dict[str, set[Any]] = {name: set() for name in ("endpoint", "token")}
    for name, command in COMMANDS.items():
        for option in command.params:
            if option.name in told and name != "serve":
                told[option.name].add((option.help, option.default))
    assert {name: len(kinds) for name, kinds in told.items()} == {"endpoint": 1, "token": 1}


@pytest.mark.parametrize("option", ["--control-port", "--frames-port", "--viewer-port"])
def test_a_port_that_cannot_be_is_named(option: str) -> None:
    assert f"Invalid value for '{option}'" in run("demo", "--no-browser", option, "99999", code=2)


def test_a_snapshots_name_and_a_picture_that_cannot_be_are_refused_in_words(server: Server) -> None:
    endpoint = ("--endpoint", server.endpoint)
    assert "must be 1 to 64 letters, digits, spaces" in run("snapshot", "../x", *endpoint, code=1)
    assert "the picture /no/such.png cannot be read: No such file" in run("image", "/no/such.png", *endpoint, code=1)
