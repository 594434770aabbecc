"""Clips of the procedural world as latents, in a pool on the training device.

Rendering and encoding cost about as much as a training step, so a clip is used several times with other noise and
other histories before it is replaced. The pool also keeps, for every clip, what its history may lean towards: the
model's own last prediction of each latent frame, since history with the model's own errors in it is what a live
stream's history is; or, for some clips, the same clip without its subject, or with one of another kind and the same
colour. A subject that fades or turns into another is the error that a model left to itself makes worst, and only a
history in which that has happened teaches to follow the prompt back.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everscene_engine.autoencoder import Autoencoder
from everscene_engine.config import CUT_PREFIX
from everscene_engine.text import PocketTextEncoder
from everscene_engine.training.loop import MadeAhead
from everscene_engine.training.world.names import HELD_OUT_SUBJECTS, SUBJECTS, TRAINED_COLOURS
from everscene_engine.training.world.render import render
from everscene_engine.training.world.scene import FRAMES_PER_SECOND, Clip, sample_clips

FRAMES_PER_LATENT = 4
MAX_PIXELS = {"cuda": 1 << 27, "cpu": 1 << 21}  # painted at once: a GPU wants few large kernels, a CPU its cache


@dataclass(frozen=True)
class ClipBatch:
    """B clips of F latent frames, the first chunk the sink.

    index: [B] places in the pool. latents: [B, F, C, h, w] clean. own: the same as the model last predicted them, or
    without the prompt's subject where faded, [B] on the CPU, says so. words: [B, R, L] word ids of the clip's prompts,
    one row for each chunk of the world's own grid. prompt: [B, F] row of each latent frame, on the CPU. gap: [B] latent
    frames between sink and rest, on the CPU. is_cut: [B, F] in the chunk that opens a new shot, on the CPU.
    """

    index: Tensor
    latents: Tensor
    own: Tensor
    faded: Tensor
    words: Tensor
    prompt: Tensor
    gap: Tensor
    is_cut: Tensor


class ClipPool:
    """`size` clips of `chunks` chunks (the sink among them), refreshed `fresh` at a time from a thread of its own.

    faded: share of the clips that are kept without their prompt's subject too, 0 to 1.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        text: PocketTextEncoder,
        size: int,
        chunks: int,
        chunk_frames: int,
        device: torch.device,
        seed: int,
        fresh: int = 96,
        faded: float = 0.0,
    ) -> None:
        self._autoencoder = autoencoder
        self._text = text
        self._chunks, self._chunk_frames = chunks, chunk_frames
        self._device = device
        self._fresh, self._faded_share = fresh, faded
        self._drawing = torch.Generator().manual_seed(seed)
        self._making = torch.Generator().manual_seed(seed + 1)
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
        self._faded = torch.zeros(size, dtype=torch.bool)
        self._size = size
        self._next = 0
        self.filled = 0
        self._made = MadeAhead(self._make, device)

    @property
    def ready(self) -> bool:
        """Whether `refresh` would cost no waiting."""
        return self._made.ready

    def refresh(self) -> None:
        """Replace the oldest `fresh` clips by new ones."""
        latents, own, words, prompt, gap, is_cut, faded = self._made.take()
        place = (self._next + torch.arange(len(latents))) % self._size
        there = place.to(self._device)
        self._latents[there], self._own[there], self._words[there] = latents, own, words
        self._prompt[place], self._gap[place] = prompt, gap
        self._is_cut[place], self._faded[place] = is_cut, faded
        self._next = (self._next + len(latents)) % self._size
        self.filled = min(self._size, self.filled + len(latents))

    def draw(self, clips: int) -> ClipBatch:
        """Some clips at random."""
        index = torch.randint(0, self.filled, (clips,), generator=self._drawing)
        there = index.to(self._device)
        return ClipBatch(
            there,
            self._latents[there],
            self._own[there],
            self._faded[index],
            self._words[there],
            self._prompt[index],
            self._gap[index],
            self._is_cut[index],
        )

    @torch.no_grad()
    def remember(self, batch: ClipBatch, predicted: Tensor, where: Tensor) -> None:
        """Keep the model's own prediction [B, F, C, h, w] of a batch's latents where [B, F] says so, but for clips
        kept without their prompt's subject."""
        kept = where & ~batch.faded.to(where.device)[:, None]
        self._own[batch.index] = torch.where(kept[:, :, None, None, None], predicted.to(self._own.dtype), batch.own)

    def close(self) -> None:
        """Make no more clips."""
        self._made.close()

    @torch.no_grad()
    def _make(self) -> tuple[Tensor, ...]:
        """`fresh` clips: latents, own, words, prompt, gap, is_cut and faded as in ClipBatch."""
        clips = self._fresh
        frames_per_chunk = self._chunk_frames * FRAMES_PER_LATENT
        # one chunk more than needed: after a gap the chunk behind the sink only warms up the encoder's memory
        clip = sample_clips(
            clips,
            chunks=self._chunks + 1,
            generator=self._making,
            device=self._device,
            frames_per_chunk=frames_per_chunk,
            colours=TRAINED_COLOURS,
        )
        seconds = (clip.times[:, frames_per_chunk] - clip.times[:, frames_per_chunk - 1]).cpu()
        gap = (seconds * FRAMES_PER_SECOND / FRAMES_PER_LATENT).round().long().clamp(min=0)
        gap = torch.where(seconds * FRAMES_PER_SECOND < 1.5, 0, gap.clamp(min=1))
        apart = gap > 0
        gap = torch.where(apart, gap + self._chunk_frames, gap)
        kept = torch.arange(self._chunks)[None] + (apart[:, None] & (torch.arange(self._chunks) > 0)[None])
        rows = (kept[:, :, None] * self._chunk_frames + torch.arange(self._chunk_frames)).flatten(1).to(self._device)
        latents = self._latents_of(clip)[torch.arange(clips, device=self._device)[:, None], rows]  # [b, F, C, h, w]
        faded = torch.arange(clips) < round(self._faded_share * clips)
        own = latents.clone()
        if faded.any():
            some = int(faded.sum())
            world = clip.world.take(slice(some))
            world = replace(world, subject_kind=other_kinds(world.subject_kind, world.subject_colour))
            part = replace(clip, world=world, times=clip.times[:some], tracks=clip.tracks.take(slice(some)))
            own[:some] = self._latents_of(part)[torch.arange(some, device=self._device)[:, None], rows[:some]]
        prompts = [[clip.prompts[b][int(c)] for c in kept[b]] for b in range(clips)]
        prompt = _rows(prompts).repeat_interleave(self._chunk_frames, dim=1)
        cuts = torch.tensor([[text.startswith(CUT_PREFIX) for text in row] for row in prompts])
        is_cut = cuts.repeat_interleave(self._chunk_frames, dim=1)
        return latents, own, self._word_ids(prompts).to(self._device), prompt, gap, is_cut, faded

    def _latents_of(self, clip: Clip) -> Tensor:
        """Render and encode: [b, F + chunk_frames, C, h, w]."""
        frames = render(clip.world, clip.times, clip.tracks, max_pixels=MAX_PIXELS[self._device.type])
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            return self._autoencoder.encode(frames * 2 - 1).to(self._latents.dtype)

    def _word_ids(self, prompts: list[list[str]]) -> Tensor:
        """[b, R, max_words] word ids, padded with 0."""
        ids, _ = self._text.ids([text for row in prompts for text in row])
        padded = torch.zeros(ids.shape[0], self._text.config.max_words, dtype=torch.long)
        padded[:, : ids.shape[1]] = ids
        return padded.view(len(prompts), self._chunks, -1)


