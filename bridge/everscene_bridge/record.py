"""Recording: a process of its own that reads every frame out of the ring and writes a video file.

One thread copies frames from the ring into a queue, so that a slow moment of the encoder or the disk costs nothing; the
other encodes. When the queue is full the ring comes round, and what is lost is counted, never hidden: a lost frame
leaves its place in time, the frame before it stands.

Beside the video lies a JSONL file: what was recorded, every event and prompt that was accepted, every change of the
prompt with its frame and second, and at the end how many frames were written and how many lost. The same changes are
the chapters of the video.
"""

import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from everscene_bridge.client_frames import Frame
from everscene_bridge.errors import NotInTime
from everscene_bridge.messages import Notice, Welcome
from everscene_bridge.protocol import FLAG_CUT
from everscene_bridge.video_file import VideoFile

QUEUE_BYTES = 256 * 2**20
QUEUE_FRAMES = 256
FRAME_TIMEOUT_S = 1.0
TAIL_FRAMES = 64
"""When it is to stop, so many frames at most are still read: those that are in the ring already."""
INPUTS_REMEMBERED = 4096


class Source(Iterator[Frame], Protocol):
    """What a recording needs of what `Client.frames` gives."""

    timeout: float | None


class RecordedWorld(Protocol):
    """What a recording needs of a `Client`."""

    @property
    def info(self) -> Welcome: ...
    def frames(self, in_order: bool = False, timeout: float | None = None) -> Source: ...


@dataclass(frozen=True)
class RecordSettings:
    """What to record, and where to. All files begin with `path`'s name."""

    path: Path
    seconds: float | None = None  # of content; None: until it is stopped
    split_s: float | None = None  # seconds of content in a file; None: one file
    crf: int = 18  # quality of H.264, 0 (lossless) to 51
    from_cut: bool = False  # leave out what comes before the next cut


@dataclass
class Recorded:
    """What came of it."""

    frames: int = 0
    lost: int = 0
    files: list[Path] = field(default_factory=list)


