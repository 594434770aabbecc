"""A model with random weights, run chunk by chunk as the live engine runs it, and its stages timed."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from everscene_engine.bench_machine import since_start
from everscene_engine.context_parallel import Ranks
from everscene_engine.decoder import decoder_for, frames_to_rgba8
from everscene_engine.frame_output import frame_output
from everscene_engine.leading_stream import LeadingStream
from everscene_engine.models.presets import Preset, preset
from everscene_engine.pocket import best_dtype
from everscene_engine.port import put
from everscene_engine.precision import Formats, check_device, device_of_decoder
from everscene_engine.random_models import random_conditioning, random_decoder, random_transformer, resized
from everscene_engine.rank_processes import RankProcesses, check_ranks, other_ranks, ranks_with
from everscene_engine.stopwatch import Mark, Stopwatch
from everscene_engine.stored_linear import FORMATS, store_linears
from everscene_engine.stream import LatentStream
from everscene_engine.transformer import WanTransformer

if TYPE_CHECKING:
    from everscene_engine.bench_engine import BenchOptions

_ERROR_CHUNKS = 5  # the window is full at the fourth, and FP8 attention begins


class World:
    """A stream with its decoder."""

    def __init__(
        self,
        options: BenchOptions,
        chosen: Preset,
        transformer: WanTransformer,
        others: RankProcesses | None = None,
    ) -> None:
        """others: the ranks that make the stream with this one; None: it is alone."""
        self.options = options
        self.preset = chosen
        self.config = resized(chosen.stream, options.size)
        self.device = options.place
        self.dtype = transformer.patch_embedding.weight.dtype
        self._transformer = transformer
        self._watch = Stopwatch(self.device)
        self.stream = (
            LatentStream(transformer, self.config, options.seed, steps=options.steps, kv=options.kv)
            if others is None
            else LeadingStream(others, transformer, self.config, options.seed, options.steps, options.kv)
        )
        text = random_conditioning(transformer)
        self.text_rows = text.keys[0].shape[1]
        self.stream.steer(text)
        place = self.stream_weight.device
        self._decoder_place = decoder_place = device_of_decoder(options.decoder_device, place)
        decoder = random_decoder(options.decoder, chosen, decoder_place, self.dtype)
        self.decoder = None if decoder is None else decoder_for(place, decoder, decoder_place)
        self.frames_a_chunk = self.config.chunk_frames * self.config.frames_per_latent
        self._output = frame_output(decoder_place, place)
        self._ring = np.zeros((self.frames_a_chunk, self.config.height, self.config.width, 4), np.uint8)
        if self.decoder is not None:
            self._output.pin(self._ring)
        self._decoding, self._publishing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._decoded: Future[None] | None = None
        self._published: list[Future[None]] = []

    def describe(self) -> dict[str, Any]:
        """Sizes and bytes."""
        config, cache = self.config, self.stream._cache
        tokens = config.chunk_frames * config.frame_tokens
        facts: dict[str, Any] = {
            "pixels": f"{config.width}x{config.height}",
            "dtype": str(self.dtype),
            "tokens": tokens,
            "keys": tokens * (config.window_chunks + 2),
            "text_rows": self.text_rows,
            "forwards_a_chunk": self.stream.schedule.steps + 1,
            "cache_gb": round(cache.nbytes / 1e9, 3),
        }
        if self.device.type == "cuda":
            facts["allocated_gb"] = round(torch.cuda.memory_allocated(self.device) / 1e9, 3)
        return facts

    def first_chunk(self) -> dict[str, Any]:
        """The first chunk and its first frames, compilation included."""
        start = time.perf_counter()
        latents = self._latents()
        self._watch.wait()
        denoised = time.perf_counter() - start
        if self.decoder is not None:
            self.decode_beside(latents[:, :1])
        self._wait()
        if self.decoder is not None:
            self.decoder.reset()
        since = since_start()
        return {
            "first_chunk_s": round(denoised, 3),
            "first_frame_s": round(time.perf_counter() - start, 3),
            "since_the_process_began_s": None if since is None else round(since, 1),
        }

    def fill_window(self) -> None:
        """Until every slot is in use and every shape has been met."""
        for _ in range(3 * (self.config.window_chunks + 2)):  # a graph is captured at the second meeting
            latents = self._latents()
        if self.decoder is not None:
            self.decode_beside(latents[:, :2])  # the first latent frame has shapes of its own
        self._wait()

    @property
    def stream_weight(self) -> Tensor:
        return self._transformer.patch_embedding.weight

    def one_chunk(self) -> None:
        """A chunk and its frames."""
        latents = self._latents()
        if self.decoder is not None:
            self.decode_beside(latents)
        self._wait()

    def timed_chunks(self, chunks: int, decode: bool) -> tuple[float, list[float]]:
        """Seconds that `chunks` chunks took with all their frames on the host, and milliseconds of each chunk."""
        self._wait()
        each: list[float] = []
        start = last = time.perf_counter()
        for _ in range(chunks):
            latents = self._latents()
            if decode:
                self.decode_beside(latents)
            now = time.perf_counter()
            each.append(1000 * (now - last))
            last = now
        self._wait()
        return time.perf_counter() - start, each

    def stages(self) -> dict[str, Any]:
        """Medians over three chunks: each forward, the rest of a chunk, decoding, and colour with the copy to the host;
        nothing overlaps here."""
        marks: list[Mark] = []
        hooks = [
            self._transformer.register_forward_pre_hook(lambda *_: marks.append(self._watch.mark())),
            self._transformer.register_forward_hook(lambda *_: marks.append(self._watch.mark())),
        ]
        forwards: list[list[float]] = []
        chunk, decoding, colour = [], [], []
        try:
            for _ in range(3):
                marks.clear()
                self._watch.wait()
                ends = [self._watch.mark()]
                latents = self._latents()
                ends.append(self._watch.mark())
                if self.decoder is not None:
                    with self._at_decoder():
                        ends.append(self._watch.mark())
                        frames = [self.decoder.feed(latent) for latent in torch.split(latents, 1, dim=1)]
                        ends.append(self._watch.mark())
                        for some in frames:
                            self._to_host(some)
                        ends.append(self._watch.mark())
                self._wait()
                forwards.append([self._watch.ms(*pair) for pair in zip(marks[::2], marks[1::2], strict=True)])
                chunk.append(self._watch.ms(ends[0], ends[1]))
                if self.decoder is not None:
                    decoding.append(self._watch.ms(ends[2], ends[3]))
                    colour.append(self._watch.ms(ends[3], ends[4]))
        finally:
            for hook in hooks:
                hook.remove()
        of_each = [median(column) for column in zip(*forwards, strict=True)]
        result: dict[str, Any] = {
            "forward_ms": round(median(of_each[:-1]), 2),
            "clean_ms": round(of_each[-1], 2),
            "rest_of_chunk_ms": round(median(chunk) - sum(of_each), 2),
            "chunk_ms": round(median(chunk), 2),
        }
        if decoding:
            result |= {"decode_ms": round(median(decoding), 2), "colour_and_copy_ms": round(median(colour), 2)}
        return result

    def memory(self) -> float | None:
        """The most that was allocated since the process began, in 10⁹ bytes; None on a CPU."""
        if self.device.type != "cuda":
            return None
        return round(torch.cuda.max_memory_allocated(self.device) / 1e9, 2)

    def _latents(self) -> Tensor:
        chunk = self.stream.generate()
        assert chunk is not None
        return chunk.latents

    def decode_beside(self, latents: Tensor) -> None:
        """Have finished latents decoded as in a live stream, by a thread of its own, one chunk behind at most: a latent
        frame at a time, on a GPU on a CUDA stream that does not wait for the clean pass. A third thread copies each
        picture into memory like that of the frame ring, as the publisher does."""
        if self._decoded is not None:
            self._decoded.result()
        self._decoded = self._decoding.submit(self._decode, latents)

    @torch.inference_mode()
    def _decode(self, latents: Tensor) -> None:
        assert self.decoder is not None
        with self._output.decoding(latents):
            for latent in torch.split(latents, 1, dim=1):
                pixels = frames_to_rgba8(self.decoder.feed(latent))
                for picture in self._output.pictures([pixels]):
                    place = self._ring[len(self._published) % len(self._ring)]
                    self._published.append(self._publishing.submit(put, picture, place))

    def close(self) -> None:
        """Let go of what is no tensor."""
        self.stream.close()
        self._decoding.shutdown()
        self._publishing.shutdown()
        self._output.unpin()

    def _at_decoder(self) -> AbstractContextManager[object]:
        """Its GPU is the current one: Triton's kernels are launched there."""
        return torch.cuda.device(self._decoder_place) if self._decoder_place.type == "cuda" else nullcontext()

    def _wait(self) -> None:
        """Until model, decoder and publisher have done all that they were given."""
        if self._decoded is not None:
            self._decoded.result()
        for picture in self._published:
            picture.result()
        self._published.clear()
        self._watch.wait()
        if self._decoder_place.type == "cuda":
            torch.cuda.synchronize(self._decoder_place)

    @torch.inference_mode()
    def _to_host(self, frames: Tensor) -> None:
        """RGBA8 into the ring's memory, after what is queued now."""
        for picture, place in zip(frames_to_rgba8(frames), self._ring, strict=False):
            torch.from_numpy(place).copy_(picture, non_blocking=True)


