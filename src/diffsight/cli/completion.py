"""``diffsight completion``: scripts for the completion of commands and options in a shell."""

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
class Completions:
    """Completions for the command line of one command.

    Attributes:
        options: names of its options, with the dashes.
        values: values of an option, by its name; options with any value are missing.
        first: values of its first positional argument; empty for any value.
    """

    options: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    first: tuple[str, ...] = ()


@command("completion")
def main(shell: Literal["bash", "zsh", "fish"]) -> int:
    """Print a script that completes commands, options and recipe names in a shell.

    Write the script to a file that your shell loads. bash, with the package bash-completion: the
    file of the example. zsh: a file _diffsight in a folder of $fpath. fish:
    ~/.config/fish/completions/diffsight.fish. Write it again after an update of diffsight.

    Args:
        shell: shell that loads the script.

    Example:
        diffsight completion bash > ~/.local/share/bash-completion/completions/diffsight
    """
    write = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]
    completions = {name: completions_of(name) for name in COMMANDS}
    sys.stdout.write("".join(f"{line}\n" for line in write(completions)))
    return 0


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    module: Any = importlib.import_module(f"diffsight.cli.{name.replace('-', '_')}")
    if name == "fit":
        return module.fit_parser()
    if name == "pretrain":
        return module.pretrain_parser()
    return (module.few_shot if name == "benchmark" else module.main).parser()


def completions_of(name: str) -> Completions:
    """Return the completions of a command, from its parser."""
    from diffsight import protocols, recipes

    names_of = {"recipe": recipes.names(), "protocol": protocols.names()}
    options: list[str] = []
    values: dict[str, tuple[str, ...]] = {}
    first = ("few-shot",) if name == "benchmark" else ()
    for action in parser_of(name)._actions:
        choices = names_of.get(action.dest) or tuple(map(str, action.choices or ()))
        names = [option for option in action.option_strings if OPTION.fullmatch(option)]
        options += names
        values |= {option: choices for option in names if choices}
        if not action.option_strings:
            first = choices
    return Completions(tuple(options), values, first)


def _bash(commands: Mapping[str, Completions]) -> Iterator[str]:
    yield "_diffsight() {"
    yield '    local name="${COMP_WORDS[1]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" position=$COMP_CWORD candidates=""'
    yield f'    if (( position == 1 )); then candidates="{" ".join(commands)} --help --version"; fi'
    yield from _cases(commands)
    yield '    COMPREPLY=($(compgen -W "$candidates" -- "$word"))'
    yield "}"
    # -o default: complete files if nothing matches
    yield "complete -o default -F _diffsight diffsight"


def _zsh(commands: Mapping[str, Completions]) -> Iterator[str]:
    yield "#compdef diffsight"
    yield "_diffsight() {"
    yield '    local name="$words[2]" before="$words[CURRENT-1]"'
    yield '    local word="$words[CURRENT]" position=$((CURRENT - 1)) candidates=""'
    yield "    if (( position == 1 )); then"
    yield "        local -a summaries=("
    yield from (f"            {shlex.quote(f'{name}:{COMMANDS[name]}')}" for name in commands)
    yield "        )"
    yield "        _describe command summaries"
    yield "        return"
    yield "    fi"
    yield from _cases(commands)
    yield "    compadd -- ${=candidates} || _files"
    yield "}"
    # a file of $fpath is the body of the function; a sourced file must register the function
    yield 'if [[ "$funcstack[1]" == _diffsight ]]; then _diffsight "$@"'
    yield "else compdef _diffsight diffsight; fi"


def _cases(commands: Mapping[str, Completions]) -> Iterator[str]:
    """Yield lines of bash and zsh that set ``candidates`` from name, before, word and position."""
    yield '    case "$name $before" in'
    for name, own in commands.items():
        for option, values in own.values.items():
            yield f'        "{name} {option}") candidates="{" ".join(values)}" ;;'
    yield "    esac"
    yield '    if [[ -z "$candidates" && "$word" == -* ]]; then case "$name" in'
    for name, own in commands.items():
        yield f'        {name}) candidates="{" ".join(own.options)}" ;;'
    yield "        esac"
    yield '    elif [[ -z "$candidates" ]] && (( position == 2 )); then case "$name" in'
    for name, own in commands.items():
        if own.first:
            yield f'        {name}) candidates="{" ".join(own.first)}" ;;'
    yield "        esac"
    yield "    fi"


def _fish(commands: Mapping[str, Completions]) -> Iterator[str]:
    yield "function __diffsight_runs"  # whether the command is this one, at this position or before
    yield "    set -l words (commandline -opc)"
    yield '    test "$words[2]" = "$argv[1]"; and test (count $words) -le $argv[2]'
    yield "end"
    start = "complete -c diffsight"
    for name, own in commands.items():
        summary = shlex.quote(COMMANDS[name])
        yield f"{start} -n '__diffsight_runs \"\" 1' -f -a {name} -d {summary}"
        if own.first:
            yield f"{start} -n '__diffsight_runs {name} 2' -f -a '{' '.join(own.first)}'"
        for option in own.options:
            values = own.values.get(option, ())
            # -r: also complete files, because a recipe may be one; -x: no files
            takes = f" -{'r' if option == '--recipe' else 'x'} -a '{' '.join(values)}'"
            yield (
                f"{start} -n '__diffsight_runs {name} 999' -l {option.removeprefix('--')}"
                f"{takes if values else ''}"
            )
