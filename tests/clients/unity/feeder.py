"""A server of frames and nothing else, as fast as it is told, in a process of its own.

It says welcome, writes a ring through the bridge's own RingWriter, and sends the notice after each commit. Every 8-byte
word of frame s is s, so that a reader can look at each of them.

    python -m tests.clients.unity.feeder --fps 120 --width 1280 --height 720 --slots 8
"""

import argparse
import time
from pathlib import Path

import msgpack
import numpy as np
import zmq

from everscene_bridge import protocol, ring_layout
from everscene_bridge.clock import SystemClock
from everscene_bridge.frame_ring import RingWriter
from everscene_bridge.message_bytes import pack
from everscene_bridge.messages import FrameNotice, Stamps
from everscene_bridge.ring_layout import RingShape

EPOCH = 4242
HEARTBEAT_S = 0.25


def feed(options: argparse.Namespace) -> None:
    """Serve until killed."""
    clock = SystemClock()
    ring = RingWriter(
        RingShape(options.width, options.height, options.slots),
        epoch=EPOCH,
        fps=options.fps or 1000.0,
        clock_offset_ns=clock.offset_ns,
        now_ns=clock.now_ns,
        directory=options.ring_dir,
    )
    context = zmq.Context()
    control, frames = context.socket(zmq.ROUTER), context.socket(zmq.XPUB)
    control.bind("tcp://127.0.0.1:*")
    frames.bind("tcp://127.0.0.1:*")
    print(control.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
    ring.set_state(ring_layout.STATE_LIVE)
    start = time.monotonic()
    seq, beaten = 0, 0.0
    while True:
        seq += 1
        if options.fps:
            time.sleep(max(0.0, start + seq / options.fps - time.monotonic()))
        if time.monotonic() - beaten > HEARTBEAT_S:
            beaten = time.monotonic()
            ring.beat()
            answer(control, frames.getsockopt_string(zmq.LAST_ENDPOINT), ring, options, clock)
        write(ring, seq, clock, frames, options)


def write(
    ring: RingWriter, seq: int, clock: SystemClock, frames: "zmq.Socket[bytes]", options: argparse.Namespace
) -> None:
    """Frame `seq`, and its notice."""
    ring.loan(seq).reshape(-1).view(np.int64)[:] = seq
    now_ns = clock.now_ns()
    slot = ring.commit(seq, pts_ns=seq, commit_unix_ns=now_ns, epoch=EPOCH, flags=8, chunk=seq // 8, index=seq % 8)
    notice = FrameNotice(
        frame=seq,
        epoch=EPOCH,
        ring_id=ring.ring_id,
        slot=slot,
        width=options.width,
        height=options.height,
        stride=options.width * 4,
        pts_ns=seq,
        chunk=seq // 8,
        index=seq % 8,
        order=0,
        prompt="a calm harbour at dawn",
        flags=8,
        stamps_ns=Stamps(received=0, recached=0, denoised=now_ns, decoded=now_ns, published=now_ns),
    )
    frames.send_multipart([protocol.TOPIC_RING, pack(notice)])


def answer(
    control: "zmq.Socket[bytes]",
    frames_endpoint: str,
    ring: RingWriter,
    options: argparse.Namespace,
    clock: SystemClock,
) -> None:
    """Welcome whoever said hello; leave the rest unanswered."""
    while control.poll(0):
        peer, body = control.recv_multipart()
        message = msgpack.unpackb(body)
        if message["type"] == "ping":
            pong = {**message, "type": "pong", "server_ns": clock.now_ns(), "epoch": EPOCH}
            control.send_multipart([peer, msgpack.packb(pong)])
        if message["type"] != "hello":
            continue
        place = ring.place
        welcome = {
            "type": "welcome",
            "protocol": [1, 0],
            "epoch": EPOCH,
            "server": "0",
            "model": "feeder",
            "width": options.width,
            "height": options.height,
            "fps": float(options.fps or 1000),
            "frames_per_chunk": 8,
            "steps": 1,
            "seed": 0,
            "device": "cpu",
            "ring": {
                "path": place.path,
                "ring_id": place.ring_id,
                "slot_count": place.slot_count,
                "file_bytes": place.file_bytes,
            },
            "frames_endpoint": frames_endpoint,
            "viewer": None,
            "scene": {"name": "none", "events": []},
            "prompt": "a calm harbour at dawn",
            "frame": 0,
            "state": "live",
            "now_ns": clock.now_ns(),
        }
        control.send_multipart([peer, msgpack.packb(welcome)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--fps", type=float, default=0.0, help="0: as fast as it goes")
    parser.add_argument("--ring-dir", type=Path, default=None)
    feed(parser.parse_args())
