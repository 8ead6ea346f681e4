import torch

from diffsight.ops.precision import without_autocast


def test_mixed_precision_is_off_inside() -> None:
    x = torch.rand(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with without_autocast(x):
            assert (x @ x).dtype == torch.float32
    with without_autocast(x.to("meta")):
        assert (x.to("meta") @ x.to("meta")).is_meta
