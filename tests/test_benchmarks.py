"""The scripts of benchmarks/ can be imported, and pages call them with options that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support_benchmarks import BENCHMARKS
from tests.support_pages import BLOCK, PAGES, read_blocks, relative

CALL = re.compile(r"python\s+benchmarks/(\w+\.py)([^|;&\n]*)")


def test_every_script_can_be_imported() -> None:
    names = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
    program = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)"
    command = [sys.executable, "-c", program, *names]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_pages_name_existing_scripts_and_options(page: Path) -> None:
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    commands = [match[1].replace("\n", " ") for match in re.finditer(r"`([^`]+)`", prose)]
    commands += [block.text.replace("\\\n", " ") for block in read_blocks(page, "bash")]
    for script, options in CALL.findall("\n".join(commands)):
        source = (BENCHMARKS / script).read_text(encoding="utf-8")
        for option in re.findall(r"(?<!\S)--[a-z][\w-]*", options):
            assert f'"{option}"' in source, f"{script} has no option {option}"
