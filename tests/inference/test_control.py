"""ControlNet: images are generated from the predicted classes of a photograph."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image
from tests.support import randomise_weights
from tests.support_cli import photo

from diffsight.backbones import VisionBackbone
from diffsight.cli import main
from diffsight.datasets.files import read_image
from diffsight.errors import InputError
from diffsight.hub import save
from diffsight.inference import Predictor
from diffsight.inference.control import Controller, colour_classes
from diffsight.label_maps import ADE20K_COLOURS
from diffsight.methods import LinearProbe
from diffsight.model import DenseModel
from diffsight.tasks import Segmentation

ARCHITECTURE = {
    "model_type": "convnext",
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}
QUICK = {"side": 64, "steps": 2}


def segmenter(names: object = "ade20k", seed: int = 0) -> DenseModel:
    torch.manual_seed(seed)
    backbone = VisionBackbone(architecture=ARCHITECTURE)

    def method(*, output: object) -> LinearProbe:
        return LinearProbe(output=output, backbone=backbone)

    return randomise_weights(DenseModel(task=Segmentation(names), method=method))


@pytest.fixture(scope="module")
def controlnet(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small ControlNet whose output layers are not zero."""
    unet = UNet2DConditionModel.from_pretrained(pipeline_folder / "unet")
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8))
    folder = tmp_path_factory.mktemp("controlnet")
    randomise_weights(net).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def controller(pipeline_folder: Path, controlnet: Path) -> Controller:
    return Controller(pipeline_folder, controlnet)


def picture(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 50, 90), dtype=torch.uint8, generator=generator)


def test_pictures_depend_on_the_predicted_classes_and_on_their_seed(
    controller: Controller,
) -> None:
    first, other = (Predictor(segmenter(seed=seed)) for seed in (0, 1))
    one = controller(first, picture(), "a room", seeds=(0, 1), **QUICK)
    again = controller(first, picture(), "a room", seeds=(1,), **QUICK)
    second = controller(other, picture(), "a room", seeds=(1,), **QUICK)
    assert one.image.shape == one.classes.shape == (3, 64, 128)  # multiples of 64
    assert one.pictures.shape == (2, 3, 64, 128)
    assert torch.equal(one.pictures[1], again.pictures[0])
    assert not torch.equal(one.pictures[0], one.pictures[1])
    assert not torch.equal(second.classes, one.classes)
    assert not torch.equal(second.pictures[0], again.pictures[0])
    assert one.row().shape == (3, 64, 4 * 128)


def test_classes_are_drawn_in_the_colours_of_mmsegmentation() -> None:
    assert len(set(ADE20K_COLOURS)) == 149  # two classes have the same grey
    picture = colour_classes(torch.tensor([[0, 2], [149, 149]]))
    assert picture[:, 0, 1].tolist() == [6, 230, 230]
    assert picture[:, 1, 0].tolist() == [92, 0, 255]


def test_unusable_models_steps_and_controlnets_are_refused(
    controller: Controller, pipeline_folder: Path, controlnet: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the model predicts 2 classes"):
        controller(Predictor(segmenter(("a", "b"))), picture(), "a room", **QUICK)
    with pytest.raises(InputError, match="steps 0: give at least 1"):
        controller(Predictor(segmenter()), picture(), "a room", side=64, steps=0)
    with pytest.raises(InputError, match="not a ControlNet"):
        Controller(pipeline_folder, pipeline_folder)
    unet = UNet2DConditionModel.from_pretrained(pipeline_folder / "unet")
    unet.register_to_config(cross_attention_dim=32)
    wide = UNet2DConditionModel.from_config(unet.config)
    ControlNetModel.from_unet(wide).save_pretrained(tmp_path / "wide")
    with pytest.raises(InputError, match=r"made for another diffusion model .*cross_attention_dim"):
        Controller(pipeline_folder, tmp_path / "wide")


def test_control_writes_a_row_per_model_and_requires_the_classes_of_ade20k(
    pipeline_folder: Path, controlnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(tmp_path / name) for name in "ab"]
    for seed, name in enumerate(models):
        save(segmenter(seed=seed), name)
    out = tmp_path / "x.png"
    command = ["control", str(photo(tmp_path / "p.png", 64, 64)), "--prompt", "a room"]
    command += ["--model", models[0], "--model", models[1], "--out", str(out), "--count", "2"]
    command += ["--stable-diffusion", str(pipeline_folder), "--controlnet", str(controlnet)]
    assert main([*command, "--size", "64", "--steps", "2", "--device", "cpu"]) == 0
    sheet = read_image(out)
    assert sheet.shape == (3, 2 * 64, 4 * 64)
    assert torch.equal(sheet[:, :64, :64], sheet[:, 64:, :64])  # the photograph
    colours = {tuple(c) for c in sheet[:, :64, 64:128].flatten(1).T.tolist()}
    assert colours <= set(ADE20K_COLOURS)
    capsys.readouterr()
    save(segmenter(("a", "b")), tmp_path / "two")
    command = [str(tmp_path / "two") if part in models else part for part in command]
    assert main([*command, "--size", "64", "--steps", "2", "--device", "cpu"]) == 2
    assert "two: the ControlNet needs the 150 classes of ADE20K" in capsys.readouterr().err
    assert np.array(Image.open(out)).shape[0] == 2 * 64  # still the file of the first run
