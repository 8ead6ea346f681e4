"""The house rules that a machine can check."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "diffsight"
PYTHON = sorted(p for part in ("src", "tests", "benchmarks") for p in (ROOT / part).rglob("*.py"))
# third parties and the only parts that may import them
WALLS = {
    "lightning": {"training", "cli"},
    "diffusers": {"backbones", "prompts"},
    "huggingface_hub": {"backbones", "hub"},
}
FORBIDDEN = {
    r"hasattr\(": "declare it in the base class",
    r"(?<![\w.])print\(": "log, or write to stdout in cli/",
    r"\.cuda\(": "take a device",
    r"(import|from) torchvision": "it is absent, or broken, on machines this must run on",
    r"from __future__ import annotations": "shapes in signatures are read while the tests run",
    r"(?i)non-commercial": "no such code may enter",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_files_fit_in_the_head(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 400, f"{lines} lines: split it by what its parts do"


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_source_has_none_of(pattern: str) -> None:
    found = [
        f"{relative(path)}:{number}"
        for path in SOURCE.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert not found, f"{', '.join(found)}: {FORBIDDEN[pattern]}"


def test_walls_name_every_other_part() -> None:
    parts = {p.stem for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    for library, allowed in WALLS.items():
        (contract,) = (c for c in contracts if library in c.get("forbidden_modules", ()))
        walled = {name.removeprefix("diffsight.") for name in contract["source_modules"]}
        assert walled == parts - allowed - {"__init__", "__main__"}, contract["name"]


def test_every_method_has_its_page() -> None:
    methods = {p.stem for p in (SOURCE / "methods").glob("*.py")} - {"__init__", "base"}
    assert methods == {p.stem for p in (ROOT / "docs" / "methods").glob("*.md")}


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
