"""Training from partly labelled images: single pixels, points in a table, and boxes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support_adapt import COUNT, run, write_pictures

from diffsight.adaptation.adapt import adapt
from diffsight.backbones import BackboneSource

STRIDE = 6  # one pixel in 36, 2.8 %, stays labelled


def thin_out(folder: Path, kind: str) -> None:
    """Remove the labels of all but one pixel in 36."""
    for path in (folder / "labels").iterdir():
        label = np.load(path) if path.suffix == ".npy" else np.array(Image.open(path))
        keep = np.zeros(label.shape[:2], bool)
        keep[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE] = True
        if kind == "segmentation":
            Image.fromarray(np.where(keep, label, 255).astype(np.uint8)).save(path)
        elif label.ndim == 3:
            np.save(path, np.where(keep[..., None], label, np.nan))
        else:
            Image.fromarray(np.where(keep, label, 0).astype(np.uint16)).save(path)


@pytest.mark.parametrize("kind", ["segmentation", "depth", "scalar", "normals"])
@pytest.mark.parametrize("method", ["feature_head", "few_shot"])
def test_a_model_is_trained_from_a_few_labelled_pixels_per_image(
    kind: str, method: str, backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, kind, sizes=((128, 128),))
    thin_out(folder, kind)
    steps = 5 if method == "feature_head" else 1
    options = {"invalid": 0} if kind == "scalar" else {}
    model = run(folder, backbone, kind, method=method, steps=steps, mirror=False, **options)
    assert np.isfinite(model.info["held_out"][method])
    assert all(bool(one.isfinite().all()) for one in model.baselines.values())


@pytest.mark.parametrize("kind", ["segmentation", "depth", "scalar", "normals", "vector"])
def test_a_model_is_trained_from_points_in_a_table(
    kind: str, backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, "segmentation", sizes=((128, 160),))
    rows = ["image;x;y;" + ("nx;ny;nz" if kind == "normals" else "value")]
    for number in range(COUNT):
        image = np.array(Image.open(folder / "images" / f"{number}.png"))
        for y, x in ((9, 9), (60, 80), (64, 100), (120, 150)):
            is_bright = image[y, x, 0] > 100
            value = {
                "segmentation": "square" if is_bright else "ground",
                "normals": f"{0.1 * number};0;{1 if is_bright else -1}",
                "vector": f"{number};{y}",
            }.get(kind, f"{1 + is_bright + 0.1 * number + 0.001 * y}")
            rows.append(f"{number}.png;{x};{y};{value}")
    if kind == "vector":
        rows[0] = "image;x;y;u;v"
    table = tmp_path / "points.csv"
    table.write_text("\n".join(rows))
    options = {"backbone": backbone, "steps": 3, "method": "feature_head"}
    model = adapt(folder / "images", table, kind=kind, **options)
    assert np.isfinite(model.info["held_out"]["feature_head"])
    assert all(bool(one.isfinite().all()) for one in model.baselines.values())


def write_diamonds(folder: Path) -> None:
    """Write bright diamonds on a dark ground, their masks, and their boxes as COCO."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:64, :64]
    images, annotations = [], []
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(COUNT):
        radius, (top, left) = int(rng.integers(9, 16)), rng.integers(16, 48, 2)
        mask = abs(y - top) + abs(x - left) <= radius
        pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        pixels[mask] = rng.integers(200, 250)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / "labels" / f"{number}.png")
        name = f"{number}.png"
        images.append({"id": number, "file_name": name, "height": 64, "width": 64})
        box = [int(left) - radius, int(top) - radius, 2 * radius + 1, 2 * radius + 1]
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": box})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "diamond"}]
    (folder / "boxes.json").write_text(json.dumps(content))


@pytest.mark.parametrize(("method", "steps"), [("feature_head", 60), ("few_shot", 2)])
def test_a_segmentation_model_is_trained_from_boxes(
    method: str, steps: int, backbone: BackboneSource, tmp_path: Path
) -> None:
    write_diamonds(tmp_path / "a")
    write_diamonds(tmp_path / "b")
    # change the pixels slightly, because copies of training images are refused for validation
    for path in (tmp_path / "b" / "images").iterdir():
        Image.fromarray(255 - (255 - np.array(Image.open(path))) // 2 * 2).save(path)
    options = {"backbone": backbone, "steps": steps, "method": method, "short_side": 64}
    model = adapt(
        tmp_path / "a" / "images",
        tmp_path / "a" / "boxes.json",
        kind="segmentation",
        validation=(tmp_path / "b" / "images", tmp_path / "b" / "labels"),
        **options,
    )
    assert model.task.class_names == ("background", "diamond")
    scores = model.info["held_out"]
    assert np.isfinite(scores[method])
    if method == "feature_head":
        assert scores[method] > scores["constant"] + 15
    folds = adapt(
        tmp_path / "a" / "images",
        tmp_path / "a" / "boxes.json",
        kind="segmentation",
        **(options | {"steps": 1}),
    )
    assert 0 <= folds.info["held_out"]["constant"] <= 100


def test_boxes_as_large_as_their_image_are_accepted(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    write_diamonds(tmp_path)
    file = tmp_path / "boxes.json"
    data = json.loads(file.read_text())
    for one in data["annotations"]:
        one["bbox"] = [0, 0, 64, 64]
    file.write_text(json.dumps(data))
    options = {"backbone": backbone, "steps": 2, "method": "feature_head"}
    model = adapt(tmp_path / "images", file, kind="segmentation", **options)
    assert all(bool(value.isfinite().all()) for value in model.method.state_dict().values())
    assert model.info["held_out"]["constant"] == 0
