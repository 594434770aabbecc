"""Make clean renders look like the work of a generator: a little soft, off in colour, shifted, noisy.

The judges never see a generated frame in training. What they are shown instead is renders with such faults, so
that a reading depends on what is in a picture and not on how crisp it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 0.05
"""Of the picture's width and height, either way."""
ZOOM = 0.05
GAMMA = 0.18
GAIN = 0.10
OFFSET = 0.04
NOISE = 0.06


def augment(windows: Tensor, generator: torch.Generator) -> Tensor:
    """windows [B, T, 3, H, W] in 0..1 → the same shape and range; every window has faults of its own.

    All frames of a window are shifted, softened and coloured alike; only the noise differs.
    """
    batch, count = windows.shape[:2]
    device = windows.device

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator, device=device) * (high - low) + low

    x = move(windows.flatten(1, 2), draw(-SHIFT, SHIFT, 2), draw(1 - ZOOM, 1 + ZOOM, 1))  # [B, T·3, H, W]
    softness = draw(-1.0, 1.0, 1, 1, 1)  # half of the windows stay sharp
    soft = softness.flatten() > 0
    x[soft] = torch.lerp(x[soft], blur(x[soft]), softness[soft])
    for times, share in ((2, 0.3), (3, 0.1)):
        small = draw(0.0, 1.0).flatten() < share
        x[small] = shrink_and_grow(x[small], times)
    x = torch.unflatten(x, 1, (count, 3)).clamp(1e-4, 1.0)
    x = x ** draw(-GAMMA, GAMMA, 1, 1, 1, 1).exp()
    x = x * draw(1 - GAIN, 1 + GAIN, 1, 3, 1, 1) + draw(-OFFSET, OFFSET, 1, 1, 1, 1)
    noise = torch.randn(x.shape, generator=generator, device=device)
    noisy: Tensor = x + noise * draw(0.0, NOISE, 1, 1, 1, 1)
    return noisy.clamp(0.0, 1.0)


def move(x: Tensor, shift: Tensor, zoom: Tensor) -> Tensor:
    """Shift by shares of the size [B, 2] (x, y) and zoom [B, 1] about the middle; edges are repeated outwards."""
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom[:, 0]
    theta[:, :, 2] = 2.0 * shift
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def blur(x: Tensor) -> Tensor:
    """A binomial blur of about 1.4 pixels, [B, c, H, W] → the same."""
    taps = torch.tensor([1.0, 8.0, 28.0, 56.0, 70.0, 56.0, 28.0, 8.0, 1.0], device=x.device) / 256.0
    across = taps.view(1, 1, 1, 9).expand(x.shape[1], 1, 1, 9)
    x = F.conv2d(F.pad(x, (4, 4, 0, 0), mode="replicate"), across, groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, 4, 4), mode="replicate"), across.transpose(2, 3), groups=x.shape[1])


def shrink_and_grow(x: Tensor, times: int) -> Tensor:
    """Lose the detail that a smaller picture cannot hold."""
    height, width = x.shape[-2:]
    small = F.interpolate(x, (height // times, width // times), mode="area")
    return F.interpolate(small, (height, width), mode="bilinear", align_corners=False)
