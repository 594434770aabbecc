"""A world between two latent frames, as plain arrays: what it takes to go on from a picture.

Kept are the latents of sink and window and the decoder's state at the start of the newest chunk; keys and values are
not, they are made anew by recaching. So a snapshot is small, and the same for every cache format.

numpy has no bfloat16: such a tensor travels as its bits in int16, and the facts name it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everscene_engine.decoder import DecoderState
from everscene_engine.errors import SnapshotError
from everscene_engine.latent_chunk import LatentChunk
from everscene_engine.port import EngineInfo, EngineState

WARM_LATENT_FRAMES = 8
"""So many a decoder is fed that begins anew in the middle of a stream."""


@dataclass(frozen=True)
class WorldLatents:
    """What `LiveEngine` takes out of its parts for a snapshot, and puts back."""

    chunks: Sequence[LatentChunk]  # the sink, then the window's chunks, oldest first; latents [1, F, C, h, w]
    decoder: DecoderState  # before `fed`
    fed: Tensor  # [1, F, C, h, w]: latents to feed the decoder so that it stands where the stream does
    sink_prompt: str
    seed: int


def newest_latents(chunks: Sequence[LatentChunk], frames: int = WARM_LATENT_FRAMES) -> Tensor:
    """The newest latent frames, at most so many, that follow on one another without a gap: [1, F, C, h, w]."""
    taken = [chunks[-1].latents]
    first = chunks[-1].first_frame
    for chunk in reversed(chunks[:-1]):
        if chunk.end_frame != first or chunks[-1].end_frame - first >= frames:
            break
        taken.insert(0, chunk.latents)
        first = chunk.first_frame
    return torch.cat(taken, dim=1)[:, -frames:]


def to_host(world: WorldLatents, info: EngineInfo, decoder: str) -> EngineState:
    """Copy to host memory, with the facts that tell one model's snapshot from another's. decoder: its kind."""
    tensors = {f"chunk.{place}": chunk.latents for place, chunk in enumerate(world.chunks)}
    tensors |= {f"decoder.{place}": tensor for place, tensor in enumerate(world.decoder.tensors)}
    tensors["fed"] = world.fed
    facts: dict[str, Any] = {
        "model": info.model,
        "width": info.width,
        "height": info.height,
        "seed": world.seed,
        "latent_frame": world.chunks[-1].end_frame,
        "chunks": [[chunk.number, chunk.first_frame, chunk.shot] for chunk in world.chunks],
        "decoder": decoder,
        "decoder_latent_frames": world.decoder.latent_frames,
        "decoder_tensors": len(world.decoder.tensors),
        "sink_prompt": world.sink_prompt,
        "bfloat16": [name for name, tensor in tensors.items() if tensor.dtype == torch.bfloat16],
    }
    return EngineState(facts, {name: _array(tensor) for name, tensor in tensors.items()})


def from_host(
    state: EngineState, info: EngineInfo, latent_shape: Sequence[int], like: Tensor, decoder: str
) -> WorldLatents:
    """The tensors again, on the device of `like`; latents in its dtype, the decoder's in their own.

    latent_shape: (C, h, w) of this engine. decoder: the kind of its decoder; if the snapshot's is another, its state is
    left out, and the newest latents are to be fed in its place. Raises SnapshotError for another model's snapshot,
    naming both, and for one that lacks something.
    """
    facts = state.facts
    theirs = f"{facts.get('model')!r} at {facts.get('width')}×{facts.get('height')}"
    ours = f"{info.model!r} at {info.width}×{info.height}"
    if theirs != ours:
        raise SnapshotError(f"the snapshot is of the model {theirs}; this engine runs {ours}")
    try:
        held = {name: _tensor(name, state.arrays, facts["bfloat16"]).to(like.device) for name in state.arrays}
        chunks = [
            LatentChunk(number, first, held[f"chunk.{place}"].to(like.dtype), shot=shot)
            for place, (number, first, shot) in enumerate(facts["chunks"])
        ]
        tensors = tuple(held[f"decoder.{place}"] for place in range(facts["decoder_tensors"]))
        before, fed = DecoderState(facts["decoder_latent_frames"], tensors), held["fed"].to(like.dtype)
        if tensors and facts.get("decoder") != decoder:
            before, fed = DecoderState(0, ()), newest_latents(chunks)
        world = WorldLatents(chunks, before, fed, facts["sink_prompt"], facts["seed"])
    except (KeyError, TypeError, ValueError) as problem:
        raise SnapshotError(f"the snapshot is damaged: {type(problem).__name__} {problem}") from problem
    for latents in [*(chunk.latents for chunk in chunks), world.fed]:
        if tuple(latents.shape[2:]) != tuple(latent_shape):
            raise SnapshotError(
                f"the snapshot's latents are {list(latents.shape[2:])}; this engine's are {list(latent_shape)}"
            )
    return world


def _array(tensor: Tensor) -> NDArray[Any]:
    held = tensor.detach().cpu().contiguous()
    if held.dtype == torch.bfloat16:
        held = held.view(torch.int16)
    return held.numpy().copy()


def _tensor(name: str, arrays: Mapping[str, NDArray[Any]], bfloat16: Sequence[str]) -> Tensor:
    tensor = torch.from_numpy(np.array(arrays[name]))
    return tensor.view(torch.bfloat16) if name in bfloat16 else tensor
