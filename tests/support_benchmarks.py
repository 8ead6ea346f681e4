"""Import the scripts of benchmarks/, which is not a package."""

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TABLES = BENCHMARKS / "tables"
DOCS = BENCHMARKS.parent / "docs"


def import_script(name: str) -> Any:
    """Import a script of benchmarks/ by its name; scripts import each other by name as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module(name)


def block_of(page: Path, name: str) -> str:
    """Return the text between the marker comments of a block of a page."""
    rest = page.read_text(encoding="utf-8").split(f"<!-- {name} begin -->")[1]
    return rest.split(f"<!-- {name} end -->")[0].strip()
