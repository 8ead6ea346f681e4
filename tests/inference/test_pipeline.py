"""``diffsight.pipeline``: one image, several images and streams, prompts, plans and errors."""

import inspect
import re
import weakref
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import GeneratorType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_cli import photo
from tests.support_inference import (
    BOXES,
    LEFT,
    Blur,
    Brightness,
    Logits,
    calibrated,
    draw_people,
    model,
    pose_model,
)
from torch import Tensor

import diffsight
from diffsight.backbones import BackboneSource
from diffsight.datasets.rig_file import read_image_or_rig
from diffsight.errors import InputError
from diffsight.hub import save
from diffsight.inference import Pipeline, Plan
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.prompts import TextTable
from diffsight.tasks import Depth, DepthPrediction, Segmentation


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)


def brightness_pipeline(**options: Any) -> Pipeline:
    return diffsight.pipeline(model(Brightness), device="cpu", **options)


def test_iterators_are_read_only_as_far_as_needed() -> None:
    predict = diffsight.pipeline(model(Brightness), batch_size=2, device="cpu")
    images = [torch.full((3, 16, 16 + i), 10 * i, dtype=torch.uint8) for i in range(5)]
    listed = predict(images)
    assert isinstance(listed, list)
    assert [p.depth_m.shape[1] for p in listed] == [16, 17, 18, 19, 20]
    read: list[int] = []

    def camera() -> Iterator[Tensor]:
        for i in range(1000):
            read.append(i)
            yield images[i % 5]

    stream = predict(camera())
    first = next(stream)
    assert torch.equal(first.depth_m, listed[0].depth_m)
    assert len(read) < 5


def test_only_images_that_are_read_ahead_stay_in_memory() -> None:
    predict = diffsight.pipeline(model(Brightness), batch_size=2, device="cpu")
    alive: list[weakref.ref[Tensor]] = []

    def camera() -> Iterator[Tensor]:
        for _ in range(12):
            image = torch.zeros(3, 16, 16, dtype=torch.uint8)
            alive.append(weakref.ref(image))
            yield image

    counts = []
    for _ in predict(camera()):
        counts.append(sum(one() is not None for one in alive))
    assert len(counts) == 12
    assert max(counts) <= 3  # a batch, and the image after it


def test_the_images_of_a_list_of_paths_do_not_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [photo(tmp_path / f"{i}.png") for i in range(8)]
    predict = diffsight.pipeline(model(Brightness), device="cpu")
    alive: list[weakref.ref[Tensor]] = []
    counts = []

    def read(path: Path, **options: Any) -> tuple[Tensor, None]:
        image, _ = read_image_or_rig(path, **options)
        counts.append(sum(one() is not None for one in alive))
        alive.append(weakref.ref(image))
        return image, None

    monkeypatch.setattr("diffsight.inference.pipeline.read_image_or_rig", read)
    assert len(predict(paths)) == 8
    assert max(counts) <= 2


def test_a_batch_of_images_gives_a_list_of_predictions(pixels: np.ndarray) -> None:
    predict = brightness_pipeline()
    batch = np.stack([pixels, 255 - pixels])
    wanted = [predict(one).depth_m for one in batch]
    tensor = torch.from_numpy(batch).permute(0, 3, 1, 2)
    for several in (batch, batch / 255, tensor, tensor.float() / 255, tuple(batch)):
        predictions = predict(several)
        assert isinstance(predictions, list)
        for prediction, expected in zip(predictions, wanted, strict=True):
            torch.testing.assert_close(prediction.depth_m, expected)
    assert predict(tensor[:0]) == predict([]) == []


def test_folders_and_patterns_give_a_list_in_the_order_of_the_paths(tmp_path: Path) -> None:
    (tmp_path / "trip").mkdir()
    for name, grey in (("b.png", 102), ("trip/c.jpg", 153), ("a.png", 51), ("notes.txt", 0)):
        picture = Image.new("RGB", (32, 16), (grey, grey, grey))
        picture.save(tmp_path / name, format="PNG")
    predict = brightness_pipeline()
    for folder in (tmp_path, str(tmp_path)):
        predictions = predict(folder)
        assert isinstance(predictions, list)
        assert [float(one.depth_m[0, 0]) for one in predictions] == pytest.approx([1.2, 1.4, 1.6])
    for pattern in (tmp_path / "*.png", f"{tmp_path}/[ab].png"):
        assert [round(float(one.depth_m[0, 0]), 4) for one in predict(pattern)] == [1.2, 1.4]
    with pytest.raises(InputError, match=r"\*.bmp: no images \("):
        predict(tmp_path / "*.bmp")
    # a name with brackets is a pattern only if there is no such file
    (tmp_path / "a.png").rename(tmp_path / "[a].png")
    assert predict(tmp_path / "[a].png").hw == (16, 32)


def test_an_iterator_gives_a_generator() -> None:
    frames = (torch.full((3, 16, 16), i, dtype=torch.uint8) for i in range(3))
    stream = brightness_pipeline()(frames, flip=True)
    assert isinstance(stream, GeneratorType)
    assert len(list(stream)) == 3


