"""Losses for box labels against direct computation, and boxes of transformed images."""

import math

import pytest
import torch

from diffsight.losses.boxes import partial_label_nll, projection_nll
from diffsight.types import Boxes, Target


def boxes(*rows: tuple[int, float, float, float, float], whole: bool = True) -> Boxes:
    """Return boxes from rows of class, left, top, right and bottom."""
    edges = torch.tensor([row[1:] for row in rows], dtype=torch.float)
    return Boxes(torch.tensor([row[0] for row in rows]), edges, torch.full((len(rows),), whole))


def log_probability() -> torch.Tensor:
    logits = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    return logits.log_softmax(dim=1)


def test_unlabelled_pixels_in_boxes_may_be_background_or_a_class_of_their_boxes() -> None:
    log_p, valid = log_probability(), torch.zeros(1, 4, 5, dtype=torch.bool)
    valid[0, 1, 1] = True
    overlapping = boxes((1, 1, 1, 3, 3), (2, 2, 2, 5, 4))
    total, count = partial_label_nll(log_p, (overlapping,), valid)
    p = log_p[0].exp()
    expected, pixels = 0.0, 0
    for y in range(4):
        for x in range(5):
            allowed = {
                number
                for number, left, top, right, bottom in ((1, 1, 1, 3, 3), (2, 2, 2, 5, 4))
                if left <= x < right and top <= y < bottom
            }
            if allowed and not valid[0, y, x]:
                expected -= math.log(sum(float(p[c, y, x]) for c in {0, *allowed}))
                pixels += 1
    assert int(count) == pixels == 8
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_the_projection_loss_is_the_mean_over_rows_and_columns_of_the_boxes() -> None:
    log_p = log_probability()
    part = log_p[0, 2, 1:3, 1:4]
    expected = -(part.amax(dim=1).sum() + part.amax(dim=0).sum()) / 5
    one, other = boxes((2, 1, 1, 4, 3)), boxes((1, 0, 0, 5, 4))
    assert float(projection_nll(log_p, (one,))) == pytest.approx(float(expected), rel=1e-6)
    both = (float(expected) + float(projection_nll(log_p, (other,)))) / 2
    several = boxes((2, 1, 1, 4, 3), (1, 0, 0, 5, 4))
    assert float(projection_nll(log_p, (several,))) == pytest.approx(both, rel=1e-6)
    cut = boxes((1, 0, 0, 5, 4), whole=False)
    assert float(projection_nll(log_p, (cut,))) == 0
    batch = projection_nll(log_p.expand(2, -1, -1, -1), (None, one))
    assert float(batch) == pytest.approx(float(expected), rel=1e-6)


def test_without_boxes_both_losses_and_their_gradients_are_zero() -> None:
    log_p = log_probability().requires_grad_()
    valid = torch.ones(1, 4, 5, dtype=torch.bool)
    total, count = partial_label_nll(log_p, (None,), valid)
    (total + projection_nll(log_p, (None,))).backward()
    assert float(total.detach()) == float(count) == 0
    assert log_p.grad is not None
    assert float(log_p.grad.abs().max()) == 0


def test_boxes_are_resized_mirrored_and_cropped_like_their_image() -> None:
    one = boxes((1, 2, 4, 10, 12))
    assert one.resized((20, 40), (10, 10)).edges.tolist() == [[0.5, 2, 2.5, 6]]
    assert one.mirrored(40).edges.tolist() == [[30, 4, 38, 12]]
    window = one.cropped(5, 0, 30, 40)
    assert window.edges.tolist() == [[2, 0, 10, 7]]
    assert window.is_whole.tolist() == [False]
    assert one.cropped(4, 2, 8, 8).is_whole.tolist() == [True]
    assert len(one.cropped(12, 0, 8, 8).class_ids) == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_box_covers_the_pixels_whose_centre_it_contains_or_else_one_pixel(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(2, generator=generator).sort().values * side for side in (30, 20))
    one = boxes((1, float(x[0]), float(y[0]), float(x[1]), float(y[1])))
    ((rows, columns),) = one.windows((20, 30))
    for span, (low, high), size in ((rows, y.tolist(), 20), (columns, x.tolist(), 30)):
        inside = [i for i in range(size) if low <= i + 0.5 < high]
        assert list(range(size))[span] == (inside or [int((low + high) / 2)])


def test_a_target_moves_its_boxes_to_the_device() -> None:
    target = Target(torch.zeros(1, 2, 2), torch.ones(1, 2, 2).bool(), (boxes((1, 0, 0, 1, 1)),))
    moved = target.to("meta")
    assert moved.boxes is not None
    assert moved.boxes[0] is not None
    assert moved.boxes[0].edges.device.type == "meta"
