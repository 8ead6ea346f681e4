"""Read the code blocks of the pages, and decide which commands a test can run."""

import functools
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffsight.cli.completion import parser_of

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```([\w{}-]*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
SHELL_SEPARATORS = frozenset(("&&", "||", ";", "|"))
# commands that take minutes: tests only parse them, and write a stand-in for their output
LONG = ("fit", "pretrain", "benchmark", "demo", "studio", "serve")
# commands that download networks or data by default, or read files of other projects
NEEDS_DOWNLOAD = ("caption", "control", "convert", "index-nuscenes")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]*")
HUB_OWNERS = ("openai", "facebook", "owner", "stable-diffusion-v1-5", "stabilityai")
PLACEHOLDER = re.compile(r"[A-Z]{2,}|\.\.\.")  # such as DIR, FILE, MODEL
# options that make a command fast; they replace those of the page
REDUCTIONS = {
    "adapt": "--steps 2 --backbone tiny --short-side 32 --device cpu --overwrite",
    "distil": "--steps 2 --batch-size 2 --short-side 32 --device cpu",
    "predict": "--device cpu",
    "explain": "--device cpu",
    "evaluate": "--device cpu",
    "export": "--size 16",
    "generate": "--steps 1 --count 1 --device cpu",
    "render": "--count 1 --size 32x32 --workers 1",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: file of the page.
        language: word after the fence; "" if there is none.
        text: content without the fences.
        line: number of the first line of the content.
    """

    page: Path
    language: str
    text: str
    line: int

    @property
    def name(self) -> str:
        """Return page and line number, for messages."""
        return f"{relative(self.page)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A ``diffsight`` command of a page.

    Attributes:
        name: name of the command, such as ``predict``.
        words: everything after the name.
        writes: file that receives the output, as in ``> mine.yaml``.
    """

    name: str
    words: tuple[str, ...]
    writes: str | None = None

    def value_of(self, option: str) -> str | None:
        """Return the word after an option, or None."""
        return next(
            (b for a, b in zip(self.words, self.words[1:], strict=False) if a == option), None
        )


def relative(path: Path) -> str:
    """Return a path relative to the repository, for messages."""
    return path.relative_to(ROOT).as_posix()


def read_blocks(page: Path, *languages: str) -> list[Block]:
    """Return the fenced blocks of a page in these languages, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, match[2], match[3], text.count("\n", 0, match.start(3)) + 1)
        for match in BLOCK.finditer(text)
        if match[2] in languages
    ]


def read_commands(text: str) -> Iterator[Command]:
    """Yield the ``diffsight`` commands of a shell script."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in (*lexer, ";"):
            if word not in SHELL_SEPARATORS:
                words.append(word)
                continue
            if words[:1] == ["diffsight"] and len(words) > 1:
                yield _command(words[1:])
            words = []


def _command(words: list[str]) -> Command:
    writes = None
    if ">" in words:
        place = words.index(">")
        words, writes = words[:place], words[place + 1]
    return Command(words[0], tuple(words[1:]), writes)


def parse_command(name: str, words: Sequence[str]) -> None:
    """Parse a command line with the parser of the command, without running it.

    Raises:
        SystemExit, InputError: for unknown options, choices, keys and classes.
    """
    if name in ("fit", "pretrain"):
        from diffsight.cli import recipe
        from diffsight.pretrain import pretrain
        from diffsight.training.fit import fit

        parser: Any = parser_of(name)
        recipe.parse(parser, words, fit if name == "fit" else pretrain)
    else:
        parser_of(name).parse_args(words[1:] if name == "benchmark" else words)


def why_not_run(command: Command, folder: Path, missing: Collection[str] = ()) -> str | None:
    """Return why a test cannot run a command but only parse it; None if it can be run.

    Args:
        command: command to run.
        folder: current folder, which holds the input files.
        missing: outputs of earlier commands that were not run.
    """
    words, recipe = command.words, command.value_of("--recipe")
    if command.name in LONG and "--print_config" not in words:
        return "it trains for minutes, or runs until it is stopped"
    if command.value_of("--engine") == "ray":
        return "it starts the processes of a cluster"
    if command.name in NEEDS_DOWNLOAD:
        return "it downloads networks, or reads files of other projects"
    if command.name == "check-data" and not (folder / words[-1]).exists():
        return f"{words[-1]} is a data set to download"
    if command.name == "latent-std" and recipe and not recipe.startswith("rooms/"):
        return f"{recipe} needs a data set to download"
    for word in words:
        path = folder / word.removeprefix("root=")
        if PLACEHOLDER.fullmatch(word):
            return f"{word} is a placeholder"
        if word in missing:
            return f"{word} is not there, because its command was not run"
        if path.exists():
            continue
        if word.startswith("root="):
            return f"{word} is a data set to download"
        if HUB_ID.fullmatch(word) and word.partition("/")[0] in HUB_OWNERS:
            return f"{word} is a network to download"
    return None


def with_reductions(command: Command) -> list[str]:
    """Return the words of the command, with options for less data and fewer steps."""
    words = [re.sub(r"^count=\d+$", "count=1", word) for word in command.words]
    extra = shlex.split(REDUCTIONS.get(command.name, ""))
    if command.name == "adapt" and "--method" not in command.words:
        extra += ["--method", "feature_head"]
    for option in {word for word in extra if word.startswith("--")} & {*words}:
        start = words.index(option)
        end = next((i for i, w in enumerate(words) if i > start and w[:2] == "--"), len(words))
        del words[start:end]
    return [*words, *extra]


def inline_commands(page: Path) -> Iterator[tuple[int, Command]]:
    """Yield the commands in code spans of a page's text, with the numbers of their lines."""
    text = BLOCK.sub(lambda match: "\n" * match[0].count("\n"), page.read_text(encoding="utf-8"))
    for match in re.finditer(r"`(diffsight [a-z][^`]*)`", text):
        line = text.count("\n", 0, match.start()) + 1
        for command in read_commands(match[1].replace("\n", " ")):
            yield line, command


@functools.cache
def parser_options(name: str) -> frozenset[str]:
    """Return the names of all options of a command."""
    return frozenset(name for one in parser_of(name)._actions for name in one.option_strings)
