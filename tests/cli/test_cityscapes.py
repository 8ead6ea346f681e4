"""Predictions of Cityscapes in the format of its test server."""

import fnmatch
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support import SMALL
from tests.support_cli import photo
from tests.support_cli import predict as run

from diffsight.backbones import StableDiffusion
from diffsight.heads import UPerHead
from diffsight.hub import save
from diffsight.label_maps import CITYSCAPES_CLASSES, CITYSCAPES_IDS
from diffsight.methods import MetaPrompts
from diffsight.model import DenseModel
from diffsight.necks import PerLevel
from diffsight.prompts import LearnedTokens
from diffsight.tasks import Segmentation

FRAMES = ("berlin_000000_000019", "berlin_000001_000019", "munich_000010_000019")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a saved model of one pass with the ids of Cityscapes."""
    torch.manual_seed(0)
    method = partial(
        MetaPrompts,
        backbone=StableDiffusion(SMALL, time_embedding=False, resize_skips=True),
        prompts=[LearnedTokens(4, dim=24)],
        rearrange=PerLevel,
        head=partial(UPerHead, width=8),
        passes=1,
    )
    task = Segmentation("cityscapes", ids=CITYSCAPES_IDS)
    return save(DenseModel(task=task, method=method).eval(), tmp_path_factory.mktemp("m") / "model")


def test_exactly_one_file_per_frame_has_the_label_ids_that_the_server_reads(
    model: Path, tmp_path: Path
) -> None:
    """The server matches CITY_SEQUENCE_FRAME*.png, and refuses two files for one frame."""
    for frame in FRAMES:
        photo(tmp_path / "test" / frame[:6] / f"{frame}_leftImg8bit.png", 40, 80)
    out = tmp_path / "out"
    assert run(model, tmp_path / "test", "--out", out) == 0
    submitted = sorted(out.glob("*/*_classes.png"))  # the files of docs/data.md
    assert len(submitted) == len(FRAMES)
    for frame in FRAMES:
        (path,) = fnmatch.filter((file.name for file in submitted), f"{frame}*.png")
        with Image.open(out / frame[:6] / path) as image:
            ids = np.asarray(image)
        assert (ids.shape, ids.dtype) == ((40, 80), np.uint8)
        assert set(ids.flatten().tolist()) <= set(CITYSCAPES_IDS)
    others = {path for path in out.rglob("*.png") if path not in submitted}
    assert {path.name for path in others} == {f"{f}_leftImg8bit_colour.png" for f in FRAMES}


def test_label_ids_are_those_of_the_predicted_classes(model: Path, tmp_path: Path) -> None:
    image = photo(tmp_path / f"{FRAMES[0]}_leftImg8bit.png", 40, 80)
    for number in (0, 9, 18):
        out = tmp_path / str(number)
        assert run(model, image, "--out", out, "--classes", CITYSCAPES_CLASSES[number]) == 0
        with Image.open(out / f"{image.stem}_classes.png") as written:
            assert (np.asarray(written) == CITYSCAPES_IDS[number]).all()
