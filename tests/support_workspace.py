"""Write a folder with every file that the code blocks of the pages use."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from benchmarks.tiny_model import tiny
from PIL import Image, ImageDraw

import diffsight
from diffsight.adaptation.adapt import adapt
from diffsight.backbones import VisionBackbone
from diffsight.datasets import write_rig
from diffsight.diffusion import ClassEmbedding, Sampler
from diffsight.heads.map_decoder import MapDecoder
from diffsight.hub.build import build
from diffsight.methods import DDP, SmallUNet
from diffsight.model import DenseModel
from diffsight.necks import NormalisedFPN
from diffsight.streets import Streets
from diffsight.tasks import Depth, Segmentation
from tests.support_films import noisy_scene, write_film

SIZE = (48, 40)  # width and height of a photograph
PHOTOS = ("beach", "hall", "kitchen")
TOY_FOLDER = Path(__file__).parent / "extending"
PRETRAINED = re.compile("tiny|stable-diffusion|weights:|openai/|facebook/|microsoft/")
# a recipe with the classes of tests/extending, which the pages in docs/extend use
TOY = {
    "task": {"class_path": "toy_extension.Brightness"},
    "method": {
        "class_path": "toy_extension.PixelLinear",
        "init_args": {"backbone": {"class_path": "toy_extension.Blur", "init_args": {"stride": 2}}},
    },
    "train": {"class_path": "toy_extension.Gradients", "init_args": {"count": 8}},
    "val": {"class_path": "toy_extension.Gradients", "init_args": {"count": 4, "seed": 1}},
    "optim": {"class_path": "AdamW", "init_args": {"lr": 0.05}},
    "batch_size": 4,
    "steps": 30,
}
CONVNEXT = {
    "model_type": "convnext",
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}


def write_workspace(folder: Path, backbone: Path) -> Path:
    """Write photographs, labels of every kind and saved models; return the folder.

    Args:
        folder: folder to write to.
        backbone: Stable Diffusion folder, on which one model is adapted.
    """
    for number, name in enumerate(PHOTOS):
        write_photo(folder / "photos" / f"{name}.jpg", number)
        _write_labels(folder, name)
    names = ("holiday/lake", "new/wall", "new", "photo", "street", "trip/a", "trip/b", "front")
    for number, name in enumerate(names):
        write_photo(folder / f"{name}.jpg", number)
    Image.open(folder / "photo.jpg").save(folder / "portrait.webp")
    for name in ("clip", "trip/c"):
        write_film(folder / f"{name}.mp4", noisy_scene(count=2))
    for part, suffix in (("photos", "jpg"), ("masks", "png")):
        (folder / "test" / part).mkdir(parents=True)
        data = (folder / part / f"hall.{suffix}").read_bytes()
        (folder / "test" / part / f"hall.{suffix}").write_bytes(data)
    _write_tables(folder)
    for path, make in MODELS.items():
        diffsight.save(make(), folder / path)
    diffsight.save(_calibrated_model(folder, backbone), folder / "depth.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOY_FOLDER)
        write_stand_in(folder / "runs" / "toy", folder / "toy.yaml", ["toy_extension"])
    return folder


def write_photo(path: Path, seed: int) -> Path:
    """Write an image of random pixels, and create its folder; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _write_labels(folder: Path, name: str) -> None:
    """Write a mask, scribbles and a depth map for the photograph ``name``."""
    for part in ("masks", "scribbles", "depth", "depths"):
        (folder / part).mkdir(exist_ok=True)
    mask, strokes = Image.new("P", SIZE), Image.new("P", SIZE)
    for one in (mask, strokes):
        one.putpalette([40, 40, 40, 0, 130, 200, 200, 60, 0])
    ImageDraw.Draw(mask).rectangle((0, 0, 47, 19), fill=1)
    ImageDraw.Draw(strokes).line((4, 6, 40, 8), fill=1, width=2)
    ImageDraw.Draw(strokes).line((4, 30, 40, 33), fill=2, width=2)
    mask.save(folder / "masks" / f"{name}.png")
    strokes.save(folder / "scribbles" / f"{name}.png")
    depth = np.linspace(1000, 4000, SIZE[0] * SIZE[1]).reshape(SIZE[::-1]).astype(np.uint16)
    for part in ("depth", "depths"):
        Image.fromarray(depth).save(folder / part / f"{name}.png")


