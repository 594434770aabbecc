"""The addon against a peer that speaks the protocol document, well and badly."""

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import RunTests
from .peer import Peer, jpeg, pattern


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(tmp_path)
    yield peer
    peer.stop()


def test_events_end_in_receipts_and_troubles_in_reasons(run_godot_tests: RunTests, peer: Peer) -> None:
    run_godot_tests("test_stream", endpoint=peer.endpoint)
    assert peer.seen, "the addon never said when it showed the frame of an event"
    # Once by the test that disconnects; by the test of the break first, and once again after it.
    assert peer.inputs.count("silent") == 3
    ids = {hello["client_id"] for hello in peer.hellos}
    assert all(0 < i < 2**63 for i in ids)
    assert all(hello["language"] == "gdscript" for hello in peer.hellos)


def test_a_stream_is_connected_while_its_node_is_in_the_tree(run_godot_tests: RunTests, peer: Peer) -> None:
    run_godot_tests("test_tree", endpoint=peer.endpoint)


@pytest.mark.parametrize("source", ["ring", "raw"])
@pytest.mark.parametrize("playback", ["newest", "in_order"])
def test_every_byte_of_every_frame_is_right(
    run_godot_tests: RunTests, peer: Peer, tmp_path: Path, source: str, playback: str
) -> None:
    run_godot_tests("test_frames", endpoint=peer.endpoint, frames_from=source, playback=playback)
    digests = {int(n): md5 for n, md5 in json.loads((tmp_path / "frames.json").read_text()).items()}
    assert len(digests) >= 60
    assert digests == {n: hashlib.md5(pattern(n, peer.width, peer.height).tobytes()).hexdigest() for n in digests}


def test_frames_come_inline_where_there_is_no_ring(run_godot_tests: RunTests, tmp_path: Path) -> None:
    peer = Peer(tmp_path, has_ring=False)
    run_godot_tests("test_frames", endpoint=peer.endpoint, frames_from="auto", playback="newest", expect="raw")
    peer.stop()


def test_jpeg_frames_look_as_another_decoder_shows_them(run_godot_tests: RunTests, peer: Peer, tmp_path: Path) -> None:
    run_godot_tests("test_jpeg", endpoint=peer.endpoint)
    pictures = json.loads((tmp_path / "jpeg.json").read_text())
    assert len(pictures) >= 10
    for number, encoded in pictures.items():
        seen = np.frombuffer(base64.b64decode(encoded), np.uint8).reshape(peer.height, peer.width, 4)
        file = io.BytesIO(jpeg(pattern(int(number), peer.width, peer.height)))
        expected = np.asarray(Image.open(file).convert("RGBA"))
        # Decoders differ in how they stretch the halved colour planes: at edges, by a few levels on average.
        assert np.abs(seen.astype(int) - expected).mean() < 4, number


def test_a_right_token_opens_and_a_wrong_one_says_so(run_godot_tests: RunTests, tmp_path: Path) -> None:
    peer = Peer(tmp_path, token="sesame")
    run_godot_tests("test_token", endpoint=peer.endpoint, token="sesame")
    peer.stop()


def test_another_version_is_refused_with_the_servers_words(run_godot_tests: RunTests, tmp_path: Path) -> None:
    peer = Peer(tmp_path, refuse_version=True)
    run_godot_tests("test_version", endpoint=peer.endpoint)
    assert len(peer.hellos) == 1, "it does not knock again with the same version"
    peer.stop()
