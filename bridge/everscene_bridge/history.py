"""What was shown, and what the scene held then: the places that a world can go back to.

A place is the end of a latent frame, because that is what the engine can go back to. Momentary events are kept with
the seconds that they still had to go, and get numbers of their own (below 0) when they come back, so that they are
never taken for events of now.
"""

import itertools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from everscene_bridge.scene import Momentary, Scene, SceneState

REMEMBERED = 1024
"""Latent frames; engines forget sooner."""


@dataclass(frozen=True)
class Moment:
    """A place to go back to."""

    frame: int  # first frame number of the latent frame
    latent_frame: int  # the one that the frame came from; the world goes on after it
    state: SceneState  # `for_s` of its momentary events is what they had left
    prompt: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "frame": self.frame,
            "latent_frame": self.latent_frame,
            "slots": dict(self.state.slots),
            "momentary": [
                {"sets": dict(one.sets), "for_s": one.for_s, "priority": one.priority} for one in self.state.momentary
            ],
            "scene_prompt": self.state.prompt,
            "prompt": self.prompt,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Moment":
        """The same again. Raises KeyError, TypeError or ValueError for values that are none."""
        momentary = tuple(
            Momentary(
                -place,
                {str(slot): str(words) for slot, words in one["sets"].items()},
                float(one["for_s"]),
                int(one.get("priority", 0)),
            )
            for place, one in enumerate(data["momentary"], start=1)
        )
        slots = {str(slot): str(words) for slot, words in data["slots"].items()}
        prompt = data["scene_prompt"]
        state = SceneState(slots, momentary, None if prompt is None else str(prompt))
        return Moment(int(data["frame"]), int(data["latent_frame"]), state, str(data["prompt"]))


class History:
    """The latest moments of the world that is shown. Not thread-safe."""

    def __init__(self, left_s: Callable[[Momentary, int], float]) -> None:
        """left_s: seconds that a momentary event still has to go at a frame number."""
        self._moments: deque[Moment] = deque(maxlen=REMEMBERED)
        self._left_s = left_s
        self._world = 0
        self._new_orders = itertools.count(-1, -1)

    def shown(self, world: int, moment: Moment) -> None:
        """A frame is shown. What came after its latent frame before, or belonged to another world, is forgotten."""
        if world != self._world:
            self._moments.clear()
            self._world = world
        if self._moments and self._moments[-1].latent_frame == moment.latent_frame:
            return
        self._moments.append(moment)

    def find(self, world: int, latent_frame: int) -> Moment | None:
        """The moment after this latent frame, or the oldest if that is forgotten; None: there is none."""
        if world != self._world or not self._moments:
            return None
        found = self._moments[0]
        for moment in reversed(self._moments):
            if moment.latent_frame <= latent_frame:
                found = moment
                break
        left = [replace(one, for_s=self._left_s(one, found.frame)) for one in found.state.momentary]
        return replace(found, state=replace(found.state, momentary=tuple(one for one in left if one.for_s > 0)))

    def cut_after(self, moment: Moment, world: int) -> None:
        """The world, which has another number from now on, goes on after this moment."""
        while self._moments and self._moments[-1].latent_frame > moment.latent_frame:
            self._moments.pop()
        self._world = world

    def renumbered(self, moment: Moment, scene: Scene) -> SceneState:
        """The scene of a moment as one of now: with new orders, and with the slots that the scene has."""
        known = scene.initial.slots
        slots = {**known, **{slot: words for slot, words in moment.state.slots.items() if slot in known}}
        momentary = tuple(
            replace(
                one,
                order=next(self._new_orders),
                sets={slot: words for slot, words in one.sets.items() if slot in known},
            )
            for one in moment.state.momentary
        )
        return SceneState(slots, momentary, moment.state.prompt)
