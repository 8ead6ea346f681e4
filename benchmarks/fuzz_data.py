"""Readers that fuzz_readers.py tests: images, labels, lists, recipes and results.

Every function writes valid files into a folder and returns their readers.
"""

import csv
import dataclasses
import functools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffsight import recipes
from diffsight.benchmark.report import write_report
from diffsight.benchmark.trivial_baselines import Stored
from diffsight.benchmark.units import read_finished
from diffsight.cli import recipe
from diffsight.cli.fit import fit_parser
from diffsight.datasets import ADE20KFull, ClassFolder, Folder, RefCOCO, Taskonomy
from diffsight.datasets.base import Sample
from diffsight.datasets.captioned import read_captions
from diffsight.datasets.class_lists import read_class_list, read_names
from diffsight.datasets.depth import read_depth, write_depth_png
from diffsight.datasets.files import read_image
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat, read_label
from diffsight.datasets.manifest import read_manifest
from diffsight.datasets.pairs import read_list
from diffsight.datasets.write_labels import write_coco, write_labelme
from diffsight.hub.build import build, without_weights
from diffsight.inference.write import find_images
from diffsight.pretrain.card import HISTORY, read_history
from diffsight.rooms import export
from diffsight.training.fit import fit
from diffsight.training.logs import CsvLog


@dataclasses.dataclass(frozen=True)
class Reader:
    """One reader and the file that it is fuzzed with.

    Attributes:
        name: name of the reader in the report.
        kind: key of ``fuzz_mutations.FORMATS``.
        path: path of the file that is mutated, relative to the folder of valid files. Every case
            gets a copy of the first folder in this path.
        read: function that reads the mutated copy at a path.
        cost: time of a case relative to other readers; the number of cases is divided by it.
    """

    name: str
    kind: str
    path: str
    read: Callable[[Path], Any]
    cost: int = 1


def pictures(root: Path) -> list[Reader]:
    """Return the readers of images, depth maps and labels in every format."""
    root.mkdir()
    generator = np.random.default_rng(0)
    rgb = Image.fromarray(generator.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("png", "webp", "tif", "bmp", "gif", "ppm"):
        rgb.save(root / f"image.{suffix}")
    rgb.save(root / "image.jpg", exif=exif)
    rgb.convert("RGBA").save(root / "alpha.png")
    rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=4).save(root / "classes.png")
    rgb.convert("L").save(root / "scalar.tif")
    depth_m = torch.from_numpy(generator.uniform(1, 5, (24, 20)).astype(np.float32))
    write_depth_png(root / "depth.png", depth_m, torch.ones(24, 20, dtype=torch.bool))
    Image.fromarray((depth_m.numpy() * 1000).astype(np.uint16)).save(root / "depth.tif")
    Image.fromarray((depth_m.numpy() * 8000).astype(np.uint16)).save(root / "sunrgbd.tif")
    Image.fromarray(depth_m.numpy()).save(root / "metres.tif")
    np.save(root / "depth.npy", depth_m.numpy())
    np.save(root / "normals.npy", np.ones((24, 20, 3), np.float32))
    np.save(root / "ids.npy", generator.integers(0, 3, (24, 20)))
    counts = (depth_m.numpy() * 1000).astype(">u2")
    (root / "depth.pgm").write_bytes(b"P5 20 24 65535\n" + counts.tobytes())

    def label(kind: str) -> Callable[[Path], Any]:
        return lambda path: read_label(path, LabelFormat(kind))

    disparity = np.full((24, 20), 600, ">u2")
    (root / "disparity.pgm").write_bytes(b"P5 20 24 65535\n" + disparity.tobytes())
    rows = [
        *((f"image.{s}", "bytes", read_image) for s in ("jpg", "webp", "tif", "bmp", "gif", "ppm")),
        *((f"{name}.png", "png", read_image) for name in ("image", "alpha")),
        *((f"depth.{s}", "bytes", read_depth) for s in ("tif", "pgm")),
        ("depth.png", "png", read_depth),
        ("depth.npy", "npy", lambda path: read_depth(path, "m")),
        ("disparity.pgm", "bytes", lambda path: read_depth(path, "kinect-disparity")),
        ("sunrgbd.tif", "bytes", lambda path: read_depth(path, "sunrgbd")),
    ]
    labels = (
        ("depth", "metres.tif", "bytes"),
        ("depth", "depth.npy", "npy"),
        ("segmentation", "classes.png", "png"),
        ("segmentation", "ids.npy", "npy"),
        ("normals", "image.png", "png"),
        ("normals", "normals.npy", "npy"),
        ("vector", "image.tif", "bytes"),
        ("scalar", "scalar.tif", "bytes"),
    )
    return [
        *(Reader(f"picture {n}", kind, f"pictures/{n}", read) for n, kind, read in rows),
        *(Reader(f"{k} label {n}", form, f"pictures/{n}", label(k)) for k, n, form in labels),
    ]


