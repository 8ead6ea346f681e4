"""Classes of diffsight and of trusted packages are imported by name."""

import sys
from pathlib import Path

import pytest

from diffsight.adaptation.candidates import method_class
from diffsight.errors import InputError
from diffsight.hub.classes import resolve_class

UNTYPED = """
from diffsight.methods import AbstractMethod

class Untyped(AbstractMethod):
    output_kinds = ("values",)

    def __init__(self, *, output, width: int = 8):
        super().__init__()

class FurtherOptions(AbstractMethod):
    output_kinds = ("values",)

    def __init__(self, *, output: object, **options):
        super().__init__()
"""


def test_a_trusted_module_is_found_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_module_of_a_user.py").write_text(UNTYPED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    before = list(sys.path)
    cls = resolve_class("own_module_of_a_user.Untyped", trusted=["own_module_of_a_user"])
    assert cls.__name__ == "Untyped"
    assert sys.path == before
    with pytest.raises(InputError, match="'output' of its constructor has no type"):
        method_class("own_module_of_a_user.Untyped", trusted=["own_module_of_a_user"])
    further = method_class("own_module_of_a_user.FurtherOptions", trusted=["own_module_of_a_user"])
    assert further.__name__ == "FurtherOptions"


def test_the_error_for_a_missing_module_says_how_to_make_it_importable() -> None:
    line = "there is no module 'no_such_module': run this in the folder of no_such_module, or add"
    with pytest.raises(InputError, match=line):
        resolve_class("no_such_module.Method", trusted=["no_such_module"])
