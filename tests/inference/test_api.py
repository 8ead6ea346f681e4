"""``diffsight.evaluate``: folders of images and labels, baselines and errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_inference import Brightness, Probabilities, model
from tests.support_models import tiny

from diffsight.errors import InputError
from diffsight.hub import load, save
from diffsight.inference import Plan
from diffsight.inference.api import evaluate, open_labelled_folder
from diffsight.model import DenseModel
from diffsight.tasks import Depth, Segmentation, Values


def write_pairs(root: Path, labels: list[np.ndarray]) -> tuple[Path, Path]:
    """Write images of one grey value each, which increases from image to image, and labels."""
    images, folder = root / "images", root / "labels"
    for path in (images, folder):
        path.mkdir()
    for i, label in enumerate(labels):
        picture = np.full((*label.shape, 3), 51 * i, np.uint8)
        Image.fromarray(picture).save(images / f"{i}.png")
        Image.fromarray(label).save(folder / f"{i}.png")
    return images, folder


def test_folders_of_depth_in_millimetres_are_scored_by_task_metric_or_protocol(
    tmp_path: Path,
) -> None:
    depths = [np.full((16, 20), 1000 + 200 * i, np.uint16) for i in range(3)]
    images, labels = write_pairs(tmp_path, depths)
    dense = model(Brightness)
    dense.info |= {"kind": "depth", "unit": "m", "short_side": 4}
    result = evaluate(dense, images=images, labels=labels, device="cpu")
    assert result.plan == Plan(short_side=4).describe()
    assert result.scores["model"] == pytest.approx({"RMSE, m": 0, "AbsRel": 0, "d1": 1}, abs=1e-5)
    assert set(result.scores) == {"model", "constant median (oracle)", "mean map (oracle)"}
    lines = [line.split() for line in str(result).splitlines()]
    assert lines[0] == ["RMSE,", "m", "AbsRel", "d1"]
    assert lines[1] == ["model", "0.0000", "0.0000", "1.0000"]
    assert lines[5][0] == "plan"
    scored = evaluate(dense, images=images, labels=labels, protocol="rooms-v1", device="cpu")
    assert scored.protocol.name == "rooms-v1"
    assert scored.scores["model"]["abs_rel"] == pytest.approx(0, abs=1e-5)
    again = evaluate(dense, dataset=open_labelled_folder(dense, images, labels), device="cpu")
    assert again.scores == result.scores


def test_a_saved_model_is_compared_with_its_stored_baselines(tmp_path: Path) -> None:
    images, labels = write_pairs(tmp_path, [np.full((16, 20), 1200, np.uint16)] * 2)
    saved = tiny()
    saved.info["kind"] = "depth"
    saved.baselines = {"constant median": torch.full((1, 1), 1.0)}
    save(saved, tmp_path / "model.safetensors")
    results = [
        evaluate(source, images=images, labels=labels, device="cpu").scores
        for source in (tmp_path / "model.safetensors", load(tmp_path / "model.safetensors"))
    ]
    assert results[0] == results[1]
    assert results[0]["constant median"]["RMSE, m"] == pytest.approx(0.2)
    assert not any("oracle" in name for name in results[0])


def test_label_files_are_read_with_the_class_ids_of_the_model(tmp_path: Path) -> None:
    ids = np.array([[2, 7, 7], [2, 255, 7]], np.uint8).repeat(8, 0).repeat(8, 1)
    images, labels = write_pairs(tmp_path, [ids])
    dense = DenseModel(task=Segmentation(["a", "b", "c"], ids=(1, 2, 7)), method=Probabilities)
    dense.info["kind"] = "segmentation"
    folder = open_labelled_folder(dense, images, labels)
    assert folder.name == images.name
    label, valid = folder[0].labels["semantic"], folder[0].valid["semantic"]
    assert label[valid].unique().tolist() == [1, 2]
    assert int((~valid).sum()) == 64
    result = evaluate(dense, images=images, labels=labels, device="cpu")
    assert result.images == 1
    assert result.scores["constant majority (oracle)"]["mIoU, %"] == pytest.approx(100 * 0.3)
    unknown = np.array([[2, 9]], np.uint8).repeat(16, 0).repeat(16, 1)
    (tmp_path / "more").mkdir()
    with pytest.raises(InputError, match="contains the class 9"):
        open_labelled_folder(dense, *write_pairs(tmp_path / "more", [unknown]))


def test_missing_and_contradictory_arguments_are_refused(tmp_path: Path) -> None:
    images, labels = write_pairs(tmp_path, [np.full((16, 20), 1000, np.uint16)])
    dense = model(Brightness)
    with pytest.raises(InputError, match="give images and labels, or dataset"):
        evaluate(dense, images=images)
    other = DenseModel(task=Depth(label="height_m"), method=Brightness)
    message = "Depth has the label 'height_m', which cannot be read from a folder"
    with pytest.raises(InputError, match=message):
        evaluate(other, images=images, labels=labels)
    folder = open_labelled_folder(dense, images, labels)  # the model records no kind of label
    with pytest.raises(InputError, match="not both"):
        evaluate(dense, images=images, labels=labels, dataset=folder)
    assert torch.equal(folder[0].labels["depth_m"], torch.ones(1, 16, 20))


def test_masks_with_a_palette_in_another_order_are_read_by_colour(tmp_path: Path) -> None:
    colours = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    names = ("background", "cup", "plate")
    dense = DenseModel(task=Segmentation(names, colours=colours), method=Probabilities)
    dense.info["kind"] = "segmentation"
    images, labels = write_pairs(
        tmp_path, [np.arange(3, dtype=np.uint8).repeat(192).reshape(24, 24)]
    )
    path = labels / "0.png"
    mask = Image.fromarray(np.array(Image.open(path)), mode="P")
    mask.putpalette([value for colour in (colours[0], colours[2], colours[1]) for value in colour])
    mask.save(path)
    (sample,) = open_labelled_folder(dense, images, labels).samples
    assert sample.labels["semantic"][::8, 0].tolist() == [0, 2, 1]


def test_numbers_are_read_with_the_unit_and_marker_of_the_training_labels(tmp_path: Path) -> None:
    counts = np.full((16, 20), 51200, np.uint16)
    counts[:4] = 9
    images, labels = write_pairs(tmp_path, [counts])
    dense = model(Brightness)
    dense.info |= {"kind": "depth", "unit": "m", "label_unit": "m/256", "label_invalid": 9}
    folder = open_labelled_folder(dense, images, labels)
    assert torch.unique(folder[0].labels["depth_m"]).tolist() == [0, 200]
    assert not folder[0].valid["depth_m"][:4].any()
    assert folder.notes[-1] == (
        "labels: 200 to 200 m, read with --unit m/256 (as in training) and --invalid 9 (as in "
        "training)"
    )
    assert any("80 pixels (25.0 %) have no label: 9 (--invalid), 0" in n for n in folder.notes)
    given = open_labelled_folder(dense, images, labels, unit="mm", invalid=51200)
    assert given.notes[-1] == "labels: 0.009 to 0.009 m, read with --unit mm and --invalid 51200"
    del dense.info["label_unit"], dense.info["label_invalid"]
    plain = open_labelled_folder(dense, images, labels)
    assert plain.notes[-1].endswith(
        "51.2 m, read with the default unit (mm for whole numbers in images, else m)"
    )


def test_labels_in_another_unit_than_that_of_the_model_are_refused(tmp_path: Path) -> None:
    images, labels = write_pairs(tmp_path, [np.full((16, 20), 29000, np.uint16)])
    dense = DenseModel(task=Values(unit="K"), method=Brightness)
    dense.info |= {"kind": "scalar", "unit": "K"}  # an older model does not record K/100
    with pytest.raises(InputError, match="labels in counts, but the model predicts K: give --unit"):
        open_labelled_folder(dense, images, labels)
    folder = open_labelled_folder(dense, images, labels, unit="K/100")
    assert float(folder[0].labels["values"].max()) == 290


@pytest.mark.parametrize("wrong", [{"label_unit": 5}, {"label_invalid": "x"}])
def test_a_damaged_record_of_the_label_format_is_refused(
    wrong: dict[str, object], tmp_path: Path
) -> None:
    dense = model(Brightness)
    dense.info |= wrong
    with pytest.raises(InputError, match=r"info\.label_unit is no text, or info\.label_invalid no"):
        open_labelled_folder(dense, tmp_path, tmp_path)


def test_class_masks_are_read_with_the_marker_of_the_training_labels(tmp_path: Path) -> None:
    scribbles = np.zeros((24, 24), np.uint8)
    scribbles[4:8], scribbles[12:16] = 1, 2
    images, labels = write_pairs(tmp_path, [scribbles])
    dense = DenseModel(task=Segmentation(["a", "b"], ids=(1, 2)), method=Probabilities)
    dense.info["kind"] = "segmentation"
    with pytest.raises(InputError, match=r"contains the class 0, .* or mark it .* --invalid 0"):
        open_labelled_folder(dense, images, labels)
    dense.info["label_invalid"] = 0
    folder = open_labelled_folder(dense, images, labels)
    assert int(folder[0].valid["semantic"].sum()) == 8 * 24
    assert folder.notes == ("0 (384 pixels, 66.7 %) is 'no label', as in the training set",)


def test_class_masks_may_be_snapped_and_matched_by_name(tmp_path: Path) -> None:
    mask = np.where(np.arange(24) < 12, 3, 201).astype(np.uint8)[None].repeat(24, axis=0)
    images, labels = write_pairs(tmp_path, [mask])
    dense = DenseModel(task=Segmentation(["a", "b"], ids=(0, 200)), method=Probabilities)
    dense.info["kind"] = "segmentation"
    folder = open_labelled_folder(dense, images, labels, snap=True)
    assert folder[0].labels["semantic"][0, ::12].tolist() == [0, 1]
    (tmp_path / "names.csv").write_text("201,a\n3,b\n")
    folder = open_labelled_folder(dense, images, labels, classes=tmp_path / "names.csv")
    assert folder[0].labels["semantic"][0, ::12].tolist() == [1, 0]
    depth = model(Brightness)
    with pytest.raises(InputError, match="labels of kind depth have no classes: leave them out"):
        open_labelled_folder(depth, images, labels, classes=("a",))
    with pytest.raises(InputError, match="--snap is only for class masks"):
        open_labelled_folder(depth, images, labels, snap=True)
