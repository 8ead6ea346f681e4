"""The reference pages list every public module once."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
# the command line has pages of its own; of rooms only what a user calls is listed
LEFT_OUT = ("diffsight.cli.", "diffsight.rooms.", "diffsight.streets.")


def test_every_public_module_is_in_one_list() -> None:
    pages = [page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("*.md"))]
    listed = re.findall(r"^\.\. automodule:: (\S+)$", "\n".join(pages), re.MULTILINE)
    assert len(set(listed)) == len(listed)
    source = ROOT / "src"
    modules = {
        ".".join(path.relative_to(source).with_suffix("").parts)
        for path in source.rglob("*.py")
        if not path.name.startswith("_")
    }
    missing = {name for name in modules - set(listed) if not name.startswith(LEFT_OUT)}
    assert not missing
    packages = {"diffsight.assets", "diffsight.hub.convert", "diffsight.protocols"}
    assert set(listed) - modules == packages, "a module that does not exist"
