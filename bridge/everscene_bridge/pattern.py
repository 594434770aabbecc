"""A test pattern in place of a model: exact pixels, set timings, no weights. `everscene serve --model pattern`.

For those who write a client: every frame bears in its pixels what it must be. The first four pixels of the top row
hold, three bytes each (red, green, blue; alpha is 255), twelve bytes little-endian:

    u32 content index   counts the frames of the stream; after a rollback it goes on from there
    u32 crc32           of the prompt in UTF-8
    u32 chunk           the engine's own count of chunks

The rest of the picture is one colour, made from the crc32, with a bright bar that moves by one column a frame.
"""

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everscene_engine.errors import ConfigError, PromptRejected, SnapshotError
from everscene_engine.port import EngineInfo, EngineState, FrameBlock, GeneratedChunk, Prompting, Transition, goal_of

BAR_WIDTH = 8


@dataclass(frozen=True)
class PatternTimes:
    """Seconds that the stages take."""

    recache: float = 0.02
    forward: float = 0.02
    forwards: int = 5  # of a chunk, the clean pass among them
    decode: float = 0.01


class PatternEngine:
    """An EnginePort whose frames are told apart by looking at four pixels."""

    def __init__(
        self,
        *,
        width: int = 256,
        height: int = 144,
        fps: float = 16.0,
        latent_frames_per_chunk: int = 2,
        frames_per_latent_frame: int = 4,
        seed: int = 0,
        times: PatternTimes | None = None,
        sleep: Callable[[float], None] = time.sleep,
        vocabulary: frozenset[str] | None = None,
    ) -> None:
        """`vocabulary`: lower-case words that a prompt may hold; None: any."""
        self._info = EngineInfo(
            model="pattern",
            width=width,
            height=height,
            fps=fps,
            latent_frames_per_chunk=latent_frames_per_chunk,
            frames_per_latent_frame=frames_per_latent_frame,
            steps=1,
            seed=seed,
            device="cpu",
        )
        self._times = times or PatternTimes()
        self._sleep = sleep
        self._vocabulary = vocabulary
        self._prompt = ""
        self._seed = seed
        self._steered = False
        self._next_latent = 0
        self._next_chunk = 0

    @property
    def info(self) -> EngineInfo:
        """Fixed for the life of the engine."""
        return self._info

    def begin_with(self, picture: NDArray[np.uint8] | None) -> None:
        """Raise ConfigError for a picture: a pattern begins as it always does."""
        if picture is not None:
            raise ConfigError("the test pattern cannot begin with a picture")

    def check(self, prompt: str) -> None:
        """Raise PromptRejected for a word that is not in the vocabulary."""
        if self._vocabulary is None:
            return
        for word in prompt.lower().replace(",", " ").replace(".", " ").split():
            if word not in self._vocabulary:
                raise PromptRejected(f"no such word: {word!r}")

    def steer(self, prompt: Prompting, transition: Transition) -> None:
        """Use this prompt from the next chunk on; of a mix, the one that it is on its way to."""
        prompt = goal_of(prompt)
        self.check(prompt)
        self._prompt = prompt
        self._steered = transition in ("recache", "reset")

    def generate(
        self,
        interrupted: Callable[[], bool],
        finished: Callable[[GeneratedChunk], None] = lambda chunk: None,
        hurried: Callable[[], bool] = lambda: False,
    ) -> GeneratedChunk | None:
        """One chunk, as fast as the set times say."""
        times = self._times
        recache = times.recache if self._steered else 0.0
        if recache:
            if interrupted():
                return None
            self._sleep(recache)
        self._steered = False
        for _ in range(times.forwards - 1):
            if interrupted():
                return None
            self._sleep(times.forward)
        latent_frames = self._info.latent_frames_per_chunk
        denoise = times.forward * (times.forwards - 1)
        seconds = {"recache": recache, "denoise": denoise, "clean": times.forward}
        chunk = GeneratedChunk(self._next_chunk, self._next_latent, latent_frames, self._prompt, seconds)
        finished(chunk)
        if not hurried():
            self._sleep(times.forward)
        self._next_chunk += 1
        self._next_latent += latent_frames
        return chunk

    @property
    def unsettled(self) -> bool:
        """A pattern has no cache."""
        return False

    def settle(self) -> bool:
        """There is nothing to do."""
        return False

    def decode(self, chunk: GeneratedChunk, ready: Callable[[FrameBlock], None] = lambda part: None) -> FrameBlock:
        """The chunk's frames."""
        per_latent = self._info.frames_per_latent_frame
        crc = zlib.crc32(chunk.prompt.encode())
        parts = []
        for latent in range(chunk.first_latent_frame, chunk.first_latent_frame + chunk.latent_frames):
            self._sleep(self._times.decode / chunk.latent_frames)
            drawn = [self._draw(latent * per_latent + i, crc, chunk.number) for i in range(per_latent)]
            parts.append(FrameBlock(np.stack(drawn), (latent,) * per_latent))  # pixels [T, H, W, 4]
            ready(parts[-1])
        return FrameBlock.joined(parts)

    def _draw(self, content_index: int, crc: int, chunk: int) -> NDArray[np.uint8]:
        frame = np.empty((self._info.height, self._info.width, 4), np.uint8)  # [H, W, 4]
        frame[:] = [crc & 0x7F, crc >> 8 & 0x7F, crc >> 16 & 0x7F, 255]
        left = content_index % (self._info.width - BAR_WIDTH)
        frame[:, left : left + BAR_WIDTH, :3] = 240
        words = np.array([content_index, crc, chunk], "<u4").view(np.uint8).reshape(4, 3)
        frame[0, :4, :3] = words
        return frame

    def rollback(self, latent_frame: int) -> None:
        """Go on from this latent frame."""
        self._next_latent = latent_frame

    @property
    def earliest(self) -> int:
        """It can go back to anywhere."""
        return 1

    def snapshot(self, latent_frame: int) -> EngineState:
        """Where the stream stands; the pattern needs nothing else."""
        if not 0 < latent_frame <= self._next_latent:
            raise ConfigError(f"no snapshot before latent frame {latent_frame}: it must be 1 to {self._next_latent}")
        info = self._info
        facts = {"model": info.model, "width": info.width, "height": info.height, "seed": self._seed}
        return EngineState({**facts, "latent_frame": latent_frame, "chunk": self._next_chunk}, {})

    def restore(self, state: EngineState) -> None:
        """Go on from there."""
        theirs = "{model} at {width}×{height}".format(**state.facts)
        ours = f"{self._info.model} at {self._info.width}×{self._info.height}"
        if theirs != ours:
            raise SnapshotError(f"the snapshot is of the model {theirs}; this engine runs {ours}")
        self._seed = state.facts["seed"]
        self._next_latent = state.facts["latent_frame"]
        self._next_chunk = state.facts["chunk"]
        self._steered = False

    def pin(self, memory: NDArray[np.uint8]) -> None:
        """Pictures are host memory already."""

    def unpin(self) -> None:
        """Nothing was done."""

    def close(self) -> None:
        """Nothing is held."""


def read_mark(frame: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Content index, crc32 of the prompt and chunk of a frame [H, W, 4]."""
    content_index, crc, chunk = np.ascontiguousarray(frame[0, :4, :3]).reshape(12).view("<u4")
    return int(content_index), int(crc), int(chunk)
