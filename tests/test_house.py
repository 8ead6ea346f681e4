"""Rules of the code base that a test can check: sizes, imports, names, docstrings, pages."""

import ast
import io
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support_house import (
    MAX_PROSE,
    defined_names,
    is_unclear,
    long_lines,
    method_table,
    option_texts,
    parts_of_name,
    table_rows,
    undocumented,
)

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "diffsight"
PYTHON = sorted(p for part in ("src", "tests", "benchmarks") for p in (ROOT / part).rglob("*.py"))
# third-party libraries, and the only packages of diffsight that may import them
WALLS = {
    "lightning": {"training", "pretrain"},
    "diffusers": {"backbones", "prompts", "weights"},
    "huggingface_hub": {"hub", "weights"},
    "starlette": {"studio"},
    "av": set(),  # but inference.video
    "ray": set(),  # but inference.ray_engine
}
MAX_CODE_LINES, MAX_PARAMETERS = 50, 12  # per function
MARKDOWN = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
# names that are clear although they contain an unclear word, each with the reason
CLEAR_NAMES = {
    **dict.fromkeys(
        ("floor", "floors", "floor_m2", "_shade_floor", "make_floor_finish", "make_floor_lamp"),
        "the floor of a room",
    ),
    **dict.fromkeys(
        ("LearnedSentences", "LearnedTokens", "attention_places"),
        "written in recipes and in saved models",
    ),
    "share_folder": "several processes share it",
    "words": "of 32 bits, in the state of Python's generator",
}
# for each task column of the README: rows of docs/methods/pairs.md, and the task in recipes
TABLE_TASKS = (
    (("depth", "depth with bins"), "Depth"),
    (("segmentation",), "Segmentation"),
    (("referring segmentation",), "Referring"),
    (("normals", "normals with bins", "values", "values with bins"), "Normals"),
    (("joints",), "Pose"),
    ((), "BEV"),
)
ADAPTED = ("Depth", "Segmentation", "Normals")  # tasks that ``adapt`` trains without a recipe
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
def test_files_have_at_most_400_lines(path: Path) -> None:
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


