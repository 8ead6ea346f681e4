"""Readers that fuzz_readers.py tests: annotations, pretraining data, tables, original files.

Every function writes valid files into a folder and returns their readers.
"""

import base64
import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tables
import torch
import transformers
from faster_coco_eval.core import mask as coco_mask
from fuzz_data import Reader
from fuzz_models import One
from PIL import Image
from safetensors.torch import save_file
from tiny_model import ARCHITECTURE, original_entries, tiny_method

from diffsight import assets
from diffsight.backbones import StableDiffusion
from diffsight.datasets.find_labels import open_labels
from diffsight.datasets.labels import LabelFormat
from diffsight.datasets.nuscenes import NuScenes
from diffsight.datasets.nuscenes_tables import CAMERAS, LIDAR, read_tables, write_index
from diffsight.datasets.rig_file import POINTS_FILE, RIG_FILE, read_rig, write_rig
from diffsight.datasets.vector_map import CLASS_LAYERS
from diffsight.pretrain import frozen_outputs, pictures
from diffsight.prompts.encoder import load_text_model
from diffsight.rig import Rig
from diffsight.studio import log
from diffsight.studio.project import Project
from diffsight.studio.state import Score
from diffsight.tasks.depth import Depth
from diffsight.training.fit import fit
from diffsight.training.optim import AdamW

HW = (24, 30)
CHUNK = 2  # pictures
FORM = LabelFormat("segmentation")
RUNS = {"size": list(HW), "counts": [5, 7, 300, 20, 388]}


def annotations(root: Path) -> list[Reader]:
    """Return the readers of annotations of COCO, labelme and Label Studio."""
    outline = [2.0, 3.0, 17.5, 3.0, 17.5, 12.0, 2.0, 12.0]
    corners = [[2.0, 3.0], [17.5, 3.0], [17.5, 12.0]]
    (root / "labelme").mkdir(parents=True)
    (root / "studio").mkdir()
    sizes = {"height": HW[0], "width": HW[1]}
    area = np.zeros(HW, np.uint8, order="F")
    area[4:20, 5:9] = 1
    compressed = coco_mask.encode(area)["counts"].decode()
    common = {"image_id": 7, "iscrowd": 0}
    coco = {
        "images": [{"id": 7, "file_name": "a.jpg", **sizes}],
        "categories": [{"id": 1, "name": "grass"}, {"id": 2, "name": "house"}],
        "annotations": [
            {"id": 1, "category_id": 1, "segmentation": [outline, outline], **common},
            {"id": 2, "category_id": 2, "segmentation": RUNS, **common},
            {"id": 3, "category_id": 2, "segmentation": {**RUNS, "counts": compressed}, **common},
        ],
    }
    (root / "coco.json").write_text(json.dumps(coco))
    box = io.BytesIO()
    Image.fromarray(np.full((5, 6), 255, np.uint8)).save(box, "PNG")
    shapes = [
        {"label": "grass", "points": corners, "shape_type": "polygon"},
        {"label": "house", "points": corners[:2], "shape_type": "rectangle"},
        {"label": "pond", "points": corners[:2], "shape_type": "circle"},
        {
            "label": "car",
            "points": [[2, 3], [8, 8]],
            "shape_type": "mask",
            "mask": base64.b64encode(box.getvalue()).decode(),
        },
    ]
    image = {"imagePath": "a.jpg", "imageHeight": HW[0], "imageWidth": HW[1]}
    (root / "labelme" / "a.json").write_text(json.dumps({"shapes": shapes, **image}))
    tasks = [{"id": 1, "data": {"image": "/data/upload/1/0123abcd-a.jpg"}}]
    (root / "studio" / "tasks.json").write_text(json.dumps(tasks))
    name = "task-1-annotation-9-by-1-tag-grass-0.png"
    Image.fromarray(np.full(HW, 255, np.uint8)).save(root / "studio" / name)

    def labels(path: Path) -> Any:
        source = open_labels(path if path.name == "coco.json" else path.parent, "segmentation")
        return [(source.digest(n), source.read(n, FORM, HW)) for n in source.names]

    rows = (
        ("COCO", "json", "coco.json"),
        ("labelme", "json", "labelme/a.json"),
        ("Label Studio: tasks", "json", "studio/tasks.json"),
        ("Label Studio: mask", "png", f"studio/{name}"),
    )
    return [Reader(n, kind, f"annotations/{path}", labels) for n, kind, path in rows]