def folders(root: Path) -> list[Reader]:
    """Return the readers of data sets of files, with their lists."""
    for part in ("images", "depth", "labels", "predicted"):
        (root / part).mkdir(parents=True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8))
    for name in ("a", "b"):
        image.save(root / "images" / f"{name}.png")
        Image.fromarray(np.full((24, 30), 2000, np.uint16)).save(root / "depth" / f"{name}.png")
        Image.fromarray(np.full((24, 30), 1, np.uint8)).save(root / "labels" / f"{name}.png")
    sizes = {"width_px": 30, "height_px": 24}
    camera = {"fx_px": 20.0, "fy_px": 20.0, "cx_px": 14.5, "cy_px": 11.5, **sizes}
    (root / "camera.json").write_text(json.dumps(camera))
    row = {"image": "images/a.png", "label": "depth/a.png", "encoding": "mm", "prompt": "a room"}
    (root / "list.json").write_text(json.dumps([row, {**row, "image": "images/b.png"}]))
    (root / "list.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    (root / "list.csv").write_text("image,label,encoding\nimages/a.png,depth/a.png,mm\n")
    (root / "list.txt").write_text("/images/a.png depth/a.png 518.8\nb.png c.png 5\n")
    (root / "names.txt").write_text("wall\nfloor\nchair\n")
    captions = {"data": "images", "captioner": "x/y", "captions": {"a.png": "a room"}}
    (root / "captions.json").write_text(json.dumps(captions))
    settings = {"split": "train", "size": 64, "labels": ["depth_m"]}
    (root / "note.json").write_text(json.dumps(settings))
    prediction = {"image": "a.png", "colour": "a_colour.png", "depth": "a_depth.png"}
    (root / "predicted" / "a.json").write_text(json.dumps(prediction))
    for name in ("a", "a_depth"):
        image.save(root / "predicted" / f"{name}.png")

    def folder(path: Path) -> Any:
        return Folder(root=path.parent, camera=path.name)[0]

    def rows(path: Path) -> Any:
        return [read_image(pair.image) for pair in read_manifest(path, "mm")]

    def classes(path: Path) -> Any:
        return ClassFolder(root=path.parents[1], classes={"wall": 0, "floor": [1, 2]})[0]

    table = [
        ("camera", "json", "camera.json", folder),
        *((f"manifest .{s}", k, f"list.{s}", rows) for s, k in (("json", "json"), ("csv", "text"))),
        ("manifest .jsonl", "lines", "list.jsonl", rows),
        ("list file", "text", "list.txt", lambda path: read_list(path, 2)),
        ("class names", "text", "names.txt", read_class_list),
        ("names of a text table", "text", "names.txt", read_names),
        ("captions", "json", "captions.json", read_captions),
        ("rendered folder", "json", "note.json", lambda path: export._check_same(path, settings)),
        (
            "result beside an image",
            "json",
            "predicted/a.json",
            lambda p: find_images([str(p.parent)]),
        ),
        ("class folder", "png", "labels/a.png", classes),
    ]
    return [Reader(n, kind, f"folders/{path}", read) for n, kind, path, read in table]


def written_labels(root: Path) -> list[Reader]:
    """Return the readers of label files other than masks: points, COCO and labelme."""
    (root / "images").mkdir(parents=True)
    (root / "labelme").mkdir()
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = generator.integers(0, 256, (24, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
    rows = [(name, 3 * i, 2 * i, 1.5 + i) for name in ("a.png", "b.png") for i in range(9)]
    points = "".join(f"{name},{x},{y},{value}\n" for name, x, y, value in rows)
    (root / "points.csv").write_text(f"image,x,y,value\n{points}")
    classes = "".join(f"{n};{x};{y};class {v % 2:.0f}\n" for n, x, y, v in rows)
    (root / "classes.csv").write_bytes(f"image;x;y;class\n{classes}".encode("utf-16"))
    numbers = torch.from_numpy(generator.integers(0, 3, (2, 24, 30)))
    masks = LabelledFolder(
        LabelFormat("segmentation"),
        [
            Sample(str(i), torch.zeros(3, 24, 30, dtype=torch.uint8), {"semantic": ids}, _all(ids))
            for i, ids in enumerate(numbers)
        ],
        ids=(0, 1, 2),
        names=("background", "cat", "dog"),
        colours=((0, 0, 0), (200, 0, 0), (0, 200, 0)),
        images=(Path("a.png"), Path("b.png")),
    )
    write_coco(masks, root / "coco.json")
    boxes = json.loads((root / "coco.json").read_text())
    for annotation in boxes["annotations"]:
        del annotation["segmentation"]
    (root / "boxes.json").write_text(json.dumps(boxes))
    write_labelme(masks, root / "labelme", root / "images")

    def read(
        kind: str, labels: Callable[[Path], Path] = lambda path: path
    ) -> Callable[[Path], Any]:
        return lambda path: read_labelled_folder(root / "images", labels(path), LabelFormat(kind))

    table = [
        ("points of depth", "text", "points.csv", read("depth")),
        ("points of classes", "text", "classes.csv", read("segmentation")),
        ("masks of COCO", "json", "coco.json", read("segmentation")),
        ("boxes of COCO", "json", "boxes.json", read("segmentation")),
        ("masks of labelme", "json", "labelme/a.json", read("segmentation", lambda p: p.parent)),
    ]
    return [Reader(n, kind, f"written_labels/{path}", call) for n, kind, path, call in table]


def _all(numbers: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"semantic": torch.ones_like(numbers, dtype=torch.bool)}


def referring(root: Path) -> list[Reader]:
    """Return the readers of RefCOCO's files, and of ADE20K's and Taskonomy's label files."""
    images = root / "images" / "mscoco" / "images" / "train2014"
    images.mkdir(parents=True)
    (root / "refcoco").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / "a.jpg")
    sentences = [{"sent": "the red chair", "raw": "The red chair", "tokens": ["red"]}]
    refs = [{"ref_id": 1, "ann_id": 101, "split": "train", "sentences": sentences}]
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    outline = [[2.0, 3.0, 17.5, 3.0, 17.5, 12.0, 2.0, 12.0]]
    runs = {"size": [24, 30], "counts": [5, 7, 300, 20, 388]}
    instances = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 24, "width": 30}],
        "annotations": [
            {"id": 101, "image_id": 7, "segmentation": outline},
            {"id": 102, "image_id": 7, "segmentation": runs},
        ],
    }
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))
    copied = root.with_name("referring-copy")
    rows = [{"ref_id": 1, "ann_id": a, "split": "train", "sentences": ["x"]} for a in (101, 102)]
    for folder in (copied / "images" / "mscoco" / "images" / "train2014", copied / "refcoco"):
        folder.mkdir(parents=True)
    (copied / "images/mscoco/images/train2014/a.jpg").write_bytes((images / "a.jpg").read_bytes())
    (copied / "refcoco" / "instances.json").write_text(json.dumps(instances))
    (copied / "refcoco" / "refs(unc).json").write_text(json.dumps(rows))

    def read(path: Path) -> Any:
        data = RefCOCO(root=path.parents[1], size=None)
        return [data[index] for index in range(len(data))]

    ade = root.with_name("ade") / "images" / "training"
    ade.mkdir(parents=True)
    Image.fromarray(pixels).save(ade / "ADE_a.jpg")
    Image.fromarray(pixels).save(ade / "ADE_a_seg.png")
    taskonomy = root.with_name("taskonomy")
    depth = np.full((256, 256), 1000, np.uint16)
    for domain, array in (("rgb", np.zeros((256, 256, 3), np.uint8)), ("depth_euclidean", depth)):
        (taskonomy / "ihlen" / domain).mkdir(parents=True)
        path = taskonomy / "ihlen" / domain / f"point_0_view_0_domain_{domain}.png"
        Image.fromarray(array).save(path)

    def dense(path: Path) -> Any:
        return Taskonomy(root=path.parents[2], task="depth_euclidean", split="ihlen")[0]

    return [
        Reader("RefCOCO refs pickle", "pickle", "referring/refcoco/refs(unc).p", read, 2),
        Reader("RefCOCO refs copy", "json", "referring-copy/refcoco/refs(unc).json", read),
        Reader("RefCOCO instances", "json", "referring-copy/refcoco/instances.json", read),
        Reader(
            "ADE20K segments",
            "png",
            "ade/images/training/ADE_a_seg.png",
            lambda path: ADE20KFull(root=path.parents[2])[0],
        ),
        Reader(
            "Taskonomy depth",
            "png",
            "taskonomy/ihlen/depth_euclidean/point_0_view_0_domain_depth_euclidean.png",
            dense,
        ),
    ]


