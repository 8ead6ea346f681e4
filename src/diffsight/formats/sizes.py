"""Check the sizes in the configuration of a network before anything of that size is built."""

from collections.abc import Mapping
from typing import Any

from diffsight.errors import InputError

MIN_SIDE_PX = 16  # smallest side of an image
MAX_SIZE = 2**16  # largest width, vocabulary size, image side ...
MAX_LAYERS = 256  # largest number of layers


def check_sizes(source: str, values: Mapping[str, Any]) -> None:
    """Refuse a network configuration with impossible or huge sizes.

    Args:
        source: file or key of the configuration, for messages.
        values: values of the configuration by key.

    Raises:
        InputError: if a number of layers, a width or another size is out of range.
    """
    for name, value in values.items():
        limit = MAX_LAYERS if "layers" in name or name == "depths" else MAX_SIZE
        numbers = value if isinstance(value, list | tuple) else [value]
        if len(numbers) > MAX_LAYERS or any(
            isinstance(number, int | float) and not -limit <= number <= limit for number in numbers
        ):
            raise InputError(f"{source}: {name} is out of range: give sizes up to {limit}")
    for name in ("block_out_channels", "hidden_sizes"):
        widths = values.get(name, [1])
        if (
            not isinstance(widths, list | tuple)
            or not widths
            or not all(isinstance(width, int) and width > 0 for width in widths)
        ):
            raise InputError(f"{source}: {name} is {widths!r}: give a list of positive widths")