def test_functions_have_at_most_50_code_lines_and_12_parameters() -> None:
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
    """Return line number and class names of every call of isinstance and issubclass."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, classes]):
                names = {part.id for part in ast.walk(classes) if isinstance(part, ast.Name)}
                names |= {p.attr for p in ast.walk(classes) if isinstance(p, ast.Attribute)}
                found.append((node.lineno, names))
    return found


def test_no_code_outside_its_file_checks_for_a_concrete_class() -> None:
    """Concrete classes are those of methods, tasks, prompts, outputs and predictions."""
    concrete: dict[str, Path] = {}
    for part in ("methods", "tasks", "prompts", "outputs"):
        for path in (SOURCE / part).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and not node.name.startswith(("Abstract", "_")):
                    concrete[node.name] = path
    concrete.pop("Prediction")  # it is abstract
    found = [
        f"{relative(path)}:{line} {name}"
        for path in SOURCE.rglob("*.py")
        for line, names in class_checks(ast.parse(path.read_text()))
        for name in names & concrete.keys()
        if concrete[name] != path
    ]
    assert not found, "\n".join(found)


def test_the_search_finds_isinstance_and_issubclass() -> None:
    tree = ast.parse("isinstance(a, methods.VPD)\nissubclass(b, Depth | int)\nisinstance")
    assert [names for _, names in class_checks(tree)] == [{"methods", "VPD"}, {"Depth", "int"}]


def uses(node: ast.AST) -> set[str]:
    """Return what a syntax node calls or imports, written like the keys of ``FORBIDDEN``."""
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


def test_source_uses_no_forbidden_call_or_import() -> None:
    found = [
        f"{relative(path)}:{node.lineno} {what}: {FORBIDDEN[what]}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for what in sorted(uses(node) & FORBIDDEN.keys())
    ]
    assert not found, "\n".join(found)


def test_the_search_finds_forbidden_calls_and_imports() -> None:
    code = "hasattr(a, b)\nprint()\na.cuda()\nfrom torchvision.ops import nms\nimport torchvision"
    code += "\nfrom __future__ import annotations\npprint()\nprint_it()\na.print()\nimport torch"
    found = [uses(node) & FORBIDDEN.keys() for node in ast.walk(ast.parse(code))]
    assert sum(map(len, found)) == 6
    assert set().union(*found) == FORBIDDEN.keys()


def test_import_contracts_list_every_package_that_must_not_import_a_library() -> None:
    parts = {p.stem for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    for library, allowed in WALLS.items():
        (contract,) = (c for c in contracts if library in c.get("forbidden_modules", ()))
        walled = {name.removeprefix("diffsight.") for name in contract["source_modules"]}
        assert walled == parts - allowed - {"__init__", "__main__"}, contract["name"]


def test_names_contain_no_unclear_words() -> None:
    found = [
        f"{relative(path)}:{line} {name}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line, name in defined_names(ast.parse(path.read_text()))
        if is_unclear(name) and name not in CLEAR_NAMES
    ]
    assert not found, "\n".join(found)


def test_names_of_the_allow_list_exist() -> None:
    defined = {
        name
        for path in SOURCE.rglob("*.py")
        for _, name in defined_names(ast.parse(path.read_text()))
    }
    assert CLEAR_NAMES.keys() <= defined, CLEAR_NAMES.keys() - defined


def test_the_search_finds_unclear_words_in_names() -> None:
    code = "class KnownRival: pass\ndef f(place, mask=1):\n    self.found = share = floor_m = 0\n"
    code += "try: pass\nexcept E as wish: pass\nimport a as told\nbasket = answered = 1\n"
    found = [name for _, name in defined_names(ast.parse(code)) if is_unclear(name)]
    assert sorted(found) == ["KnownRival", "floor_m", "found", "place", "share", "told", "wish"]
    assert parts_of_name("VPDHead_of2Words") == {"vpd", "head", "of2", "words"}


def test_public_functions_and_classes_are_documented_in_sentences() -> None:
    found = [
        f"{relative(path)}:{one}"
        for path in sorted(SOURCE.rglob("*.py"))
        for one in undocumented(ast.parse(path.read_text()))
    ]
    assert not found, "\n".join(found)


def test_the_search_finds_missing_docstrings() -> None:
    code = (
        "class A:\n    'Return a thing.'\n    def b(self): 'no capital.'\n    def _c(self): ...\n"
    )
    code += (
        "def d():\n    'No full stop'\ndef e(): ...\ndef f():\n    'A line\\nof two.\\n\\nMore'\n"
    )
    assert [one.split(":")[0] for one in undocumented(ast.parse(code))] == ["5 d", "7 e", "3 A.b"]


@pytest.mark.parametrize("page", MARKDOWN, ids=relative)
def test_lines_of_prose_are_short(page: Path) -> None:
    found = long_lines(page.read_text(encoding="utf-8"))
    assert not found, f"lines {found} have more than {MAX_PROSE} characters"


def test_the_search_finds_long_lines_of_prose() -> None:
    long = "x" * 121
    page = f"{long}\n| {long} |\n```\n{long}\n```\n[{long}](a)\n{long[1:]}\n* {long}\n"
    assert long_lines(page) == [1, 8]


def test_every_option_is_described_once() -> None:
    texts = option_texts()
    assert len(texts) > 100
    repeated = {
        text: places for text, places in texts.items() if len(text) > 20 and len(places) > 1
    }
    assert not repeated, repeated


def test_the_table_of_methods_and_tasks_agrees_with_the_code() -> None:
    """The table is on two pages; ``tests/test_pairs.py`` checks docs/methods/pairs.md."""
    table = method_table(ROOT / "README.md")
    assert table == method_table(ROOT / "docs" / "index.md")
    (_, *methods), _, *pairs = table_rows(ROOT / "docs" / "methods" / "pairs.md", "| task | vpd ")
    works = {
        (method, task)
        for task, *cells in pairs
        for method, cell in zip(methods, cells, strict=True)
        if cell != "refused"
    }
    trained = {
        (recipe["method"]["class_path"].rpartition(".")[2], recipe["task"]["class_path"])
        for path in (SOURCE / "recipes").rglob("*.yaml")
        if "method" in (recipe := yaml.safe_load(path.read_text(encoding="utf-8")))
    }
    from diffsight.adaptation.candidates import SHORT_NAMES

    for name, *marks in table[2:]:
        method = name.strip("`")
        for (tasks, recipe_task), mark in zip(TABLE_TASKS, marks, strict=True):
            has_recipe = (SHORT_NAMES[method].__name__, recipe_task) in trained
            is_possible = has_recipe or any((method, task) in works for task in tasks)
            can_adapt = recipe_task in ADAPTED and is_possible
            expected = "✓" if has_recipe or can_adapt else "○" if is_possible else ""
            assert mark == expected, (
                f"{method}, {recipe_task}: {mark!r}, the code says {expected!r}"
            )


def test_every_method_has_its_page() -> None:
    shared = {"__init__", "base", "conditioned", "frozen", "parts", "prompted"}
    methods = {p.stem for p in (SOURCE / "methods").glob("*.py")} - shared
    assert methods == {p.stem for p in (ROOT / "docs" / "methods").glob("*.md")} - {"pairs"}


@pytest.mark.parametrize("command", ["import diffsight", "import diffsight.cli as c; c.main([])"])
def test_import_and_help_load_no_heavy_library_and_use_no_network(command: str) -> None:
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
