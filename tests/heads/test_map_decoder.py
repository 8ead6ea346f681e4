"""DDP's map decoder: attention, time, positions and number of parameters."""

import pytest
import torch
from tests.support import noise

from diffsight.errors import InputError
from diffsight.heads.map_decoder import (
    DeformableSelfAttention,
    MapDecoder,
    TimeEmbedding,
    pixel_centres,
    sine_positions,
)


def count_parameters(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(
    ("layers", "expected"), [(1, 2_407_016), (2, 3_614_664), (4, 6_029_960), (6, 8_445_256)]
)
def test_the_number_of_parameters_is_that_of_the_paper(layers: int, expected: int) -> None:
    """Decoder, time embedding and fusion; the paper states 2.4, 3.6, 6.0 and 8.4 million."""
    with torch.device("meta"):
        fuse = torch.nn.Conv2d(512, 256, 1)
        count = count_parameters(MapDecoder(layers=layers), TimeEmbedding(), fuse)
    assert count == expected


def test_the_number_of_parameters_of_one_layer() -> None:
    (layer,) = MapDecoder(layers=1).layers
    assert count_parameters(layer) == 1_207_648
    assert count_parameters(layer.attention) == 156_256
    assert count_parameters(layer.modulate) == 524_800


def test_initially_each_attention_head_averages_points_in_one_direction() -> None:
    """The points are 1 to 4 pixels away, with equal weights."""
    attention = DeformableSelfAttention(16, heads=8, points=4)
    tokens = noise(1, 63, 16, seed=1)
    attended = []
    attention.output.register_forward_pre_hook(lambda module, args: attended.append(args[0]))
    attention(tokens, torch.zeros(63, 16), (7, 9))
    value = attention.value(tokens).unflatten(1, (7, 9))[0]
    row, column = 3, 2
    right = value[row, [3, 4, 5, 6], :2].mean(dim=0)  # the first head looks to the right
    torch.testing.assert_close(attended[0][0, row * 9 + column, :2], right, rtol=1e-4, atol=1e-5)


def test_only_a_decoder_with_time_width_depends_on_the_time() -> None:
    torch.manual_seed(0)
    decoder = MapDecoder(width=16, layers=2, hidden=8, time_width=12)
    features, times = noise(1, 16, 5, 7, seed=1), noise(2, 12, seed=2)
    early, late = decoder(features, times[:1]), decoder(features, times[1:])
    assert early.shape == (1, 16, 5, 7)
    assert not torch.allclose(early, late)
    plain = MapDecoder(width=16, layers=2, hidden=8, time_width=None)
    assert torch.equal(plain(features, times[:1]), plain(features))


def test_positions_encode_rows_and_columns() -> None:
    positions = sine_positions((3, 5), 8)
    assert positions.shape == (15, 8)
    grid = positions.unflatten(0, (3, 5))
    # the first half of the channels encodes the row
    assert torch.equal(grid[1, 0, :4], grid[1, 4, :4])
    assert torch.equal(grid[0, 2, 4:], grid[2, 2, 4:])
    assert not torch.equal(grid[0, 0, :4], grid[1, 0, :4])
    torch.testing.assert_close(pixel_centres((1, 2)), torch.tensor([[0.25, 0.5], [0.75, 0.5]]))


def test_invalid_widths_and_layers_are_refused() -> None:
    for options in ({"width": 30}, {"width": 12, "heads": 8}, {"layers": 0}):
        with pytest.raises(InputError, match="a multiple of four and of the heads"):
            MapDecoder(**options)