def test_a_saved_model_of_depth_predicts_depth_with_unit_type_and_uncertainty(
    tmp_path: Path, pipeline_folder: Path
) -> None:
    torch.manual_seed(0)
    source = BackboneSource(pipeline_folder)
    prompts = TextTable(["kitchen", "office"], dim=source.diffusion.context_dim)
    method = VPD.from_backbone(source, prompts=prompts)
    folder = save(DenseModel(task=Depth(), method=method), tmp_path / "m")
    image = torch.randint(0, 256, (3, 40, 52), dtype=torch.uint8)
    predict = diffsight.pipeline(folder, windows=2, flip=True, device="cpu")
    prediction = predict(image, prompt="office")
    assert isinstance(prediction, DepthPrediction)
    assert (prediction.unit, prediction.depth_type) == ("m", "z")
    assert prediction.depth_m.shape == prediction.valid.shape == (40, 52)
    assert prediction.uncertainty_m is not None
    assert predict.predictor.plan.describe() == "own size, 2 square windows, with flip"
    with pytest.raises(InputError, match="did you mean 'office'"):
        predict(image, prompt="offfice")


def test_the_prompt_changes_the_prediction() -> None:
    predict = diffsight.pipeline(model(Blur), device="cpu")
    image = torch.zeros(3, 16, 16)
    difference = predict(image, prompt="office").depth_m - predict(image).depth_m
    torch.testing.assert_close(difference, torch.full((16, 16), 2.0))


def test_a_prompt_for_a_model_without_prompts_is_refused() -> None:
    predict = diffsight.pipeline(model(Brightness), device="cpu")
    with pytest.raises(InputError, match="Brightness takes no prompt: leave it out"):
        predict(torch.zeros(3, 16, 16), prompt="office")


def test_the_default_size_is_that_of_the_training_images() -> None:
    dense = model(Brightness)
    dense.info["short_side"] = 8
    predict = diffsight.pipeline(dense, windows=2, device="cpu")
    assert predict.predictor.plan == Plan(short_side=8, windows=2)
    own = diffsight.pipeline(dense, short_side="own", device="cpu")
    assert own.predictor.plan == Plan()


def test_options_of_a_pipeline_override_fields_of_its_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # it refuses other types
    dense = DenseModel(task=Segmentation(["a", "b"]), method=Logits)
    plan = Plan(tile=8, stride=6)
    assert diffsight.pipeline(dense, plan=plan, device="cpu").predictor.plan == plan
    changed = diffsight.pipeline(dense, plan=plan, scales=[1.0, 1.5], device="cpu")
    assert changed.predictor.plan == Plan(tile=8, stride=6, scales=(1.0, 1.5))
    changed = diffsight.pipeline(dense, plan=plan, scales=2, device="cpu")
    assert changed.predictor.plan == Plan(tile=8, stride=6, scales=(2.0,))
    with pytest.raises(InputError, match=r"^windows must be a whole number, got '2'$"):
        diffsight.pipeline(dense, windows="2", device="cpu")
    with pytest.raises(InputError, match="give windows or tile and stride, not both"):
        diffsight.pipeline(dense, plan=plan, windows=2, device="cpu")


@pytest.mark.parametrize(
    "options",
    [
        {"windows": 2, "flip": True},
        {"short_side": 8, "batch_size": 2},
        {"short_side": "own"},
        {"plan": Plan(short_side=12)},
        {"plan": Plan(short_side=12), "flip": True, "windows": 2},
    ],
)
def test_options_of_a_call_have_the_effect_of_options_of_a_pipeline(
    options: dict[str, Any],
) -> None:
    dense = model(Blur)
    dense.info["short_side"] = 20
    predict = diffsight.pipeline(dense, device="cpu")
    made = diffsight.pipeline(dense, device="cpu", **options)
    image = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0))
    usual = predict(image)
    changed = predict(image, **options)
    assert torch.equal(changed.depth_m, made(image).depth_m)
    assert not torch.equal(changed.depth_m, usual.depth_m)
    (listed,) = predict([image], **options)
    assert torch.equal(listed.depth_m, changed.depth_m)
    # the next call uses the plan of the pipeline again
    assert torch.equal(predict(image).depth_m, usual.depth_m)
    assert predict.predictor.plan == Plan(short_side=20)


def test_options_of_a_call_keep_the_other_fields_of_the_plan() -> None:
    predict = brightness_pipeline(short_side=12, batch_size=3)
    predict([torch.zeros(3, 24, 24)] * 3, flip=True)
    method = predict.model.method
    assert isinstance(method, Brightness)
    assert method.batches == [(3, 3, 12, 12)] * 2
    # without a recorded training size, "training" keeps the size of the image
    predict(torch.zeros(3, 24, 24), short_side="training")
    assert method.batches[2:] == [(1, 3, 24, 24)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 2}, "unknown option 'window': did you mean 'windows'?"),
        ({"ensemble": 2}, "unknown option 'ensemble': did you mean 'ensemble_size'?"),
        ({"short_side": "trainig"}, "short_side 'trainig': give pixels, 'training' or 'own'"),
        ({"windows": 0}, "windows must be at least 1, got 0"),
        ({"steps": 3}, "Brightness has no steps to choose: leave steps out"),
        ({"ensemble_size": 2}, "adds no noise, so all passes of an ensemble are equal: leave ens"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], message: str) -> None:
    predict = brightness_pipeline()
    for call in (lambda: brightness_pipeline(**options), lambda: predict(iter([]), **options)):
        with pytest.raises(InputError, match=re.escape(message)):
            call()