def _write_tables(folder: Path) -> None:
    """Write the files of labels in one table: points, COCO boxes and boxes of people."""
    rows = [f"{name}.jpg,{x},{y},{0.5 * x}" for name in PHOTOS for x, y in ((5, 6), (30, 20))]
    (folder / "points.csv").write_text("\n".join(("image,x,y,value", *rows)))
    images = [
        {"id": i, "file_name": f"{name}.jpg", "width": SIZE[0], "height": SIZE[1]}
        for i, name in enumerate(PHOTOS)
    ]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400}
        for i in range(len(PHOTOS))
    ]
    people = [{"image_id": "street.jpg", "category_id": 1, "bbox": [4, 4, 20, 20], "score": 0.9}]
    coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "car"}]}
    (folder / "boxes.json").write_text(json.dumps(coco))
    (folder / "people.json").write_text(json.dumps(people))
    (folder / "names.txt").write_text("crack\nsound\n")
    (folder / "toy.yaml").write_text(yaml.safe_dump(TOY))
    rig = Streets(split="test", count=1, image_hw=(32, 64))[0].rig
    assert rig is not None
    write_rig(rig, folder / "scene")


def ddp_model() -> DenseModel:
    """Return a DDP segmentation model with two classes and a small encoder."""
    torch.manual_seed(0)
    method = partial(
        DDP,
        backbone=VisionBackbone(architecture=CONVNEXT),
        neck=partial(NormalisedFPN, width=16),
        decoder=MapDecoder(width=16, layers=1, hidden=8, time_width=8),
        encoding=partial(ClassEmbedding, width=8),
        sampler=Sampler(steps=2),
    )
    return DenseModel(task=Segmentation(("crack", "sound")), method=method).eval()


def student_model() -> DenseModel:
    """Return a depth model that is quickly exported."""
    torch.manual_seed(0)
    return DenseModel(task=Depth(), method=partial(SmallUNet, widths=(8, 8))).eval()


def _calibrated_model(folder: Path, backbone: Path) -> DenseModel:
    """Return a model adapted to ten photographs, because ``--confidence 0.9`` needs that many."""
    for number in range(10):
        write_photo(folder / "ten" / "photos" / f"{number}.jpg", number)
        (folder / "ten" / "depths").mkdir(exist_ok=True)
        shutil.copy(folder / "depths" / "hall.png", folder / "ten" / "depths" / f"{number}.png")
    return adapt(
        folder / "ten" / "photos",
        folder / "ten" / "depths",
        kind="depth",
        method="feature_head",
        backbone=backbone,
        steps=1,
        short_side=32,
        device="cpu",
    )


# models that pages use although no earlier command of the page creates them
MODELS: dict[str, Callable[[], DenseModel]] = {
    "runs/kitchen/model": tiny,
    "runs/my-rooms/model": tiny,
    "sky.safetensors": ddp_model,
    "cracks.safetensors": ddp_model,
    "rust.safetensors": ddp_model,
    "runs/ddp/model": ddp_model,
    "student.safetensors": student_model,
}


def write_stand_in(folder: Path, recipe: Path, trusted: Sequence[str]) -> bool:
    """Write the output folder of a training without training: the model has random weights.

    Args:
        folder: output folder of the training.
        recipe: recipe file.
        trusted: packages whose classes the recipe may name.

    Returns:
        Whether a model was written; recipes with pretrained networks have none.
    """
    text = recipe.read_text(encoding="utf-8")
    folder.mkdir(parents=True)
    settings = yaml.safe_load(text)
    if "Rooms" in str(settings.get("val")):  # one small room instead of the whole validation set
        settings["val"] = {"class_path": "Rooms", "init_args": {"split": "val", "size": 32}}
        settings["val"]["init_args"]["count"] = 1
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    if PRETRAINED.search(text) or "method" not in settings:
        return False
    diffsight.save(build(settings, trusted=trusted), folder / "model")
    return True
