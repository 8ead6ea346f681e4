"""Feature rearrangement: products of features and prompts."""

import torch
from torch.nn import functional

from diffsight.necks import Fused, PerLevel
from diffsight.types import Pyramid

CHANNELS, STRIDES = (4, 6, 8, 8), (8, 16, 32, 64)


def make_pyramid(height: int, width: int) -> Pyramid:
    generator = torch.Generator().manual_seed(0)
    features = tuple(
        torch.randn(2, c, -(-height // 2**i), -(-width // 2**i), generator=generator)
        for i, c in enumerate(CHANNELS)
    )
    return Pyramid(features, STRIDES, (8 * height - 3, 8 * width), (8 * height, 8 * width))


def test_per_level_multiplies_upsampled_features_with_each_prompt() -> None:
    torch.manual_seed(0)
    part = PerLevel(in_channels=CHANNELS, strides=STRIDES, prompts=5, dim=32).eval()
    inputs, prompts = make_pyramid(8, 16), torch.randn(2, 5, 32)
    products = part(inputs, prompts)
    assert part.out_channels == (5, 5, 5, 5)
    assert products.strides == part.out_strides == (4, 8, 16, 32)
    assert products.valid_hw == inputs.valid_hw
    assert products.covered_hw(0) == (64, 128)
    for level, x in enumerate(inputs.features):
        hidden = part.levels[level](functional.interpolate(x, scale_factor=2, mode="bilinear"))
        assert products.features[level].shape == (2, 5, 2 * x.shape[-2], 2 * x.shape[-1])
        one = (hidden[1, :, 1, 2] * prompts[1, 3]).sum()
        torch.testing.assert_close(products.features[level][1, 3, 1, 2], one, rtol=1e-4, atol=1e-4)


def test_fused_returns_one_map_per_prompt_at_the_finest_stride() -> None:
    torch.manual_seed(0)
    part = Fused(in_channels=CHANNELS, strides=STRIDES, prompts=5, dim=32, width=4).eval()
    for height, width in ((8, 16), (5, 7)):  # doubled levels of odd sides are larger
        fused = part(make_pyramid(height, width), torch.randn(2, 5, 32))
        assert [x.shape for x in fused.features] == [(2, 5, height, width)]
        assert fused.covered_hw(0) == (8 * height, 8 * width)
    assert (part.out_channels, part.out_strides) == ((5,), (8,))
    options = {"in_channels": CHANNELS, "strides": STRIDES, "prompts": 5, "dim": 32, "width": 4}
    features = Fused(**options, multiplies=False).eval()
    features.load_state_dict(part.state_dict())
    inputs, prompts = make_pyramid(8, 16), torch.randn(2, 5, 32)
    (joined,), (products,) = features(inputs, prompts).features, part(inputs, prompts).features
    assert features.out_channels == (32,)
    torch.testing.assert_close(products, torch.einsum("bdhw,bnd->bnhw", joined, prompts))
