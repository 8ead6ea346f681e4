"""Objects are written as constructor calls: class path and arguments."""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffsight.config import Configurable, class_of, to_config
from diffsight.hub.build import typed_value
from diffsight.methods import LinearProbe
from diffsight.methods.base import make_builder


class NoConstructor(Configurable):
    """A class without a constructor."""


class Part(Configurable):
    def __init__(self, size: int, *, names: tuple[str, ...] = ("a", "b"), part: object = None):
        self.size = size


class HasUnrecorded(Configurable):
    unrecorded = frozenset({"output"})

    def __init__(self, *, output: object, width: int = 3) -> None:
        self.width = width


@dataclass(frozen=True, kw_only=True)
class Stage(Configurable):
    steps: int
    part: Configurable | None = None


@dataclass(frozen=True)
class Options:
    """Settings that are plain data."""

    rate: float = 0.5
    path: Path = Path("a/b")


def path_of(cls: type) -> str:
    return f"{__name__}.{cls.__qualname__}"


def test_a_class_without_a_constructor_has_no_arguments() -> None:
    assert to_config(NoConstructor()) == {"class_path": path_of(NoConstructor), "init_args": {}}


def test_a_configuration_has_all_defaults_and_parts() -> None:
    inner = to_config(Part(2, part=functools.partial(Part, size=4)))
    assert inner["init_args"]["names"] == ["a", "b"]
    assert inner["init_args"]["part"] == {
        "class_path": path_of(Part),
        "init_args": {"size": 4, "names": ["a", "b"], "part": None},
    }
    assert to_config(Part)["class_path"] == path_of(Part)


def test_a_plain_dataclass_is_written_as_its_fields() -> None:
    assert to_config(Options()) == {"rate": 0.5, "path": "a/b"}
    assert to_config(Part(1, part=Options(rate=2.0)))["init_args"]["part"]["rate"] == 2.0


def test_a_configurable_dataclass_is_written_as_a_constructor_call() -> None:
    assert to_config(Stage(steps=5, part=NoConstructor())) == {
        "class_path": path_of(Stage),
        "init_args": {"steps": 5, "part": {"class_path": path_of(NoConstructor), "init_args": {}}},
    }


def test_unrecorded_arguments_are_not_in_the_configuration() -> None:
    assert to_config(HasUnrecorded(output=object()))["init_args"] == {"width": 3}


def test_arguments_that_cannot_be_written_as_data_are_refused() -> None:
    with pytest.raises(TypeError, match="cannot be written into a recipe"):
        to_config(Part(1, part=object()))


def test_class_of_returns_the_class_that_a_builder_builds() -> None:
    assert class_of(Part) is Part
    assert class_of(functools.partial(Part, size=1)) is Part
    assert class_of(lambda output: Part(1)) is None
    builder = make_builder(LinearProbe, lambda output: pytest.fail("it is not called"))
    assert class_of(builder) is LinearProbe


def test_recorded_arguments_can_be_replaced_by_resolved_values() -> None:
    part = Part(1)
    part._restate({"names": ["x"]})
    assert to_config(part)["init_args"]["names"] == ["x"]
    assert part._arguments["size"] == 1


def test_an_infinite_number_is_written_as_text_that_is_read_as_a_number() -> None:
    for number, text in ((math.inf, ".inf"), (-math.inf, "-.inf")):
        assert to_config(Options(rate=number))["rate"] == text
        assert typed_value(float, text, source="rate") == number
