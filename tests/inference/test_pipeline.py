from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.inference.standins import Blur, Brightness, Logits, model
from torch import Tensor

import diffsight
from diffsight.backbones import BackboneSource
from diffsight.errors import InputError
from diffsight.hub import save
from diffsight.inference import Plan
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.prompts import TextTable
from diffsight.tasks import Depth, DepthPrediction, Segmentation


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)


def test_every_kind_of_image_gives_the_same(pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [
        path,
        str(path),
        Image.fromarray(pixels),
        pixels,
        pixels.astype(np.float64) / 255,
        tensor,
        tensor.float() / 255,
    ]
    predict = diffsight.pipeline(model(Brightness), device="cpu")
    wanted = torch.from_numpy(1 + pixels.mean(axis=2) / 255).float()
    for kind in kinds:
        torch.testing.assert_close(predict(kind).depth_m, wanted, atol=1e-6, rtol=1e-6)


def test_grey_and_transparent_arrays_are_images_too(pixels: np.ndarray) -> None:
    predict = diffsight.pipeline(model(Brightness), device="cpu")
    grey = pixels[..., 0]
    wanted = torch.from_numpy(1 + grey / 255).float()
    torch.testing.assert_close(predict(grey).depth_m, wanted, atol=1e-6, rtol=1e-6)
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    torch.testing.assert_close(predict(opaque).depth_m, wanted, atol=1e-6, rtol=1e-6)


def test_exif_orientation_of_an_opened_photo(pixels: np.ndarray) -> None:
    photo = Image.fromarray(pixels)
    photo.getexif()[0x0112] = 6  # was held upright: rotate clockwise to show
    predict = diffsight.pipeline(model(Brightness), device="cpu")
    turned = np.rot90(pixels, -1).copy()
    assert torch.equal(predict(photo).depth_m, predict(turned).depth_m)


def test_lists_give_lists_and_iterators_stream_in_order() -> None:
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


def test_a_prediction_says_what_it_is(tmp_path: Path, pipeline_folder: Path) -> None:
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


def test_prompts_reach_the_model() -> None:
    predict = diffsight.pipeline(model(Blur), device="cpu")
    image = torch.zeros(3, 16, 16)
    difference = predict(image, prompt="office").depth_m - predict(image).depth_m
    torch.testing.assert_close(difference, torch.full((16, 16), 2.0))


def test_a_superfluous_prompt_is_refused() -> None:
    predict = diffsight.pipeline(model(Brightness), device="cpu")
    with pytest.raises(InputError, match="Brightness takes no prompt: leave it out"):
        predict(torch.zeros(3, 16, 16), prompt="office")


def test_the_model_knows_its_working_size() -> None:
    dense = model(Brightness)
    dense.info["short_side"] = 8
    predict = diffsight.pipeline(dense, ensemble_size=2, device="cpu")
    assert predict.predictor.plan == Plan(short_side=8, ensemble_size=2)
    own = diffsight.pipeline(dense, short_side="own", device="cpu")
    assert own.predictor.plan == Plan()


def test_a_whole_plan_stands_in_place_of_the_options() -> None:
    dense = DenseModel(task=Segmentation(["a", "b"]), method=Logits)
    plan = Plan(tile=8, stride=6, scales=(1.0, 1.5))
    assert diffsight.pipeline(dense, plan=plan, device="cpu").predictor.plan == plan
    with pytest.raises(InputError, match="give plan, or short_side, windows"):
        diffsight.pipeline(dense, plan=plan, flip=True, device="cpu")


def test_mixed_precision() -> None:
    predict = diffsight.pipeline(model(Blur), device="cpu", dtype=torch.bfloat16)
    assert predict(torch.zeros(3, 16, 16)).depth_m.dtype == torch.float32


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"shape \(3, 20, 30\).*height, width, 3"),
        (np.zeros(7, np.uint8), "height, width, 3"),
        (np.zeros((20, 30, 3), np.int64), "type torch.int64"),
        (np.full((20, 30, 3), 200.0), r"values from 200 to 200: scale floats"),
        (np.full((20, 30, 3), np.nan), "nan"),
        (torch.zeros(1, 3, 20, 30), r"3, height, width"),
        (torch.zeros(3, 0, 30), r"3, height, width"),
        ("nowhere.jpg", "nowhere.jpg"),
    ],
)
def test_what_is_no_image(image: np.ndarray | Tensor | str, message: str) -> None:
    predict = diffsight.pipeline(model(Brightness), device="cpu")
    with pytest.raises(InputError, match=message):
        predict(image)
