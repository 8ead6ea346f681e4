"""``diffsight recipes``: the list, one recipe, and unknown names."""

import json
import subprocess
import sys

import pytest

from diffsight import cli, recipes
from diffsight.cli.recipe import read


def test_all_recipes_are_listed_in_groups_with_their_first_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["recipes"]) == 0
    blocks = [block.splitlines() for block in capsys.readouterr().out.split("\n\n")]
    assert [block[0] for block in blocks] == list(recipes.groups())
    rows = dict(line.split(maxsplit=1) for block in blocks for line in block[1:])
    assert rows == {name: recipes.summary(name) for name in recipes.names()}
    assert rows["vpd/depth_nyu"].startswith("VPD, NYU Depth v2")
    assert cli.main(["recipes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows


def test_a_printed_recipe_equals_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "rooms/vpd_depth"]) == 0
    assert capsys.readouterr().out == recipes.find("rooms/vpd_depth").read_text()


def test_json_of_a_recipe_has_its_content(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "rooms/vpd_depth", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read("rooms/vpd_depth")


def test_an_unknown_name_gets_the_nearest_three(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes", "rooms/vpddepth"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "did you mean 'rooms/vpd_depth'? (next: 'rooms/" in error
    assert error.endswith("all: `diffsight recipes`)\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["vpd/depth_nyu"]])
def test_recipes_are_listed_and_printed_without_torch(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from diffsight.cli import main\n"
        "status = main(['recipes', *sys.argv[1:]])\n"
        "sys.exit(status or int(bool({'torch', 'numpy', 'jsonargparse'} & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
