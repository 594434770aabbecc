"""The live engine: prompts in, frames out, on any device. What the server runs.

It joins the text encoder, the stream of latents and the streaming decoder, and takes both back together at a rollback:
the decoder's state is kept at the start of each recent chunk, and the latents that stay are fed again.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everscene_engine.blend import rows_of
from everscene_engine.conditioning import REMEMBERED_BYTES, Conditioning
from everscene_engine.config import CUT_PREFIX, StreamConfig
from everscene_engine.decoder import DecoderState, StreamingDecoder, decoder_for, frames_to_rgba8
from everscene_engine.errors import ConfigError
from everscene_engine.frame_output import frame_output
from everscene_engine.latent_chunk import LatentChunk
from everscene_engine.leading_stream import LeadingStream
from everscene_engine.port import (
    EngineInfo,
    EngineState,
    FrameBlock,
    GeneratedChunk,
    Mix,
    Prompting,
    Transition,
    goal_of,
)
from everscene_engine.rank_processes import RankProcesses
from everscene_engine.snapshot import WorldLatents, from_host, newest_latents, to_host
from everscene_engine.start_image import ImageEncoder, as_tensor
from everscene_engine.stream import LatentStream
from everscene_engine.text import TextEncoder
from everscene_engine.transformer import WanTransformer

REMEMBERED_PROMPTS = 64  # and no more than REMEMBERED_BYTES of them
REMEMBERED_CHUNKS = 16
SNAPSHOT_DECODER_BYTES = 64 * 2**20
"""A decoder with more state than this (a whole Wan VAE has gigabytes) begins anew after a snapshot and is warmed up."""
DECODER_STATES_BYTES = 12 * 2**30  # a whole Wan VAE's is three gigabytes


class _Decoded(NamedTuple):
    """A chunk that went through the decoder, and the decoder's state before it."""

    first_frame: int
    latents: Tensor
    before: DecoderState


