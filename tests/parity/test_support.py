"""Golden files that are missing."""

from pathlib import Path

import pytest

from tests.parity import support


def test_models_without_golden_files_are_skipped_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vpd_depth").mkdir()
    (tmp_path / "vpd_depth" / "golden.npz").touch()
    monkeypatch.setattr(support, "ROOT", tmp_path)
    assert support.golden_paths("vpd_depth") == [tmp_path / "vpd_depth" / "golden.npz"]
    (skipped,) = support.golden_paths("evp_depth")
    assert skipped.marks[0].name == "skip"
    assert "no evp_depth in" in skipped.marks[0].kwargs["reason"]
    monkeypatch.setattr(support, "ROOT", tmp_path / "misspelt")
    with pytest.raises(AssertionError, match=r"no golden\*\.npz in .*misspelt"):
        support.golden_paths("vpd_depth")
    monkeypatch.setattr(support, "ROOT", tmp_path)
    monkeypatch.setattr(support, "BUNDLED", tmp_path)
    with pytest.raises(AssertionError, match=r"no golden\*\.npz in .*evp_depth"):
        support.golden_paths("evp_depth")
