"""``diffsight completion``: the completions that shells offer for a command line."""

import contextlib
import io
import subprocess
from collections.abc import Callable

import pytest

from diffsight import cli, recipes
from diffsight.cli.completion import Completions, completions_of

Complete = Callable[..., set[str]]
BASH = "".join(
    f"{line}\n"
    for line in (
        'source "$1"; shift',
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))',
        "_diffsight",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    )
)


@pytest.fixture(scope="module")
def completions() -> dict[str, Completions]:
    return {name: completions_of(name) for name in cli.COMMANDS}


def script(shell: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli.main(["completion", shell]) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Complete:
    """Return a function that completes the last argument of a command line in bash."""
    path = tmp_path_factory.mktemp("completion") / "diffsight"
    path.write_text(script("bash"))

    def offered(*arguments: str) -> set[str]:
        run = ["bash", "--norc", "-c", BASH, "bash", str(path), "diffsight", *arguments]
        done = subprocess.run(run, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return set(done.stdout.split())

    return offered


def test_the_first_argument_is_completed_to_a_command(complete: Complete) -> None:
    assert complete("") == {*cli.COMMANDS, "--help", "--version"}
    assert complete("de") == {"demo", "describe"}


def test_options_of_every_command_are_offered(
    complete: Complete, completions: dict[str, Completions]
) -> None:
    for name, expected in completions.items():
        assert "--help" in expected.options
        assert complete(name, "--") == set(expected.options), name


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (("adapt", "--ki"), {"--kind"}),
        (("adapt", "--images", "photos", "--sn"), {"--snap"}),
        (("adapt", "--kind", ""), {"segmentation", "depth", "scalar", "normals", "vector"}),
        (("adapt", "--kind", "no"), {"normals"}),
        (("fit", "--batch"), {"--batch_size"}),
        (("fit", "--recipe", "rooms/vpd_d"), {"rooms/vpd_depth"}),
        (("evaluate", "--protocol", "nyu-e"), {"nyu-eigen-v1"}),
        (("recipes", "rooms/vpd_d"), {"rooms/vpd_depth"}),
        (("recipes", ""), set(recipes.names())),
        (("completion", ""), {"bash", "zsh", "fish"}),
        (("benchmark", "f"), {"few-shot"}),
        (("benchmark", "few-shot", "--shot"), {"--shots"}),
        (("benchmark", "few-shot", "--out", ""), set()),
        (("predict", "--out", "ph"), set()),
        (("no-command", "--"), set()),
    ],
)
def test_options_values_and_names_are_completed(
    complete: Complete, line: tuple[str, ...], offered: set[str]
) -> None:
    assert complete(*line) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_contain_all_commands_and_options(
    shell: str, completions: dict[str, Completions]
) -> None:
    text = script(shell)
    dashes = "-l " if shell == "fish" else "--"
    for name, expected in completions.items():
        lines = [line for line in text.splitlines() if name in line]
        for option in expected.options:
            assert any(option.replace("--", dashes, 1) in line for line in lines), (name, option)