def chunks(root: Path) -> list[Reader]:
    """Return the readers of rendered pictures, of latents, and of checksums of a model."""
    root.mkdir()
    pictures.CHUNK = frozen_outputs.CHUNK = CHUNK
    vae = assets.find("tiny") / "vae"

    def opened(cache: Path) -> Any:
        rendered = pictures.open_pictures(cache, split="train", count=CHUNK, size=32)
        latent_at = frozen_outputs.open_latents(cache, rendered, vae, 32)
        return rendered.at(range(len(rendered)), 16), [latent_at(i) for i in range(len(rendered))]

    opened(root)
    names = {path.suffix: path for path in root.rglob("00000.*") if "latents" not in str(path)}
    (latent,) = (path for path in root.rglob("00000.npy") if "latents" in str(path))
    model = root.with_name("embedded")
    (model / "unet").mkdir(parents=True)
    (model / "unet" / "config.json").write_text("{}")
    (model / "README.md").write_text("a model")
    assets.write_checksums(model)

    def read(path: Path) -> Any:
        return opened(path.parents[1])

    rows = (
        ("pictures", "npy", names[".npy"]),
        ("captions", "json", names[".json"]),
        ("latents", "npy", latent),
    )
    readers = [
        Reader(f"chunk of {n}", kind, path.relative_to(root.parent).as_posix(), read, 3)
        for n, kind, path in rows
    ]
    sums = f"embedded/{assets.CHECKSUMS}"
    return [*readers, Reader("checksums", "text", sums, lambda p: assets._checked(p.parent))]


def kept_tables(root: Path) -> list[Reader]:
    """Return the readers of a table of stored benchmark results."""
    unit = {
        "task": "size",
        "score": 0.5,
        "measures": {"rmse": 0.5},
        "per_image": {"test/0": 0.5, "test/1": 0.4},
        "training_images": ["train/3", "train/4", "train/9"],
    }
    (root / "units" / "size").mkdir(parents=True)
    (root / "units" / "size" / "rep000.json").write_text(json.dumps(unit))
    tables.pack(root / "units", root / "table.csv")
    path = "kept_tables/table.csv"

    def unpacked(path: Path) -> Any:
        tables.unpack(path, path.parent / "unpacked")

    return [
        Reader("kept table", "text", path, tables.read),
        Reader("kept table, unpacked", "text", path, unpacked),
    ]


def original_files(root: Path) -> list[Reader]:
    """Return the readers of Stable Diffusion in one original file: UNet, VAE and text tower."""
    root.mkdir()
    torch.manual_seed(0)
    network = StableDiffusion(ARCHITECTURE)
    state = original_entries(network.unet.state_dict(), network.vae.state_dict(), layers=1)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    config = transformers.CLIPTextConfig(
        vocab_size=50, num_attention_heads=1, max_position_embeddings=16, **sizes
    )
    tower = transformers.CLIPTextModel(config).state_dict()
    state |= {f"cond_stage_model.transformer.text_model.{k}": v for k, v in tower.items()}
    save_file({k: v.contiguous() for k, v in state.items()}, root / "model.safetensors")
    torch.save({"state_dict": state, "global_step": 7}, root / "model.ckpt")
    old = root / "old.ckpt"
    torch.save({"state_dict": state}, old, _use_new_zipfile_serialization=False)

    def network_of(path: Path) -> Any:
        return StableDiffusion(ARCHITECTURE, weights=path)

    rows = []
    for name, kind in (("model.safetensors", "safetensors"), ("model.ckpt", "torch")):
        path = f"original_files/{name}"
        rows.append(Reader(f"one file: {name}", kind, path, network_of, 6))
        rows.append(Reader(f"one file: text tower, {name}", kind, path, load_text_model, 6))
    return [
        *rows,
        Reader("one file: old.ckpt", "legacy", f"original_files/{old.name}", network_of, 6),
    ]


