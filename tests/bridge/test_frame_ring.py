"""The frame ring: what is committed is read, what is overwritten is noticed, what is left behind is swept."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from everscene_bridge import ring_files, ring_layout
from everscene_bridge.errors import Overwritten, RingError, RingUnreadable
from everscene_bridge.frame_ring import RingReader, RingWriter
from everscene_bridge.ring_layout import RingShape, rate_fraction


def make_ring(directory: Path, width: int = 33, height: int = 7, slots: int = 4) -> RingWriter:
    return RingWriter(
        RingShape(width, height, slots),
        epoch=77,
        fps=16.0,
        clock_offset_ns=5,
        now_ns=time.time_ns,
        directory=directory,
    )


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[RingWriter]:
    made = make_ring(tmp_path)
    yield made
    made.close()


def write(ring: RingWriter, seq: int) -> None:
    ring.loan(seq)[:] = seq % 256
    ring.commit(seq, pts_ns=seq, commit_unix_ns=seq, epoch=77, order=seq, chunk=seq, index=1)


def test_a_committed_frame_is_read(ring: RingWriter) -> None:
    write(ring, 1)
    pixels, words = RingReader(ring.path, ring.ring_id).read(1)
    assert pixels.shape == (7, 33, 4) and (pixels == 1).all()
    assert (words.seq, words.pts_ns, words.order, words.chunk, words.index, words.epoch) == (1, 1, 1, 1, 1, 77)


def test_a_reader_sees_the_latest_frame_number(ring: RingWriter) -> None:
    reader = RingReader(ring.path)
    assert reader.latest == 0
    for seq in range(1, 10):
        write(ring, seq)
        assert reader.latest == seq


def test_a_slot_is_taken_again_after_all_others(ring: RingWriter) -> None:
    for seq in range(1, 6):
        write(ring, seq)
    reader = RingReader(ring.path)
    with pytest.raises(Overwritten):
        reader.read(1)
    assert all((reader.read(seq)[0] == seq).all() for seq in range(2, 6))


def test_a_frame_that_is_being_written_is_not_read(ring: RingWriter) -> None:
    for seq in range(1, 5):
        write(ring, seq)
    ring.loan(5)
    with pytest.raises(Overwritten):
        RingReader(ring.path).read(5)
    with pytest.raises(Overwritten):
        RingReader(ring.path).read(1)


def test_the_copy_is_the_readers_own(ring: RingWriter) -> None:
    write(ring, 1)
    pixels, _ = RingReader(ring.path).read(1)
    ring.loan(5)[:] = 99
    assert (pixels == 1).all() and pixels.flags.owndata | (pixels.base is not None and pixels.base.flags.owndata)


def test_no_torn_frame_from_another_thread(tmp_path: Path) -> None:
    ring = make_ring(tmp_path, 640, 360, slots=3)
    reader = RingReader(ring.path)
    write(ring, 1)
    stop = threading.Event()

    def write_on() -> None:
        seq = 1
        while not stop.is_set():
            seq += 1
            write(ring, seq)

    writer = threading.Thread(target=write_on)
    writer.start()
    good = 0
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        seq = reader.latest
        try:
            pixels, words = reader.read(seq)
        except Overwritten:
            continue
        good += 1
        assert words.seq == seq
        assert (pixels == seq % 256).all(), "a torn frame got through"
    stop.set()
    writer.join()
    ring.close()
    assert good > 0


WRITER_AT_FULL_SPEED = """
import sys, time
from pathlib import Path
from tests.bridge.test_frame_ring import make_ring, write
ring = make_ring(Path(sys.argv[1]), 320, 180, slots=3)
print(ring.path, flush=True)
end, seq = time.monotonic() + 3.0, 0
while time.monotonic() < end:
    seq += 1
    write(ring, seq)
