"""How far a model in another number format is from the same model in its own: one chunk from the same noise.

The first chunk of a world has no past. For a later one both models go on from the same latents, which the reference
made, so that the chunk differs by what the formats do in it and in the cache, and not by what has drifted apart before.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from everscene_engine.autoencoder import Autoencoder
from everscene_engine.latent_chunk import LatentChunk
from everscene_engine.pocket import PocketModel
from everscene_engine.stream import LatentStream
from tests.judges.figures import Figure, Tally
from tests.judges.formats import DequantizedCache
from tests.judges.networks import WINDOW, Trunk
from tests.judges.plays import Play, prompts
from tests.judges.reader import Judges

LATER = 8  # chunks: the window is full, and the sink is seen at a distance


def stream_of(model: PocketModel, plays: Sequence[Play], steps: int | None, kv: str) -> LatentStream:
    """A stream of these plays under their first prompt."""
    stream = LatentStream(model.transformer, model.stream, plays[0].seed, clips=len(plays), steps=steps)
    if kv == "nvfp4":
        stream._cache = DequantizedCache.like(stream._cache)
    return stream


@torch.inference_mode()
def chunks_from_noise(
    model: PocketModel, plays: Sequence[Play], steps: int | None, kv: str, past: Sequence[LatentChunk] | None
) -> Tensor:
    """Latents of the next chunk, [B, F, C, h, w]: after `past`, or of a new world."""
    stream = stream_of(model, plays, steps, kv)
    device = model.transformer.patch_embedding.weight.device
    text = model.transformer.condition(model.text.encode(prompts(plays, 0)).to(device))
    if past is not None:
        stream.restore(past, text, stream.seed)
    stream.steer(text, "text")
    made = stream.generate()
    assert made is not None
    return made.latents


@torch.inference_mode()
def past_of(model: PocketModel, plays: Sequence[Play], steps: int | None) -> list[LatentChunk]:
    """What a world's stream keeps of its first LATER chunks."""
    stream = stream_of(model, plays, steps, "bf16")
    device = model.transformer.patch_embedding.weight.device
    stream.steer(model.transformer.condition(model.text.encode(prompts(plays, 0)).to(device)))
    for _ in range(LATER):
        stream.generate()
    return stream.kept_before(stream.next_frame)


def distances(
    judges: Judges,
    autoencoder: Autoencoder,
    plays: Sequence[Play],
    past: Sequence[LatentChunk],
    reference: tuple[Tensor, Tensor],
    tested: tuple[Tensor, Tensor],
) -> dict[str, Figure]:
    """Figures of the first chunk and of a later one, as latents of the reference and of the tested model."""
    tally = Tally()
    seeds = [play.seed for play in plays]
    window = [chunk.latents for chunk in past[1:]]
    for name, before, ours, theirs in (
        ("first chunk", [], tested[0], reference[0]),
        ("a later chunk", window, tested[1], reference[1]),
    ):
        a, b = (decoded(autoencoder, [*before, latents], latents.shape[1]) for latents in (ours, theirs))
        tally.add_all(f"PSNR of {name} (dB)", seeds, psnr(a, b).tolist())
        far = perceptual_distance(judges.reader.trunk, a[:, -WINDOW:], b[:, -WINDOW:])
        tally.add_all(f"perceptual distance of {name}", seeds, far.tolist())
    return tally.figures()


@torch.inference_mode()
def decoded(autoencoder: Autoencoder, latents: Sequence[Tensor], count: int) -> Tensor:
    """The frames of the last `count` latent frames, [B, T, 3, H, W] in 0..1."""
    frames = autoencoder.decode(torch.cat(list(latents), dim=1))
    return (frames[:, -count * autoencoder.config.frames_per_latent :].float() * 0.5 + 0.5).clamp(0, 1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise ratio in dB of each clip [B, …] in 0..1; 100 at most."""
    error = (a - b).square().flatten(1).mean(dim=1)
    return (-10.0 * torch.log10(error.clamp(min=1e-10))).clamp(max=100.0)


@torch.inference_mode()
def perceptual_distance(trunk: Trunk, a: Tensor, b: Tensor) -> Tensor:
    """Of windows [B, 4, 3, H, W] each: squared distance of a judge's maps, their channels scaled to length 1; the mean
    over places and stages. The idea is that of LPIPS (Zhang et al. 2018), without its weights: 0 is the same."""
    pairs = zip(trunk.maps(a), trunk.maps(b), strict=True)
    far = [(F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean((1, 2)) for x, y in pairs]
    return torch.stack(far).mean(0)
