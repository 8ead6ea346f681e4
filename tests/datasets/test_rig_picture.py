"""Views of several cameras are drawn side by side in one picture."""

import math

import torch

from diffsight.datasets.rig_picture import draw_rig, draw_views
from diffsight.rig import Rig


def test_wide_views_are_scaled_down_and_shown_in_two_rows() -> None:
    views = torch.stack([torch.full((3, 90, 800), 20 * i, dtype=torch.uint8) for i in range(1, 6)])
    sheet = draw_views(views)
    assert sheet.shape == (3, 2 * 45, 3 * 400)
    assert sheet[0, ::45, ::400].tolist() == [[20, 40, 60], [80, 100, 0]]
    assert torch.equal(draw_views(views[:1, :, :, :300]), views[0, :, :, :300])


def test_views_are_arranged_by_the_viewing_directions_of_the_cameras() -> None:
    # the order of the cameras is: front, front right, front left, back, back left, back right
    yaws_deg = (0.0, -55.0, 55.0, 180.0, 110.0, -110.0)
    for front_deg in (0.0, 90.0):  # the forward axis is x, or y as in nuScenes
        poses = torch.eye(4).repeat(1, 6, 1, 1)
        for view, yaw_deg in enumerate(yaws_deg):
            yaw = math.radians(front_deg + yaw_deg)
            poses[0, view, :2, 2] = torch.tensor([math.cos(yaw), math.sin(yaw)])
        shades = torch.arange(6, dtype=torch.uint8).reshape(1, 6, 1, 1, 1).expand(1, 6, 3, 2, 2)
        sheet = draw_rig(Rig(shades, poses, poses, poses))
        assert sheet[0, ::2, ::2].tolist() == [[2, 0, 1], [4, 3, 5]]
