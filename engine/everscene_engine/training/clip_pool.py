"""Clips of the procedural world as latents, in a pool on the training device.

Rendering and encoding cost about as much as a training step, so a clip is used several times with other noise and
other histories before it is replaced. The pool also keeps, for every clip, the model's own last prediction of each
latent frame: history with the model's own errors in it is what a live stream's history is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from everscene_engine.autoencoder import Autoencoder
from everscene_engine.config import CUT_PREFIX
from everscene_engine.text import PocketTextEncoder
from everscene_engine.training.world.render import render
from everscene_engine.training.world.scene import FRAMES_PER_SECOND, sample_clips

FRAMES_PER_LATENT = 4
MAX_PIXELS = {"cuda": 1 << 27, "cpu": 1 << 21}  # painted at once: a GPU wants few large kernels, a CPU its cache


@dataclass(frozen=True)
class ClipBatch:
    """B clips of F latent frames, the first chunk the sink.

    index: [B] places in the pool. latents: [B, F, C, h, w] clean. own: the same as the model last predicted them.
    words: [B, R, L] word ids of the clip's prompts, one row for each chunk of the world's own grid. prompt: [B, F]
    row of each latent frame, on the CPU. gap: [B] latent frames between sink and rest, on the CPU. is_cut: [B, F]
    in the chunk that opens a new shot, on the CPU.
    """

    index: Tensor
    latents: Tensor
    own: Tensor
    words: Tensor
    prompt: Tensor
    gap: Tensor
    is_cut: Tensor


class ClipPool:
    """`size` clips of `chunks` chunks (the sink among them), refreshed a few at a time."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        text: PocketTextEncoder,
        size: int,
        chunks: int,
        chunk_frames: int,
        device: torch.device,
        seed: int,
        render_batch: int = 96,
    ) -> None:
        self._autoencoder = autoencoder
        self._text = text
        self._chunks, self._chunk_frames = chunks, chunk_frames
        self._device = device
        self._render_batch = render_batch
        self._generator = torch.Generator().manual_seed(seed)
        config = autoencoder.config
        frames = chunks * chunk_frames
        channels, rows, columns = config.latent_shape
        shape = (size, frames, channels, rows, columns)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._latents = torch.zeros(shape, dtype=dtype, device=device)
        self._own = torch.zeros(shape, dtype=dtype, device=device)
        self._words = torch.zeros(size, chunks, text.config.max_words, dtype=torch.long, device=device)
        self._prompt = torch.zeros(size, frames, dtype=torch.long)
        self._gap = torch.zeros(size, dtype=torch.long)
        self._is_cut = torch.zeros(size, frames, dtype=torch.bool)
        self._size = size
        self._next = 0
        self.filled = 0

    def refresh(self, clips: int) -> None:
        """Replace the oldest `clips` clips by new ones."""
        for start in range(0, clips, self._render_batch):
            self._make(min(self._render_batch, clips - start))

    def draw(self, clips: int) -> ClipBatch:
        """Some clips at random."""
        index = torch.randint(0, self.filled, (clips,), generator=self._generator)
        there = index.to(self._device)
        return ClipBatch(
            there,
            self._latents[there],
            self._own[there],
            self._words[there],
            self._prompt[index],
            self._gap[index],
            self._is_cut[index],
        )

    @torch.no_grad()
    def remember(self, batch: ClipBatch, predicted: Tensor, where: Tensor) -> None:
        """Keep the model's own prediction [B, F, C, h, w] of a batch's latents where [B, F] says so."""
        kept = torch.where(where[:, :, None, None, None], predicted.to(self._own.dtype), batch.own)
        self._own[batch.index] = kept

    @torch.no_grad()
    def _make(self, clips: int) -> None:
        frames_per_chunk = self._chunk_frames * FRAMES_PER_LATENT
        # one chunk more than needed: after a gap the chunk behind the sink only warms up the encoder's memory
        clip = sample_clips(
            clips,
            chunks=self._chunks + 1,
            generator=self._generator,
            device=self._device,
            frames_per_chunk=frames_per_chunk,
        )
        frames = render(clip.world, clip.times, clip.tracks, max_pixels=MAX_PIXELS[self._device.type])
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            latents = self._autoencoder.encode(frames * 2 - 1)  # [b, F + chunk_frames, C, h, w]
        seconds = (clip.times[:, frames_per_chunk] - clip.times[:, frames_per_chunk - 1]).cpu()
        gap = (seconds * FRAMES_PER_SECOND / FRAMES_PER_LATENT).round().long().clamp(min=0)
        gap = torch.where(seconds * FRAMES_PER_SECOND < 1.5, 0, gap.clamp(min=1))
        apart = gap > 0
        gap = torch.where(apart, gap + self._chunk_frames, gap)
        kept = torch.arange(self._chunks)[None] + (apart[:, None] & (torch.arange(self._chunks) > 0)[None])
        rows = (kept[:, :, None] * self._chunk_frames + torch.arange(self._chunk_frames)).flatten(1)  # [b, F]
        place = (self._next + torch.arange(clips)) % self._size
        there = place.to(self._device)
        picked = latents[torch.arange(clips)[:, None].to(self._device), rows.to(self._device)]
        self._latents[there] = picked.to(self._latents.dtype)
        self._own[there] = picked.to(self._own.dtype)
        prompts = [[clip.prompts[b][int(c)] for c in kept[b]] for b in range(clips)]
        self._words[there] = self._word_ids(prompts).to(self._device)
        self._prompt[place] = _rows(prompts).repeat_interleave(self._chunk_frames, dim=1)
        self._gap[place] = gap
        cuts = torch.tensor([[text.startswith(CUT_PREFIX) for text in row] for row in prompts])
        self._is_cut[place] = cuts.repeat_interleave(self._chunk_frames, dim=1)
        self._next = (self._next + clips) % self._size
        self.filled = min(self._size, self.filled + clips)

    def _word_ids(self, prompts: list[list[str]]) -> Tensor:
        """[b, R, max_words] word ids, padded with 0."""
        ids, _ = self._text.ids([text for row in prompts for text in row])
        padded = torch.zeros(ids.shape[0], self._text.config.max_words, dtype=torch.long)
        padded[:, : ids.shape[1]] = ids
        return padded.view(len(prompts), self._chunks, -1)


def _rows(prompts: list[list[str]]) -> Tensor:
    """[b, chunks] index of the first chunk of the run of equal prompts that each chunk is in (sink apart)."""
    rows = torch.zeros(len(prompts), len(prompts[0]), dtype=torch.long)
    for b, texts in enumerate(prompts):
        for chunk in range(1, len(texts)):
            same = chunk > 1 and texts[chunk] == texts[chunk - 1]
            rows[b, chunk] = rows[b, chunk - 1] if same else chunk
    return rows
