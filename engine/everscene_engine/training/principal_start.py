"""Where the autoencoder begins: as the principal components of what it will see.

Memory blocks are born as identities, and outside them nothing bends the signal but the decoder's gentle squash. So a
new autoencoder is linear, and the best linear code of a batch of clips can be written straight into it: each of the
encoder's convolutions takes, in its middle tap, the leading principal components of its input, the decoder's take
their transposes. Training then starts from a blurred picture, not from grey, and spends its time on what is not
linear.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_engine.autoencoder import FOLD, Autoencoder


@torch.no_grad()
def start_from_principal_components(model: Autoencoder, frames: Tensor) -> None:
    """Overwrite the convolutions outside the memory blocks, in place, for a new model.

    frames [B, T, 3, H, W] in −1..1, a few clips of different kinds. Latents come out with mean 0 and std 1; between
    the stages components are mixed at random, so that channels carry about equal shares. Raises ValueError for a
    model in which a stage has more channels than there are components to give them.
    """
    encoder, decoder = model.encoder, model.decoder
    x = model.fold(frames)  # [F·B, 48, H/2, W/2]
    there = [encoder.enter, *encoder.shrink, encoder.leave]
    back = [decoder.leave, *reversed(decoder.grow), decoder.enter]
    for number, (one, other) in enumerate(zip(there, back, strict=True)):
        assert isinstance(one, nn.Conv2d) and isinstance(other, nn.Conv2d)
        if 0 < number < len(there) - 1:
            x = F.pixel_unshuffle(x, FOLD)
        mean, directions, spread = principal_components(x, one.out_channels)
        if one is encoder.leave:
            analysis, synthesis = directions / spread[:, None], directions * spread[:, None]
        else:
            size = spread.square().mean().sqrt()
            mixed = nn.init.orthogonal_(torch.empty(len(spread), len(spread))).to(x.device) @ directions
            analysis, synthesis = mixed / size, mixed * size
        write_middle(one, analysis, -analysis @ mean)
        write_middle(other, synthesis.T, mean)
        x = one(x)


def principal_components(x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of x [N, c, h, w] over N, h and w: mean [c], leading directions [count, c] and their deviations [count]."""
    channels = x.shape[1]
    if count > channels:
        raise ValueError(f"{count} components asked of {channels} channels; widths may at most keep the channels")
    samples = x.movedim(1, -1).reshape(-1, channels).double()
    mean = samples.mean(dim=0)
    centred = samples - mean
    covariance = (centred.T @ centred / len(samples)).cpu()
    variances, directions = torch.linalg.eigh(covariance)  # rising
    spread = variances[-count:].clamp(min=1e-6).sqrt()
    leading = directions[:, -count:].T
    return mean.to(x), leading.to(x), spread.to(x)


def write_middle(convolution: nn.Conv2d, matrix: Tensor, bias: Tensor) -> None:
    """Make a convolution a matrix product cell by cell: matrix [out, in], bias [out]."""
    assert convolution.bias is not None
    middle = convolution.kernel_size[0] // 2
    convolution.weight.zero_()
    convolution.weight[:, :, middle, middle] = matrix
    convolution.bias.copy_(bias)
