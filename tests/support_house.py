"""Extract names, docstrings, prose and help texts, which the house rules check."""

import ast
import importlib
import itertools
import re
from pathlib import Path
from typing import Any

MAX_PROSE = 120  # characters per line of prose in a page
# words that must not occur in names, because a reader who knows PyTorch would not understand them
UNCLEAR_WORDS = frozenset(
    """
    told tell tells ask asks asked beside answer answers place places known found wish wishes
    lesson lessons learned entrant entrants rival rivals floor floors share shares blind surprise
    words shop workshop
    """.split()  # noqa: SIM905 - a list of one word per line would be long
)


def is_unclear(name: str) -> bool:
    """Return whether a name contains one of ``UNCLEAR_WORDS``."""
    return not parts_of_name(name).isdisjoint(UNCLEAR_WORDS)


def parts_of_name(name: str) -> set[str]:
    """Return the words of a name, split at underscores and capitals."""
    parts = re.sub(r"([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])", r"\1\3_\2\4", name).split("_")
    return {part.lower() for part in parts if part}


def defined_names(tree: ast.AST) -> list[tuple[int, str]]:
    """Return line number and name of everything that a module defines or assigns."""
    names: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.append((node.lineno, name))
            case ast.ClassDef(name=name):
                names.append((node.lineno, name))
            case ast.arg(arg=name):
                names.append((node.lineno, name))
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.append((node.lineno, name))
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                names.append((node.lineno, name))
            case ast.alias(asname=str(name)):
                names.append((node.lineno, name))
    return names


def undocumented(tree: ast.Module) -> list[str]:
    """Return public functions and classes whose docstring does not begin with a sentence."""
    found = []
    bodies: list[tuple[str, list[ast.stmt]]] = [("", tree.body)]
    while bodies:
        owner, body = bodies.pop()
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
                continue
            text = (ast.get_docstring(node) or "").split("\n\n")[0].strip()
            if not re.fullmatch(r"[A-Z0-9`\"'].*[.?]", text, re.DOTALL):
                found.append(f"{node.lineno} {owner}{node.name}: {text[:60]!r}")
            if isinstance(node, ast.ClassDef):
                bodies.append((f"{owner}{node.name}.", node.body))
    return found


def long_lines(page: str) -> list[int]:
    """Return the numbers of lines of prose above 120 characters.

    Tables, code blocks and lines with a link are no prose.
    """
    found, is_code = [], False
    for number, line in enumerate(page.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        is_prose = not (is_code or line.lstrip().startswith("|") or "](" in line or "://" in line)
        if is_prose and len(line) > MAX_PROSE:
            found.append(number)
    return found


def option_texts() -> dict[str, set[str]]:
    """Return the help text of every option, with the classes and functions that contain it."""
    from diffsight.benchmark.options import UnitOptions
    from diffsight.cli import COMMANDS, flags
    from diffsight.cli.completion import parser_of
    from diffsight.pretrain import pretrain
    from diffsight.training.fit import fit
    from diffsight.training.options import FitOptions

    sources: set[Any] = {flags.CommonFlags, UnitOptions, fit, FitOptions, pretrain}
    for name in COMMANDS:
        module: Any = importlib.import_module(f"diffsight.cli.{name.replace('-', '_')}")
        for one in vars(module).values():
            if isinstance(one, flags.Command):
                sources |= {one.function, *(group.kind for group in one._groups().values())}
        assert parser_of(name)
    owners = {part for source in sources for part in getattr(source, "__mro__", (source,))}
    texts: dict[str, set[str]] = {}
    for owner in owners - {object}:
        # reads only its own docstring, not those of base classes
        own = type("Own", (), {"__doc__": owner.__doc__})
        for name, text in flags.texts_of(own).items():
            if not name.islower():
                continue  # an error under "Raises:"
            texts.setdefault(text, set()).add(f"{owner.__module__}.{owner.__qualname__}: {name}")
    return texts


def table_rows(page: Path, start: str) -> list[list[str]]:
    """Return the cells of the table in a page whose first line begins with ``start``."""
    lines = page.read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(start))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[first:])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def method_table(page: Path) -> list[list[str]]:
    """Return the cells of a page's table of methods and tasks; links are removed."""
    link = re.compile(r"\[(`\w+`)\]\(.*\)")
    return [[link.sub(r"\1", cell) for cell in row] for row in table_rows(page, "| method |")]