def results(root: Path) -> list[Reader]:
    """Return the readers of benchmark units, stored predictions, logs and histories."""
    unit: dict[str, Any] = {
        "key": "1" * 16,
        **{"task": "size", "method": "vpd", "repeat": 0, "shots": 3, "source": "rooms"},
        **{"measure": "rmse", "higher_is_better": False, "score": 0.5, "conditions": "c"},
        **{"measures": {"rmse": 0.5}, "training_images": ["a", "b"], "fit_seconds": 1.0},
        "per_image": {"x": 0.5, "y": 0.4},
    }
    for method in ("vpd", "mean-map"):
        folder = root / "size" / method / "shots3"
        folder.mkdir(parents=True)
        (folder / "rep000.json").write_text(json.dumps(unit | {"method": method}))
    (root / "other" / "size").mkdir(parents=True)
    np.save(root / "other" / "size" / "x.npy", np.ones((1, 24, 20), np.float32))
    entry = {"stage": "vae", "pictures": 5, "steps": 3, "batch_size": 2, "minutes": 1.5}
    (root / HISTORY).write_text(json.dumps([entry | {"scores": {"psnr": 20.5}}]))
    with (root / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "name", "value"), (1, "loss", 0.5), (2, "loss", 0.4)])

    def prediction(path: Path) -> Any:
        task = _depth_task()
        spec: Any = _Spec("size")
        episode: Any = _Episode(spec, task)
        return Stored(path.parents[1]).fit(episode).predict([_sample()])

    def report(path: Path) -> Any:
        return write_report(path.parents[3])

    unit_path = "results/size/vpd/shots3/rep000.json"
    return [
        Reader("benchmark unit", "json", unit_path, lambda path: read_finished(path, "1" * 16)),
        Reader("benchmark report", "json", unit_path, report),
        Reader("stored prediction", "npy", "results/other/size/x.npy", prediction),
        Reader("history", "json", f"results/{HISTORY}", lambda path: read_history(path.parent)),
        Reader("metrics.csv", "text", "results/metrics.csv", lambda p: CsvLog(p, first_step=2)),
    ]


