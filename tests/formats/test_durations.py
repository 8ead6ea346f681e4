"""Times in the units that fit them."""

import pytest

from diffsight.formats.durations import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119.0, "119 s"),
        (150.0, "2 min"),
        (119.0 * 60, "119 min"),
        (2.0 * 3600 + 61, "2 h 01 min"),
        (50.0 * 3600, "2 days 2 h"),
    ],
)
def test_a_time_is_written_in_the_units_that_fit_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text
