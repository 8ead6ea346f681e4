"""Command-line flags are generated from function signatures and docstrings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of a picture.

    Attributes:
        height: pixels of the height.
        width: pixels of the width (default: the height).
    """

    height: int = 64
    width: int | None = None


@dataclass(frozen=True, kw_only=True)
class Framed(Size):
    """Size of a picture with a frame.

    Attributes:
        frame: pixels of the frame, at most 10 % of the height.
    """

    frame: int = 2


received: dict[str, Any] = {}


@command("draw", exclusive=("red", "blue"))
def draw(
    files: Sequence[Path],
    *,
    kind: Literal["oil", "ink"] = "oil",
    scales: tuple[float, ...] = (1.0, 1.5),
    side: int | Literal["own"] = "own",
    mirror: bool | None = None,
    loud: bool = False,
    seed: int = 0,
    layer: Annotated[Sequence[str], Flag("NAME", repeatable=True)] = (),
    pair: Annotated[Sequence[str], Flag(("FIRST", "SECOND"))] = (),
    hw: Annotated[Sequence[int], Flag("PX")] = (),
    red: str | None = None,
    blue: str | None = None,
    size: Size,
    later: partial[Framed],
) -> int:
    """Draw pictures.

    The status is 3.

    Args:
        files: where they go.
        kind: kind of paint.
        scales: of the picture.
        side: pixels of a side.
        mirror: draw the mirror image.
        loud: say so.
        seed: seed of everything random.
        layer: name of a layer.
        pair: two names.
        hw: height and width.
        red: text in red.
        blue: text in ``blue``
            and not in red.
        size: how large.
        later: how large it becomes.
    """
    received.update(locals())
    return 3


def test_defaults_are_those_of_the_signature() -> None:
    assert draw(["a", "b"]) == 3
    assert received["files"] == [Path("a"), Path("b")]
    assert (received["kind"], received["scales"], received["side"]) == ("oil", (1.0, 1.5), "own")
    assert (received["mirror"], received["loud"], list(received["layer"])) == (None, False, [])
    assert received["size"] == Size(height=64)


def test_arguments_are_converted_to_the_annotated_types() -> None:
    arguments = "a --kind ink --scales 1,2.5 --side 32 --no-mirror --loud --layer x --layer y"
    assert draw([*arguments.split(), "--height", "8", "--blue", "sky"]) == 3
    assert (received["kind"], received["scales"], received["side"]) == ("ink", (1.0, 2.5), 32)
    assert (received["mirror"], received["loud"], received["layer"]) == (False, True, ["x", "y"])
    assert received["size"] == Size(height=8)
    assert (received["red"], received["blue"]) == (None, "sky")


def test_a_repeatable_flag_does_not_keep_values_of_an_earlier_call() -> None:
    draw(["a", "--layer", "x"])
    draw(["a", "--layer", "y"])
    assert received["layer"] == ["y"]


def test_a_partial_gets_only_the_flags_that_no_other_parameter_has() -> None:
    draw(["a", "--height", "8", "--frame", "1"])
    assert received["later"].keywords == {"frame": 1}
    assert received["later"](height=3) == Framed(height=3, frame=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a --red x --blue y", "argument --blue: not allowed with argument --red"),
        ("a --kind water", "argument --kind: invalid choice: 'water'"),
        ("a --scales 1,x", "argument --scales: invalid comma_separated_list value: '1,x'"),
        ("a --side other", "argument --side: invalid size value: 'other'"),
        ("a --height x", "argument --height: invalid int value: 'x': see `diffsight draw --help`"),
        ("a --hight 3", "unknown option --hight: did you mean '--height'?"),
        ("a --hight=3", "unknown option --hight: did you mean '--height'?"),
        ("", "the following arguments are required: "),
    ],
)
def test_invalid_values_are_refused_in_one_line(arguments: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        draw(arguments.split())


def test_help_shows_the_docstring_and_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        draw(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "usage: diffsight draw" in text
    assert "Draw pictures. The status is 3." in text
    for part in (
        "[--red RED | --blue BLUE]",
        "--kind {oil,ink} kind of paint (default: oil)",
        "of the picture (default: 1,1.5)",
        "--side N|own pixels of a side (default: own)",
        "--seed N seed of everything random (default: 0)",
        "--loud say so --",
        "--layer NAME name of a layer --",
        "text in `blue` and not in red size:",
        "size: how large --height N pixels of the height (default: 64)",
        "pixels of the width (default: the height)",
        "--frame N pixels of the frame, at most 10 % of the height (default: 2)",
    ):
        assert part in text, part


@command("read")
def read(file: Path | None = None, *, deep: bool = False) -> int:
    """Read a file.

    Args:
        file: to read (default: all).
        deep: read all of it.

    Example:
        diffsight read a-file-with-a-long-name-in-a-folder/with-a-long-name-too.txt --deep
        diffsight read > all.txt
    """
    received.update(locals())
    return 0


def test_a_positional_argument_with_a_default_is_optional() -> None:
    read(["--deep"])
    assert (received["file"], received["deep"]) == (None, True)
    read(["a"])
    assert received["file"] == Path("a")


def test_help_ends_with_one_line_per_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    with pytest.raises(SystemExit, match="0"):
        read(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "example: diffsight read a-file-with-a-long-name-in-a-folder/with-a-long-name-too.txt "
        "--deep",
        "         diffsight read > all.txt",
    ]
    assert not any("Example" in line for line in lines)


def test_help_has_no_example_if_the_docstring_has_none() -> None:
    assert draw.parser().epilog == ""


def test_the_values_of_a_list_that_is_given_twice_are_joined() -> None:
    @command("copy")
    def copy(*, files: Sequence[Path] = (), sides: tuple[int, ...] = (1,)) -> int:
        """Copy files.

        Args:
            files: where they are.
            sides: of the copies.
        """
        received.update(locals())
        return 0

    copy(["--files", "a", "b", "--files", "c", "--sides", "2,3", "--sides", "4"])
    assert received["files"] == [Path("a"), Path("b"), Path("c")]
    assert received["sides"] == (2, 3, 4)
    copy(["--files", "d"])  # nothing is left of the call before
    assert received["files"] == [Path("d")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--kind ink --kind oil", "--kind is given twice: ink and oil: leave one of them out"),
        ("--seed 1 --seed 1", "--seed is given twice: 1 and 1"),
        ("--se 1 --seed=2", "--seed is given twice: 1 and 2"),
        ("--height 1 --height 2", "--height is given twice"),
        ("--red x --red y", "--red is given twice"),
        ("--mirror --no-mirror", "--mirror and --no-mirror exclude each other"),
        ("--pair a b --pair c d", "--pair is given twice: a b and c d"),
        ("--hw 8 --hw 4", "--hw is given twice: 8 and 4"),
    ],
)
def test_a_single_value_that_is_given_twice_is_refused(arguments: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        draw(["a", *arguments.split()])


def test_a_switch_may_be_given_twice() -> None:
    assert draw(["a", "--loud", "--loud", "--mirror", "--mirror"]) == 3
    assert (received["loud"], received["mirror"]) == (True, True)
