"""The publishing thread: frames leave at their due time, into the ring first, then as a notice on the frames socket.

It owns the frames socket and the ring; nobody else touches them. An XPUB socket tells it who subscribes to what, so
pictures are sent through the socket only while somebody asks for them.
"""

import io
import logging
import threading
from collections import deque

import numpy as np
import zmq
from numpy.typing import NDArray
from PIL import Image

from everscene_bridge import protocol, ring_layout
from everscene_bridge.chunk_record import DueFrame
from everscene_bridge.frame_ring import RingWriter
from everscene_bridge.live import LiveStream
from everscene_bridge.message_bytes import pack
from everscene_bridge.messages import FrameNotice, Notice
from everscene_bridge.protocol import NS
from everscene_bridge.run_log import frame_hash
from everscene_engine.port import put

log = logging.getLogger(__name__)

HEARTBEAT_S = 0.25
SEEN_REMEMBERED = 256


class Publisher:
    """See the module's docstring."""

    def __init__(self, stream: LiveStream, socket: "zmq.Socket[bytes]", ring: RingWriter | None, epoch: int) -> None:
        self._stream = stream
        self._socket = socket
        self._ring = ring
        self._epoch = epoch
        self._news: deque[Notice] = deque()  # guarded by stream.changed
        self._subscriptions: set[bytes] = set()
        self._stopping = False
        self._state = "starting"
        self._last: NDArray[np.uint8] | None = None  # the picture that is shown
        self._thread = threading.Thread(target=self._publish_on, name="everscene-publisher", daemon=True)
        self.first_frames: deque[tuple[int, int, int]] = deque(maxlen=SEEN_REMEMBERED)
        """First frames of inputs: frame number, arrival of the input, publishing. Guarded as the news."""

    def start(self) -> None:
        """Start the thread."""
        if self._ring is not None:
            self._stream.pin(self._ring.memory)
        self._thread.start()

    def stop(self) -> None:
        """Send what news there is, close ring and socket. Frames that are not due yet are not shown any more."""
        with self._stream.changed:
            self._stopping = True
            self._stream.changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        if self._ring is not None:
            self._stream.unpin()
            self._last = None
            self._ring.close()
        self._socket.close()

    def announce(self, notice: Notice) -> None:
        """Send a notice soon. Called with the stream's `changed` held."""
        self._news.append(notice)
        self._stream.changed.notify_all()

    def _publish_on(self) -> None:
        stream = self._stream
        stopping = False
        while not stopping:
            with stream.changed:
                due = self._await_something()
                stopping = self._stopping
                news = list(self._news)
                self._news.clear()
            self._take_subscriptions()
            if self._ring is not None:
                self._ring.beat()
            for notice in news:
                self._socket.send_multipart([protocol.TOPIC_NOTICE, pack(notice)])
            if due is not None:
                self._publish(due)

    def _await_something(self) -> DueFrame | None:
        """Wait for a due frame, news, the end, or the time for a heartbeat."""
        stream = self._stream
        now_ns = stream.clock.now_ns()
        end_ns = now_ns + round(HEARTBEAT_S * NS)
        while True:
            self._watch_state(now_ns)
            due = None if self._stopping else stream.timeline.take_due(now_ns)
            if due is not None or self._news or self._stopping or now_ns >= end_ns:
                return due
            due_ns = stream.timeline.next_due_ns()
            wake_ns = end_ns if due_ns is None else min(end_ns, due_ns)
            stream.changed.wait((wake_ns - now_ns) / NS)
            now_ns = stream.clock.now_ns()

    def _watch_state(self, now_ns: int) -> None:
        state = self._stream.timeline.state(now_ns)
        if state == self._state:
            return
        reasons = {
            "restarting": self._stream.timeline.engine_down,
            "slow": "generation is slower than the content's rate",
            "stalled": "no new frame for 1 s",
        }
        self._state = state
        words = {"starting": ring_layout.STATE_STARTING, "restarting": ring_layout.STATE_ERROR}
        if self._ring is not None:
            self._ring.set_state(words.get(state, ring_layout.STATE_LIVE))
        reason = reasons.get(state, "")
        log.info("the stream is %s%s", state, f": {reason}" if reason else "")
        self._news.append(Notice(kind="state", epoch=self._epoch, at_ns=now_ns, state=state, reason=reason))

    def _take_subscriptions(self) -> None:
        while True:
            try:
                message = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if message[:1] == b"\x01":
                self._subscriptions.add(message[1:])
            elif message[:1] == b"\x00":
                self._subscriptions.discard(message[1:])

    def _wanted(self, topic: bytes) -> bool:
        return any(topic.startswith(prefix) for prefix in self._subscriptions)

    def _publish(self, due: DueFrame) -> None:
        stream, ring = self._stream, self._ring
        pixels = self._draw(due)
        record = due.ready.record
        slot = 0
        published_ns = stream.clock.now_ns()
        if ring is not None:
            slot = ring.commit(
                due.number,
                pts_ns=due.pts_ns,
                commit_unix_ns=published_ns,
                epoch=self._epoch,
                flags=due.flags,
                order=record.order,
                generation_us=record.generation_ns // 1000,
                index=due.ready.index,
                chunk=record.number,
            )
        height, width = pixels.shape[:2]
        notice = FrameNotice(
            frame=due.number,
            epoch=self._epoch,
            ring_id=ring.ring_id if ring is not None else 0,
            slot=slot,
            width=width,
            height=height,
            stride=width * 4,
            pts_ns=due.pts_ns,
            chunk=record.number,
            index=due.ready.index,
            order=record.order,
            prompt=record.prompt,
            flags=due.flags,
            stamps_ns=due.stamps(published_ns),
        )
        self._send(pack(notice), pixels)
        self._account(due, published_ns)
        if stream.run_log is not None:
            stream.run_log.write(
                "frame",
                frame=due.number,
                work=record.work,
                index=due.ready.index,
                latent_frame=due.ready.latent_frame,
                order=record.order,
                hash=frame_hash(pixels),
            )

    def _draw(self, due: DueFrame) -> NDArray[np.uint8]:
        """Put the picture into its slot, or where there is no ring into memory of its own: [H, W, 4], host memory.

        If it cannot be had, the one before stands in its place.
        """
        info = self._stream.timeline.info
        place = np.empty((info.height, info.width, 4), np.uint8) if self._ring is None else self._ring.loan(due.number)
        try:
            put(due.ready.pixels, place)
        except Exception as failure:  # noqa: BLE001 — whatever a lost device raises, the show goes on
            np.copyto(place, 0 if self._last is None else self._last)
            self._stream.frame_failed(due, failure)
        self._last = place
        return place

    def _send(self, notice: bytes, pixels: NDArray[np.uint8]) -> None:
        if self._ring is not None:
            self._socket.send_multipart([protocol.TOPIC_RING, notice])
        if self._wanted(protocol.TOPIC_RAW):
            self._socket.send_multipart([protocol.TOPIC_RAW, notice, pixels.tobytes()])
        if self._wanted(protocol.TOPIC_JPEG):
            self._socket.send_multipart([protocol.TOPIC_JPEG, notice, encode_jpeg(pixels)])

    def _account(self, due: DueFrame, published_ns: int) -> None:
        stream = self._stream
        with stream.changed:
            before = stream.timeline.prompt
            inputs = stream.timeline.published(due, published_ns)
            for one in inputs:
                stream.meter.latency_ms.add((published_ns - one.received_ns) / 1e6)
                self.first_frames.append((due.number, one.received_ns, published_ns))
            stream.meter.published.add(published_ns)
            stream.meter.stages_ms["publish"].add((published_ns - due.due_ns) / 1e6)
            if stream.timeline.prompt != before:
                record = due.ready.record
                self._news.append(
                    Notice(
                        kind="prompt",
                        epoch=self._epoch,
                        at_ns=published_ns,
                        text=record.prompt,
                        order=record.order,
                        frame=due.number,
                        chunk=record.number,
                    )
                )
            stream.hand_out()
            stream.changed.notify_all()


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A baseline JPEG of a frame [H, W, 4] uint8."""
    out = io.BytesIO()
    image = Image.fromarray(pixels).convert("RGB")
    image.save(out, "JPEG", quality=protocol.JPEG_QUALITY, subsampling="4:2:0")
    return out.getvalue()
