"""An H.264 video file with chapters, through PyAV."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everscene_bridge.errors import SettingsError

CODEC = "libx264"
OPTIONS = {"preset": "veryfast", "tune": "zerolatency"}
"""zerolatency: no frames are held back, so little memory is used and the file is soon whole."""
THREADS = 1
FRAGMENTED = {"movflags": "hybrid_fragmented+frag_keyframe", "flush_packets": "1"}
"""A file whose writer is killed can be played up to there; one that is closed is an ordinary MP4."""


class VideoFile:
    """Frames in, one file out."""

    def __init__(self, path: Path, width: int, height: int, fps: float, crf: int) -> None:
        """Raises OSError when the file cannot be written, SettingsError without PyAV or for odd sizes."""
        try:
            import av
        except ImportError:
            raise SettingsError('recording needs PyAV: pip install "everscene[record]"') from None
        if width % 2 or height % 2:
            raise SettingsError(f"frames of {width}×{height} cannot be recorded: H.264 wants even sizes")
        self._av: Any = av
        self._rate = Fraction(fps).limit_denominator(1001)
        self._container: Any = av.open(str(path), "w", format=_container(path), container_options=_options(path))
        stream: Any = self._container.add_stream(CODEC, rate=self._rate, options={**OPTIONS, "crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = THREADS
        stream.codec_context.gop_size = round(2 * fps)
        stream.codec_context.time_base = 1 / self._rate
        stream.codec_context.color_primaries = stream.codec_context.colorspace = 1  # H.273: BT.709
        stream.codec_context.color_trc = 13  # H.273: sRGB
        self._stream: Any = stream
        self._chapters: list[tuple[int, str]] = []
        self._end = 0
        self.frames = 0

    def write(self, pixels: NDArray[np.uint8], place: int) -> None:
        """One frame [H, W, 4] RGBA; place: how many frames of time lie before it, rising."""
        frame = self._av.VideoFrame.from_ndarray(pixels, format="rgba")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = place, 1 / self._rate
        self._container.mux(self._stream.encode(frame))
        self._end = place + 1
        self.frames += 1

    def chapter(self, place: int, title: str) -> None:
        """A chapter begins with the frame at this place."""
        if self._chapters and self._chapters[-1][0] == place:
            self._chapters.pop()
        self._chapters.append((place, title))

    def close(self) -> None:
        """Finish the file."""
        self._container.mux(self._stream.encode(None))
        ends = [place for place, _ in self._chapters[1:]] + [self._end]
        self._container.set_chapters(
            [
                {"id": number, "start": start, "end": end, "time_base": 1 / self._rate, "metadata": {"title": title}}
                for number, ((start, title), end) in enumerate(zip(self._chapters, ends, strict=True))
            ]
        )
        self._container.close()


def check_path(path: Path) -> None:
    """Raise SettingsError for a file that cannot become a video: its ending, or a folder that is not there."""
    _container(path)
    if not path.parent.is_dir():
        raise SettingsError(f"there is no folder {path.parent}")


def _container(path: Path) -> str:
    formats = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
    if path.suffix not in formats:
        raise SettingsError(f"{path} must end in one of {', '.join(formats)}")
    return formats[path.suffix]


def _options(path: Path) -> dict[str, str]:
    return {} if path.suffix == ".mkv" else FRAGMENTED
