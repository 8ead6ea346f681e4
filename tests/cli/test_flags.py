"""Flags that are made from signatures and docstrings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from diffsight.cli.flags import Flag, command


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


given: dict[str, Any] = {}


@command("draw", either=("red", "blue"))
def draw(
    files: Sequence[Path],
    *,
    kind: Literal["oil", "ink"] = "oil",
    scales: tuple[float, ...] = (1.0, 1.5),
    side: int | Literal["own"] = "own",
    mirror: bool | None = None,
    loud: bool = False,
    seed: int = 0,
    layer: Annotated[Sequence[str], Flag("NAME", repeat=True)] = (),
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
        red: text in red.
        blue: text in ``blue``
            and not in red.
        size: how large.
        later: how large it becomes.
    """
    given.update(locals())
    return 3


def test_defaults_are_those_of_the_signature() -> None:
    assert draw(["a", "b"]) == 3
    assert given["files"] == [Path("a"), Path("b")]
    assert (given["kind"], given["scales"], given["side"]) == ("oil", (1.0, 1.5), "own")
    assert (given["mirror"], given["loud"], list(given["layer"])) == (None, False, [])
    assert given["size"] == Size(height=64)


def test_words_become_values_of_the_annotated_types() -> None:
    words = "a --kind ink --scales 1,2.5 --side 32 --no-mirror --loud --layer x --layer y"
    assert draw([*words.split(), "--height", "8", "--blue", "sky"]) == 3
    assert (given["kind"], given["scales"], given["side"]) == ("ink", (1.0, 2.5), 32)
    assert (given["mirror"], given["loud"], given["layer"]) == (False, True, ["x", "y"])
    assert given["size"] == Size(height=8)
    assert (given["red"], given["blue"]) == (None, "sky")


def test_a_repeated_flag_does_not_keep_what_an_earlier_call_gave() -> None:
    draw(["a", "--layer", "x"])
    draw(["a", "--layer", "y"])
    assert given["layer"] == ["y"]


def test_an_object_that_is_completed_later_leaves_flags_of_the_same_name_to_others() -> None:
    draw(["a", "--height", "8", "--frame", "1"])
    assert given["later"].keywords == {"frame": 1}
    assert given["later"](height=3) == Framed(height=3, frame=1)


@pytest.mark.parametrize(
    "words", ["--red x --blue y", "--kind water", "--scales 1,x", "--side other", "--height x"]
)
def test_words_that_fit_no_flag_are_refused(words: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        draw(["a", *words.split()])


def test_help_is_the_docstring_with_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
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
    given.update(locals())
    return 0


def test_a_word_with_a_default_may_be_left_out() -> None:
    read(["--deep"])
    assert (given["file"], given["deep"]) == (None, True)
    read(["a"])
    assert given["file"] == Path("a")


def test_help_ends_with_the_examples_on_a_line_each(
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


def test_a_command_without_an_example_has_none_in_its_help() -> None:
    assert draw.parser().epilog == ""
