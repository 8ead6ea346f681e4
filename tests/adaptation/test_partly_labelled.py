"""Every kind of label is learned from images of which a few pixels are labelled."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support_adapt import COUNT, pictures, run

from diffsight.adaptation.adapt import adapt
from diffsight.backbones import BackboneSource

STRIDE = 6  # a labelled pixel in 36: 2.8 %


def thin_out(folder: Path, kind: str) -> None:
    """Leave one labelled pixel in 36."""
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
def test_a_few_labelled_pixels_are_learned(
    kind: str, method: str, backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = pictures(tmp_path, kind, sizes=((128, 128),))
    thin_out(folder, kind)
    steps = 5 if method == "feature_head" else 1
    options = {"invalid": 0} if kind == "scalar" else {}
    model = run(folder, backbone, kind, method=method, steps=steps, mirror=False, **options)
    assert np.isfinite(model.info["held_out"][method])
    assert all(bool(one.isfinite().all()) for one in model.baselines.values())


@pytest.mark.parametrize("kind", ["segmentation", "depth", "scalar", "normals", "vector"])
def test_points_are_learned(kind: str, backbone: BackboneSource, tmp_path: Path) -> None:
    folder = pictures(tmp_path, "segmentation", sizes=((128, 160),))
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
