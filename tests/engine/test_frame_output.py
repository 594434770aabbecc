"""From decoded frames to host memory, on a CPU; `python -m everscene_engine.check_frames` is the same on a GPU."""

import numpy as np
import torch

from everscene_engine.check_frames import check_copies, check_same
from everscene_engine.frame_output import HostOutput, frame_output
from everscene_engine.port import FrameBlock, put


def test_on_a_cpu_frames_are_host_memory_at_once() -> None:
    output = frame_output(torch.device("cpu"))
    assert isinstance(output, HostOutput)
    some, more = torch.randint(0, 256, (2, 4, 6, 4), dtype=torch.uint8), torch.zeros(1, 4, 6, 4, dtype=torch.uint8)
    with output.decoding():
        pictures = output.pictures([some, more])
    assert np.array_equal(pictures, torch.cat([some, more]).numpy())
    assert output.pin(np.zeros(8, np.uint8)) is False


def test_a_block_of_pictures_comes_to_the_host_as_one_array() -> None:
    class Grey:
        def copy_into(self, place: np.ndarray) -> None:
            place[:] = 7

    block = FrameBlock([Grey(), np.ones((2, 3, 4), np.uint8)], (0, 0))
    frames = block.on_host(2, 3)
    assert frames.shape == (2, 2, 3, 4) and (frames[0] == 7).all() and (frames[1] == 1).all()


def test_putting_a_host_picture_copies_it() -> None:
    place = np.zeros((2, 3, 4), np.uint8)
    put(np.full((2, 3, 4), 9, np.uint8), place)
    assert (place == 9).all()


def test_frames_decoded_beside_generation_are_those_decoded_alone() -> None:
    assert check_same("cpu", 3, "pocket") == {"frames": 24, "differing": 0, "ok": True}


def test_copies_into_a_mapped_file_arrive() -> None:
    assert check_copies("cpu", repeats=10)["ok"]
