"""Durations are formatted in suitable units."""

import pytest

from diffsight.formats.durations import format_duration


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
def test_a_duration_is_formatted_in_suitable_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
