"""The live engine: prompts in, frames out, on any device. What the server runs.

It joins the text encoder, the stream of latents and the streaming decoder, and takes both back together at a rollback:
the decoder's state is kept at the start of each recent chunk, and the latents that stay are fed again.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from everscene_engine.conditioning import Conditioning
from everscene_engine.config import StreamConfig
from everscene_engine.decoder import DecoderState, PocketDecoder, StreamingDecoder, frames_to_rgba8
from everscene_engine.errors import ConfigError
from everscene_engine.pocket import WEIGHTS, best_dtype, load_pocket
from everscene_engine.port import EngineInfo, EngineState, FrameBlock, GeneratedChunk, Transition
from everscene_engine.snapshot import WorldLatents, from_host, to_host
from everscene_engine.stream import LatentStream
from everscene_engine.text import TextEncoder
from everscene_engine.transformer import WanTransformer

CUT_PREFIX = "The scene transitions. "
REMEMBERED_PROMPTS = 64
REMEMBERED_CHUNKS = 16


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
    ) -> None:
        self._transformer = transformer
        self._text = text
        self._decoder = decoder
        self._stream = LatentStream(transformer, config, seed, steps=steps)
        self._prompt = ""
        self._sink_prompt = ""  # under which the sink's keys and values were made
        self._after_cut: Conditioning | None = None
        self._conditionings: OrderedDict[str, Conditioning] = OrderedDict()
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
            device=str(transformer.patch_embedding.weight.device),
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    def check(self, prompt: str) -> None:
        """Raise PromptRejected if the text encoder cannot take this prompt."""
        self._text.check(prompt)

    def steer(self, prompt: str, transition: Transition) -> None:
        """Use this prompt from the next chunk on."""
        text = self._conditioning(prompt)
        self._after_cut = None
        if transition == "cut":
            self._stream.steer(self._conditioning(CUT_PREFIX + prompt), "cut")
            self._after_cut = text
        else:
            self._stream.steer(text, transition)
        if transition == "reset":
            self._decoder.reset()
            self._decoded.clear()
        self._prompt = prompt

    def generate(self, interrupted: Callable[[], bool] = lambda: False) -> GeneratedChunk | None:
        """The next chunk's latents, or None if interrupted."""
        chunk = self._stream.generate(interrupted)
        if chunk is None:
            return None
        if chunk.first_frame == 0:
            self._sink_prompt = self._prompt
        if self._after_cut is not None:
            self._stream.steer(self._after_cut, "text")
            self._after_cut = None
        frames = chunk.latents.shape[1]
        return GeneratedChunk(chunk.number, chunk.first_frame, frames, self._prompt, chunk.seconds, chunk.latents)

    @torch.inference_mode()
    def decode(self, chunk: GeneratedChunk) -> FrameBlock:
        """The chunk's frames as RGBA8 host memory; its decoding time is added to `chunk.seconds`."""
        start = time.perf_counter()
        self._decoded.append(_Decoded(chunk.first_latent_frame, chunk.latents, self._decoder.snapshot()))
        pixels: list[np.ndarray] = []
        source: list[int] = []
        for frame in range(chunk.latent_frames):
            frames = self._decoder.feed(chunk.latents[:, frame : frame + 1])
            pixels.append(frames_to_rgba8(frames).cpu().numpy())
            source += [chunk.first_latent_frame + frame] * len(pixels[-1])
        chunk.seconds["decode"] = time.perf_counter() - start
        return FrameBlock(np.concatenate(pixels), tuple(source))

    @torch.inference_mode()
    def rollback(self, latent_frame: int) -> None:
        """Forget everything from a latent frame on. Raises ConfigError if it lies further back than is kept."""
        self._stream.rollback(latent_frame)
        self._after_cut = None
        if not self._decoded or self._decoded[-1].first_frame + self._decoded[-1].latents.shape[1] <= latent_frame:
            return  # nothing that goes was decoded
        while self._decoded:
            last = self._decoded.pop()
            if last.first_frame <= latent_frame:
                break
        else:
            if latent_frame:
                raise ConfigError(f"cannot roll back to latent frame {latent_frame}: the decoder has forgotten it")
            self._decoder.reset()
            return
        self._decoder.restore(last.before)
        kept = last.latents[:, : latent_frame - last.first_frame]
        if kept.shape[1]:
            self._decoder.feed(kept)
            self._decoded.append(_Decoded(last.first_frame, kept, last.before))

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
        return to_host(WorldLatents(chunks, decoded.before, fed, self._sink_prompt, self._stream.seed), self._info)

    @torch.inference_mode()
    def restore(self, state: EngineState, seed: int | None = None) -> None:
        """Go on from a snapshot. Raises SnapshotError for one of another model, and then nothing has changed."""
        config = self._stream.config
        shape = (self._transformer.config.channels, config.latent_height, config.latent_width)
        world = from_host(state, self._info, shape, self._transformer.patch_embedding.weight)
        sink_text = self._conditioning(world.sink_prompt)
        self._stream.restore(world.chunks, sink_text, world.seed if seed is None else seed)
        self._sink_prompt = self._prompt = world.sink_prompt
        self._after_cut = None
        self._decoded.clear()
        self._decoder.restore(world.decoder)
        first = world.chunks[-1].end_frame - world.fed.shape[1]
        self._decoder.feed(world.fed)
        self._decoded.append(_Decoded(first, world.fed, world.decoder))

    def close(self) -> None:
        """Let go of the cache and of what was remembered."""
        self._conditionings.clear()
        self._decoded.clear()

    @torch.inference_mode()
    def _conditioning(self, prompt: str) -> Conditioning:
        """Cross-attention keys and values of a prompt, made once for as long as it is among the recent ones."""
        if prompt in self._conditionings:
            self._conditionings.move_to_end(prompt)
            return self._conditionings[prompt]
        weight = self._transformer.patch_embedding.weight
        embedding = self._text.encode([prompt]).to(weight.device)
        made = self._transformer.condition(embedding)
        self._conditionings[prompt] = made
        if len(self._conditionings) > REMEMBERED_PROMPTS:
            self._conditionings.popitem(last=False)
        return made


def load(
    model: str,
    seed: int = 0,
    steps: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    weights: Path | None = None,
) -> LiveEngine:
    """Load a model by its preset's name, ready to generate.

    steps: denoising steps, None for the preset's own. device: "cpu", "cuda", "cuda:1"; None takes a GPU if there is
    one. threads: CPU threads, None for torch's choice. weights: a folder other than the shipped one.
    Raises ConfigError for a name or a number that cannot be, CheckpointError for weights that cannot be read.
    """
    if model != "pocket":
        raise ConfigError(f"no such model: {model!r}; there is: pocket")
    if threads is not None:
        torch.set_num_threads(threads)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    pocket = load_pocket(place, best_dtype(place), weights or WEIGHTS)
    return LiveEngine(
        model, pocket.transformer, pocket.text, PocketDecoder(pocket.autoencoder), pocket.stream, seed, steps
    )
