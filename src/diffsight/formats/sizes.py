"""Sizes in the configuration of a network, before anything of that size is built."""

from collections.abc import Mapping
from typing import Any

from diffsight.errors import InputError

MIN_SIDE_PX = 16  # of an image
MAX_SIZE = 2**16  # of a width, a vocabulary, an image side ...
MAX_LAYERS = 256  # of a network


def check_sizes(where: str, values: Mapping[str, Any]) -> None:
    """Refuse the configuration of a network that nobody could build.

    Args:
        where: its file or key, for messages.
        values: of the configuration.

    Raises:
        InputError: for numbers of layers, widths and other sizes that are no sizes.
    """
    for name, value in values.items():
        most = MAX_LAYERS if "layers" in name or name == "depths" else MAX_SIZE
        numbers = value if isinstance(value, list | tuple) else [value]
        if len(numbers) > MAX_LAYERS or any(
            isinstance(number, int | float) and not -most <= number <= most for number in numbers
        ):
            raise InputError(f"{where}: {name} is out of range: give sizes up to {most}")
    for name in ("block_out_channels", "hidden_sizes"):
        widths = values.get(name, [1])
        if (
            not isinstance(widths, list | tuple)
            or not widths
            or not all(isinstance(width, int) and width > 0 for width in widths)
        ):
            raise InputError(f"{where}: {name} is {widths!r}: give a list of positive widths")
