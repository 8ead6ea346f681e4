"""One picture of several views."""

import torch

from diffsight.datasets.rig_picture import contact_sheet


def test_views_are_shown_in_rows_and_reduced() -> None:
    views = torch.stack([torch.full((3, 90, 800), 20 * i, dtype=torch.uint8) for i in range(1, 6)])
    sheet = contact_sheet(views)
    assert sheet.shape == (3, 2 * 45, 3 * 400)
    assert sheet[0, ::45, ::400].tolist() == [[20, 40, 60], [80, 100, 0]]
    assert torch.equal(contact_sheet(views[:1, :, :, :300]), views[0, :, :, :300])
