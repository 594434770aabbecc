"""Every prompt that a scene can make, so that a slow text encoder can read them all before the show.

A slot holds its first words, one of its choices, or what some event with some params puts into it. The prompts are the
template filled with every choice of these for every slot that it names. Free text, and numbers that stand for
themselves, have no end of values: for those the default counts alone. Sums and maxima of events that coalesce are
numbers like any other.
"""

import itertools
import math
from collections.abc import Iterator

from everscene_bridge.errors import InputRejected, SceneError
from everscene_bridge.messages import ParamValue
from everscene_bridge.scene import Scene, SceneState
from everscene_bridge.scene_file import PLACEHOLDER

MOST = 20_000


def possible_prompts(scene: Scene, most: int = MOST) -> list[str]:
    """The prompts, each once, the first one first. Raises SceneError when there are more than `most`, and for an event
    with params that a slot does not take."""
    words: dict[str, list[str]] = {name: [slot.default, *slot.choices] for name, slot in scene.slots.items()}
    for name, event in scene.file.events.items():
        values = event.param_values()
        for slot, text in event.set.items():
            params = {param: values[param] for param in PLACEHOLDER.findall(text)}
            _must_be_few(scene, math.prod(map(len, params.values())), most)
            for chosen in itertools.product(*params.values()):
                words[slot].append(_said(scene, name, dict(zip(params, chosen, strict=True)), slot))
    distinct = {slot: list(dict.fromkeys(texts)) for slot, texts in words.items()}
    named = [slot for slot in distinct if f"{{{slot}}}" in scene.file.template]
    _must_be_few(scene, math.prod(len(distinct[slot]) for slot in named), most)
    return list(dict.fromkeys(_filled(scene, distinct, named)))


def _said(scene: Scene, event: str, params: dict[str, ParamValue], slot: str) -> str:
    """What an event with these params (the others at their defaults) puts into a slot."""
    try:
        return scene.action(event, params, None).sets[slot]
    except InputRejected as why:
        raise SceneError(f"the scene {scene.file.name!r}: {why}") from None


def _must_be_few(scene: Scene, count: int, most: int) -> None:
    if count > most:
        raise SceneError(f"the scene {scene.file.name!r} can make {count} prompts; the rule is at most {most}")


def _filled(scene: Scene, words: dict[str, list[str]], named: list[str]) -> Iterator[str]:
    for choice in itertools.product(*(words[slot] for slot in named)):
        slots = {**scene.initial.slots, **dict(zip(named, choice, strict=True))}
        yield scene.compose(SceneState(slots))
