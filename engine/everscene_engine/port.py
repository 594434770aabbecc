"""What the process around the engine sees of it: plain values and host buffers, no torch.

`live.LiveEngine` is an `EnginePort`; tests have another. Two threads call it: the decoding thread calls `decode`, the
generating thread calls `steer`, `generate`, `settle`, `begin_with`, `rollback`, `snapshot` and `restore`. Of these only
`generate` and `settle` run at the same time as `decode`; `check` may come from any thread at any time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, Union

import numpy as np
from numpy.typing import NDArray

Transition = Literal["recache", "text", "cut", "reset"]
TRANSITIONS: tuple[Transition, ...] = ("recache", "text", "cut", "reset")

BlendPath = Literal["linear", "slerp"]
BLEND_PATHS: tuple[BlendPath, ...] = ("linear", "slerp")


class Mix(NamedTuple):
    """A conditioning on the way from one prompt to another; in JSON a list of its four fields.

    weight: 0 (`before` alone) to 1 (`after` alone). path: `linear`, the straight way from embedding to embedding, or
    `slerp`, each text row turned with its length going evenly from one to the other. A way that begins in the middle of
    another has a mix for `before`.
    """

    before: Union[str, "Mix"]
    after: str
    weight: float
    path: BlendPath = "linear"


Prompting = str | Mix


def goal_of(prompting: Prompting) -> str:
    """The prompt itself, or the one that a mix is on its way to."""
    return prompting if isinstance(prompting, str) else prompting.after


def prompting_from_json(data: Any) -> Prompting:
    """A prompt or mix that was read from JSON. Raises ValueError for what is neither."""
    if isinstance(data, str):
        return data
    before, after, weight, path = data
    return Mix(prompting_from_json(before), after, weight, path)


@dataclass(frozen=True)
class EngineInfo:
    """What an engine makes. All counts are at least 1."""

    model: str
    width: int  # pixels
    height: int  # pixels
    fps: float  # frames of content per second
    latent_frames_per_chunk: int
    frames_per_latent_frame: int
    steps: int  # denoising steps
    seed: int
    device: str

    @property
    def frames_per_chunk(self) -> int:
        """Frames that a chunk gives; the first chunk of a stream may give fewer."""
        return self.latent_frames_per_chunk * self.frames_per_latent_frame

    @property
    def chunk_seconds(self) -> float:
        """Seconds of content in a chunk."""
        return self.frames_per_chunk / self.fps


@dataclass(frozen=True)
class GeneratedChunk:
    """One chunk whose latents are finished, not decoded yet. Its clean pass may still be to come, or under way."""

    number: int  # chunk number, 0 and up
    first_latent_frame: int  # of the stream; what `rollback` counts in
    latent_frames: int
    prompt: str
    seconds: dict[str, float] = field(default_factory=dict)  # "recache", "denoise", "clean", "decode", as they are done
    latents: Any = None  # the engine's own; handed back to `decode` as it is


class DevicePicture(Protocol):
    """A frame whose pixels lie on a device."""

    def copy_into(self, place: NDArray[np.uint8]) -> None:
        """Copy them into host memory [H, W, 4]. Raises whatever a lost device raises."""


Picture = NDArray[np.uint8] | DevicePicture
"""A frame [H, W, 4] uint8 RGBA, sRGB, top row first, alpha 255, C order."""


def put(picture: Picture, place: NDArray[np.uint8]) -> None:
    """Copy a picture into host memory [H, W, 4]. Raises whatever a lost device raises."""
    if isinstance(picture, np.ndarray):
        np.copyto(place, picture)
    else:
        picture.copy_into(place)


@dataclass(frozen=True)
class FrameBlock:
    """The frames of a chunk, or of a part of it."""

    pixels: Sequence[Picture] | NDArray[np.uint8]  # T pictures, or [T, H, W, 4]
    latent_frame_of: tuple[int, ...]  # T numbers, never falling: the latent frame each frame came from

    @classmethod
    def joined(cls, parts: Sequence["FrameBlock"]) -> "FrameBlock":
        """Parts in a row as one; an array where they are arrays."""
        arrays = [part.pixels for part in parts if isinstance(part.pixels, np.ndarray)]
        pictures = [picture for part in parts for picture in part.pixels]
        numbers = tuple(number for part in parts for number in part.latent_frame_of)
        return cls(np.concatenate(arrays) if arrays and len(arrays) == len(parts) else pictures, numbers)

    def on_host(self, height: int, width: int) -> NDArray[np.uint8]:
        """All of them in host memory, [T, H, W, 4]."""
        if isinstance(self.pixels, np.ndarray):
            return self.pixels
        frames = np.empty((len(self.pixels), height, width, 4), np.uint8)
        for picture, place in zip(self.pixels, frames, strict=True):
            put(picture, place)
        return frames


@dataclass(frozen=True)
class Finding:
    """What `everscene doctor` found out. advice: what to change, or nothing."""

    what: str
    state: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


@dataclass(frozen=True)
class EngineState:
    """A world between two latent frames, in host memory: what a snapshot holds of the engine."""

    facts: dict[str, Any]  # JSON values; `model`, `width`, `height`, `seed` and `latent_frame` are always there
    arrays: dict[str, NDArray[Any]]  # the engine's own, by name

    def with_seed(self, seed: int) -> "EngineState":
        """The same past with another future."""
        return EngineState({**self.facts, "seed": seed}, self.arrays)


class EnginePort(Protocol):
    """A world that is generated chunk by chunk and can be steered."""

    @property
    def info(self) -> EngineInfo:
        """Fixed for the life of the engine."""

    def begin_with(self, picture: NDArray[np.uint8] | None) -> None:
        """Let worlds that begin from now on begin with this picture [H, W, 3] of the frame's size; None: without.

        Raises EngineError, with a sentence that says why, where there can be none; then nothing has changed.
        """

    def check(self, prompt: str) -> None:
        """Raise PromptRejected, with a sentence that says why, if the model cannot take this prompt. Quick."""

    def steer(self, prompt: Prompting, transition: Transition) -> None:
        """Use this prompt, or mix of prompts, from the next generated chunk on. Raises PromptRejected as `check` does.

        A cut or a reset goes to a prompt; of a mix it takes the one that the mix is on its way to.
        """

    def generate(
        self,
        interrupted: Callable[[], bool],
        finished: Callable[[GeneratedChunk], None],
        hurried: Callable[[], bool],
    ) -> GeneratedChunk | None:
        """One chunk: recache if steered, denoise, clean pass. Asks `interrupted()` before each forward; when that is
        True, gives None and the stream is as if the call had not been made (a prompt steered to stays).

        An engine whose clean pass takes its time calls `finished` with the chunk as soon as its latents are finished,
        so that it can be decoded meanwhile; it gives the same chunk in the end. It asks `hurried()` before that pass
        and during it, as often as it can, until that is True: then it leaves the rest of the pass for later.
        """

    @property
    def unsettled(self) -> bool:
        """Whether a recache has left something for `settle`."""

    def settle(self) -> bool:
        """Do one part, about a forward long, of what a recache has left for later; False: there was none."""

    def decode(self, chunk: GeneratedChunk, ready: Callable[[FrameBlock], None] = lambda part: None) -> FrameBlock:
        """The chunk's frames. Called once for each chunk, in order. ready: called with its frames in turn, as soon as a
        latent frame of them is decoded; not with all of them as a rule, and maybe with none."""

    def rollback(self, latent_frame: int) -> None:
        """Forget everything generated from this latent frame on: cache and decoder are as they were before it.

        Raises ConfigError when that lies further back than is kept, or ahead of the stream; then nothing has changed.
        """

    def snapshot(self, latent_frame: int) -> EngineState:
        """The world as `rollback(latent_frame)` would leave it; the stream goes on untouched. Not during `decode`.

        Raises ConfigError when that lies further back than is kept, or ahead of the stream.
        """

    @property
    def earliest(self) -> int:
        """The first latent frame that `rollback` and `snapshot` can go back to."""

    def restore(self, state: EngineState) -> None:
        """Go on from a snapshot, with its seed; `steer` must follow. Not during `decode`.

        Raises SnapshotError for a snapshot of another model, and then nothing has changed.
        """

    def pin(self, memory: NDArray[np.uint8]) -> None:
        """Pictures will be put into this memory: an engine on a GPU has it registered for copies by DMA. Any thread."""

    def unpin(self) -> None:
        """That memory may go away. Any thread."""

    def close(self) -> None:
        """Give back what the engine holds. No other call follows."""
