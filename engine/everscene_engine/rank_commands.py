"""What rank 0 tells the others, and what they do about it.

Rank 0 decides everything; the others hold a `LatentStream` of the same transformer and do each step as it does, and
meet it in every exchange of a forward. What comes out is the same on every rank, so nothing is sent back.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from everscene_engine.conditioning import Conditioning
from everscene_engine.errors import EngineError
from everscene_engine.latent_chunk import LatentChunk
from everscene_engine.stream import LatentStream, Transition
from everscene_engine.transformer import WanTransformer


@dataclass(frozen=True)
class Text:
    """Text rows and their bias, in host memory, from which each rank makes the conditioning itself."""

    rows: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, text: Conditioning) -> "Text":
        """What a conditioning was made of."""
        assert text.rows is not None
        return cls(text.rows.cpu(), None if text.bias is None else text.bias.cpu())

    @torch.inference_mode()
    def condition(self, transformer: WanTransformer) -> Conditioning:
        """The conditioning once more."""
        device = transformer.patch_embedding.weight.device
        bias = None if self.bias is None else self.bias.to(device)
        return transformer.condition_rows(self.rows.to(device), bias)


@dataclass(frozen=True)
class Steer:
    """LatentStream.steer."""

    text: Text
    transition: Transition


@dataclass(frozen=True)
class BeginWith:
    """LatentStream.begin_with; the latent in host memory."""

    latent: Tensor | None


@dataclass(frozen=True)
class Generate:
    """LatentStream.generate. A `Forward` follows before each forward that may be left out."""


@dataclass(frozen=True)
class Forward:
    """Whether the denoising stops here: an event has come."""

    stop: bool


@dataclass(frozen=True)
class Settle:
    """LatentStream.settle."""


@dataclass(frozen=True)
class Rollback:
    """LatentStream.rollback."""

    frame: int


@dataclass(frozen=True)
class Restore:
    """LatentStream.restore; the chunks in host memory."""

    kept: list[LatentChunk]
    sink_text: Text
    seed: int


@dataclass(frozen=True)
class Stop:
    """There will be no more."""


Command = Steer | BeginWith | Generate | Forward | Settle | Rollback | Restore | Stop


def packed(command: Command) -> bytes:
    """A command as it goes through a pipe."""
    return pickle.dumps(command)


def follow(stream: LatentStream, pipe: Connection) -> None:
    """Do what rank 0 says until it says Stop or is gone. An error of the engine is rank 0's to report: it meets the
    same one."""
    try:
        while not isinstance(command := _next(pipe), Stop):
            try:
                _obey(command, stream, pipe)
            except EngineError:
                continue
    except EOFError:
        return


def _next(pipe: Connection) -> Command:
    command: Command = pickle.loads(pipe.recv_bytes())
    return command


def _obey(command: Command, stream: LatentStream, pipe: Connection) -> None:
    match command:
        case Steer(text, transition):
            stream.steer(text.condition(stream.transformer), transition)
        case BeginWith(latent):
            stream.begin_with(latent)
        case Generate():
            asking = _asking(pipe)
            stream.generate(asking, hurried=asking)
        case Settle():
            stream.settle()
        case Rollback(frame):
            stream.rollback(frame)
        case Restore(kept, sink_text, seed):
            weight = stream.transformer.patch_embedding.weight
            chunks = [replace(chunk, latents=chunk.latents.to(weight.device)) for chunk in kept]
            stream.restore(chunks, sink_text.condition(stream.transformer), seed)
        case _:
            raise AssertionError(f"{command} outside a chunk")


def _asking(pipe: Connection) -> Callable[[], bool]:
    def stop() -> bool:
        answer = _next(pipe)
        assert isinstance(answer, Forward)
        return answer.stop

    return stop
