"""`everscene bench director`: how long a scene's rules take for a hail of events, on one core and without an engine."""

import random
import time
from dataclasses import dataclass

from everscene_bridge.errors import InputRejected
from everscene_bridge.ledger import Ledger
from everscene_bridge.messages import ParamValue
from everscene_bridge.protocol import MAX_WAITING, NS
from everscene_bridge.scene import Scene
from everscene_bridge.scene_params import ChoiceParam, NumberParam, Param

EVENTS_PER_CHUNK = 500
CHUNK_NS = NS // 2
CPU_SECONDS_EACH = 0.2 / 10_000


@dataclass(frozen=True)
class DirectorTimes:
    """What came of it."""

    events: int
    seconds: float  # on the wall
    cpu_seconds: float  # of this process: what it takes on a core of its own
    applied: int
    superseded: int
    rejected: int

    @property
    def ok(self) -> bool:
        """Whether it was quick enough."""
        return self.cpu_seconds < CPU_SECONDS_EACH * self.events


def measure(scene: Scene, events: int, seed: int = 0) -> DirectorTimes:
    """Send so many random events with random params through params check, rules, ledger and prompt.

    Every 500 of them, half a second of the events' own time, a chunk is started and shown.
    """
    chance = random.Random(seed)
    names = list(scene.file.events)
    sent = [(name, _params(scene, name, chance)) for name in chance.choices(names, k=events)]
    ledger = Ledger(scene, lambda prompt: None, MAX_WAITING)
    refused = 0
    start, cpu_start = time.perf_counter(), time.process_time()
    for number, (name, params) in enumerate(sent):
        now_ns = number * CHUNK_NS // EVENTS_PER_CHUNK
        try:
            ledger.accept(scene.action(name, params, None), now_ns)
        except InputRejected:
            refused += 1
        if (number + 1) % EVENTS_PER_CHUNK == 0:
            _show(ledger, scene, now_ns)
    late_ns = events * CHUNK_NS
    while ledger.waiting:  # one may wait for the other
        late_ns += 3600 * NS
        _show(ledger, scene, late_ns)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    totals = ledger.totals
    return DirectorTimes(events, seconds, cpu_seconds, totals.applied, totals.superseded, totals.rejected + refused)


def _show(ledger: Ledger, scene: Scene, now_ns: int) -> None:
    ledger.release(now_ns)
    carried = ledger.use()
    prompt = scene.compose(ledger.state)
    ledger.applied(carried, frame=1, chunk=0, prompt=prompt, published_ns=now_ns)
    ledger.passed({momentary.order for momentary in ledger.state.momentary})
    ledger.outcomes = []


def _params(scene: Scene, name: str, chance: random.Random) -> dict[str, ParamValue]:
    return {key: _value(param, chance) for key, param in scene.file.events[name].params.items()}


def _value(param: Param, chance: random.Random) -> ParamValue:
    if isinstance(param, NumberParam):
        return chance.uniform(param.min, param.max)
    if isinstance(param, ChoiceParam):
        return chance.choice(param.choices)
    return param.default
