"""What a training clip looks like to the model: which latent frames make a chunk, who sees whom, and when.

A clip is [clean ∥ noisy]: the same latent frames twice, once as history and once to be denoised. A noisy chunk sees
the clean sink, the clean window before it and itself, exactly what a live stream's cache would hold, so one forward
trains every chunk of the clip (teacher forcing; the layout is that of LongLive 2.0's autoregressive training).

Three things are done so that the model has seen what a live stream does to it:

    cut short   some chunks end early, as after a rollback: in a whole batch at once, so that its attention stays plain
    recached    before one prompt change of a clip the whole window is put under the new prompt (and nothing that
                lies before the change is trained there, since it would know its future)
    the sink    lies as far back as `sink_reach` allows, or right before, whatever the true time between
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Histories:
    """The structure of B clips of F latent frames, the first `sink` of them the sink. All [B, F] unless said.

    lengths: latent frames of each chunk, the same for all clips. chunk: [F] chunk index of each latent frame (0 the
    sink). position: its time position. prompt: row of the clip's prompts for the noisy half. clean_prompt: the same
    for the clean half. trained: whether its loss counts.
    """

    lengths: tuple[int, ...]
    chunk: Tensor
    position: Tensor
    prompt: Tensor
    clean_prompt: Tensor
    trained: Tensor


def make_histories(
    prompt: Tensor,
    gap: Tensor,
    chunk_frames: int,
    sink_reach: int,
    generator: torch.Generator,
    is_cut: Tensor | None = None,
    cut_short: float = 0.1,
    recached: float = 0.6,
) -> Histories:
    """Draw the structure of some clips, on the CPU.

    prompt: [B, F] row of the prompt of each latent frame (the first chunk_frames are the sink); a change of the row
    is a change of the prompt, and lies at a multiple of chunk_frames (else ValueError). gap: [B] latent frames
    between the end of the sink and the rest, any size. is_cut: [B, F] True in the first latent frames of a new shot,
    which nothing is recached for. cut_short: chance that a chunk is cut in two. recached: share of the clips with a
    prompt change in which the history of one change is recached.
    """
    clips, frames = prompt.shape
    inside = torch.arange(1, frames) % chunk_frames > 0
    if frames % chunk_frames or bool((prompt[:, 1:] != prompt[:, :-1])[:, inside].any()):
        raise ValueError(f"prompts must change, and clips end, at multiples of {chunk_frames} latent frames")
    lengths = _chunks(frames // chunk_frames, chunk_frames, cut_short, generator)
    chunk = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    changes = torch.zeros_like(prompt, dtype=torch.bool)
    changes[:, chunk_frames + 1 :] = prompt[:, chunk_frames + 1 :] != prompt[:, chunk_frames:-1]
    if is_cut is not None:
        changes &= ~(is_cut | is_cut.roll(chunk_frames, 1))  # nor when the cut's own words go away again
    weight = changes.float() + 1e-9 * (torch.arange(frames) == frames - 1)  # a row of zeros cannot be drawn from
    change = torch.multinomial(weight, 1, generator=generator)[:, 0]  # [B] latent frame of one change of each clip
    taken = (torch.rand(clips, generator=generator) < recached) & changes.any(1)
    index = torch.arange(frames)[None]
    before = (index < change[:, None]) & taken[:, None]
    clean_prompt = torch.where(before & (index >= chunk_frames), prompt.gather(1, change[:, None]), prompt)
    trained = ~before | (index < chunk_frames)
    position = _positions(gap, frames, chunk_frames, sink_reach, generator)
    return Histories(lengths, chunk, position, prompt, clean_prompt, trained)


def _chunks(count: int, chunk_frames: int, cut_short: float, generator: torch.Generator) -> tuple[int, ...]:
    """Latent frames of each chunk: the sink whole, of the others some cut in two."""
    lengths = [chunk_frames]
    by_chance = torch.rand(count, generator=generator)
    for chance in by_chance[1:].tolist():
        first = 1 + int(chance / cut_short * (chunk_frames - 1)) if chance < cut_short else chunk_frames
        lengths += [first, chunk_frames - first] if first < chunk_frames else [chunk_frames]
    return tuple(lengths)


def _positions(gap: Tensor, frames: int, chunk_frames: int, sink_reach: int, generator: torch.Generator) -> Tensor:
    """Time positions [B, F]. A far sink stands about sink_reach before every chunk of the clip."""
    clips = gap.shape[0]
    rest = frames - chunk_frames
    near = chunk_frames + gap
    far = sink_reach - torch.randint(0, max(1, min(rest, sink_reach - chunk_frames)), (clips,), generator=generator)
    start = torch.minimum(near, far)  # of the first latent frame after the sink
    offset = torch.randint(0, 4096, (clips, 1), generator=generator)  # only distances matter; let rounding see all
    sink = torch.arange(chunk_frames)[None].expand(clips, -1)
    return torch.cat([sink, start[:, None] + torch.arange(rest)[None]], dim=1) + offset


def sees(query_chunk: Tensor, key_chunk: Tensor, query_noisy: Tensor, key_noisy: Tensor, window_chunks: int) -> Tensor:
    """The rule of the mask, elementwise on broadcastable tensors: True where the query sees the key.

    Clean sees clean: the sink, the window before it and its own chunk. Noisy sees clean: the sink and the window,
    not its own chunk. Noisy sees noisy: its own chunk. Clean never sees noisy.
    """
    own = query_chunk == key_chunk
    past = (key_chunk < query_chunk) & ((key_chunk == 0) | (key_chunk >= query_chunk - window_chunks))
    return (~key_noisy & (past | (own & ~query_noisy))) | (key_noisy & query_noisy & own)
