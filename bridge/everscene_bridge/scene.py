"""The scene: named events, and the words that each puts into the prompt.

A scene has slots (`time`, `weather`, …) with words in them, and a template that makes them into one prompt; subject and
setting are repeated in every prompt, because these models need them there. An event fills slots; one with `for` gives
them back after that many seconds of content. What the scene holds at a moment is a SceneState, a value: events make
new ones, and the stream can go back to an older one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from everscene_bridge.errors import InputRejected, SceneError
from everscene_bridge.inputs import Action, Input, Rules
from everscene_bridge.messages import EventDescription, ParamValue, SceneDescription, SlotDescription
from everscene_bridge.protocol import When
from everscene_bridge.scene_file import PLACEHOLDER, SceneEvent, SceneFile, cross_check
from everscene_bridge.scene_params import NumberParam, describe
from everscene_bridge.ways import RECACHE, Way
from everscene_bridge.yaml_file import parse, read_text

DEFAULT_SCENE: Final = Path(__file__).parent / "scenes" / "pocket.yaml"
SLOT_RULES: Final = Rules(otherwise="wait")
"""For slots that are set directly, as by a fader: they wait for what outranks them, and the latest counts."""
REMEMBERED: Final = 1024
Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Momentary:
    """The words of an event that goes back by itself."""

    order: int
    sets: Mapping[str, str]
    for_s: float
    priority: int = 0
    back: Way = RECACHE


@dataclass(frozen=True)
class SceneState:
    """What the scene holds: words in slots, momentary events over them, or a whole prompt in their place."""

    slots: Mapping[str, str]
    momentary: tuple[Momentary, ...] = ()
    prompt: str | None = field(default=None)

    def after(self, one: Input) -> "SceneState":
        """The state once this input is in force."""
        action = one.action
        if action.prompt is not None:
            return replace(self, prompt=action.prompt)
        left = self.momentary
        if left:
            left = tuple(m for m in left if not m.sets.keys() <= action.sets.keys())
        if action.for_s is not None:
            new = Momentary(one.order, action.sets, action.for_s, action.rules.priority, action.back)
            return SceneState(self.slots, (*left, new))
        return SceneState({**self.slots, **action.sets}, left)

    def without(self, orders: set[int]) -> "SceneState":
        """The state once these momentary events have passed."""
        return replace(self, momentary=tuple(m for m in self.momentary if m.order not in orders))

    def moved(self, old: "SceneState", new: "SceneState") -> "SceneState":
        """The same in another scene, whose first state is `new` (ours was `old`): what events changed stays changed."""
        changed = {slot: words for slot, words in self.slots.items() if words != old.slots.get(slot)}
        slots = {slot: changed.get(slot, words) for slot, words in new.slots.items()}
        return replace(self, slots=slots)


class Scene:
    """A scene file that was read and found right."""

    def __init__(self, file: SceneFile) -> None:
        self.file = file
        self.slots = file.all_slots
        self.initial = SceneState({name: slot.default for name, slot in self.slots.items()})
        parts = PLACEHOLDER.split(file.template)  # text, slot, text, …
        self._texts, self._named = parts[::2], parts[1::2]
        self._prompts: dict[tuple[str, ...], str] = {}
        self._actions: dict[tuple[object, ...], Action] = {}
        self._sets: dict[tuple[str, ...], Mapping[str, str]] = {}  # event and words of its params → words for slots

    def compose(self, state: SceneState, holds: Callable[[Momentary], bool] = lambda _: True) -> str:
        """The prompt of a state, with those momentary events that still hold."""
        if state.prompt is not None:
            return state.prompt
        slots = state.slots
        if state.momentary:
            slots = dict(slots)
            for momentary in state.momentary:
                if holds(momentary):
                    slots.update(momentary.sets)
        try:
            words = tuple([slots[name] for name in self._named])
        except KeyError:  # a state of before the scene file was read anew
            return self.compose(replace(state, slots={**self.initial.slots, **state.slots}), holds)
        prompt = self._prompts.get(words)
        if prompt is None:
            prompt = _tidy("".join(_interleave(self._texts, words)))
            _remember(self._prompts, words, prompt)
        return prompt

    def action(self, name: str, params: Mapping[str, ParamValue], when: When | None) -> Action:
        """What an event does. Raises InputRejected naming event, param, value and rule."""
        key = (name, when, *((given, type(value), value) for given, value in params.items()))
        known = self._actions.get(key)
        if known is None:
            known = self._action(name, params, when)
            _remember(self._actions, key, known)
        return known

    def _action(self, name: str, params: Mapping[str, ParamValue], when: When | None) -> Action:
        event = self.file.events.get(name)
        if event is None:
            known = ", ".join(self.file.events)
            raise InputRejected("unknown_event", f"the scene has no event {name!r}; it has {known}")
        for given in params:
            if given not in event.params:
                known = ", ".join(event.params) or "none"
                raise InputRejected("unknown_param", f"{name} has no param {given!r}; it has {known}")
        values = {key: params.get(key, param.default) for key, param in event.params.items()}
        words = _words(name, event, values)
        said = (name, *words.values())
        sets = self._sets.get(said)
        if sets is None:
            sets = self._filled(name, event, words)
            _remember(self._sets, said, sets)
        way = event.way
        return Action(
            sets,
            None,
            event.for_s,
            way.transition,
            when or event.when,
            way.blend,
            event.way_back,
            name,
            values,
            event.rules,
        )

    def _filled(self, name: str, event: SceneEvent, words: Mapping[str, str]) -> Mapping[str, str]:
        """What the event puts into its slots with these words for its params."""
        sets = {slot: _tidy(PLACEHOLDER.sub(lambda match: words[match[1]], text)) for slot, text in event.set.items()}
        for slot, text in sets.items():
            self._must_fit(slot, text, f"{name} sets {slot}: it")
        return sets

    def slots_action(self, sets: Mapping[str, str], way: Way, when: When) -> Action:
        """What setting slots directly does. Raises InputRejected naming slot, words and rule."""
        for slot, text in sets.items():
            if slot not in self.slots:
                raise InputRejected("unknown_slot", f"the scene has no slot {slot!r}; it has {', '.join(self.slots)}")
            self._must_fit(slot, text, f"the slot {slot}")
        return Action(
            {slot: _tidy(text) for slot, text in sets.items()},
            transition=way.transition,
            when=when,
            blend=way.blend,
            rules=SLOT_RULES,
        )

    def _must_fit(self, slot: str, words: str, what: str) -> None:
        problem = self.slots[slot].problem(words)
        if problem:
            raise InputRejected("out_of_range", f"{what} {problem} (got {words!r})")

    def number_bounds(self, name: str) -> dict[str, tuple[float, float]]:
        """Least and greatest value of each number param of an event."""
        event = self.file.events.get(name)
        params = {} if event is None else event.params
        return {key: (param.min, param.max) for key, param in params.items() if isinstance(param, NumberParam)}

    def describe(self) -> SceneDescription:
        """What the handshake says of it."""
        events = [_describe(name, event) for name, event in self.file.events.items()]
        slots = [
            SlotDescription(name=name, default=slot.default, choices=slot.choices or None)
            for name, slot in self.slots.items()
        ]
        return SceneDescription(name=self.file.name, events=events, slots=slots)


def load_scene(path: Path = DEFAULT_SCENE) -> Scene:
    """Read a scene file. Raises SceneError naming file, line, column, field, value and rule."""
    return parse_scene(read_text(path, "scene"), str(path))


def parse_scene(text: str, source: str = "scene") -> Scene:
    """The same from text; `source` stands for the file in errors."""
    read = parse(text, source)
    file = read.check(SceneFile)
    problems = list(cross_check(file, read))
    if problems:
        raise SceneError("\n".join(problems))
    return Scene(file)


def _words(name: str, event: SceneEvent, values: Mapping[str, ParamValue]) -> dict[str, str]:
    words: dict[str, str] = {}
    for key, param in event.params.items():
        value = values[key]
        try:
            words[key] = param.words_for(value)
        except ValueError as rule:
            fits = isinstance(value, str) == isinstance(param.default, str)
            fits = fits and isinstance(value, bool) == isinstance(param.default, bool)
            code = "out_of_range" if fits else "wrong_type"
            raise InputRejected(code, f"{name}.{key} {rule} (got {value!r})") from None
    return words


def _describe(name: str, event: SceneEvent) -> EventDescription:
    return EventDescription(
        name=name,
        label=event.label or name.replace("_", " ").capitalize(),
        group=event.group,
        when=event.when,
        for_s=event.for_s,
        params=[describe(key, param) for key, param in event.params.items()],
    )


def _interleave(texts: list[str], words: tuple[str, ...]) -> list[str]:
    mixed = [part for pair in zip(texts, words, strict=False) for part in pair]
    return [*mixed, texts[-1]]


def _remember(known: dict[Key, Value], key: Key, value: Value) -> None:
    """Keep a result; when there are too many, begin anew."""
    if len(known) >= REMEMBERED:
        known.clear()
    known[key] = value


def _tidy(text: str) -> str:
    """No doubled spaces, none before a comma, no empty clause left by an empty slot."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+,", ",", text)
    text = re.sub(r"(,\s*)+,", ",", text)
    return text.strip().strip(",").strip()
