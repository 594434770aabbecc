"""What training shows the model: chunks, recached histories, positions, and the mask in both its forms."""

import pytest
import torch
from torch import Tensor

from everscene_engine.training.histories import make_histories, sees

SINK, WINDOW, REACH = 2, 3, 12


def rows(*changes: int, frames: int = 14, clips: int = 64) -> Tensor:
    """Prompt rows of clips whose prompt changes at these latent frames."""
    row = torch.zeros(frames, dtype=torch.long)
    row[SINK:] = 1
    for number, frame in enumerate(changes, start=2):
        row[frame:] = number
    return row.expand(clips, -1).clone()


def draw(prompt: Tensor, seed: int = 0, gap: int = 0, **options: float) -> object:
    generator = torch.Generator().manual_seed(seed)
    return make_histories(prompt, torch.full((len(prompt),), gap), SINK, REACH, generator, **options)  # type: ignore[arg-type]


def test_a_change_of_prompt_inside_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 2"):
        draw(rows(5))


def test_chunks_are_never_longer_than_a_chunk() -> None:
    assert set(draw(rows(), cut_short=1.0).lengths) <= {1, 2}  # type: ignore[attr-defined]


def test_the_lengths_are_those_of_the_chunks() -> None:
    histories = draw(rows(), cut_short=0.5)
    assert torch.bincount(histories.chunk).tolist() == list(histories.lengths)  # type: ignore[attr-defined]


def test_some_chunks_are_cut_short() -> None:
    assert 1 in draw(rows(), cut_short=0.5).lengths  # type: ignore[attr-defined]


def test_the_sink_is_whole() -> None:
    assert draw(rows(), cut_short=1.0).lengths[0] == SINK  # type: ignore[attr-defined]


def test_a_recached_history_stands_under_the_new_prompt_and_is_not_trained() -> None:
    histories = draw(rows(8), recached=1.0)
    assert (histories.clean_prompt[:, SINK:] == 2).all()  # type: ignore[attr-defined]
    assert (histories.clean_prompt[:, :SINK] == 0).all()  # type: ignore[attr-defined]
    assert not histories.trained[:, SINK:8].any()  # type: ignore[attr-defined]
    assert histories.trained[:, 8:].all()  # type: ignore[attr-defined]


def test_a_clip_without_a_change_is_trained_everywhere() -> None:
    assert draw(rows(), recached=1.0).trained.all()  # type: ignore[attr-defined]


def test_nothing_is_recached_for_a_cut() -> None:
    prompt = rows(8)
    is_cut = torch.zeros_like(prompt, dtype=torch.bool)
    is_cut[:, 8:10] = True
    generator = torch.Generator().manual_seed(0)
    gap = torch.zeros(len(prompt), dtype=torch.long)
    histories = make_histories(prompt, gap, SINK, REACH, generator, is_cut=is_cut, recached=1.0)
    assert torch.equal(histories.clean_prompt, histories.prompt)


def test_a_near_sink_keeps_its_distance() -> None:
    position = draw(rows(), gap=1).position  # type: ignore[attr-defined]
    assert (position[:, SINK] - position[:, 0] == SINK + 1).all()


def test_a_far_sink_stands_about_the_reach_away() -> None:
    position = draw(rows(), gap=5000).position  # type: ignore[attr-defined]
    distance = position[:, SINK] - position[:, 0]
    assert (distance <= REACH).all() and (distance > SINK).all()


def test_noisy_sees_the_past_and_itself_but_not_its_clean_twin() -> None:
    chunk = torch.tensor([0, 1, 2, 3, 4, 5])

    def keys(query: int, query_noisy: bool, key_noisy: bool) -> list[int]:
        seen = sees(torch.tensor(query), chunk, torch.tensor(query_noisy), torch.tensor(key_noisy), WINDOW)
        return chunk[seen].tolist()

    assert keys(5, True, False) == [0, 2, 3, 4]
    assert keys(5, True, True) == [5]
    assert keys(5, False, False) == [0, 2, 3, 4, 5]
    assert keys(5, False, True) == []
