"""How an adaptation shares out its time and its images."""

import numpy as np
import pytest
from PIL import Image

from diffsight.cli.show import describe
from diffsight.datasets.labels import LabelFormat
from diffsight.datasets.support import read_support
from diffsight.hub.task_file import Base, load_task
from diffsight.training.adapt import adapt
from diffsight.training.adaptation import LEAST_STEPS, PLACE_SHARES, shared_out
from diffsight.training.few_shot import encode, folds_of, measure


def test_time_that_a_method_cannot_use_is_the_others() -> None:
    took = {"features": 0.001, "concepts": 0.1}  # features would need 1.5 s a training
    plan = shared_out(211.5, took, folds=3, final=True)
    assert plan == {"features": 1500, "concepts": 517}  # (211.5 - 3 x 1.5) / 4 / 0.1
    alike = dict.fromkeys(took, 0.1)
    assert shared_out(70.0, alike, folds=3, final=True) == dict.fromkeys(took, 100)
    assert shared_out(7.0, alike, folds=3, final=True) == dict.fromkeys(took, LEAST_STEPS)
    assert shared_out(60.0, alike, folds=1, final=False) == dict.fromkeys(took, 300)
    assert shared_out(10.0, {"concepts": 0.1}, folds=0, final=True) == {"concepts": 100}


def test_one_picture_under_two_names_is_in_one_fold() -> None:
    folds = list(folds_of(["a", "a", "b", "c", "c", "d"], 3))
    assert [asked for _, asked in folds] == [[0, 1, 5], [2], [3, 4]]
    assert all(sorted(known + asked) == list(range(6)) for known, asked in folds)


def test_the_share_of_the_place_is_the_best_of_the_held_out_images(
    pipeline_folder, tmp_path
) -> None:
    """Pictures of noise whose labels rise from left to right: a head that looks is misled."""
    rng = np.random.default_rng(0)
    base, folders = Base.load(pipeline_folder), (tmp_path / "known", tmp_path / "asked")
    for folder in folders:
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True)
        for i in range(4):
            image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / "images" / f"{i}.png")
            label = np.tile(np.linspace(0, 1, 64), (64, 1)) + rng.uniform(-1, 1)
            np.save(folder / "labels" / f"{i}.npy", label.astype(np.float32))
    known, asked = ((folder / "images", folder / "labels") for folder in folders)
    options = {"kind": "scalar", "method": "features", "steps": 100, "mirror": False}
    task = adapt(*known, backbone=base, validation=asked, **options)
    method, dense = task.model.method, task.model.task
    share, scores = method.place_share, {}
    images = read_support(*asked, LabelFormat("scalar")).examples
    encoded = [encode(method, dense, image, 64, mirror=False) for image in images]
    for method.place_share in PLACE_SHARES:
        scores[method.place_share] = dense.score(measure(method, dense, encoded))
    assert share == task.about["options"]["place_share"] == min(scores, key=scores.get) > 0
    assert task.about["report"]["held_out"]["features"] == pytest.approx(scores[share], rel=1e-6)
    path = task.save(tmp_path / "mine.task")
    assert load_task(path, base).model.method.place_share == share
    assert f"gives {share:.0%} of every answer" in describe(task.about, path)