def nuscenes(root: Path) -> list[Reader]:
    """Return the readers of nuScenes: tables, index, sweep and map of one sample."""
    version, channels = "v1.0-mini", (LIDAR, *CAMERAS)
    turned = {"rotation": [0.9, 0.1, 0.0, 0.4]}
    files = {c: f"samples/{c}.{'bin' if c == LIDAR else 'png'}" for c in channels}
    data = {"sample_token": "s", "ego_pose_token": "e", "is_key_frame": True, "prev": ""}
    sensor = {"camera_intrinsic": np.eye(3).tolist(), "translation": [0.0, 0.0, 1.8], **turned}
    contents: dict[str, list[dict[str, Any]]] = {
        "scene": [{"token": "a", "name": "scene-0061", "log_token": "l"}],
        "sample": [{"token": "s", "timestamp": 5, "scene_token": "a"}],
        "log": [{"token": "l", "location": "town"}],
        "ego_pose": [{"token": "e", "translation": [600.0, 1600.0, 1.0], **turned}],
        "sensor": [{"token": c, "channel": c} for c in channels],
        "calibrated_sensor": [{"token": c, "sensor_token": c, **sensor} for c in channels],
        "sample_data": [
            {"token": c, "calibrated_sensor_token": c, "timestamp": 5, "filename": f, **data}
            for c, f in files.items()
        ],
    }
    for folder in (version, "samples", "maps/expansion"):
        (root / folder).mkdir(parents=True)
    for name, rows in contents.items():
        (root / version / f"{name}.json").write_text(json.dumps(rows))
    for channel in CAMERAS:
        Image.new("RGB", HW[::-1]).save(root / files[channel])
    np.ones((4, 5), np.float32).tofile(root / files[LIDAR])
    frames = read_tables(root, version)
    write_index(root / "index.json", version, frames)
    corners = [(590, 1600), (610, 1600), (690, 1690), (600, 1603), (602, 1604), (600, 1606)]
    city: dict[str, Any] = {name: [] for names in CLASS_LAYERS.values() for name in names}
    city["node"] = [{"token": str(i), "x": x, "y": y} for i, (x, y) in enumerate(corners)]
    hole = {"node_tokens": ["3", "4", "5"]}
    city["polygon"] = [{"token": "p", "exterior_node_tokens": ["0", "1", "2"], "holes": [hole]}]
    city["line"] = [{"token": "i", "node_tokens": ["0", "2"]}]
    city["drivable_area"] = [{"token": "d", "polygon_tokens": ["p"]}]
    city["walkway"] = [{"token": "w", "polygon_token": "p"}]
    city["road_divider"] = [{"token": "r", "line_token": "i"}]
    map_file = frames[0].files[-1]
    (root / map_file).write_text(json.dumps(city | {"version": "1.3"}))

    def indexed(path: Path) -> Any:
        top = path.parents[1]
        write_index(top / "again.json", version, read_tables(top, version))
        return NuScenes(root=top, index=top / "again.json")[0]

    def sample(path: Path) -> Any:
        top = next(folder for folder in path.parents if (folder / "index.json").exists())
        return NuScenes(root=top, index=top / "index.json")[0]

    tables_of = [(f"nuScenes: {n}", "json", f"{version}/{n}.json", indexed) for n in contents]
    rows = (
        *tables_of,
        ("nuScenes: index", "json", "index.json", sample),
        ("nuScenes: map", "json", map_file, sample),
        ("nuScenes: sweep", "bytes", files[LIDAR], sample),
    )
    return [Reader(n, kind, f"nuscenes/{path}", read) for n, kind, path, read in rows]