def test_public_functions_have_no_parameter_of_the_name_of_a_plan_field() -> None:
    names = {field.name for field in fields(Plan)}
    for function in (diffsight.pipeline, diffsight.evaluate, Pipeline.__call__):
        assert not names & inspect.signature(function).parameters.keys()


def test_evaluate_accepts_the_options_of_a_pipeline(tmp_path: Path) -> None:
    for name, value in (("images", np.zeros((16, 20, 3), np.uint8)), ("labels", None)):
        (tmp_path / name).mkdir()
        label = np.full((16, 20), 1000, np.uint16) if value is None else value
        Image.fromarray(label).save(tmp_path / name / "a.png")
    folders = {"images": tmp_path / "images", "labels": tmp_path / "labels"}
    result = diffsight.evaluate(model(Brightness), **folders, device="cpu", short_side=8, flip=True)
    assert result.plan == Plan(short_side=8, flip=True).describe()
    with pytest.raises(InputError, match="unknown option 'flips': did you mean 'flip'"):
        diffsight.evaluate(model(Brightness), **folders, flips=True)


def test_a_call_with_another_plan_keeps_the_confidence() -> None:
    dense = model(Brightness)
    dense.info |= {**calibrated(), "short_side": 16}
    predict = diffsight.pipeline(dense, device="cpu").with_confidence(0.9)
    image = torch.zeros(3, 16, 16)
    assert predict(image).calibrated["same_plan"] is True
    changed = predict(image, flip=True).calibrated
    assert (changed["confidence"], changed["same_plan"]) == (0.9, False)


def test_the_repr_of_a_pipeline_names_task_method_device_and_plan() -> None:
    dense = model(Brightness)
    predict = diffsight.pipeline(dense, device="cpu", short_side=8)
    assert repr(predict) == (
        "Pipeline(task=Depth, method=Brightness, device=cpu, "
        "plan='short side 8 px, whole image, no flip')"
    )
    assert predict.model is dense


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InputError, match=r"device 'abacus' cannot be used .*such as cpu"):
        diffsight.pipeline(model(Brightness), device="abacus")


def test_dtype_float32_turns_mixed_precision_off() -> None:
    assert brightness_pipeline(dtype=torch.float32).predictor.dtype is None


def test_the_type_stub_declares_every_public_name() -> None:
    package = Path(diffsight.__file__).parent
    assert (package / "py.typed").is_file()
    stub = (package / "__init__.pyi").read_text()
    names = re.findall(r" as (\w+)$", stub, re.MULTILINE)
    assert sorted([*names, "__version__"]) == sorted(diffsight.__all__)
    modules = re.findall(r"^from (\S+) import (\w+)", stub, re.MULTILINE)
    assert {name: module for module, name in modules} == diffsight._PUBLIC


def test_predictions_in_mixed_precision_are_float32() -> None:
    predict = diffsight.pipeline(model(Blur), device="cpu", dtype=torch.bfloat16)
    assert predict(torch.zeros(3, 16, 16)).depth_m.dtype == torch.float32


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 20, 30), "image 1: tensor of shape"),
        (torch.full((3, 20, 30), 7.0), "image 1: values from 7"),
        (b"\x00", "image 1: not an image"),
        (None, "image 1: NoneType is not an image: give a path, a PIL image, an array"),
        ("nowhere.jpg", "^nowhere.jpg: cannot be read"),
    ],
)
def test_the_error_names_the_unusable_image_of_several(image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(brightness_pipeline()(iter([torch.zeros(3, 20, 30), image])))


def test_the_error_names_an_image_that_is_too_large_for_the_plan(tmp_path: Path) -> None:
    Image.new("RGB", (160, 16)).save(tmp_path / "wide.png")
    with pytest.raises(InputError, match=r"wide.png: image of 160 x 16 px would be run at 40000 x"):
        brightness_pipeline()(tmp_path, short_side=4000)


def test_a_list_of_images_requires_boxes_for_every_image() -> None:
    predict = diffsight.pipeline(pose_model(), device="cpu")
    batch = torch.stack([draw_people(LEFT)] * 2)
    predictions = predict(batch, boxes=np.array([BOXES, BOXES]))
    assert [len(one.to_label()) for one in predictions] == [2, 2]
    with pytest.raises(InputError, match="2 images, but boxes for 1: give rows for each image"):
        predict(batch, boxes=[BOXES])
