"""A model is run at the size of its training images, unless the user says otherwise."""

import pytest

from diffsight.inference.plan import ShortSide, short_side_px

TRAINED = {"info": {"training": {"short_side": 64}}}


@pytest.mark.parametrize(
    ("wish", "config", "expected"),
    [
        ("training", TRAINED, 64),
        ("training", {"info": {}}, None),
        ("own", TRAINED, None),
        (480, TRAINED, 480),
    ],
)
def test_short_side(wish: ShortSide, config: dict, expected: int | None) -> None:
    assert short_side_px(wish, config) == expected
