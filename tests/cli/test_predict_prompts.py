"""Prompts of ``diffsight predict``: a sentence, a caption per image, or a subset of classes."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_cli import photo
from tests.support_cli import predict as run

import diffsight
from diffsight.backbones import StableDiffusion
from diffsight.cli import main
from diffsight.errors import InputError
from diffsight.heads import DeconvHead, ReferringDecoder, SemanticFPN
from diffsight.hub import save
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.necks import FPN, Merging
from diffsight.prompts import ClassTokens, Sentences
from diffsight.tasks import Depth, Referring, Segmentation

NAMES = ("wall", "floor", "lamp", "chair")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = functools.partial(
        VPD,
        backbone=StableDiffusion("tiny"),
        prompts=ClassTokens(NAMES, dim=128, weights="tiny"),
        attention_maps="A32",
        neck=functools.partial(FPN, width=8),
        head=functools.partial(SemanticFPN, width=8),
    )
    return save(
        DenseModel(task=Segmentation(NAMES), method=method), tmp_path_factory.mktemp("c") / "model"
    )


@pytest.fixture(scope="module")
def referring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = functools.partial(
        VPD,
        backbone=StableDiffusion("tiny"),
        prompts=Sentences(8, dim=128, encoder="tiny"),
        attention_maps="A32",
        head=functools.partial(ReferringDecoder, width=8),
    )
    return save(DenseModel(task=Referring(), method=method), tmp_path_factory.mktemp("f") / "model")


def build_captioned(num_tokens: int) -> DenseModel:
    """Return a depth model that reads a caption, as EVP does."""
    method = functools.partial(
        VPD,
        backbone=StableDiffusion("tiny"),
        prompts=Sentences(num_tokens, dim=128, encoder="tiny"),
        neck=functools.partial(Merging, width=8, groups=4),
        head=functools.partial(DeconvHead, widths=(8, 8), width=8),
    )
    return DenseModel(task=Depth(), method=method)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build_captioned(8), tmp_path_factory.mktemp("d") / "model")


@pytest.fixture(scope="module")
def sensitive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose depth changes by metres with the caption."""
    model = build_captioned(12)
    torch.manual_seed(0)
    for weight in model.method.head.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return save(model, tmp_path_factory.mktemp("l") / "model")


