"""A Wan VAE's decoder, quicker on a GPU: the same convolutions, on channels-last memory, with fused steps between them.

diffusers' modules are the definition. `quicken` puts others in their places, which keep the same weights and the same
list of remembered frames: a convolution pads in space by itself; a norm and the SiLU behind it are one kernel, which
also adds the bias of the convolution before it and writes behind the remembered frames, where the next one reads;
doubling a picture and the weightless shortcut are one kernel each (`everscene_kernels/pictures.py`). Results differ
by the roundings to bfloat16 in between that the fused kernels leave out.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everscene_kernels import pictures_triton

_REMEMBERED = 2  # frames, by every causal convolution
_PASSED = "Rep"


class _CausalConv(nn.Module):
    """A WanCausalConv3d that pads in space while it convolves."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.conv = conv.to(memory_format=torch.channels_last_3d)
        columns, _, rows, _, self.frames, _ = conv._padding
        self.space = (0, rows, columns)

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        missing = self.frames
        if cache_x is not None and missing:
            x = torch.cat([cache_x, x], dim=2)
            missing -= cache_x.shape[2]
        if missing:
            x = F.pad(x, (0, 0, 0, 0, missing, 0))
        return F.conv3d(x, self.conv.weight, self.conv.bias, self.conv.stride, self.space)


class _NormSilu(nn.Module):
    """A WanRMS_norm with the SiLU that follows it."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.register_buffer("gamma", norm.gamma.detach().flatten())

    def forward(self, x: Tensor) -> Tensor:
        """x [1, C, T, h, w]"""
        gamma: Tensor = self.gamma  # type: ignore[assignment]
        return _clip(pictures_triton.norm_silu(_frames(x), gamma))


class _Block(nn.Module):
    """A WanResidualBlock."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.shortcut = block.conv_shortcut
        self.convs: list[_CausalConv] = [block.conv1, block.conv2]
        self.held = nn.ModuleList(self.convs)
        for index, norm in enumerate((block.norm1, block.norm2)):
            self.register_buffer(f"gamma_{index}", norm.gamma.detach().flatten())

    def forward(self, x: Tensor, feat_cache: list[Any], feat_idx: list[int]) -> Tensor:
        kept = _frames(self.shortcut(x))
        frames = _frames(x)
        bias: Tensor | None = None
        for index, conv in enumerate(self.convs):
            frames = self._convolved(frames, index, bias, feat_cache, feat_idx)
            bias = conv.conv.bias
        assert bias is not None
        return _clip(pictures_triton.add_biased(frames, kept, bias))

    def _convolved(
        self, x: Tensor, index: int, bias: Tensor | None, feat_cache: list[Any], feat_idx: list[int]
    ) -> Tensor:
        """The convolution of what x + bias [T, h, w, C] is after norm and SiLU, behind the frames that it remembers;
        its own bias is not added yet."""
        place, conv = feat_idx[0], self.convs[index]
        held: Tensor | None = feat_cache[place]
        remembered = 0 if held is None else held.shape[2]
        row = x.new_empty(_REMEMBERED + x.shape[0], *x.shape[1:])
        row[: _REMEMBERED - remembered].zero_()
        if held is not None:
            row[_REMEMBERED - remembered : _REMEMBERED] = _frames(held)
        pictures_triton.norm_silu(x, getattr(self, f"gamma_{index}"), bias, row[_REMEMBERED:])
        new = min(_REMEMBERED, x.shape[0] + remembered)
        feat_cache[place] = _clip(row[-new:].clone())
        feat_idx[0] += 1
        return _frames(F.conv3d(_clip(row), conv.conv.weight, None, 1, conv.space))


class _Upsample(nn.Module):
    """A WanResample that doubles a picture, and the frames if it has a convolution over time."""

    def __init__(self, resample: Any, conv: nn.Module | None) -> None:
        super().__init__()
        self.time_conv = conv
        self.after = resample.resample[1].to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, feat_cache: list[Any], feat_idx: list[int]) -> Tensor:
        parts = 1
        if self.time_conv is not None:
            index = feat_idx[0]
            held = feat_cache[index]
            if held is None:
                feat_cache[index] = _PASSED
            else:
                last = x[:, :, -_REMEMBERED:].clone()
                if last.shape[2] < _REMEMBERED:
                    before = torch.zeros_like(last) if isinstance(held, str) else held[:, :, -1:]
                    last = torch.cat([before, last], dim=2)
                x, parts = self.time_conv(x, None if isinstance(held, str) else held), 2
                feat_cache[index] = last
            feat_idx[0] += 1
        pixels = pictures_triton.doubled(_frames(x), parts)
        out: Tensor = self.after(pixels.permute(0, 3, 1, 2))  # [T, C, h, w]
        return _clip(out.permute(0, 2, 3, 1))


class _UpBlock(nn.Module):
    """A WanResidualUpBlock."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.resnets, self.upsampler = block.resnets, block.upsampler
        self.times = None if block.avg_shortcut is None else block.avg_shortcut.factor_t

    def forward(self, x: Tensor, feat_cache: list[Any], feat_idx: list[int], first_chunk: bool = False) -> Tensor:
        small = x
        for resnet in self.resnets:
            x = resnet(x, feat_cache=feat_cache, feat_idx=feat_idx)
        if self.upsampler is not None:
            x = self.upsampler(x, feat_cache=feat_cache, feat_idx=feat_idx)
        if self.times is None:
            return x
        return _clip(pictures_triton.add_grown(_frames(x), _frames(small), self.times))


def quicken(decoder: Any) -> None:
    """Put the quicker modules into diffusers' WanDecoder3d, on a GPU in bfloat16; for one clip."""
    _replace(decoder)
    decoder.norm_out, decoder.nonlinearity = _NormSilu(decoder.norm_out), nn.Identity()


def _replace(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        kind = type(child).__name__
        _replace(child)
        if kind == "WanCausalConv3d":
            setattr(module, name, _CausalConv(child))
        elif kind == "WanResidualBlock":
            setattr(module, name, _Block(child))
        elif kind == "WanResample":
            setattr(module, name, _Upsample(child, getattr(child, "time_conv", None)))
        elif kind == "WanResidualUpBlock":
            setattr(module, name, _UpBlock(child))


def _frames(x: Tensor) -> Tensor:
    """[1, C, T, h, w] → [T, h, w, C], as it lies in memory if it is channels-last."""
    return x[0].permute(1, 2, 3, 0).contiguous()


def _clip(frames: Tensor) -> Tensor:
    """[T, h, w, C] → [1, C, T, h, w]; in this order of steps torch sees that it is channels-last."""
    return frames[None].permute(0, 4, 1, 2, 3)
