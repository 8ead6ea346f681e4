"""Pictures of explanations: sheets of maps, bar charts, and codebook charts."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from diffsight.inference.explain_pictures import (
    BAR_PX,
    BLUE,
    CELL_PX,
    INK,
    LABEL_PX,
    RED,
    draw_bar_chart,
    draw_codebook_chart,
    draw_concept_sheet,
    draw_map_sheet,
)

GREY = torch.full((3, 20, 40), 0.5)
PREDICTION = torch.zeros(3, 20, 40, dtype=torch.uint8)


def sheet(probability: torch.Tensor, names: Sequence[str] | None = None) -> Image.Image:
    classes = [
        {
            "class": names[i] if names else f"class {i}",
            "weight": float(each.mean()),
            "largest": float(each.max()),
        }
        for i, each in enumerate(probability)
    ]
    return draw_concept_sheet(GREY, PREDICTION, probability, classes)


def uniform(count: int) -> torch.Tensor:
    return torch.full((count, 20, 40), 1 / count)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def count(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((pixels(image) == colour).all(axis=-1).sum())


def test_the_sheet_has_a_cell_for_the_image_the_prediction_and_every_class() -> None:
    four, eight, nine = (sheet(uniform(n)) for n in (2, 6, 7))
    assert eight.width - four.width == 4 * (CELL_PX + 8)
    assert four.height == eight.height
    assert nine.width == eight.width
    assert nine.height - eight.height > CELL_PX / 2  # another row of cells


def test_at_most_fifty_maps_are_drawn_those_with_the_largest_weights() -> None:
    few, many = sheet(uniform(50)), sheet(uniform(150))
    assert many.size == few.size
    weights = torch.arange(1, 53).float()
    maps = (weights / weights.sum())[:, None, None].expand(-1, 20, 40)
    long = "the same for all others"
    one = sheet(maps, ["not drawn", "not drawn either", *[long] * 50])
    other = sheet(maps, ["another name", "a third name", *[long] * 50])
    assert np.array_equal(pixels(one), pixels(other))


def test_a_sheet_of_maps_says_how_many_of_them_are_drawn() -> None:
    maps = {f"prompt {i}": one for i, one in enumerate(uniform(60))}
    first = dict(list(maps.items())[:50])
    many, few = (draw_map_sheet(GREY, PREDICTION, one, "products") for one in (maps, first))
    assert many.size == few.size
    differs = (pixels(many) != pixels(few)).any(axis=(1, 2))
    assert differs[:30].any()  # the heading
    assert not differs[39:].any()


def test_each_map_is_brightest_at_its_own_maximum() -> None:
    ramp = torch.linspace(0.01, 0.02, 40).expand(1, 20, 40)
    drawn = pixels(sheet(torch.cat([ramp, torch.full_like(ramp, 0.3)])))
    row = drawn[39 + CELL_PX // 4].sum(axis=-1)
    step = CELL_PX + 8
    ramp_row = row[8 + 2 * step :][:CELL_PX]
    assert ramp_row[-10] > ramp_row[10] + 60
    flat = row[8 + 3 * step :][:CELL_PX]
    assert flat.max() - flat.min() <= 2
    assert flat[0] >= ramp_row[-1] - 2  # a constant map is at its maximum everywhere


def test_the_longest_bar_of_each_column_has_full_length() -> None:
    chart = draw_bar_chart(["a", "b", "nothing"], {"one": [0.1, 0.05, 0.0], "two": [0.5, 1.0, 0.0]})
    blue = (pixels(chart) == BLUE).all(axis=-1)
    first = blue[:, LABEL_PX : LABEL_PX + BAR_PX + 2].sum(axis=1)
    assert sorted(set(first.tolist())) == pytest.approx([0, BAR_PX / 2, BAR_PX], abs=2)
    second = blue[:, LABEL_PX + BAR_PX + 2 :].sum(axis=1)
    assert second.argmax() > first.argmax()  # row b has the longest bar of the second column


def test_long_labels_are_truncated_before_the_bars() -> None:
    chart = pixels(draw_bar_chart(["name " * 40], {"weight": [0.0]}))
    assert (chart[30:, LABEL_PX : LABEL_PX + BAR_PX] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_mixed_values_are_drawn_only_for_several_tables(channels: int) -> None:
    centres = torch.linspace(0, 1, 6)[:, None].expand(6, channels)
    tables = centres + torch.tensor([0.1, -0.2, 0.3])[:, None, None]
    one = draw_codebook_chart(centres, tables[0], tables[:1], None, "m")
    several = draw_codebook_chart(centres, tables.mean(dim=0), tables, torch.full((3,), 1 / 3), "m")
    assert count(one, RED) == 0
    assert count(several, RED) > 200 * channels
    assert count(one, BLUE) > 200 * channels
    assert several.height > one.height


def test_a_codebook_of_equal_values_can_be_drawn() -> None:
    same = torch.full((4, 1), 5.0)
    chart = draw_codebook_chart(same, same, same[None], None, "")
    assert count(chart, INK) > 2 * 300  # a line in each panel
