"""``diffsight explain``: pictures, JSON, and invalid inputs."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.support_adapt import run as adapt
from tests.support_adapt import write_pictures

from diffsight.backbones import BackboneSource
from diffsight.cli import main
from diffsight.hub import save
from diffsight.methods import MetaPrompts
from diffsight.model import DenseModel
from diffsight.tasks import Segmentation


def run(*arguments: object) -> int:
    return main(["explain", *map(str, arguments), "--device", "cpu"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "data") / "images"


@pytest.fixture(scope="module")
def model(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_pictures(tmp_path_factory.mktemp("model") / "data")
    options = {"method": "feature_head", "steps": 1, "shots": 2, "short_side": 32}
    adapted = adapt(folder, pipeline_folder, kind="depth", **options)
    return save(adapted, folder / "mine.safetensors")


def test_one_image_is_explained_in_the_default_folder(
    photos: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--model", model, photos / "1.png") == 0
    out = tmp_path / "explain"
    assert {p.name for p in out.iterdir()} == {"concepts.png", "bins.png", "explain.json"}
    about = json.loads((out / "explain.json").read_text())
    assert about["image"] == str(photos / "1.png")
    assert about["model"]["id"] == str(model)
    assert about["unit"] == "m"
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert f"entropy {about['entropy_nats']['mean']:.2f} of " in line
    written = (out / "explain.json").read_bytes()
    assert run("--model", model, photos / "1.png") == 0
    assert (out / "explain.json").read_bytes() == written


def test_each_of_several_images_gets_its_own_output_folder(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("2", "3", "4", "5"):
        (photos / f"{name}.png").unlink()
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:90])
    Image.new("RGB", (9, 9)).save(photos / "small.png")
    out = photos / "out"  # earlier results are not read as images
    for _ in range(2):
        assert run("--model", model, photos, photos / "gone.jpg", "--out", out, "--json") == 1
        printed = capsys.readouterr()
        lines = [json.loads(line) for line in printed.out.splitlines()]
        errors = {Path(line["image"]).name: line["error"] for line in lines if "error" in line}
        assert set(errors) == {"cut.png", "small.png", "gone.jpg"}
        for name, error in errors.items():
            assert name in error
            assert error in printed.err.splitlines()
        whole = [line for line in lines if "error" not in line]
        assert [line["folder"] for line in whole] == [str(out / "0"), str(out / "1")]
        for line in whole:
            about = json.loads((Path(line["folder"]) / "explain.json").read_text())
            assert {"folder": line["folder"], **about} == line
            assert sum(row["weight"] for row in about["classes"]) == pytest.approx(1, abs=1e-5)


def test_files_of_the_user_are_kept_and_the_other_images_explained(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, own = tmp_path / "out", tmp_path / "out" / "0" / "bins.png"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    (out / "1").write_text("a file in place of a folder")
    images = [photos / f"{i}.png" for i in range(3)]
    assert run("--model", model, *images, "--out", out) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        f"{images[0]}: {own}: exists already and is not of an earlier run: choose another --out"
    )
    assert second.startswith(f"{images[1]}: {out / '1'}: cannot be created")
    assert own.read_text() == "mine"
    assert (out / "2" / "explain.json").is_file()
    # in one folder with the image, too
    shutil.copy(images[0], tmp_path / "concepts.png")
    before = (tmp_path / "concepts.png").read_bytes()
    assert run("--model", model, tmp_path / "concepts.png", "--out", tmp_path) == 1
    assert "concepts.png: exists already" in capsys.readouterr().err
    assert (tmp_path / "concepts.png").read_bytes() == before


def test_a_full_disk_ends_the_command(
    photos: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert run("--model", model, photos, "--out", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line


def test_prompts_have_a_sheet_of_attention_and_one_of_products(
    photos: Path, pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = MetaPrompts.from_backbone(BackboneSource(pipeline_folder), passes=1)
    dense = DenseModel(task=Segmentation(["wall", "floor"]), method=method)
    dense.info["short_side"] = 32
    saved, out = save(dense, tmp_path / "prompts.safetensors"), tmp_path / "out"
    assert run("--model", saved, photos / "1.png", "--out", out) == 0
    sheets = {"concepts.png", "bins.png", "maps.png", "rearranged.png", "explain.json"}
    assert {p.name for p in out.iterdir()} == sheets
    about = json.loads((out / "explain.json").read_text())
    for key in ("maps", "rearranged"):
        assert about["pictures"][key] == f"{key}.png"
        assert [row["name"] for row in about[key]] == [f"prompt {i + 1}" for i in range(150)]
    assert [row["largest"] for row in about["rearranged"]] == pytest.approx([1.0] * 150)
    assert about["maps"] != about["rearranged"]
    attention, products = ((out / f"{key}.png").read_bytes() for key in ("maps", "rearranged"))
    assert attention != products
    capsys.readouterr()
    assert run("--model", saved, out, "--out", tmp_path / "again") == 2
    assert "no images" in capsys.readouterr().err  # pictures of explanations are not read as images


def test_invalid_inputs_are_refused_in_one_line(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = photos / "0.png", tmp_path / "out"
    cut, taken = tmp_path / "cut.safetensors", tmp_path / "taken"
    cut.write_bytes(model.read_bytes()[:500])
    shutil.copy(image, taken)
    for arguments, parts in (
        (
            ("--model", tmp_path / "none.safetensors", image, "--out", out),
            ("none.safetensors", "no such file or folder"),
        ),
        (("--model", cut, image, "--out", out), ("cut.safetensors", "copy or download it again")),
        (("--model", model, tmp_path / "data", "--out", taken), ("taken", "choose another --out")),
        (("--model", model, tmp_path / "*.gif", "--out", out), ("*.gif", "no images (")),
    ):
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        line = error.strip().splitlines()[-1]
        assert line.startswith("diffsight: ")
        assert all(part in line for part in parts), line
    assert not out.exists()