class Recorder:
    """Records until told to stop. `heard` takes the client's news; any thread."""

    def __init__(self, settings: RecordSettings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._inputs: dict[int, str] = {}  # order → what was sent
        self._news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def stop(self) -> None:
        """Finish the file with what has been published so far."""
        self._stopping.set()

    def heard(self, notice: Notice) -> None:
        """News of the server."""
        if notice.kind != "input" or notice.order is None:
            return
        what = notice.event or notice.prompt or ", ".join(f"{k}: {v}" for k, v in (notice.slots or {}).items())
        params = ", ".join(f"{name} {_short(value)}" for name, value in (notice.params or {}).items())
        self._inputs[notice.order] = f"{what} ({params})" if params else what
        while len(self._inputs) > INPUTS_REMEMBERED:
            del self._inputs[next(iter(self._inputs))]
        said = notice.model_dump(exclude_none=True, include={"order", "client", "event", "params", "prompt", "slots"})
        skipped = {"skipped": notice.skipped} if notice.skipped else {}
        self._news.put({"kind": "input", "at_ns": notice.at_ns, **said, **skipped})

    def record(self, world: RecordedWorld, ready: Callable[[], None] = lambda: None) -> Recorded:
        """Write frames until `stop`, the length that was asked for, or the end of the client.

        ready: called once, when frames are waited for. Raises OSError for a file that cannot be written.
        """
        info = world.info
        limit = max(8, min(QUEUE_FRAMES, QUEUE_BYTES // (info.width * info.height * 4)))
        frames: queue.Queue[Frame | None] = queue.Queue(limit)
        args = (world, frames, ready)
        reader = threading.Thread(target=self._read, args=args, name="everscene-record-reader", daemon=True)
        reader.start()
        try:
            with _Files(self._settings, info, self._title) as files:
                goes_on = True
                while goes_on and (frame := frames.get()) is not None:
                    goes_on = files.take(frame)
                    self._write_news(files)
                if files.result.files:
                    self._write_news(files)
                return files.result
        finally:
            self._stopping.set()
            while reader.is_alive():  # it may wait for room in the queue
                _empty(frames)
                reader.join(0.05)

    def _read(self, world: RecordedWorld, frames: "queue.Queue[Frame | None]", ready: Callable[[], None]) -> None:
        source = world.frames(in_order=True, timeout=FRAME_TIMEOUT_S)
        waiting = self._settings.from_cut
        ready()
        left = TAIL_FRAMES
        while left:
            if self._stopping.is_set():
                source.timeout = 0.0  # only what is there already
                left -= 1
            try:
                frame = next(source)
            except NotInTime:  # paused, or the server is away
                if source.timeout:
                    continue
                break
            except StopIteration:  # the client was closed
                break
            waiting = waiting and not frame.flags & FLAG_CUT
            if not waiting:
                frames.put(frame)
        frames.put(None)

    def _write_news(self, files: "_Files") -> None:
        while not self._news.empty():
            files.note(self._news.get())

    def _title(self, frame: Frame) -> str:
        return self._inputs.get(frame.order, frame.prompt)


class _Files:
    """The video files of one recording, and the JSONL beside each."""

    def __init__(self, settings: RecordSettings, info: Welcome, title: Callable[[Frame], str]) -> None:
        self._settings = settings
        self._info = info
        self._title = title
        self._video: VideoFile | None = None
        self._lines: Any = None
        self._last: Frame | None = None
        self._first_place = 0  # of the file at hand
        self._place = -1  # of the latest frame, counted from the first of the recording
        self._lost_here = 0
        self.result = Recorded()

    def __enter__(self) -> "_Files":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def take(self, frame: Frame) -> bool:
        """Write a frame; False: that was the last that was asked for."""
        last = self._last
        gap = 1 if last is None or frame.number <= last.number else frame.number - last.number
        self._place += gap
        place_in_file = self._place - self._first_place
        if self._video is None or self._is_full(place_in_file):
            self._open(frame)
        assert self._video is not None
        if gap > 1:
            self.result.lost += gap - 1
            self._lost_here += gap - 1
            self.note({"kind": "lost", "frames": gap - 1, "before_frame": frame.number})
        place_in_file = self._place - self._first_place
        if last is None or (frame.prompt, frame.order) != (last.prompt, last.order) or place_in_file == 0:
            self._begin_chapter(frame, place_in_file)
        self._video.write(frame.pixels, place_in_file)
        self.result.frames += 1
        self._last = frame
        return self._settings.seconds is None or self._place + 1 < self._settings.seconds * self._info.fps

    def note(self, fields: Mapping[str, Any]) -> None:
        """A line in the JSONL file; there must have been a frame."""
        self._lines.write(json.dumps(fields, ensure_ascii=False) + "\n")

    def _is_full(self, place: int) -> bool:
        return self._settings.split_s is not None and place >= self._settings.split_s * self._info.fps

    def _begin_chapter(self, frame: Frame, place: int) -> None:
        assert self._video is not None
        passed = self._last is not None and frame.order == self._last.order and place > 0
        title = frame.prompt if passed else self._title(frame)  # nobody sent anything: a momentary event is over
        self._video.chapter(place, title)
        seconds = round(place / self._info.fps, 4)
        self.note(
            {
                "kind": "prompt",
                "second": seconds,
                "frame": frame.number,
                "order": frame.order,
                "prompt": frame.prompt,
                "by": title,
            }
        )

    def _open(self, frame: Frame) -> None:
        self._close()
        path = self._settings.path
        if self._settings.split_s is not None:
            path = path.with_name(f"{path.stem}-{len(self.result.files) + 1:04d}{path.suffix}")
        info = self._info
        self._first_place = self._place
        self._lost_here = 0
        self._video = VideoFile(path, info.width, info.height, info.fps, self._settings.crf)
        self._lines = path.with_name(path.name + ".jsonl").open("w", encoding="utf-8", buffering=1)
        self.result.files.append(path)
        about = {"model": info.model, "seed": info.seed, "width": info.width, "height": info.height, "fps": info.fps}
        self.note({"kind": "recording", "file": path.name, "epoch": info.epoch, "first_frame": frame.number, **about})

    def _close(self) -> None:
        if self._video is None:
            return
        video, self._video = self._video, None
        try:
            video.close()
            self.note({"kind": "end", "frames": video.frames, "lost": self._lost_here})
        finally:
            self._lines.close()
            self._lines = None


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _empty(frames: "queue.Queue[Frame | None]") -> None:
    while not frames.empty():
        frames.get_nowait()
