"""Sphinx configuration; `make docs` builds the pages, and every warning is an error."""

import importlib
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

import diffsight

project = "diffsight"
author = "The diffsight authors"
copyright = "the diffsight authors, Apache-2.0"
version = release = diffsight.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"diffsight {diffsight.__version__}"
html_math_renderer = "mathml"
pygments_dark_style = "monokai"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a field is described once, in the docstring of its class


API = Path(__file__).parent / "reference" / "api"  # generated pages, one per module
SOURCE = Path(__file__).parent.parent / "src"


def exported_names(package: str) -> list[str]:
    """Return what a package exports from its modules, as names relative to the package."""
    module = importlib.import_module(package)
    objects = [getattr(module, name) for name in getattr(module, "__all__", ())]
    names = [f"{one.__module__}.{one.__qualname__}" for one in objects if callable(one)]
    own = f"{package}."
    return [name.removeprefix(own) for name in names if name.startswith(own)]


def is_current(page: Path) -> bool:
    """Return whether a generated page is that of a module or a function that still exists."""
    path = SOURCE.joinpath(*page.stem.split("."))
    is_module = path.with_suffix(".py").exists() or path.is_dir()
    return is_module or page.stem.removeprefix("diffsight.") in dir(diffsight)


# autosummary adds pages and keeps those of modules that were renamed
for generated in API.glob("*.rst"):
    if not is_current(generated):
        generated.unlink()

packages = [path.parent for path in sorted((SOURCE / "diffsight").rglob("*/__init__.py"))]
autosummary_context = {
    "exported": {
        name: exported_names(name)
        for name in (".".join(path.relative_to(SOURCE).parts) for path in packages)
    }
}


def write_inline_math(writer: Any, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers draw without a script or a network."""
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def write_math_block(writer: Any, node: nodes.math_block) -> None:
    """Write a formula in a line of its own as MathML; a wide one can be scrolled."""
    formula = convert(node.astext(), display="block")
    writer.body.append(f'<div class="math-block" style="overflow-x: auto">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Add the writer of formulas."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(write_inline_math, None),
        block_renderers=(write_math_block, None),
    )
