"""Windows over an image, and the average and standard deviation of their maps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffsight.ops.tiles import PassAverage, make_windows, window_starts


@pytest.mark.parametrize(
    ("height", "width", "windows", "starts"),
    [
        (480, 640, 2, [0, 160]),  # VPD on NYU
        (352, 1216, 4, [0, 288, 576, 864]),  # EVP on KITTI in training
        # here the windows of the authors' code leave out 6 columns, and in the next row 9
        (480, 640, 8, [0, 22, 44, 66, 88, 110, 132, 160]),
        (352, 1216, 20, [45 * i for i in range(19)] + [864]),
        (64, 64, 3, [0]),
        (64, 65, 5, [0, 1]),
        (10, 35, 2, [0, 10, 20, 25]),  # two square windows cannot cover the image, so four are used
    ],
)
def test_windows_start_at_the_expected_pixels(
    height: int, width: int, windows: int, starts: list[int]
) -> None:
    assert window_starts(width, height, windows) == starts
    landscape = make_windows(height, width, windows)
    assert landscape == [(slice(0, height), slice(s, s + height)) for s in starts]
    portrait = make_windows(width, height, windows)
    assert portrait == [(columns, rows) for rows, columns in landscape]


def test_windows_of_the_released_code_leave_out_columns_at_the_far_edge() -> None:
    kitti = window_starts(1216, 352, 16, covers=False)  # Meta Prompts
    assert kitti == [57 * i for i in range(16)]
    assert kitti[-1] + 352 == 1216 - 9
    assert window_starts(1216, 352, 16)[-1] == 864
    average = PassAverage(2, 5)
    for columns in (slice(0, 2), slice(1, 3)):
        average.add(torch.ones(1, 2, 2), (slice(0, 2), columns))
    assert average.mean()[0, 0].isnan().tolist() == [False, False, False, True, True]


def test_one_window_is_the_whole_image() -> None:
    assert make_windows(20, 30, 1) == [(slice(0, 20), slice(0, 30))]


@given(st.integers(1, 40), st.integers(0, 400), st.integers(2, 30))
def test_windows_cover_every_pixel(side: int, slack: int, windows: int) -> None:
    starts = window_starts(side + slack, side, windows)
    covered = torch.zeros(side + slack)
    for start in starts:
        assert 0 <= start <= slack
        covered[start : start + side] += 1
    assert covered.min() >= 1
    assert starts == sorted(set(starts))


def test_averaging_windows_and_flips_equals_the_authors_code() -> None:
    """The authors average mirrored passes first, and then windows by coverage."""
    torch.manual_seed(0)
    windows = make_windows(6, 10, 2)
    passes = torch.randn(len(windows), 2, 3, 6, 6, dtype=torch.float64).float()
    average = PassAverage(6, 10)
    for window, pair in zip(windows, passes, strict=True):
        for maps in pair:
            average.add(maps, window)
    total, count = torch.zeros(3, 6, 10), torch.zeros(6, 10)
    for (rows, columns), pair in zip(windows, passes, strict=True):
        total[:, rows, columns] += pair.mean(dim=0)
        count[rows, columns] += 1
    torch.testing.assert_close(average.mean(), total / count)
    both = torch.cat([passes[0, ..., 5], passes[1, ..., 1]])
    torch.testing.assert_close(average.std()[:, :, 5], both.std(dim=0, correction=0))
    torch.testing.assert_close(average.std()[:, :, 0], passes[0, ..., 0].std(dim=0, correction=0))


def test_the_standard_deviation_of_a_single_pass_is_nan() -> None:
    average = PassAverage(2, 4)
    average.add(torch.full((1, 2, 2), 1.0), (slice(0, 2), slice(0, 2)))
    average.add(torch.full((1, 2, 3), 3.0), (slice(0, 2), slice(1, 4)))
    assert average.passes == 2
    torch.testing.assert_close(average.mean()[0, 0], torch.tensor([1.0, 2.0, 3.0, 3.0]))
    torch.testing.assert_close(
        average.std()[0, 0], torch.tensor([torch.nan, 1.0, torch.nan, torch.nan]), equal_nan=True
    )


def test_the_standard_deviation_is_accurate_for_large_values() -> None:
    average = PassAverage(1, 1)
    for value in (9999.0, 10001.0):
        average.add(torch.full((1, 1, 1), value), (slice(0, 1), slice(0, 1)))
    assert average.std().item() == pytest.approx(1.0)
