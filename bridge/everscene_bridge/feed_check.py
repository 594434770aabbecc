"""Whether a scene has what a feed speaks of: found before the evening, not in the middle of it."""

from collections.abc import Iterator

from everscene_bridge.errors import InputRejected
from everscene_bridge.feed import Deed, Feed
from everscene_bridge.scene import Scene
from everscene_bridge.ways import RECACHE


def problems(feed: Feed, scene: Scene) -> list[str]:
    """A line for each event, param or slot that the scene would refuse. Prompts are the engine's business."""
    found = []
    for step in feed.steps:
        for deed in (step, *step.choose):
            found += [f"{feed.name}, at {step.at:g} s, {deed.what}: {why}" for why in _refused(deed, scene)]
    return found


def _refused(deed: Deed, scene: Scene) -> Iterator[InputRejected]:
    try:
        if deed.event is not None:
            scene.action(deed.event, deed.params, deed.when)
        elif deed.slots:
            scene.slots_action(deed.slots, RECACHE, "now")
    except InputRejected as why:
        yield why
