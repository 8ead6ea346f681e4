"""``diffsight fit``: short names, overrides, one-line errors, and a run of a few steps."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.support_images import rgbd_rows

import diffsight
from diffsight.cli import main
from diffsight.cli.fit import fit_parser
from diffsight.cli.recipe import parse
from diffsight.cli.recipe_errors import find_null
from diffsight.datasets import Folder
from diffsight.errors import InputError
from diffsight.training.fit import fit

SMALL = [
    *("--train.count", "6", "--val.count", "2", "--steps", "2", "--batch_size", "2"),
    *("--devices", "1"),
    *("--train.size", "32", "--val.size", "32", "--workers", "0", "--validate_every", "1"),
]


def settings(*arguments: str):
    return parse(fit_parser(), ["--recipe", "rooms/vpd_depth", "--out", "run", *arguments], fit)


def test_dotted_overrides_with_and_without_init_args():
    ours = settings("--method.init_args.head.init_args.width", "7", "--method.neck.width", "16")
    assert ours.method.init_args.head.init_args.width == 7
    assert ours.method.init_args.neck.init_args.width == 16
    none = settings("--method.backbone.weights", "null").method.init_args.backbone
    assert none.init_args.weights is None
    assert settings("--optim.lr=3e-4").optim.init_args.lr == 3e-4
    assert settings("--resume").resume is True


UNKNOWN = {
    "--method.head.widhts 1": "'method.head.widhts' of DeconvHead: did you mean 'widths'?",
    "--method.backbone.weight x": "'method.backbone.weight' of StableDiffusion: did you mean 'w",
    "--methd 3": "'methd': did you mean 'method'?",
    "--train.cuont 3": "'train.cuont' of Rooms: did you mean 'count'?",
}
NO_CLASS = {
    "--method.head DeconvHed": "method.head: there is no class 'DeconvHed': did you mean 'DeconvHe",
    "--train Romms": "train: there is no class 'Romms': did you mean 'Rooms'?",
    "--task diffsight.tasks.Metric": "task: there is no class 'diffsight.tasks.Metric': choose",
}
OTHER = {
    "train.count=3": "'train.count=3' belongs to no option: write options as --key value or",
    "--method.head.width null": "method.head.width: null is not allowed: leave the key out",
    "--batch_size many": "batch_size: Expected a <class 'int'>. Got value: many",
    "--recipe rooms/vpd": "no recipe 'rooms/vpd', neither a file nor a name: did you mean 'rooms/v",
}
MESSAGES = {key: f"unknown key {text}" for key, text in UNKNOWN.items()} | NO_CLASS | OTHER


@pytest.mark.parametrize(("arguments", "message"), MESSAGES.items(), ids=MESSAGES)
def test_errors_are_one_line_and_suggest_the_nearest_name(arguments, message):
    with pytest.raises(InputError) as error:
        settings(*arguments.split())
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


class Untyped:
    def __init__(self, *, rate: "NotThere", width: int = 3) -> None: ...  # noqa: F821


class Typed:
    def __init__(self, *, rate: float | None, width: int = 3) -> None: ...


@pytest.mark.parametrize(("name", "null_key"), [("Untyped", None), ("Typed", "parts.width")])
def test_null_is_refused_for_an_argument_whose_type_excludes_none(name, null_key):
    arguments = {"rate": None, "width": None}
    calls = [{"class_path": f"{__name__}.{name}", "init_args": arguments}]
    assert find_null({"parts": calls}) == null_key


def test_errors_in_recipe_files_are_one_line(tmp_path, capsys):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("method: {class_path: VPD, init_args: {bond: 1}}\n")
    assert main(["fit", "--recipe", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    recipe.write_text("task: Depth\n")
    assert main(["fit", "--recipe", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert "the recipe lacks method, train, val, optim" in capsys.readouterr().err
    assert main(["fit", "--recipe", "rooms/vpd_depth"]) == 2
    assert "diffsight: no --out: give the folder of the run\n" in capsys.readouterr().err
    recipe.write_text("task: [\n")
    assert main(["fit", "--recipe", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_print_config_prints_a_complete_recipe_that_can_be_used(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        settings("--print_config")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "class_path: diffsight.methods.VPD" in text
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text)
    again = ["--recipe", str(recipe), "--out", "run", "--print_config"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *again])
    assert stop.value.code == 0
    assert capsys.readouterr().out == text
    recipe.write_text(text.replace("trust: []", "trust: [os]"))
    assert main(["fit", *again]) == 2
    assert "trust" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("fit") / "run"
    assert main(["fit", "--recipe", "rooms/vpd_depth", "--out", str(out), *SMALL]) == 0
    return out


def test_a_run_ends_with_a_model_and_its_table(run, capsys):
    model = diffsight.load(str(run / "model"))
    assert sum(p.numel() for p in model.parameters()) > 1_000_000
    config = json.loads((run / "model" / "config.json").read_text())
    (result,) = config["info"]["results"]
    assert set(result["baselines"]) == {"constant median", "mean map"}
    assert result["images"] == 2


def test_resume_needs_only_the_folder(run, capsys, caplog):
    caplog.set_level(logging.INFO)
    assert main(["fit", "--resume", "--out", str(run), "--steps", "3"]) == 0
    text = capsys.readouterr()
    assert "constant median" in text.out
    assert "1 steps of" in text.err
    state = torch.load(run / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3


def test_an_existing_run_is_not_overwritten(run, capsys):
    assert main(["fit", "--recipe", "rooms/vpd_depth", "--out", str(run), *SMALL]) == 2
    assert "holds a run already: add --resume" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    assert main(["fit", "--recipe", "rooms/vpd_depth", "--out", str(out), *SMALL]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"diffsight: {out}: cannot be written (Not a directory)")


def fit_on_pairs(overrides: list[str], out: Path, steps: int) -> list[str]:
    """Return the arguments that train a small recipe on a folder of images and labels."""
    data = [
        word
        for side in ("train", "val")
        for word in (f"--{side}", "Folder", f"--{side}.split", side)
    ]
    data += [word.replace("SIDE", side) for side in ("train", "val") for word in overrides]
    rest = ["--batch_size", "2", "--devices", "1", "--workers", "0"]
    lengths = ["--steps", str(steps), "--validate_every", str(steps)]
    return ["fit", "--recipe", "rooms/vpd_depth", "--out", str(out), *data, *rest, *lengths]


def test_a_model_is_trained_evaluated_and_run_on_a_folder_of_the_user(tmp_path, capsys):
    pairs, out = tmp_path / "pairs", tmp_path / "run"
    render = ["render", "--count", "8", "--size", "32", "--labels", "depth_m", "--workers", "1"]
    assert main([*render, "--out", str(pairs)]) == 0
    overrides = ["--SIDE.root", str(pairs), "--SIDE.unit", "mm"]
    assert main(fit_on_pairs(overrides, out, steps=2)) == 0
    capsys.readouterr()
    model = ["--model", str(out / "model")]
    assert main(["evaluate", *model, "--protocol", "rooms-v1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] + report["skipped"] == 8 - len(open_pairs(pairs, "train"))
    assert set(report["baselines"]) == {"constant median", "mean map"}
    assert main(["predict", str(pairs / "images"), *model, "--out", str(tmp_path / "depth")]) == 0
    assert len(list((tmp_path / "depth").glob("*.json"))) == 8


def open_pairs(pairs: Path, split: str) -> Folder:
    return Folder(root=pairs, unit="mm", split=split)


@pytest.mark.realdata
def test_a_model_trained_on_real_depth_predicts_photographs_of_coco(tmp_path):
    """The training set has five images with depth in four encodings."""
    root = os.environ.get("DIFFSIGHT_DATA_DIR")
    assert root, "set DIFFSIGHT_DATA_DIR to the folder with the real data"
    (tmp_path / "list.csv").write_text("image,label,encoding\n" + rgbd_rows(Path(root) / "rgbd"))
    overrides = [
        "--SIDE.root",
        str(tmp_path),
        "--SIDE.manifest",
        "list.csv",
        "--SIDE.size",
        "[48,64]",
    ]
    out, photographs = tmp_path / "run", sorted((Path(root) / "coco").glob("*.jpg"))
    assert main(fit_on_pairs(overrides, out, steps=4)) == 0
    arguments = ["predict", *map(str, photographs), "--model", str(out / "model")]
    assert main([*arguments, "--out", str(tmp_path / "depth")]) == 0
    for path in photographs:
        about = json.loads((tmp_path / "depth" / f"{path.stem}.json").read_text())
        with Image.open(path) as image:
            assert about["size"] == list(image.size)
        assert 0 < about["depth_m"]["median"] < 10
