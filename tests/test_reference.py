"""The reference page lists every package once, in the order of the import layers."""

import re
import tomllib
from pathlib import Path

import diffsight

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "index.md"
LEFT_OUT = {"cli"}  # its docstrings are help texts


def listed() -> list[list[str]]:
    """Return the names in each autosummary table of the page that generates further pages."""
    tables = re.findall(
        r"^\.\. autosummary::\n   :toctree: api\n((?:.*\n)*?)```", PAGE.read_text(), re.MULTILINE
    )
    return [re.findall(r"^   (diffsight\.\w+)$", table, re.MULTILINE) for table in tables]


def layers() -> list[set[str]]:
    """Return the packages of every layer, highest first."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (c for c in config["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]


def test_the_reference_page_lists_the_public_functions_first() -> None:
    names = {name for name in dir(diffsight) if name not in ("DenseModel", "__version__")}
    assert {name.removeprefix("diffsight.") for name in listed()[0]} == names


def test_every_package_and_module_is_listed_once() -> None:
    """Modules inside packages are not listed, because autosummary finds them recursively."""
    package = ROOT / "src" / "diffsight"
    modules = {p.stem for p in package.glob("*.py") if not p.name.startswith("_")}
    modules |= {p.parent.name for p in package.glob("*/__init__.py")}
    names = [name.removeprefix("diffsight.") for table in listed()[1:] for name in table]
    assert sorted(names) == sorted(modules - LEFT_OUT)
    assert all(":recursive:" in part for part in PAGE.read_text().split(":toctree: api")[2:])


def test_packages_are_in_the_order_of_the_layers() -> None:
    names = [name.removeprefix("diffsight.") for table in listed()[1:] for name in table]
    order = {name: number for number, layer in enumerate(layers()) for name in layer}
    numbers = [order[name] for name in names]
    assert numbers == sorted(numbers)


def test_every_folder_with_modules_has_an_init_file() -> None:
    """A folder without ``__init__.py`` would be left out by autosummary."""
    package = ROOT / "src" / "diffsight"
    folders = {path.parent for path in package.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]
