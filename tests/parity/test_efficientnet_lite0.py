"""EfficientNet-Lite0 against recorded arrays of its release, at the last block of each stride."""

from pathlib import Path

import pytest
import torch

from diffsight.backbones import EfficientNetLite0
from diffsight.backbones.efficientnet import CHANNELS
from tests.parity import fill_rule
from tests.parity.support import golden_paths, read_golden

BLOCKS = {2: 0, 4: 2, 8: 4, 16: 10, 32: 15}  # the last block of each stride
TOLERANCE = 1e-5  # of the golden array's largest absolute value


@pytest.mark.parametrize("path", golden_paths("efficientnet_lite0"), ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [(64, 96), (96, 160)])
def test_features_agree_at_every_stride(size: tuple[int, int], path: Path) -> None:
    golden = read_golden(path)
    name = f"{size[0]}x{size[1]}"
    image = fill_rule.image(f"efficientnet_lite0/img{name}", (1, 3, *size))
    network = EfficientNetLite0("efficientnet-lite0", levels=tuple(CHANNELS))
    with torch.inference_mode():
        features = network(torch.from_numpy(image)).features
    for stride, ours in zip(CHANNELS, features, strict=True):
        expected = torch.from_numpy(golden.arrays[f"{name}.block{BLOCKS[stride]}"])
        assert ours.shape == expected.shape
        assert float((ours - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())
