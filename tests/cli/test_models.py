"""``diffsight models``: installed networks, models on the hub, and saved models in a folder."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.support_models import edit_config, tiny

from diffsight import assets, cli, recipes
from diffsight.cli.models import embedded_models
from diffsight.hub import save

SWIN = "microsoft/swin-tiny-patch4-window7-224"
NAMED = re.compile(r"^[^#\n]*weights: ([\w-]+/[\w-]+)(?![\w.-])", re.MULTILINE)


def list_models(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    assert cli.main(["models", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_installed_networks_have_the_size_and_licence_of_their_files(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = {row["name"]: row for row in list_models(capsys)["embedded"]}
    assert tuple(rows) == assets.NAMES
    files = [path for path in (assets.FOLDER / "tiny").rglob("*") if path.is_file()]
    sizes = {"tiny": sum(path.stat().st_size for path in files)}
    sizes[assets.LITE] = assets.find(assets.LITE).stat().st_size
    for name, size in sizes.items():
        assert rows[name]["size_mb"] == pytest.approx(size / 1e6, abs=0.05)
        assert "apache" in rows[name]["licence"].lower()
        assert rows[name]["problem"] == ""
    assert rows["tiny"]["trained_on"].startswith("rendered rooms")
    assert rows[assets.LITE]["trained_on"].startswith("photographs")


def test_a_damaged_network_is_listed_with_its_card_and_a_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny").mkdir()
    card = "---\nlicense: mit\n---\n# Streets\n\nA model, trained on streets. No more.\n"
    (tmp_path / "tiny" / "README.md").write_text(card)
    monkeypatch.setattr(assets, "FOLDER", tmp_path)
    one = next(embedded_models())
    assert (one.licence, one.trained_on, one.size_mb) == ("mit", "streets", None)
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert "reinstall the package" in out
    assert assets.LITE in out
    assert SWIN in out


def test_models_of_recipes_are_listed_with_their_size_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / f"models--{SWIN.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "abc").write_bytes(bytes(2_000_000))
    for commit in ("1", "2"):  # two snapshots of one file
        (folder / "snapshots" / commit).mkdir(parents=True)
        link = folder / "snapshots" / commit / "model.safetensors"
        link.symlink_to(folder / "blobs" / "abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    rows = {row["id"]: row for row in list_models(capsys)["hub"]}
    assert rows[SWIN]["size_mb"] == 2.0
    assert all(row["size_mb"] is None for name, row in rows.items() if name != SWIN)
    texts = {name: recipes.find(name).read_text() for name in recipes.names()}
    used = [(x[1], name) for name, text in texts.items() for x in NAMED.finditer(text)]
    assert {(row["id"], name) for row in rows.values() for name in row["recipes"]} == set(used)
    assert (SWIN, "ddp/ade20k_swin_t") in used


def test_networks_are_listed_without_torch_and_without_the_hub() -> None:
    program = (
        "import sys\n"
        "from diffsight.cli import main\n"
        "status = main(['models', '--json'])\n"
        "heavy = {'torch', 'numpy', 'huggingface_hub', 'jsonargparse'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_only_saved_models_in_a_folder_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny()
    model.info |= {"held_out": {"vpd": 0.25, "constant": 1.5}, "metric": "RMSE, m"}
    one = save(model, tmp_path / "a" / "run" / "model")
    two = save(tiny(), tmp_path / "b.safetensors")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "swin"}')
    save_file({"x": torch.zeros(3)}, tmp_path / "other" / "model.safetensors")
    (tmp_path / ".cache").mkdir()
    save(tiny(), tmp_path / ".cache" / "hidden.safetensors")
    rows = {row["path"]: row for row in list_models(capsys, tmp_path)}
    assert set(rows) == {str(one), str(two)}
    assert rows[str(one)]["held_out"] == "vpd 0.25, constant 1.5 (RMSE, m)"
    assert rows[str(two)]["size_mb"] == pytest.approx(two.stat().st_size / 1e6, abs=0.05)
    for row in rows.values():
        assert row["task"] == "Depth"
        assert row["method"] == type(model.method).__name__
        assert row["problem"] == ""
    assert cli.main(["models", str(one)]) == 0
    out = capsys.readouterr().out
    assert "vpd 0.25, constant 1.5 (RMSE, m)" in out
    assert f"saved models in {one}: 1" in out


def test_a_damaged_saved_model_is_listed_with_its_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tiny(), tmp_path / "m")
    edit_config(path, lambda config: config.pop("fingerprint"))
    (row,) = list_models(capsys, tmp_path)
    assert row["path"] == str(path)
    assert "incomplete (fingerprint is missing)" in row["problem"]


def test_files_that_cannot_be_read_are_listed_with_their_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [save(tiny(), tmp_path / name) for name in ("sub/m", "z.safetensors")]
    names = {"a.safetensors": "gone", "b.safetensors": "b.safetensors", "config.json": "gone"}
    for name, target in names.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    (good[0] / "notes").symlink_to("notes")  # a link to itself
    rows = {row["path"]: row for row in list_models(capsys, tmp_path)}
    problems = {path: row["problem"] for path, row in rows.items() if row["problem"]}
    assert set(rows) - set(problems) == set(map(str, good))
    assert set(problems) == {str(tmp_path), *(str(tmp_path / f"{x}.safetensors") for x in "ab")}
    for name in names:
        (problem,) = (one for one in problems.values() if one.startswith(f"{tmp_path / name}: "))
        assert "cannot be read" in problem
    size = sum(path.stat().st_size for path in good[0].iterdir() if path.name != "notes")
    assert rows[str(good[0])]["size_mb"] == pytest.approx(size / 1e6, abs=0.05)


def test_a_missing_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
