"""How an adaptation shares out its time and its images."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffsight.cli.show import describe
from diffsight.datasets.labels import LabelFormat
from diffsight.datasets.support import read_support
from diffsight.hub.task_file import Base, load_task
from diffsight.training.adapt import adapt
from diffsight.training.adaptation import LEAST_STEPS, SHARE_NAMES, SHARES, shared_out
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


@pytest.mark.parametrize(
    ("asked_slope", "chosen"), [(4.0, "place_share"), (-4.0, "constant_share")]
)
def test_shares_are_the_best_of_the_held_out_images(
    pipeline_folder, tmp_path, asked_slope, chosen
) -> None:
    """Pictures of noise: a head that looks is misled; a slope that turns misleads the place."""
    rng = np.random.default_rng(0)
    base, folders = Base.load(pipeline_folder), (tmp_path / "known", tmp_path / "asked")
    for folder, slope in zip(folders, (4.0, asked_slope), strict=True):
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True)
        for i, offset in enumerate((-0.6, 0.6, -0.2, 0.2)):
            image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / "images" / f"{i}.png")
            label = np.tile(np.linspace(-slope / 2, slope / 2, 64), (64, 1)) + offset
            np.save(folder / "labels" / f"{i}.npy", label.astype(np.float32))
    known, asked = ((folder / "images", folder / "labels") for folder in folders)
    options = {"kind": "scalar", "method": "features", "steps": 100, "mirror": False}
    task = adapt(*known, backbone=base, validation=asked, **options)
    method, dense = task.model.method, task.model.task
    shares, scores = method.shares, {}
    images = read_support(*asked, LabelFormat("scalar")).examples
    encoded = [encode(method, dense, image, 64, mirror=False) for image in images]
    for method.shares in SHARES:
        scores[method.shares] = dense.score(measure(method, dense, encoded))
    method.shares = shares
    assert shares == min(scores, key=scores.get)
    assert dict(zip(SHARE_NAMES, shares, strict=True)) == task.about["options"]
    assert task.about["options"][chosen] > 0
    assert task.about["report"]["held_out"]["features"] == pytest.approx(scores[shares], rel=1e-6)
    path = task.save(tmp_path / "mine.task")
    again = load_task(path, base).model.method
    assert again.shares == shares
    assert torch.equal(again.prior, method.prior)
    assert float(again.prior.std()) > 0
    told = f"{task.about['options'][chosen]:.0%} of every answer"
    assert told in describe(task.about, path)