ring.close()
"""


def test_no_torn_frame_from_another_process_at_full_speed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER_AT_FULL_SPEED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        reader = RingReader(Path(writer.stdout.readline().strip()))
        good = dropped = 0
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            for seq in (reader.latest, reader.latest - 2):  # the older one's slot is the next to be written
                try:
                    pixels, words = reader.read(seq)
                except Overwritten:
                    dropped += 1
                    continue
                good += 1
                assert words.seq == seq and (pixels == seq % 256).all(), "a torn frame got through"
        writer.wait(10)
    assert good > 100
    assert dropped > 0, "the test must reach the case that it is about"


def test_the_file_is_the_users_own_and_whole(ring: RingWriter) -> None:
    assert ring.path.stat().st_mode & 0o777 == 0o600
    assert ring.path.stat().st_size == ring.shape.file_bytes
    assert ring.path.stat().st_blocks * 512 >= ring.shape.file_bytes


def test_closing_says_so_and_removes_the_files(tmp_path: Path) -> None:
    ring = make_ring(tmp_path)
    reader = RingReader(ring.path)
    ring.close()
    assert reader.state == ring_layout.STATE_CLOSED
    assert list(tmp_path.iterdir()) == []


def test_closing_twice_does_nothing(tmp_path: Path) -> None:
    ring = make_ring(tmp_path)
    ring.close()
    ring.close()


def test_a_heartbeat_renews(ring: RingWriter) -> None:
    reader = RingReader(ring.path)
    before = reader.heartbeat_unix_ns
    time.sleep(0.002)
    ring.beat()
    assert reader.heartbeat_unix_ns > before


def test_another_ring_at_the_path_is_noticed(ring: RingWriter) -> None:
    with pytest.raises(RingUnreadable, match="another server"):
        RingReader(ring.path, ring.ring_id ^ 1)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"x" * 70_000])
def test_a_file_that_is_no_ring_is_noticed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.ring").write_bytes(content)
    with pytest.raises(RingUnreadable):
        RingReader(tmp_path / "x.ring")


def test_a_ring_of_another_version_is_noticed(ring: RingWriter) -> None:
    ring._header["version"] = 2 << 16
    with pytest.raises(RingUnreadable, match="version 2"):
        RingReader(ring.path)


def test_a_missing_file_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(RingUnreadable):
        RingReader(tmp_path / "no.ring")


@pytest.mark.parametrize("slots", [2, 29])
def test_a_ring_has_3_to_28_slots(slots: int) -> None:
    with pytest.raises(ValueError, match="3 to 28"):
        RingShape(8, 8, slots)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_no_room_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RingError, match="no room"):
        make_ring(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] in ([], [".tmp"]) and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("fps", "fraction"), [(24.0, (24, 1)), (16.0, (16, 1)), (24000 / 1001, (24000, 1001)), (12.5, (25, 2))]
)
def test_rates_as_fractions(fps: float, fraction: tuple[int, int]) -> None:
    assert rate_fraction(fps) == fraction


KILLED_WRITER = """
import os, sys
from pathlib import Path
from tests.bridge.test_frame_ring import make_ring
make_ring(Path(sys.argv[1]))
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_server_left_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path)], env=environment, check=False)
    left = list(tmp_path.glob("*.ring"))
    assert len(left) == 1
    ring = make_ring(tmp_path)
    assert ring_files.sweep(tmp_path) == left
    assert sorted(tmp_path.iterdir()) == sorted([ring.path, ring.path.with_suffix(".lock")])
    ring.close()


def test_a_half_made_ring_is_swept(tmp_path: Path) -> None:
    (tmp_path / "everscene-1-0a0b0c0d.lock").touch()
    (tmp_path / "everscene-1-0a0b0c0d.ring.tmp").touch()
    ring_files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other.lock").touch()
    (tmp_path / "other.ring").touch()
    ring_files.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_loaned_slot_is_the_rings_memory(ring: RingWriter) -> None:
    pixels = ring.loan(1)
    assert pixels.shape == (7, 33, 4) and pixels.dtype == np.uint8
    assert not pixels.flags.owndata
