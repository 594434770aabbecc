"""From decoded frames to the memory in which they are shown: where the decoder works, and how pixels leave the device.

On a CPU frames are host arrays at once. On a GPU the decoder has a CUDA stream of its own, so that it works while the
next chunk is denoised; frames become RGBA8 there and stay on the device until they are due. Then each is copied by DMA
straight into its place, which is why that memory (the frame ring's) is registered with the driver: without that the
driver would copy through a buffer of its own.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everscene_engine.port import Picture

log = logging.getLogger(__name__)

FIRST = -1  # CUDA's higher priority: a decoder's short kernels go between the long ones of a forward


class FrameOutput(Protocol):
    """What the live engine asks of it."""

    def decoding(self, latents: Tensor | None = None) -> contextlib.AbstractContextManager[None]:
        """Everything that the decoder does is done within. latents: finished ones, made elsewhere, that it reads; None:
        what was queued until now is waited for."""
        ...

    def pictures(self, frames: Sequence[Tensor]) -> Sequence[Picture] | NDArray[np.uint8]:
        """RGBA8 frames, each [T, H, W, 4] uint8, one picture for each of all T; within `decoding`."""
        ...

    def pin(self, memory: NDArray[np.uint8]) -> bool:
        """Pictures will be put into this memory. Whether that can be done by DMA from now on."""
        ...

    def unpin(self) -> None:
        """The memory may go away."""
        ...


def frame_output(device: torch.device, latents: torch.device | None = None) -> FrameOutput:
    """The output for a decoder's device. latents: where they are made, if that is another one."""
    return GpuOutput(device, latents or device) if device.type == "cuda" else HostOutput()


class DecodingStreams:
    """CUDA streams of a decoder's own: one on its GPU, and where latents come from another one, one there.

    A copy from GPU to GPU is queued on the current stream of the GPU that it comes from. On the stream of the forwards
    it would wait for the clean pass, and the next forward for it.
    """

    def __init__(self, device: torch.device, latents: torch.device) -> None:
        """latents: the device on which they are made."""
        self.own = torch.cuda.Stream(device, priority=FIRST)  # type: ignore[no-untyped-call]
        self._latents = latents
        self._leaving: torch.cuda.Stream | None = None
        if latents.type == "cuda" and latents != device:
            self._leaving = torch.cuda.Stream(latents, priority=FIRST)  # type: ignore[no-untyped-call]

    @contextmanager
    def within(self, latents: Tensor | None = None) -> Iterator[None]:
        """What is queued within is queued here. latents: finished ones that are read; None: what is queued for the
        latents' device until now is waited for."""
        if latents is not None:
            self.reads(latents)
        elif self._latents.type == "cuda":
            (self._leaving or self.own).wait_stream(torch.cuda.current_stream(self._latents))
        leaving = contextlib.nullcontext() if self._leaving is None else torch.cuda.stream(self._leaving)
        with leaving, torch.cuda.stream(self.own):
            yield

    def reads(self, latents: Tensor) -> None:
        """Their memory is not given to others while the decoder reads it."""
        if latents.is_cuda:
            latents.record_stream(self._leaving or self.own)


class HostOutput:
    """Frames on a CPU: there is nothing to copy, and nowhere else to work."""

    def decoding(self, latents: Tensor | None = None) -> contextlib.AbstractContextManager[None]:
        """Here and now."""
        return contextlib.nullcontext()

    def pictures(self, frames: Sequence[Tensor]) -> NDArray[np.uint8]:
        """All of them in one host array [T, H, W, 4]."""
        return np.concatenate([some.numpy() for some in frames])

    def pin(self, memory: NDArray[np.uint8]) -> bool:
        """There is no device that would copy into it."""
        return False

    def unpin(self) -> None:
        """Nothing was done."""


class GpuOutput:
    """Frames on a GPU."""

    def __init__(self, device: torch.device, latents: torch.device) -> None:
        self._device = device
        self._decoding = DecodingStreams(device, latents)
        self._copying = torch.cuda.Stream(device, priority=FIRST)  # type: ignore[no-untyped-call]
        self._pinned: NDArray[np.uint8] | None = None

    def decoding(self, latents: Tensor | None = None) -> contextlib.AbstractContextManager[None]:
        """On the decoder's stream."""
        return self._decoding.within(latents)

    def pictures(self, frames: Sequence[Tensor]) -> Sequence[Picture]:
        """On the device; they are finished when this returns."""
        self._decoding.own.synchronize()
        return [GpuPicture(picture, self._copying) for some in frames for picture in some.unbind(0)]

    def pin(self, memory: NDArray[np.uint8]) -> bool:
        """Register it with the driver. Not being able to is no failure: copies then take longer."""
        self.unpin()
        with torch.cuda.device(self._device):
            error = torch.cuda.cudart().cudaHostRegister(memory.ctypes.data, memory.nbytes, 0)  # type: ignore[no-untyped-call]
            if int(error) != 0:
                log.info("the frame ring cannot be registered with the GPU's driver (%s): copies take longer", error)
                with contextlib.suppress(RuntimeError):  # the driver tells of it once more at the next call
                    torch.zeros(1, device=self._device)
                return False
        self._pinned = memory
        return True

    def unpin(self) -> None:
        """Take the registration back."""
        memory, self._pinned = self._pinned, None
        if memory is None:
            return
        with torch.cuda.device(self._device):
            torch.cuda.cudart().cudaHostUnregister(memory.ctypes.data)  # type: ignore[no-untyped-call]


class GpuPicture:
    """A finished frame [H, W, 4] uint8 on a GPU."""

    def __init__(self, pixels: Tensor, copying: torch.cuda.Stream) -> None:
        self._pixels = pixels
        self._copying = copying

    def copy_into(self, place: NDArray[np.uint8]) -> None:
        """Copy it into host memory [H, W, 4] and wait until it is there. Raises RuntimeError if the device is lost."""
        with torch.cuda.stream(self._copying):
            torch.from_numpy(place).copy_(self._pixels, non_blocking=True)
        self._copying.synchronize()
