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
from diffsight.tasks import Depth, Segmentation


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
