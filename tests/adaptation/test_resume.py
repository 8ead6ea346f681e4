"""Resume ``adapt`` with other held-out images."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support_adapt import run, write_pictures

from diffsight.adaptation.selection import Progress
from diffsight.backbones import BackboneSource
from diffsight.datasets.pairs import content_hash
from diffsight.errors import InputError


def split(pictures: Path, folder: Path, count: int) -> dict[str, Any]:
    """Move the last images, in the order of ``adapt``, to a validation set.

    Args:
        pictures: folder of ``write_pictures``.
        folder: folder to write; it gets the training images, and the validation images in ``held``.
        count: number of training images.

    Returns:
        The options of ``adapt`` for the validation set; none without one.
    """
    paths = sorted((pictures / "images").iterdir(), key=content_hash)
    for number, path in enumerate(paths):
        target = folder if number < count else folder / "held"
        for part in ("images", "labels"):
            (target / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(pictures / part / path.name, target / part)
    held = folder / "held"
    return {"validation": (held / "images", held / "labels")} if count < len(paths) else {}


@pytest.mark.parametrize("count", [4, 6], ids=["more training images", "no validation set"])
def test_resuming_with_another_validation_set_is_refused(
    count: int, backbone: BackboneSource, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    pictures, folder, other = (tmp_path / name for name in ("all", "first", "other"))
    write_pictures(pictures, "segmentation")
    options: dict[str, Any] = {"method": "feature_head", "steps": 3, "state": tmp_path / "state"}
    first = {**options, **split(pictures, folder, 5)}
    run(folder, backbone, "segmentation", **first, advance=stop)
    changed = {**options, **split(pictures, other, count)}
    with pytest.raises(InputError, match="state: belongs to another model, or to other images"):
        run(other, backbone, "segmentation", **changed, resume=True)
    assert not run(folder, backbone, "segmentation", **first, resume=True).info["interrupted"]
