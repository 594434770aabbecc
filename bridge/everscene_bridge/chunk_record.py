"""A chunk on its way through the timeline: the work that makes it, its record, its frames.

All `…_ns` are points in time on the server's clock.
"""

from dataclasses import dataclass

from everscene_bridge.inputs import Input
from everscene_bridge.messages import Stamps
from everscene_bridge.scene import Momentary, SceneState
from everscene_engine import port
from everscene_engine.port import GeneratedChunk, Picture, Prompting


@dataclass(frozen=True)
class Work:
    """What the generating thread shall do: roll back, steer, generate, in this order."""

    rollback: int | None  # latent frame
    steer: tuple[Prompting, port.Transition] | None
    number: int = 0  # counts works, 1 and up
    orders: tuple[int, ...] = ()  # of the inputs that the chunk is the first to carry


@dataclass
class ChunkRecord:
    """A chunk on its way. All `…_ns` are points in time, 0 = not yet."""

    inputs: tuple[Input, ...]  # those that it is the first to carry
    order: int
    prompt: str
    flags: int  # of its first frame
    state_before: SceneState
    state: SceneState  # under which it is generated
    holding: tuple[Momentary, ...]  # momentary events of that state which are not over when it begins
    world: int  # counts worlds: a reset, a restored snapshot and a new engine begin another
    started_ns: int
    received_ns: int  # arrival of the input `order`
    recached_ns: int  # end of the recache for it; 0: none was needed
    steered_ns: int = 0  # the engine has gone back and taken the prompt, as its chunk asked for
    work: int = 0  # number of the work that it comes from
    chunk: GeneratedChunk | None = None
    number: int = -1  # chunk number, given with its first frame shown
    denoised_ns: int = 0
    decode_started_ns: int = 0
    decoded_frames: int = 0

    @property
    def generation_ns(self) -> int:
        """How long it took to generate."""
        return self.denoised_ns - self.started_ns


@dataclass(frozen=True)
class ReadyFrame:
    """A decoded frame that waits for its due time."""

    record: ChunkRecord
    index: int  # in its chunk
    latent_frame: int
    pixels: Picture
    decoded_ns: int


@dataclass(frozen=True)
class DueFrame:
    """A frame to publish now."""

    number: int
    pts_ns: int
    flags: int
    due_ns: int  # when it was to be published
    ready: ReadyFrame
    old: bool = False  # of an engine that has failed since

    def stamps(self, published_ns: int) -> Stamps:
        """The points in time on its way."""
        record = self.ready.record
        return Stamps(
            received=record.received_ns,
            recached=record.recached_ns,
            denoised=record.denoised_ns,
            decoded=self.ready.decoded_ns,
            published=published_ns,
        )