class LiveEngine:
    """One stream of one world. See `port.EnginePort` for who calls what."""

    def __init__(
        self,
        model: str,
        transformer: WanTransformer,
        text: TextEncoder,
        decoder: StreamingDecoder,
        config: StreamConfig,
        seed: int,
        steps: int | None = None,
        image_encoder: Callable[[], ImageEncoder] | None = None,
        kv: str = "bf16",
        others: RankProcesses | None = None,
        decoder_device: torch.device | None = None,
    ) -> None:
        """image_encoder: makes what encodes a start image, called once for each; None: there can be none. kv: format of
        the KV cache, as of `LatentStream`. others: the ranks that make the stream with this one; None: it is alone.
        decoder_device: where the decoder's weights are; None: where the transformer's are."""
        place = transformer.patch_embedding.weight.device
        self._transformer = transformer
        self._image_encoder = image_encoder
        self._text = text
        self._decoder = decoder_for(place, decoder, decoder_device or place)
        self._stream = (
            LatentStream(transformer, config, seed, steps=steps, kv=kv)
            if others is None
            else LeadingStream(others, transformer, config, seed, steps=steps, kv=kv)
        )
        self._output = frame_output(decoder_device or place, place)
        self._prompt = ""
        self._after_cut: Conditioning | None = None
        self._conditionings: OrderedDict[str, Conditioning] = OrderedDict()
        self._closed = False
        self._decoded: deque[_Decoded] = deque(maxlen=REMEMBERED_CHUNKS)
        self._info = EngineInfo(
            model=model,
            width=config.width,
            height=config.height,
            fps=config.fps,
            latent_frames_per_chunk=config.chunk_frames,
            frames_per_latent_frame=config.frames_per_latent,
            steps=self._stream.schedule.steps,
            seed=seed,
            device=str(place) if others is None else f"{others.size} × {place.type}",
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    def begin_with(self, picture: NDArray[np.uint8] | None) -> None:
        """Let worlds that begin from now on begin with this picture [H, W, 3] of the frame's size; None: without.

        Raises ConfigError where there is nothing to encode it, CheckpointError for an encoder that is not on disk.
        """
        if picture is None:
            self._stream.begin_with(None)
            return
        if self._image_encoder is None:
            raise ConfigError(f"{self._info.model} cannot begin with a picture: it has nothing to encode it")
        self._stream.begin_with(self._image_encoder().encode_image(as_tensor(picture)))

    def check(self, prompt: str) -> None:
        """Raise PromptRejected if the text encoder cannot take this prompt, or not with a cut announced before it."""
        self._text.check(prompt, CUT_PREFIX)

    @torch.inference_mode()
    def steer(self, prompt: Prompting, transition: Transition) -> None:
        """Use this prompt, or mix of prompts, from the next chunk on."""
        mix, prompt = prompt, goal_of(prompt)
        text = self._conditioning(prompt)
        announced = self._conditioning(CUT_PREFIX + prompt) if transition == "cut" else None
        if isinstance(mix, Mix) and transition in ("recache", "text"):
            tokens, bias = rows_of(mix, lambda one: self._text.encode([one]))
            device = self._transformer.patch_embedding.weight.device
            text = self._transformer.condition_rows(tokens.to(device), None if bias is None else bias.to(device))
            text = replace(text, prompt=prompt)
        self._stream.steer(announced or text, transition)
        self._after_cut = text if announced else None
        if transition == "reset":
            self._decoder.reset()
            self._decoded.clear()
        self._prompt = prompt

    def generate(
        self,
        interrupted: Callable[[], bool] = lambda: False,
        finished: Callable[[GeneratedChunk], None] = lambda chunk: None,
        hurried: Callable[[], bool] | None = None,
    ) -> GeneratedChunk | None:
        """The next chunk's latents, or None if interrupted; on a CPU they are `finished` before the clean pass."""
        chunk = self._stream.generate(interrupted, lambda chunk: finished(self._generated(chunk)), hurried)
        if chunk is None:
            return None
        if self._after_cut is not None:
            self._stream.steer(self._after_cut, "text")
            self._after_cut = None
        return self._generated(chunk)

    def _generated(self, chunk: LatentChunk) -> GeneratedChunk:
        frames = chunk.latents.shape[1]
        return GeneratedChunk(chunk.number, chunk.first_frame, frames, self._prompt, chunk.seconds, chunk.latents)

    @property
    def unsettled(self) -> bool:
        """Whether a recache has left something for `settle`."""
        return self._stream.unsettled

    def settle(self) -> bool:
        """One clean pass of those that a recache has left for later; False: there was none."""
        return self._stream.settle()

    @torch.inference_mode()
    def decode(self, chunk: GeneratedChunk, ready: Callable[[FrameBlock], None] = lambda part: None) -> FrameBlock:
        """The chunk's frames as RGBA8, where they are made; its decoding time is added to `chunk.seconds`. Those of the
        first latent frame are `ready` before the others.

        On a GPU it does not wait for the clean pass: the latents were finished when `generate` returned.
        """
        start = time.perf_counter()
        parts: list[FrameBlock] = []
        with self._output.decoding(chunk.latents):
            self._remember(_Decoded(chunk.first_latent_frame, chunk.latents, self._decoder.snapshot()))
            for frame in range(chunk.latent_frames):
                pixels = frames_to_rgba8(self._decoder.feed(chunk.latents[:, frame : frame + 1]))
                pictures = self._output.pictures([pixels])
                parts.append(FrameBlock(pictures, (chunk.first_latent_frame + frame,) * len(pictures)))
                ready(parts[-1])
        chunk.seconds["decode"] = time.perf_counter() - start
        return FrameBlock.joined(parts)

    def _remember(self, decoded: _Decoded) -> None:
        """Keep a decoder's state to go back to; of large ones fewer, but always the last two."""
        self._decoded.append(decoded)
        sizes = [sum(tensor.nbytes for tensor in kept.before.tensors) for kept in self._decoded]
        while len(self._decoded) > 2 and sum(sizes[-len(self._decoded) :]) > DECODER_STATES_BYTES:
            self._decoded.popleft()

    @torch.inference_mode()
    def rollback(self, latent_frame: int) -> None:
        """Forget everything from a latent frame on. Raises ConfigError if it lies further back than is kept, and then
        nothing has changed."""
        if self._decoded and 0 < latent_frame <= self._decoded[0].first_frame:
            raise ConfigError(f"cannot roll back to latent frame {latent_frame}: the decoder has forgotten it")
        self._stream.rollback(latent_frame)
        self._after_cut = None
        if not self._decoded or self._decoded[-1].first_frame + self._decoded[-1].latents.shape[1] <= latent_frame:
            return  # nothing that goes was decoded
        while self._decoded:
            last = self._decoded.pop()
            if last.first_frame <= latent_frame:
                break
        else:
            self._decoder.reset()
            return
        self._decoder.restore(last.before)
        kept = last.latents[:, : latent_frame - last.first_frame]
        if kept.shape[1]:
            with self._output.decoding():
                self._decoder.feed(kept)
            self._decoded.append(_Decoded(last.first_frame, kept, last.before))

    @property
    def earliest(self) -> int:
        """The first latent frame that a rollback can go back to: stream and decoder both remember it."""
        decoded = self._decoded[0].first_frame if self._decoded else self._stream.next_frame
        return max(self._stream.earliest, decoded + 1)

    @torch.inference_mode()
    def snapshot(self, latent_frame: int) -> EngineState:
        """The world as it was before this latent frame, in host memory. Raises ConfigError if it is not kept."""
        chunks = self._stream.kept_before(latent_frame)
        for decoded in reversed(self._decoded):
            if decoded.first_frame < latent_frame:
                fed = decoded.latents[:, : latent_frame - decoded.first_frame]
                break
        else:
            raise ConfigError(f"no snapshot before latent frame {latent_frame}: the decoder has forgotten it")
        if decoded.first_frame + fed.shape[1] < latent_frame:
            raise ConfigError(f"no snapshot before latent frame {latent_frame}: it is not decoded yet")
        before = decoded.before
        if sum(tensor.nbytes for tensor in before.tensors) > SNAPSHOT_DECODER_BYTES:
            before, fed = DecoderState(0, ()), newest_latents(chunks)
        sink_text = self._stream.sink_text
        assert sink_text is not None  # `kept_before` has given a sink
        world = WorldLatents(chunks, before, fed, sink_text.prompt, self._stream.seed)
        return to_host(world, self._info, self._decoder.kind)

    @torch.inference_mode()
    def restore(self, state: EngineState) -> None:
        """Go on from a snapshot; a decoder of another kind than it was taken with is warmed up.

        Raises SnapshotError for one of another model, and PromptRejected for a sink's prompt that the model does not
        know; then nothing has changed.
        """
        config = self._stream.config
        shape = (self._transformer.config.channels, config.latent_height, config.latent_width)
        world = from_host(state, self._info, shape, self._transformer.patch_embedding.weight, self._decoder.kind)
        sink_text = self._conditioning(world.sink_prompt)
        self._stream.restore(world.chunks, sink_text, world.seed)
        self._prompt = world.sink_prompt
        self._after_cut = None
        self._decoded.clear()
        if world.decoder.tensors:
            self._decoder.restore(world.decoder)
        else:
            self._decoder.reset()
        first = world.chunks[-1].end_frame - world.fed.shape[1]
        with self._output.decoding():
            self._decoder.feed(world.fed)
        self._decoded.append(_Decoded(first, world.fed, world.decoder))

    def pin(self, memory: NDArray[np.uint8]) -> None:
        """Pictures will be put into this memory: on a GPU, by DMA."""
        self._output.pin(memory)

    def unpin(self) -> None:
        """That memory may go away."""
        self._output.unpin()

    def close(self) -> None:
        """Let go of everything but what `check` needs: networks, cache, what was remembered and the other ranks."""
        if self._closed:
            return
        self._closed = True
        self._output.unpin()
        self._stream.close()
        self._text.unload()
        self._conditionings.clear()
        self._decoded.clear()
        del self._stream, self._transformer, self._decoder, self._image_encoder, self._after_cut

    @torch.inference_mode()
    def _conditioning(self, prompt: str) -> Conditioning:
        """Cross-attention keys and values of a prompt, made once for as long as it is among the recent ones."""
        if prompt in self._conditionings:
            self._conditionings.move_to_end(prompt)
            return self._conditionings[prompt]
        embedding = self._text.encode([prompt]).to(self._transformer.patch_embedding.weight.device)
        made = replace(self._transformer.condition(embedding), prompt=prompt)
        self._conditionings[prompt] = made
        while len(self._conditionings) > 1 and self._remembers_too_much():
            self._conditionings.popitem(last=False)
        return made

    def _remembers_too_much(self) -> bool:
        held = self._conditionings.values()
        return len(held) > REMEMBERED_PROMPTS or sum(one.bytes for one in held) > REMEMBERED_BYTES
