"""Prompts at run time: a sentence, or some of the classes."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.test_predict import photo, run

from diffsight.backbones import StableDiffusion
from diffsight.heads import ReferringDecoder, SemanticFPN
from diffsight.hub import save
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.necks import FPN
from diffsight.prompts import ClassTokens, Sentences
from diffsight.tasks import Referring, Semantic

NAMES = ("wall", "floor", "lamp", "chair")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = functools.partial(
        VPD,
        backbone=StableDiffusion("tiny"),
        prompts=ClassTokens(NAMES, dim=128, weights="tiny"),
        attention_maps="A32",
        neck=functools.partial(FPN, width=8),
        head=functools.partial(SemanticFPN, width=8),
    )
    return save(
        DenseModel(task=Semantic(NAMES), method=method), tmp_path_factory.mktemp("c") / "model"
    )


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = functools.partial(
        VPD,
        backbone=StableDiffusion("tiny"),
        prompts=Sentences(8, dim=128, encoder="tiny"),
        attention_maps="A32",
        head=functools.partial(ReferringDecoder, width=8),
    )
    return save(DenseModel(task=Referring(), method=method), tmp_path_factory.mktemp("f") / "model")


def test_some_of_the_classes(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = photo(tmp_path / "a.png"), tmp_path / "out"
    assert run(classes, image, "--out", out, "--classes", "chair, floor") == 0
    ids = set(np.unique(np.array(Image.open(out / "a_classes.png"))))
    assert ids <= {1, 3}
    for words, message in [
        ("chiar", "unknown class 'chiar': did you mean 'chair'"),
        ("chair,chair", "give different names"),
        ("", "unknown class ''"),
    ]:
        assert run(classes, image, "--out", out, "--classes", words) == 2
        assert message in capsys.readouterr().err
    assert run(classes, image, "--out", out, "--expression", "the chair") == 2
    assert "takes no sentence" in capsys.readouterr().err


def test_a_sentence(finder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, out = photo(tmp_path / "a.png"), tmp_path / "out"
    assert run(finder, image, "--out", out, "--expression", "the red chair") == 0
    assert json.loads((out / "a.json").read_text())["expression"] == "the red chair"
    for words, message in [
        ((), "give one with --expression"),
        (("--expression", "  "), "give one with --expression"),
        (
            ("--expression", "the red chair to the left of the table"),
            "the model reads 8: say it in",
        ),
        (("--expression", "the chair", "--classes", "a"), "predicts no classes"),
    ]:
        assert run(finder, image, "--out", out, *words) == 2
        assert message in capsys.readouterr().err