def test_depth_with_a_caption_is_predicted_and_evaluated(
    captioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = photo(tmp_path / "a.png"), tmp_path / "out"
    assert run(captioned, image, "--out", out, "--expression", "a kitchen") == 0
    assert (out / "a_depth.png").is_file()
    assert run(captioned, image, "--out", out) == 2
    assert "needs a caption: give one with --expression" in capsys.readouterr().err
    data = ["--data", "Rooms", "split=val", "count=2", "size=64", "prompt=caption"]
    arguments = ["evaluate", "--model", str(captioned), "--protocol", "rooms-v1", *data, "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["prompt"] == "caption"
    assert main([*arguments, "--oracle-scene"]) == 2
    assert "reads captions, not scene types" in capsys.readouterr().err


def test_every_image_has_its_own_caption(
    sensitive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also with a damaged image in the folder, and in larger batches."""
    root = tmp_path / "in"
    texts = {"x/a": "a kitchen", "y/a": "a red sphere", "y/c": "a bathroom"}
    for name in texts:
        photo(root / f"{name}.png")
    (root / "y" / "b.png").write_bytes(b"no picture")
    path = tmp_path / "captions.json"

    def write(captions: dict) -> None:
        named = {f"in/{name}.png": text for name, text in captions.items()}
        path.write_text(json.dumps({"data": "images", "captions": named}))

    def depth(file: Path) -> np.ndarray:
        return np.array(Image.open(file)).astype(int)

    write(texts)
    for sizes in ((), ("--batch-size", "4", "--flip")):
        out = tmp_path / f"out{len(sizes)}"
        assert run(sensitive, root, "--out", out, "--captions", path, *sizes) == 1
        assert "b.png" in capsys.readouterr().err
        for name, text in texts.items():
            about = json.loads((out / f"{name}.json").read_text())
            assert (about["expression"], about["scene"]) == (text, None)
            for sentence, differs in ((text, False), ("a white lamp", True)):
                image, alone = root / f"{name}.png", tmp_path / "alone"
                rest = ["--out", alone, "--expression", sentence, *sizes]
                assert run(sensitive, image, *rest) == 0
                one = depth(alone / f"{image.stem}_depth.png")
                assert (np.abs(depth(out / f"{name}_depth.png") - one).max() > 5) == differs
    long = "a kitchen with a table and a red chair and a lamp"
    for captions, message in [
        ({"x/a": "a", "y/a": "b"}, f"{path}: no caption for 1 of 4 images: {root}/y/c.png"),
        ({**texts, "y/a": long}, f"{path}: '{long}' has "),
        ({**texts, "y/a": " "}, f"{path}: the caption of in/y/a.png is empty"),
        ({**texts, "y/a": 3}, f"{path}: the caption of in/y/a.png is 3: replace it by a string"),
    ]:
        write(captions)
        assert run(sensitive, root, "--out", out, "--captions", path) == 2
        assert message in capsys.readouterr().err
    path.write_text(json.dumps({"data": "nyu", "captions": {}}))
    assert run(sensitive, root, "--out", out, "--captions", path) == 2
    assert "captions of data set 'nyu', not of 'images'" in capsys.readouterr().err


def test_predict_reads_the_file_that_caption_writes(
    sensitive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = iter(("a kitchen", "a red sphere", "a bathroom"))

    class FakeCaptioner:
        def __init__(self, *_: object, **options: object) -> None: ...

        def __call__(self, images: list[torch.Tensor]) -> list[str]:
            return [next(texts) for _ in images]

    monkeypatch.setattr("diffsight.prompts.captions.Captioner", FakeCaptioner)
    photos, path = tmp_path / "in", tmp_path / "captions" / "captions.json"
    for name in ("a", "b", "x/a"):
        photo(photos / f"{name}.png")
    arguments = ["caption", "--images", str(photos), "--captioner", "fake", "--out", str(path)]
    assert main([*arguments, "--device", "cpu"]) == 0
    assert run(sensitive, photos, "--out", tmp_path / "out", "--captions", path) == 0
    abouts = [json.loads(file.read_text()) for file in sorted((tmp_path / "out").rglob("*.json"))]
    used = {Path(about["image"]).relative_to(photos): about["expression"] for about in abouts}
    written = json.loads(path.read_text())["captions"]
    assert used == {Path(name).relative_to("../in"): text for name, text in written.items()}
    assert set(used.values()) == {"a kitchen", "a red sphere", "a bathroom"}


def test_empty_and_long_sentences_are_refused(referring: Path, captioned: Path) -> None:
    image = np.zeros((32, 40, 3), dtype=np.uint8)
    for folder in (referring, captioned):
        predict = diffsight.pipeline(folder, device="cpu")
        predict(image, prompt="the red chair")
        long = "the red chair to the left of the table"
        for prompt, message in [
            (long, f"'{long}' has .* the model reads 8: say it in fewer words"),
            ("  ", "reads a sentence about the image: give one as prompt"),
            (None, "reads a sentence about the image: give one as prompt"),
        ]:
            for images in (image, [image], iter([image])):
                with pytest.raises(InputError, match=message):
                    predict(images, prompt=prompt)


def test_the_option_classes_restricts_the_predicted_classes(
    segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = photo(tmp_path / "a.png"), tmp_path / "out"
    assert run(segmenter, image, "--out", out, "--classes", "chair, floor") == 0
    ids = set(np.unique(np.array(Image.open(out / "a_classes.png"))))
    assert ids <= {1, 3}
    about = json.loads((out / "a.json").read_text())
    assert about["only_classes"] == ["chair", "floor"]
    assert about["classes"] == "a_classes.png"
    assert run(segmenter, image, "--out", out) == 0
    assert json.loads((out / "a.json").read_text())["only_classes"] is None
    for names, message in [
        ("chiar", "unknown class 'chiar': did you mean 'chair'"),
        ("chair,chair", "give different names"),
        ("", "unknown class ''"),
    ]:
        assert run(segmenter, image, "--out", out, "--classes", names) == 2
        assert message in capsys.readouterr().err
    assert run(segmenter, image, "--out", out, "--expression", "the chair") == 2
    assert "reads no sentences" in capsys.readouterr().err


def test_a_sentence_is_required_and_used_by_a_referring_model(
    referring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = photo(tmp_path / "a.png"), tmp_path / "out"
    assert run(referring, image, "--out", out, "--expression", "the red chair") == 0
    assert json.loads((out / "a.json").read_text())["expression"] == "the red chair"
    for arguments, message in [
        ((), "give one with --expression"),
        (("--expression", "  "), "give one with --expression"),
        (
            ("--expression", "the red chair to the left of the table"),
            "the model reads 8: say it in",
        ),
        (("--expression", "the chair", "--classes", "a"), "predicts no classes"),
    ]:
        assert run(referring, image, "--out", out, *arguments) == 2
        assert message in capsys.readouterr().err
