"""Rigs of several cameras: batches, single rows, and moved points."""

from dataclasses import replace

import pytest
import torch

from diffsight.datasets.base import Sample, collate
from diffsight.errors import InputError
from diffsight.rig import Rig
from tests.support import images, noise


def rig(seed: int = 0, *, views: int = 2, points: int | None = 7) -> Rig:
    pose = torch.eye(4).repeat(1, views, 1, 1)
    shown = (images(views, 16, 20, seed=seed)[None] * 255).to(torch.uint8)
    scan = None if points is None else (noise(points, 5, seed=seed),)
    return Rig(shown, pose, pose, pose, points=scan)


def sample(one: Rig | None) -> Sample:
    label = {"map": torch.zeros(1, 4, 4)}
    valid = {"map": torch.ones(4, 4, dtype=torch.bool)}
    return Sample("a", torch.zeros(3, 16, 20, dtype=torch.uint8), label, valid, rig=one)


def test_rows_of_a_joined_batch_equal_the_single_rigs() -> None:
    first, second = rig(0), rig(1, points=3)
    batch = Rig.joined([first, second])
    assert len(batch) == 2
    for one, row in zip((first, second), batch.each(), strict=True):
        assert torch.equal(row.images, one.images)
        assert torch.equal(row.points[0], one.points[0])
    assert torch.equal(batch.rows([1]).points[0], second.points[0])


def test_collate_gives_images_in_floats() -> None:
    one = rig()
    inputs = collate([sample(one), sample(rig(1))], "map").inputs
    torch.testing.assert_close(inputs.rig.images[:1], one.images / 255)
    assert torch.equal(inputs.rig.in_bytes().images[:1], one.images)
    assert collate([sample(None)], "map").inputs.rig is None


def test_points_move_with_the_frame_and_keep_intensity_and_age() -> None:
    change = torch.eye(4)
    change[:2, :2], change[:3, 3] = (
        torch.tensor([[0.0, -1.0], [1.0, 0.0]]),
        torch.tensor([1.0, 2, 3]),
    )
    one = rig()
    (moved,) = replace(one, vehicle_change=change[None]).moved_points()
    (points,) = one.points
    expected = torch.stack([1 - points[:, 1], 2 + points[:, 0], 3 + points[:, 2]], dim=1)
    torch.testing.assert_close(moved[:, :3], expected)
    assert torch.equal(moved[:, 3:], points[:, 3:])
    assert one.moved_points() is one.points


def test_rigs_of_different_layouts_are_not_joined() -> None:
    with pytest.raises(InputError, match=r"differ \(1 of 20 x 16 px, 2 of 20 x 16 px\): use"):
        Rig.joined([rig(), rig(views=1)])
    with pytest.raises(InputError, match="only some samples of a batch have points"):
        Rig.joined([rig(), rig(points=None)])
    with pytest.raises(InputError, match="some samples of a batch have several cameras"):
        collate([sample(rig()), sample(None)], "map")


def test_images_in_bytes_and_floats_are_joined_in_one_range() -> None:
    one = rig()
    batch = Rig.of_samples([one, one.in_floats()], torch.bfloat16)
    assert batch.images.dtype == torch.bfloat16
    assert torch.equal(batch.images[0], batch.images[1])
    assert float(batch.images.max()) <= 1
    assert batch.intrinsics.dtype == torch.float32
    assert one.layout() == rig(1).layout()
    assert one.layout() != rig(points=None).layout()
