"""Every prompt that a scene can make, so that a slow text encoder can read them all before the show.

A slot holds its first words, or what some event with some params puts into it. The prompts are the template filled with
every choice of these for every slot that it names. Free text, and numbers that stand for themselves, have no end of
values: for those the default counts alone.
"""

import itertools
import math
from collections.abc import Iterator

from everscene_bridge.errors import SceneError
from everscene_bridge.scene import ChoiceParam, FlagParam, NumberParam, Scene, SceneState, TextParam

MOST = 20_000


def possible_prompts(scene: Scene, most: int = MOST) -> list[str]:
    """The prompts, each once, the first one first. Raises SceneError when there are more than `most`."""
    words: dict[str, list[str]] = {slot: [text] for slot, text in scene.file.slots.items()}
    for name, event in scene.file.events.items():
        keys = list(event.params)
        for values in itertools.product(*(_values(event.params[key]) for key in keys)):
            sets = scene.action(name, dict(zip(keys, values, strict=True)), None).sets or {}
            for slot, text in sets.items():
                if text not in words[slot]:
                    words[slot].append(text)
    named = [slot for slot in words if f"{{{slot}}}" in scene.file.template]
    count = math.prod(len(words[slot]) for slot in named)
    if count > most:
        raise SceneError(f"the scene {scene.file.name!r} can make {count} prompts; the rule is at most {most}")
    return list(dict.fromkeys(_filled(scene, words, named)))


def _filled(scene: Scene, words: dict[str, list[str]], named: list[str]) -> Iterator[str]:
    for choice in itertools.product(*(words[slot] for slot in named)):
        slots = {**scene.file.slots, **dict(zip(named, choice, strict=True))}
        yield scene.compose(SceneState(slots))


def _values(param: NumberParam | ChoiceParam | TextParam | FlagParam) -> list[float | str | bool]:
    """Values of a param that between them make all its words."""
    if isinstance(param, FlagParam):
        return [param.default, not param.default]
    if isinstance(param, ChoiceParam):
        return [param.default, *(choice for choice in param.choices if choice != param.default)]
    if isinstance(param, NumberParam) and param.words:
        reached = [bound for bound, _ in param.words if param.min <= bound <= param.max]
        return [param.default, *reached, param.max]
    return [param.default]
