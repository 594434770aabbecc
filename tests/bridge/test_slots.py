"""Slots set directly, and prompts that blend, from the Python client to the engine."""

from collections.abc import Callable
from typing import Any

import pytest

from everscene_bridge.client import Client
from everscene_bridge.errors import Rejected
from everscene_bridge.pattern import PatternEngine
from everscene_bridge.server import Server
from everscene_engine.port import Mix, Prompting, Transition


class Listening(PatternEngine):
    """A pattern that remembers what it was told."""

    def __init__(self, **options: Any) -> None:
        super().__init__(width=64, height=36, **options)
        self.told: list[tuple[Prompting, Transition]] = []

    def steer(self, prompt: Prompting, transition: Transition) -> None:
        self.told.append((prompt, transition))
        super().steer(prompt, transition)


def test_words_go_into_the_scenes_prompt(world: Client) -> None:
    applied = world.slots({"weather": "heavy rain", "time": "at dusk"}).wait("applied", 10)
    assert applied.prompt == "a red fox trots along the harbour at dusk, heavy rain"


def test_the_handshake_names_the_slots(world: Client) -> None:
    slots = {slot.name: slot.default for slot in world.scene.slots}
    assert slots["setting"] == "harbour" and slots["moment"] == ""


def test_an_unknown_slot_is_rejected_with_those_that_there_are(world: Client) -> None:
    with pytest.raises(Rejected, match=r"no slot 'wether'; it has subject, setting") as caught:
        world.slots({"wether": "rain"}).wait("applied", 10)
    assert caught.value.code == "unknown_slot"


def test_no_slots_at_all_are_refused_at_once(world: Client) -> None:
    with pytest.raises(Rejected, match="slots"):
        world.slots({})


def test_a_prompt_can_blend_in(start_server: Callable[..., Server]) -> None:
    engine = Listening()
    server = start_server(lambda: engine)
    with Client(server.endpoint) as world:
        next(world.frames(timeout=10))
        world.prompt("a calm sea", "blend", seconds=1.5, ease="linear").wait("applied", 10)
        for frame in world.frames(timeout=10):
            if frame.chunk > 8:
                break
    mixes = [prompt for prompt, _ in engine.told if isinstance(prompt, Mix)]
    assert {mix.after for mix in mixes} == {"a calm sea"}
    assert [mix.weight for mix in mixes] == sorted(mix.weight for mix in mixes)
    assert engine.told[-1] == ("a calm sea", "recache")
