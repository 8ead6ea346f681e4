"""Constructor calls as data."""

from diffsight.config import Configurable, to_config


class Bare(Configurable):
    """No constructor of its own."""


def test_a_class_without_a_constructor() -> None:
    assert to_config(Bare()) == {"class_path": f"{__name__}.Bare", "init_args": {}}
