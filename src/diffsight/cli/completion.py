"""``diffsight completion``: scripts that complete commands and their options in a shell."""

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diffsight.cli import COMMANDS
from diffsight.cli.flags import command

OPTION = re.compile(r"--[\w-]+")


@dataclass(frozen=True)
class Words:
    """The words that a command understands.

    Attributes:
        options: names of its options, with the dashes.
        values: what may follow an option, by its name; files are not listed.
        first: what may be its first word.
    """

    options: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    first: tuple[str, ...] = ()


@command("completion")
def main(shell: Literal["bash", "zsh", "fish"]) -> int:
    """Print a script that completes commands, options, and names of recipes in a shell.

    bash reads the file of the example by itself if the package bash-completion is installed; zsh
    reads a file _diffsight in a folder of $fpath, and fish
    ~/.config/fish/completions/diffsight.fish. Write the file anew after an update of diffsight.

    Args:
        shell: the shell.

    Example:
        diffsight completion bash > ~/.local/share/bash-completion/completions/diffsight
    """
    write = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]
    words = {name: words_of(name) for name in COMMANDS}
    sys.stdout.write("".join(f"{line}\n" for line in write(words)))
    return 0


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    module: Any = importlib.import_module(f"diffsight.cli.{name.replace('-', '_')}")
    if name == "fit":
        return module.fit_parser()
    if name == "pretrain":
        return module.pretrain_parser()
    return (module.few_shot if name == "benchmark" else module.main).parser()


def words_of(name: str) -> Words:
    """Return the words that a command understands, from its parser."""
    from diffsight import protocols, recipes

    known = {"recipe": recipes.names(), "protocol": protocols.names()}
    options: list[str] = []
    values: dict[str, tuple[str, ...]] = {}
    first = ("few-shot",) if name == "benchmark" else ()
    for action in parser_of(name)._actions:
        words = known.get(action.dest) or tuple(map(str, action.choices or ()))
        names = [option for option in action.option_strings if OPTION.fullmatch(option)]
        options += names
        values |= {option: words for option in names if words}
        if not action.option_strings:
            first = words
    return Words(tuple(options), values, first)


def _bash(commands: Mapping[str, Words]) -> Iterator[str]:
    yield "_diffsight() {"
    yield '    local name="${COMP_WORDS[1]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" position=$COMP_CWORD found=""'
    yield f'    if (( position == 1 )); then found="{" ".join(commands)} --help --version"; fi'
    yield from _cases(commands)
    yield '    COMPREPLY=($(compgen -W "$found" -- "$word"))'
    yield "}"
    yield "complete -o default -F _diffsight diffsight"  # default: files, where no word fits


def _zsh(commands: Mapping[str, Words]) -> Iterator[str]:
    yield "#compdef diffsight"
    yield "_diffsight() {"
    yield '    local name="$words[2]" before="$words[CURRENT-1]"'
    yield '    local word="$words[CURRENT]" position=$((CURRENT - 1)) found=""'
    yield "    if (( position == 1 )); then"
    yield "        local -a summaries=("
    yield from (f"            {shlex.quote(f'{name}:{COMMANDS[name]}')}" for name in commands)
    yield "        )"
    yield "        _describe command summaries"
    yield "        return"
    yield "    fi"
    yield from _cases(commands)
    yield "    compadd -- ${=found} || _files"
    yield "}"
    # as a file of $fpath it is the function itself; where it is sourced, it is registered
    yield 'if [[ "$funcstack[1]" == _diffsight ]]; then _diffsight "$@"'
    yield "else compdef _diffsight diffsight; fi"


def _cases(commands: Mapping[str, Words]) -> Iterator[str]:
    """Yield lines of bash and zsh that set ``found`` from name, before, word and position."""
    yield '    case "$name $before" in'
    for name, words in commands.items():
        for option, values in words.values.items():
            yield f'        "{name} {option}") found="{" ".join(values)}" ;;'
    yield "    esac"
    yield '    if [[ -z "$found" && "$word" == -* ]]; then case "$name" in'
    for name, words in commands.items():
        yield f'        {name}) found="{" ".join(words.options)}" ;;'
    yield "        esac"
    yield '    elif [[ -z "$found" ]] && (( position == 2 )); then case "$name" in'
    for name, words in commands.items():
        if words.first:
            yield f'        {name}) found="{" ".join(words.first)}" ;;'
    yield "        esac"
    yield "    fi"


def _fish(commands: Mapping[str, Words]) -> Iterator[str]:
    yield "function __diffsight_runs"  # whether a command was typed, or is to be typed now
    yield "    set -l words (commandline -opc)"
    yield '    test "$words[2]" = "$argv[1]"; and test (count $words) -le $argv[2]'
    yield "end"
    start = "complete -c diffsight"
    for name, words in commands.items():
        summary = shlex.quote(COMMANDS[name])
        yield f"{start} -n '__diffsight_runs \"\" 1' -f -a {name} -d {summary}"
        if words.first:
            yield f"{start} -n '__diffsight_runs {name} 2' -f -a '{' '.join(words.first)}'"
        for option in words.options:
            values = words.values.get(option, ())
            # -r: files too, as a recipe may be one; -x: no files
            takes = f" -{'r' if option == '--recipe' else 'x'} -a '{' '.join(values)}'"
            yield (
                f"{start} -n '__diffsight_runs {name} 999' -l {option.removeprefix('--')}"
                f"{takes if values else ''}"
            )