def resumed_trainings(root: Path) -> list[Reader]:
    """Return the reader of a checkpoint from which ``fit --resume`` continues."""
    train(root, steps=1)
    for path in root.iterdir():  # a case copies only these two files
        if path.name not in ("last.ckpt", "recipe.yaml"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def resumed(path: Path) -> Any:
        out = path.parent / "again"
        out.mkdir()
        for name in ("last.ckpt", "recipe.yaml"):
            shutil.copyfile(path.parent / name, out / name)
        train(out, steps=2, resume=True)

    path = "resumed_trainings/last.ckpt"
    return [Reader("fit --resume", "torch", path, resumed, 20)]


def train(out: Path, **options: Any) -> None:
    """Train the tiny model with ``fit`` on the CPU, without log lines."""
    with contextlib.redirect_stderr(io.StringIO()):
        fit(
            task=Depth(max_depth_m=8.0),
            method=tiny_method(),
            train=One(),
            val=One(),
            optim=AdamW(lr=1e-3),
            out=out,
            batch_size=1,
            workers=0,
            device="cpu",
            devices=1,
            **options,
        )


def rigs(root: Path) -> list[Reader]:
    """Return the readers of the JSON file of a camera rig, and of its LiDAR points."""
    pose = torch.eye(4).expand(1, 2, 4, 4)
    images = torch.zeros(1, 2, 3, *HW, dtype=torch.uint8)
    write_rig(Rig(images, pose, pose, pose, points=(torch.ones(4, 5),)), root)

    def read(path: Path) -> Any:
        return read_rig(path.with_name(RIG_FILE))

    names = (("rig", "json", RIG_FILE), ("rig: points", "bytes", POINTS_FILE))
    return [Reader(name, kind, f"rigs/{file}", read) for name, kind, file in names]


def studio(root: Path) -> list[Reader]:
    """Return the readers of a workspace of ``diffsight studio``.

    Changed records get the right checksum, so that they reach the state.
    """
    photographs, work, records = root / "photos", root / "work", root / "records"
    for folder in (photographs, work, records):
        folder.mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", HW[::-1], (90, 120, 30)).save(photographs / f"{name}.png")
    limit, log.MAX_BYTES = log.MAX_BYTES, 1500
    with contextlib.closing(Project(photographs, work)) as project:
        project.add_class("grass")
        project.add_class("house", "#102030")
        for i in range(8):
            stroke = {"id": f"s{i}", "tab": "t", "tool": "paint", "value": i % 2, "radius": 2.5}
            project.add_stroke(i % 2, {**stroke, "points": [[3, 4], [9.5, 12]]})
        project.undo(0, "t")
        project.accept(1, np.ones(HW, np.uint8))
        project.add_score(Score(3, 51.5, "mIoU, %", True))
    log.MAX_BYTES = limit
    with contextlib.closing(log.RecordLog(work)) as opened:
        kept = opened.take_records()
    (records / "records.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in kept))

    def read(path: Path) -> Any:
        folder = path.parents[1] if path.suffix == ".png" else path.parent
        with contextlib.closing(Project(folder.parent / "photos", folder)) as project:
            return project.describe_images(), [project.labels(i, HW) for i in project.images]

    def read_records(path: Path) -> Any:
        shutil.copyfile(path.parents[1] / "work" / log.SNAPSHOT, path.with_name(log.SNAPSHOT))
        shutil.copytree(path.parents[1] / "work" / "accepted", path.with_name("accepted"))
        with contextlib.closing(log.RecordLog(path.parent)) as opened:
            for line in path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, RecursionError):  # no JSON
                    opened.append(json.loads(line))
        return read(path)

    (accepted,) = (work / "accepted").iterdir()
    rows = (
        ("studio: log", "lines", f"work/{log.LOG}", read),
        ("studio: snapshot", "json", f"work/{log.SNAPSHOT}", read),
        ("studio: accepted labels", "png", f"work/accepted/{accepted.name}", read),
        ("studio: records", "lines", "records/records.jsonl", read_records),
    )
    return [Reader(name, kind, f"studio/{path}", call) for name, kind, path, call in rows]


GROUPS: tuple[Callable[[Path], list[Reader]], ...] = (
    annotations,
    chunks,
    kept_tables,
    nuscenes,
    original_files,
    resumed_trainings,
    rigs,
    studio,
)
