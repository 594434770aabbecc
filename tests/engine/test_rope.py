import pytest
import torch

from everscene_engine.rope import axis_pairs, rotate, rotation, time_shift


@pytest.mark.parametrize("frame", [0, 1023, 1024, 5000, 2_400_000])
def test_rotation_equals_complex_numbers_in_double_precision(frame: int) -> None:
    head_dim, rows, columns = 128, 2, 3
    time, row, column = axis_pairs(head_dim)
    assert (time, row, column) == (22, 21, 21)
    x = torch.randn(1, rows * columns, 2, head_dim, dtype=torch.float64)
    turned = rotate(x.float(), rotation(torch.tensor([frame]), rows, columns, head_dim))
    expected = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()).clone()
    for token in range(rows * columns):
        positions = [frame] * time + [token // columns] * row + [token % columns] * column
        pair = [*range(time), *range(row), *range(column)]
        count = [time] * time + [row] * row + [column] * column
        angles = torch.tensor(
            [p * 10000.0 ** (-k / n) for p, k, n in zip(positions, pair, count, strict=True)], dtype=torch.float64
        )
        expected[:, token] *= torch.polar(torch.ones_like(angles), angles)
    reference = torch.view_as_real(expected).flatten(-2)
    torch.testing.assert_close(turned.double(), reference, atol=2e-6, rtol=0)


def test_a_shift_in_time_equals_a_later_position() -> None:
    x = torch.randn(1, 6, 2, 24)
    device = torch.device("cpu")
    shifted = rotate(rotate(x, rotation(torch.tensor([7]), 2, 3, 24)), time_shift(1000, 24, device))
    torch.testing.assert_close(shifted, rotate(x, rotation(torch.tensor([1007]), 2, 3, 24)), atol=1e-5, rtol=0)


def test_positions_may_differ_between_clips() -> None:
    x = torch.randn(2, 4, 1, 24)
    together = rotate(x, rotation(torch.tensor([[3], [90]]), 2, 2, 24))
    for clip, frame in enumerate((3, 90)):
        alone = rotate(x[clip : clip + 1], rotation(torch.tensor([frame]), 2, 2, 24))
        torch.testing.assert_close(together[clip : clip + 1], alone)