def make_world(options: BenchOptions) -> World:
    """The model of the options, ready to run. Raises ConfigError; RankLost from one of several GPUs."""
    chosen = preset(options.model)
    place = options.place
    check_device(place, Formats(options.precision, options.kv, options.attention, options.fast))
    check_ranks(options.gpus, chosen.transformer.heads, place)
    with other_ranks(options.gpus, place, partial(_other_stream, options)) as others:
        plain = random_transformer(chosen, place, best_dtype(place))
        return World(options, chosen, _on_path(plain, options, ranks_with(others)), others)


def _other_stream(options: BenchOptions, ranks: Ranks, place: torch.device) -> LatentStream:
    """The stream of another rank."""
    chosen = preset(options.model)
    transformer = _on_path(random_transformer(chosen, place, best_dtype(place)), options, ranks)
    config = resized(chosen.stream, options.size)
    return LatentStream(transformer, config, options.seed, steps=options.steps, kv=options.kv)


def _on_path(plain: WanTransformer, options: BenchOptions, ranks: Ranks) -> WanTransformer:
    plain.ranks = ranks
    if not options.fast:
        if options.precision in FORMATS:
            store_linears(plain, options.precision)
        return plain
    from everscene_engine.fast_transformer import accelerated  # its kernels need Triton

    return accelerated(plain, options.precision, options.attention, options.graphs)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def compare(options: BenchOptions) -> dict[str, Any]:
    """‖fast − plain‖ / ‖plain‖ of the first chunks from the same noise, with the plain path's own in bf16 beside it, on
    one GPU."""
    chosen = preset(options.model)
    place = options.place
    plain = random_transformer(chosen, place, best_dtype(place))
    bare = replace(options, decoder="none")
    reference = World(replace(bare, kv="bf16", gpus=1), chosen, plain)
    wanted = [reference._latents().float() for _ in range(_ERROR_CHUNKS)]
    del reference, plain
    other = make_world(bare)
    found = [other._latents().float() for _ in range(_ERROR_CHUNKS)]
    other.stream.close()
    return {
        "relative_error": list(map(relative_error, found, wanted)),
        "finite": all(bool(torch.isfinite(latents).all()) for latents in found),
        "spread": [float(latents.std()) for latents in wanted],
    }
