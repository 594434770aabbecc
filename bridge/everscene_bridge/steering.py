"""What the engine is told before each chunk: the prompt in force, or where a blend has got to.

A blend goes by frame numbers, so it is the same for the same run whatever the machine's speed. Its window is recached
every few chunks, as often as generation can afford, and once at its end; in between only the text changes. A prompt
that comes in the middle begins where the blend has got to: a blend of its own goes on from there, anything else ends
it. A momentary event that passes in the middle ends nothing.
"""

from dataclasses import dataclass, replace

from everscene_bridge.ways import Blend, Way
from everscene_engine.port import Mix, Prompting, Transition

DEEPEST = 4
"""So many blends one inside the other; of an older one the nearer prompt stands for it."""


@dataclass(frozen=True)
class _Run:
    source: Prompting
    goal: str
    blend: Blend
    start: int  # frame number

    def at(self, frame: int, fps: float) -> Prompting:
        weight = self.blend.weight((frame - self.start) / fps)
        if weight <= 0.0:
            return self.source
        return self.goal if weight >= 1.0 else Mix(self.source, self.goal, weight, self.blend.path)


class Steering:
    """See the module's docstring. Not thread-safe."""

    def __init__(self, fps: float, frames_per_chunk: int) -> None:
        self._fps = fps
        self._frames_per_chunk = frames_per_chunk
        self._told: Prompting | None = None
        self._goal: str | None = None
        self._run: _Run | None = None
        self._since_recache = 0  # chunks

    @property
    def blending(self) -> bool:
        """Whether the chunk told of last is not the end of a blend yet."""
        return self._run is not None

    def forget(self) -> None:
        """The engine must be told again."""
        self._told = None

    def clear(self) -> None:
        """Nothing is under way, and the engine must be told again."""
        self._told = self._goal = self._run = None

    def next(
        self, prompt: str, way: Way, frame: int, recache_every: int, decays: bool = False
    ) -> tuple[Prompting, Transition] | None:
        """What to tell the engine for the chunk that begins with this frame number; None: nothing new.

        prompt: in force from this chunk on. way: to it, if it is another than before. recache_every: chunks from one
        recache of a blend to the next; 0: at its end only. decays: nobody asked for the prompt, something has passed;
        then a blend under way goes on, to the new goal, in the time that it had left.
        """
        begins = way.transition == "blend" and prompt != self._goal and self._goal is not None
        if begins:
            assert self._goal is not None
            source = self._goal if self._run is None else self._run.at(frame, self._fps)
            blend = way.blend if self._run is None or not decays else self._longer(self._run, way.blend, frame)
            self._run = _Run(_shallow(source), prompt, blend, frame)
            self._since_recache = 0
        elif decays and prompt != self._goal and self._run is not None:
            self._run = _Run(_shallow(self._run.at(frame, self._fps)), prompt, self._rest(self._run, frame), frame)
        elif prompt != self._goal or way.transition in ("cut", "reset"):
            self._run = None
        self._goal = prompt
        if self._run is not None:
            return self._blend(self._run, frame, recache_every)
        if way.transition == "cut" or way.transition == "reset":
            self._told = prompt
            return prompt, way.transition
        if self._told == prompt:
            return None
        self._told = prompt
        return prompt, "text" if way.transition == "text" else "recache"

    def _rest(self, run: _Run, frame: int) -> Blend:
        """A blend over the time that a run has left, at least a frame's."""
        left = run.blend.seconds - (frame - run.start) / self._fps
        return replace(run.blend, seconds=max(left, 1 / self._fps))

    def _longer(self, run: _Run, blend: Blend, frame: int) -> Blend:
        return max(blend, self._rest(run, frame), key=lambda one: one.seconds)

    def _blend(self, run: _Run, frame: int, recache_every: int) -> tuple[Prompting, Transition] | None:
        wanted = run.at(frame + self._frames_per_chunk, self._fps)
        if wanted == run.goal:
            self._run = None
            self._told = run.goal
            return run.goal, "recache"
        self._since_recache += 1
        recaches = 0 < recache_every <= self._since_recache
        if recaches:
            self._since_recache = 0
        self._told = wanted
        return wanted, "recache" if recaches else "text"


def _shallow(source: Prompting, depth: int = 1) -> Prompting:
    if isinstance(source, str):
        return source
    if depth == DEEPEST:
        before = source.before if isinstance(source.before, str) else source.before.after
        return source.after if source.weight >= 0.5 else before
    return Mix(_shallow(source.before, depth + 1), source.after, source.weight, source.path)
