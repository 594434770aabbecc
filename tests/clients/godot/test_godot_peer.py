"""The addon against a peer that speaks the protocol document, well and badly."""

import base64
import hashlib
import io
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import RunTests
from .peer import Peer, jpeg, pattern

MakePeer = Callable[..., Peer]


@pytest.fixture
def make_peer(tmp_path: Path) -> Iterator[MakePeer]:
    """Call it with what `Peer` takes beside its folder; what it made is stopped after the test."""
    made: list[Peer] = []

    def make(**options: Any) -> Peer:
        made.append(Peer(tmp_path, **options))
        return made[-1]

    yield make
    for peer in made:
        peer.stop()


@pytest.fixture
def peer(make_peer: MakePeer) -> Peer:
    return make_peer()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


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
    run_godot_tests: RunTests, make_peer: MakePeer, tmp_path: Path, source: str, playback: str
) -> None:
    # At 24 a second the ring's 8 slots last for a third of a second, in which a reader may stand still.
    peer = make_peer(fps=24)
    run_godot_tests("test_frames", endpoint=peer.endpoint, frames_from=source, playback=playback)
    digests = {int(n): md5 for n, md5 in json.loads((tmp_path / "frames.json").read_text()).items()}
    assert len(digests) >= 60
    assert digests == {n: hashlib.md5(pattern(n, peer.width, peer.height).tobytes()).hexdigest() for n in digests}


def test_frames_come_inline_where_there_is_no_ring(run_godot_tests: RunTests, make_peer: MakePeer) -> None:
    peer = make_peer(has_ring=False)
    run_godot_tests("test_frames", endpoint=peer.endpoint, frames_from="auto", playback="newest", expect="raw")


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_frames_come_over_ipv6(run_godot_tests: RunTests, make_peer: MakePeer) -> None:
    peer = make_peer(host="[::1]")
    run_godot_tests("test_frames", endpoint=peer.endpoint, frames_from="raw", playback="newest")


def test_a_frames_port_that_cannot_be_reached_is_told(run_godot_tests: RunTests, make_peer: MakePeer) -> None:
    peer = make_peer(frames_endpoint="tcp://127.0.0.1:1")
    reason = "no frames from 127.0.0.1:1: nobody answers there"
    run_godot_tests("test_frames_port", endpoint=peer.endpoint, frames_from="auto", code="frames", reason=reason)


def test_a_ring_that_is_not_there_is_told_who_asked_for_it(run_godot_tests: RunTests, make_peer: MakePeer) -> None:
    peer = make_peer(has_ring=False)
    reason = "no frames by way of the ring: the server has no ring"
    run_godot_tests("test_frames_port", endpoint=peer.endpoint, frames_from="ring", code="ring", reason=reason)


def test_in_order_the_prompt_is_that_of_the_frame_shown(run_godot_tests: RunTests, peer: Peer) -> None:
    run_godot_tests("test_in_order", endpoint=peer.endpoint)


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


def test_a_right_token_opens_and_a_wrong_one_says_so(run_godot_tests: RunTests, make_peer: MakePeer) -> None:
    peer = make_peer(token="sesame")
    run_godot_tests("test_token", endpoint=peer.endpoint, token="sesame")


def test_another_version_is_refused_with_the_servers_words(run_godot_tests: RunTests, make_peer: MakePeer) -> None:
    peer = make_peer(refuse_version=True)
    run_godot_tests("test_version", endpoint=peer.endpoint)
    assert len(peer.hellos) == 1, "it does not knock again with the same version"
