"""The comparison of full-size methods with their plain networks and with the authors' code."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffsight.types import Inputs
from tests.support_benchmarks import DOCS, TABLES, block_of, import_script

VPD = "vpd_depth_480x480"
UNIT = {
    "multiply_adds": {"ours": 3_000_000_000, "plain": 2_000_000_000},
    "seconds": {"ours": [9.0, 6.0, 6.0], "plain": [3.0, 4.0, 2.0]},
    "weights_mib": {"ours": [100, 110, 110], "plain": [110, 110, 110]},
    "peak_mib": {"ours": [400, 420, 420], "plain": [310, 310, 310]},
}


@pytest.fixture(scope="module")
def script() -> Any:
    return import_script("against_authors")


@pytest.fixture(scope="module")
def rows() -> Any:
    return import_script("against_authors_rows")


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return import_script("tables").read(TABLES / "against_authors.csv")


def options(folder: Path, **changes: Any) -> Namespace:
    values = {"out": folder / "out", "table": folder / "table.csv", "rounds": 3, "threads": 1}
    return Namespace(
        **{**values, "only": ["vpd_depth", "ddp_convnext_3"], "quick": False, **changes}
    )


def test_the_page_has_the_stored_cells(script: Any, stored: dict[str, Any]) -> None:
    block = block_of(DOCS / "results.md", "against_authors")
    assert block == script.report(stored), "run benchmarks/against_authors.py --report --write"


def test_our_methods_need_the_multiply_adds_of_the_authors(
    rows: Any, stored: dict[str, Any]
) -> None:
    cells = [cell for cell in rows.cells_of(rows.ROWS) if cell.is_recorded and cell.name in stored]
    assert len(cells) > 1
    for cell in cells:
        ours = stored[cell.name]["multiply_adds"]["ours"] / 1e9
        assert ours == pytest.approx(cell.row.authors.multiply_adds, rel=1e-3), cell.name


def test_times_are_medians_and_memory_is_the_minimum_over_the_rounds(script: Any) -> None:
    other = UNIT | {"seconds": {"ours": [3.0, 3.0, 3.0], "plain": [1.0, 1.0, 1.0]}}
    plain, authors, command = script.report({VPD: UNIT, "evp_depth_480x480": other}).split("\n\n")
    _, _, vpd, evp = plain.splitlines()
    assert vpd == "| VPD, depth | 480 x 480 | 3.0 | 1.50 | 6.0 | 3.00 | 2.00 | 300 | 1.50 |"
    assert evp.startswith("| EVP, depth | 480 x 480 |")
    _, _, vpd, evp = authors.splitlines()
    assert vpd.endswith("| 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 |")
    assert evp == (
        "| EVP, depth | 480 x 480 | 3.0 | 1068.6 | 1.00 | 1.03 | 0.50 | 1.18 | 1.00 | 1.11 |"
    )
    assert command == "`python benchmarks/against_authors.py --write`"


def test_an_interrupted_call_is_continued_with_the_missing_cells(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measure(cell: Any, args: Namespace) -> dict[str, Any]:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(cell.name)
        return UNIT

    monkeypatch.setattr(script, "_measure_in_process", measure)
    args = options(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        script.measure_missing(args)
    first = measured.copy()
    assert first[0] == VPD  # cells with a recorded cost come first
    measured.clear()
    script.measure_missing(options(tmp_path, out=tmp_path / "other"))
    units = import_script("tables").read(args.table)
    assert len(units) == 4
    assert units.keys() == {*first, *measured}
    unit, later = units[first[0]], units[measured[0]]
    assert unit == {**UNIT, "settings": later["settings"], "call": unit["call"]}


def test_times_of_several_calls_are_not_compared(script: Any) -> None:
    units = {VPD: UNIT | {"call": "a"}, "evp_depth_480x480": UNIT | {"call": "b"}}
    _, authors, _ = script.report(units).split("\n\n")
    assert authors.splitlines()[-1].endswith("| 1.00 | 1.03 |  | 1.18 | 1.00 | 1.11 |")


def test_cells_of_other_settings_are_not_mixed(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "_measure_in_process", lambda cell, args: UNIT)
    script.measure_missing(options(tmp_path))
    with pytest.raises(script.InputError, match="differing: threads"):
        script.measure_missing(options(tmp_path, threads=2))


@pytest.mark.parametrize("name", ["vpd_depth", "ddp_depth_3"])
def test_a_small_cell_is_measured(name: str, script: Any, rows: Any) -> None:
    (row,) = (one for one in rows.ROWS if one.name == name)
    (cell,) = rows.cells_of([row], quick=True)
    unit = script.measure(cell, 2, quick=True)
    assert unit["multiply_adds"]["ours"] > unit["multiply_adds"]["plain"] > 0
    for part in ("seconds", "weights_mib", "peak_mib"):
        assert all(len(unit[part][variant]) == 2 for variant in ("ours", "plain"))
    assert all(peak >= before for peak, before in zip(*peaks_of(unit), strict=True))


def peaks_of(unit: dict[str, Any]) -> tuple[list[int], list[int]]:
    return unit["peak_mib"]["ours"], unit["weights_mib"]["ours"]


@torch.inference_mode()
def test_our_method_has_the_weights_and_latents_of_the_plain_networks() -> None:
    full_size = import_script("full_size")
    config = full_size.read_config("rooms/few_shot_depth", keep_weights=True)
    backbone = config["method"]["init_args"]["backbone"]["init_args"]
    vae, unet = full_size.build_reference(backbone["architecture"])
    method = full_size.build_ours(config, vae, unet)
    assert method.backbone.unet.conv_in.weight.data_ptr() == unet.conv_in.weight.data_ptr()
    image = torch.rand(1, 3, 64, 64)
    latent = method.encode(Inputs(image)).latent
    torch.testing.assert_close(latent, vae.encode(image * 2 - 1).latent_dist.mode())