def other_kinds(kind: Tensor, colour: Tensor) -> Tensor:
    """What stands in the place of the subjects of faded clips: nobody, and in every second clip one of the other kinds,
    in turn, unless `names` holds that kind out in this colour.

    kind, colour: int64 [b], indices in SUBJECTS and TRAINED_COLOURS. Returns int64 [b], −1 for nobody.
    """
    number = torch.arange(len(kind), device=kind.device)
    other = (kind + 1 + number // 2 % 2) % len(SUBJECTS)
    held_out = torch.zeros(len(SUBJECTS), len(TRAINED_COLOURS), dtype=torch.bool, device=kind.device)
    for subject, tone in HELD_OUT_SUBJECTS:
        held_out[SUBJECTS.index(subject), TRAINED_COLOURS.index(tone)] = True
    return torch.where((number % 2 == 1) & ~held_out[other, colour], other, -1)


def _rows(prompts: list[list[str]]) -> Tensor:
    """[b, chunks] index of the first chunk of the run of equal prompts that each chunk is in (sink apart)."""
    rows = torch.zeros(len(prompts), len(prompts[0]), dtype=torch.long)
    for b, texts in enumerate(prompts):
        for chunk in range(1, len(texts)):
            same = chunk > 1 and texts[chunk] == texts[chunk - 1]
            rows[b, chunk] = rows[b, chunk - 1] if same else chunk
    return rows
