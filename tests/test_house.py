"""The house rules that a machine can check."""

import ast
import io
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "diffsight"
PYTHON = sorted(p for part in ("src", "tests", "benchmarks") for p in (ROOT / part).rglob("*.py"))
# third parties and the only parts that may import them
WALLS = {
    "lightning": {"training", "pretrain"},
    "diffusers": {"backbones", "prompts", "weights"},
    "huggingface_hub": {"hub", "weights"},
}
MAX_CODE_LINES, MAX_PARAMETERS = 50, 12  # of a function
FORBIDDEN = {
    "hasattr(": "declare it in the base class",
    "print(": "log, or write to stdout in cli/",
    ".cuda(": "take a device",
    "import torchvision": "it is absent, or broken, on machines that this must run on",
    "import __future__": "shapes in signatures are read while the tests run",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_files_fit_in_the_head(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 400, f"{lines} lines: split it by what its parts do"


def code_lines(source: str, tree: ast.AST) -> set[int]:
    """Return the numbers of the lines that hold code: no comments, docstrings or blanks."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*skipped, tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def test_functions_fit_in_the_head() -> None:
    found = []
    for path in SOURCE.rglob("*.py"):
        source = path.read_text()
        tree = ast.parse(source)
        code = code_lines(source, tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            size = sum(node.lineno <= line <= (node.end_lineno or 0) for line in code)
            names = [
                a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            ]
            parameters = sum(name not in ("self", "cls") for name in names)
            if size > MAX_CODE_LINES or parameters > MAX_PARAMETERS:
                found.append(f"{relative(path)} {node.name}: {size} lines, {parameters} parameters")
    assert not found, "\n".join(found)


def class_checks(tree: ast.AST) -> list[tuple[int, set[str]]]:
    """Return the lines and class names of all calls of isinstance, issubclass and hasattr."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, classes]):
                names = {part.id for part in ast.walk(classes) if isinstance(part, ast.Name)}
                names |= {p.attr for p in ast.walk(classes) if isinstance(p, ast.Attribute)}
                found.append((node.lineno, names))
    return found


def test_nothing_asks_for_a_concrete_class() -> None:
    """Of methods, tasks, prompts, outputs and predictions; their own file may."""
    concrete: dict[str, Path] = {}
    for part in ("methods", "tasks", "prompts", "outputs"):
        for path in (SOURCE / part).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and not node.name.startswith(("Abstract", "_")):
                    concrete[node.name] = path
    concrete.pop("Prediction")  # abstract
    found = [
        f"{relative(path)}:{line} {name}"
        for path in SOURCE.rglob("*.py")
        for line, names in class_checks(ast.parse(path.read_text()))
        for name in names & concrete.keys()
        if concrete[name] != path
    ]
    assert not found, "\n".join(found)


def test_checks_of_classes_are_found() -> None:
    tree = ast.parse("isinstance(a, methods.VPD)\nissubclass(b, Depth | int)\nisinstance")
    assert [names for _, names in class_checks(tree)] == [{"methods", "VPD"}, {"Depth", "int"}]


def uses(node: ast.AST) -> set[str]:
    """What a node of the syntax tree calls or imports, in the words of ``FORBIDDEN``."""
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return {f"{name}("}
        case ast.Call(func=ast.Attribute(attr=name)):
            return {f".{name}("}
        case ast.Import(names=names):
            return {f"import {alias.name.partition('.')[0]}" for alias in names}
        case ast.ImportFrom(module=str(module)):
            return {f"import {module.partition('.')[0]}"}
    return set()


def test_source_has_nothing_forbidden() -> None:
    found = [
        f"{relative(path)}:{node.lineno} {what}: {FORBIDDEN[what]}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for what in sorted(uses(node) & FORBIDDEN.keys())
    ]
    assert not found, "\n".join(found)


def test_forbidden_things_are_found() -> None:
    code = "hasattr(a, b)\nprint()\na.cuda()\nfrom torchvision.ops import nms\nimport torchvision"
    code += "\nfrom __future__ import annotations\npprint()\nprint_it()\na.print()\nimport torch"
    found = [uses(node) & FORBIDDEN.keys() for node in ast.walk(ast.parse(code))]
    assert sum(map(len, found)) == 6
    assert set().union(*found) == FORBIDDEN.keys()


def test_walls_name_every_other_part() -> None:
    parts = {p.stem for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    for library, allowed in WALLS.items():
        (contract,) = (c for c in contracts if library in c.get("forbidden_modules", ()))
        walled = {name.removeprefix("diffsight.") for name in contract["source_modules"]}
        assert walled == parts - allowed - {"__init__", "__main__"}, contract["name"]


def test_every_method_has_its_page() -> None:
    shared = {"__init__", "base", "conditioned", "frozen", "parts", "prompted"}
    methods = {p.stem for p in (SOURCE / "methods").glob("*.py")} - shared
    assert methods == {p.stem for p in (ROOT / "docs" / "methods").glob("*.md")} - {"pairs"}


@pytest.mark.parametrize("command", ["import diffsight", "import diffsight.cli as c; c.main([])"])
def test_import_and_help_are_light_and_stay_at_home(command: str) -> None:
    program = f"""
import sys
def no_network(event, args):
    assert not event.startswith("socket.connect"), "reached for the network"
sys.addaudithook(no_network)
{command}
heavy = {{"torch", "diffusers", "transformers", "lightning", "huggingface_hub", "numpy"}}
assert not heavy & set(sys.modules), sorted(heavy & set(sys.modules))
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