@dataclasses.dataclass(frozen=True)
class _Spec:
    name: str


@dataclasses.dataclass(frozen=True)
class _Episode:
    spec: _Spec
    task: Any
    repeat: int = 0


def _depth_task() -> Any:
    from diffsight.tasks import Depth

    return Depth(max_depth_m=8.0)


def _sample() -> Any:
    from diffsight.datasets.base import Sample

    return Sample("x", torch.zeros(3, 24, 20, dtype=torch.uint8), {}, {})


def written_recipes(root: Path) -> list[Reader]:
    """Return the readers of a recipe: as plain data, as a model, and as settings of ``fit``."""
    root.mkdir()
    (root / "recipe.yaml").write_bytes(recipes.find("rooms/vpd_depth").read_bytes())

    def model(path: Path) -> Any:
        data = recipe.read(path)
        if "task" in data and "method" in data:
            with torch.device("meta"):
                build({part: without_weights(data[part])[0] for part in ("task", "method")})

    def settings(path: Path) -> Any:
        return recipe.parse(_parser(), ["--recipe", str(path), "--out", str(path.parent)], fit)

    def data(path: Path) -> Any:
        return recipe.data_of_recipe(path, "val")

    path = "written_recipes/recipe.yaml"
    return [
        Reader("recipe", "yaml", path, recipe.read),
        Reader("model of a recipe", "yaml", path, model, 3),
        Reader("settings of a recipe", "yaml", path, settings, 6),
        Reader("data of a recipe", "yaml", path, data, 2),
    ]


@functools.cache
def _parser() -> Any:
    return fit_parser()


GROUPS = (pictures, folders, written_labels, referring, results, written_recipes)
