"""What training shows the model: chunks, recached histories, positions, and the mask in both its forms."""

import torch
from torch import Tensor

from everscene_engine.training.histories import make_histories, sees
from everscene_engine.training.teacher_forcing import BLOCK, block_mask, dense_mask

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


def test_a_chunk_ends_where_the_prompt_changes() -> None:
    histories = draw(rows(5, 8), cut_short=0.3)
    chunk = histories.chunk  # type: ignore[attr-defined]
    assert (chunk[:, 5] > chunk[:, 4]).all() and (chunk[:, 8] > chunk[:, 7]).all()


def test_chunks_are_never_longer_than_a_chunk() -> None:
    chunk = draw(rows(7), cut_short=0.3).chunk  # type: ignore[attr-defined]
    for clip in chunk:
        assert torch.bincount(clip).max() <= SINK


def test_some_chunks_are_cut_short() -> None:
    chunk = draw(rows(), cut_short=0.3).chunk  # type: ignore[attr-defined]
    assert any((torch.bincount(clip)[:-1] == 1).any() for clip in chunk)


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


def test_the_block_mask_is_the_dense_mask() -> None:
    frame_tokens = 48  # 28 latent frames of 48 tokens: blocks of 128 cross frames
    chunk = draw(rows(5, 8, clips=3), cut_short=0.3).chunk  # type: ignore[attr-defined]
    dense = dense_mask(chunk, frame_tokens, WINDOW)[:, 0]
    blocks = block_mask(chunk, frame_tokens, WINDOW)
    tokens = dense.shape[1]
    count = -(-tokens // BLOCK)
    listed = torch.zeros(3, count, count)
    for kind, (number, index) in enumerate(
        [(blocks.kv_num_blocks, blocks.kv_indices), (blocks.full_kv_num_blocks, blocks.full_kv_indices)], start=1
    ):
        for clip in range(3):
            for q in range(count):
                for k in index[clip, 0, q, : number[clip, 0, q]].tolist():
                    listed[clip, q, k] += kind
    padded = torch.zeros(3, count * BLOCK, count * BLOCK, dtype=torch.bool)
    padded[:, :tokens, :tokens] = dense
    tiles = padded.unflatten(1, (count, BLOCK)).unflatten(3, (count, BLOCK))
    assert torch.equal(listed > 0, tiles.any(4).any(2))
    whole = listed == 2
    last = count - 1
    assert torch.equal(whole[:, :last, :last], tiles.all(4).all(2)[:, :last, :last])
