"""One picture of several views."""

import math

import torch

from diffsight.datasets.rig_picture import contact_sheet, sheet_of
from diffsight.rig import Rig


def test_views_are_shown_in_rows_and_reduced() -> None:
    views = torch.stack([torch.full((3, 90, 800), 20 * i, dtype=torch.uint8) for i in range(1, 6)])
    sheet = contact_sheet(views)
    assert sheet.shape == (3, 2 * 45, 3 * 400)
    assert sheet[0, ::45, ::400].tolist() == [[20, 40, 60], [80, 100, 0]]
    assert torch.equal(contact_sheet(views[:1, :, :, :300]), views[0, :, :, :300])


def test_cameras_lie_side_by_side_as_they_look() -> None:
    """Front, front right, front left, back, back left, back right."""
    yaws_deg = (0.0, -55.0, 55.0, 180.0, 110.0, -110.0)
    for front_deg in (0.0, 90.0):  # forward is x, or y as in nuScenes
        poses = torch.eye(4).repeat(1, 6, 1, 1)
        for view, yaw_deg in enumerate(yaws_deg):
            yaw = math.radians(front_deg + yaw_deg)
            poses[0, view, :2, 2] = torch.tensor([math.cos(yaw), math.sin(yaw)])
        shades = torch.arange(6, dtype=torch.uint8).reshape(1, 6, 1, 1, 1).expand(1, 6, 3, 2, 2)
        sheet = sheet_of(Rig(shades, poses, poses, poses))
        assert sheet[0, ::2, ::2].tolist() == [[2, 0, 1], [4, 3, 5]]
