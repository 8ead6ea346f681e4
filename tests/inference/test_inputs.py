"""Images of any type: paths, bytes, PIL images, arrays and tensors, and those that are refused."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_inference import Brightness, model
from torch import Tensor

import diffsight
from diffsight.errors import InputError
from diffsight.inference import Pipeline


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form)
    return file.getvalue()


def brightness_pipeline() -> Pipeline:
    return diffsight.pipeline(model(Brightness), device="cpu")


def test_every_type_of_image_gives_the_same_prediction(pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [
        path,
        str(path),
        path.read_bytes(),
        Image.open(path),
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


def test_grey_and_transparent_arrays_are_accepted(pixels: np.ndarray) -> None:
    predict = diffsight.pipeline(model(Brightness), device="cpu")
    grey = pixels[..., 0]
    wanted = torch.from_numpy(1 + grey / 255).float()
    torch.testing.assert_close(predict(grey).depth_m, wanted, atol=1e-6, rtol=1e-6)
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    torch.testing.assert_close(predict(opaque).depth_m, wanted, atol=1e-6, rtol=1e-6)


def test_the_bytes_of_a_photo_are_turned_upright(pixels: np.ndarray, tmp_path: Path) -> None:
    photo, path = Image.fromarray(pixels), tmp_path / "photo.jpg"
    photo.getexif()[0x0112] = 6
    photo.save(path, exif=photo.getexif())
    predict = brightness_pipeline()
    prediction = predict(path.read_bytes())
    assert prediction.hw == (30, 24)
    assert torch.equal(prediction.depth_m, predict(path).depth_m)


def test_the_exif_orientation_of_an_opened_photo_is_applied(pixels: np.ndarray) -> None:
    photo = Image.fromarray(pixels)
    photo.getexif()[0x0112] = 6  # rotate clockwise to show
    predict = diffsight.pipeline(model(Brightness), device="cpu")
    turned = np.rot90(pixels, -1).copy()
    assert torch.equal(predict(photo).depth_m, predict(turned).depth_m)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"image: array of shape \(3, 20, 30\).*height, width, 3"),
        (np.zeros(7, np.uint8), "height, width, 3"),
        (np.zeros((20, 30, 3), np.int64), "dtype torch.int64"),
        (np.full((20, 30, 3), 200.0), r"values from 200 to 200: scale floats"),
        (np.full((20, 30, 3), np.nan), "nan"),
        (torch.zeros(3, 0, 30), r"image: tensor of shape .*3, height, width"),
        ("nowhere.jpg", "nowhere.jpg"),
        (b"", "image: not an image in a supported format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image: not an image in a supported format"),
    ],
)
def test_unusable_images_are_refused(
    image: np.ndarray | Tensor | str | bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        brightness_pipeline()(image)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused_in_one_line(pixels: np.ndarray) -> None:
    data = encoded(np.tile(pixels, (4, 4, 1)), "JPEG")
    half = data[: len(data) // 2]
    for image in (half, Image.open(io.BytesIO(half))):
        with pytest.raises(InputError, match=r"^image: damaged or cut off \(.*\)"):
            brightness_pipeline()(image)


def test_encoded_images_have_the_same_size_limits_as_files(pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match="image 0: 30 x 8 pixels: the shorter side must have"):
        brightness_pipeline()([encoded(pixels[:8])])
