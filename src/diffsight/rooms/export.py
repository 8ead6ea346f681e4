"""Write scenes as files: PNG for maps, PLY for points, JSON for everything else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffsight.atomic import replacing
from diffsight.datasets.depth import write_depth_png
from diffsight.errors import InputError
from diffsight.formats.text import read_object, reading
from diffsight.label_maps import COCO_KEYPOINTS
from diffsight.rooms.dataset import Rendering, render_scene
from diffsight.rooms.draw import RENDERER_VERSION
from diffsight.rooms.world import CLASSES

# lowest value, highest value and unit of each 16-bit map. The file stores whole numbers (counts):
# value = lowest + (count - 1) * (highest - lowest) / 65534. The count 0 marks invalid pixels.
_RANGES = {
    "principal_curvature_per_m": (-100.0, 100.0, "1/m"),
    "reshading": (0.0, 1.0, "cosine"),
    "edge_occlusion": (0.0, 1.0, "relative depth step"),
    "edge_texture": (0.0, 1.0, "grey levels in [0, 1] per pixel"),
    "keypoints2d": (0.0, 0.25, "sigma^4 det(Hessian) of grey levels in [0, 1]"),
    "keypoints3d": (0.0, 1.0, "NARF interest"),
}
FOLDERS = {
    "semantic": "semantic",
    "instance": "instance",
    "depth_m": "depth",
    "euclidean_depth_m": "euclidean_depth",
    "normals": "normals",
    "points_m": "points",
    "principal_curvature_per_m": "principal_curvature",
    "reshading": "reshading",
    "edge_occlusion": "edge_occlusion",
    "edge_texture": "edge_texture",
    "keypoints2d": "keypoints2d",
    "keypoints3d": "keypoints3d",
}


@dataclass(frozen=True)
class Export:
    """The settings of a folder of exported scenes.

    Attributes:
        split: train, val or test.
        seed: seed of the data set.
        size: height and width in pixels.
        labels: names of the label maps to write.
    """

    split: str
    seed: int
    size: tuple[int, int]
    labels: tuple[str, ...]

    def prepare(self, out: Path) -> None:
        """Create a folder for the images, the metadata and each label map, and write the settings.

        The settings of this export are written to ``rooms.json``. If ``labels`` contains
        ``semantic``, the class names are written to ``classes.txt``.

        Args:
            out: folder of the export; it may exist.

        Raises:
            InputError: if ``out`` cannot be written to, or has scenes with other settings.
        """
        settings = {"version": RENDERER_VERSION, **asdict(self)}
        note = out / "rooms.json"
        try:
            for folder in ("images", "meta", *(FOLDERS[name] for name in self.labels)):
                (out / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{out}: cannot be written ({reason}): choose another --out") from None
        if note.exists():
            _check_same(note, json.loads(json.dumps(settings)))
        else:
            _write_text(note, json.dumps(settings, indent=1))
        if "semantic" in self.labels:
            _write_text(out / "classes.txt", "\n".join(CLASSES))

    def done(self, out: Path, index: int) -> bool:
        """Return whether all files of a scene are written: its JSON file, the last one, exists."""
        return (out / "meta" / f"{self.stem(index)}.json").exists()

    def stem(self, index: int) -> str:
        """Return the file name of a scene, without folder and suffix."""
        return f"rooms-{self.split}-{self.seed}-{index:06d}"

    def render(self, index: int) -> Rendering:
        """Return the rendered scene with this index."""
        return render_scene(
            index, split=self.split, size=self.size, labels=self.labels, seed=self.seed
        )

    def write(self, out: Path, index: int) -> None:
        """Render the scene with this index and write its files."""
        rendering = self.render(index)
        _save(out / "images" / f"{rendering.id}.png", rendering.image.transpose(1, 2, 0))
        maps = {}
        for name, value in rendering.labels.items():
            maps[name] = _write_label(out, rendering, name, value, rendering.valid[name])
        record = json.dumps(_record(rendering, maps), indent=1)
        _write_text(out / "meta" / f"{rendering.id}.json", record)


def _check_same(note: Path, settings: Mapping[str, Any]) -> None:
    """Raise InputError if the settings in the file ``note`` are others."""
    with reading(note, "cannot be read: remove it, or choose another --out"):
        recorded = read_object(note)
    for name, value in settings.items():
        if recorded.get(name) != value:
            raise InputError(
                f"{note}: this folder holds rooms with {name} {recorded.get(name)}, not {value}: "
                "choose another --out"
            )


def _write_label(
    out: Path, rendering: Rendering, name: str, value: np.ndarray, valid: np.ndarray
) -> list[dict[str, Any]]:
    """Write one label map; return a JSON object that describes each of its files."""
    folder, stem = FOLDERS[name], rendering.id
    if name == "points_m":
        path = f"{folder}/{stem}.ply"
        _write_ply(out / path, value[:, valid], rendering.image[:, valid])
        return [{"file": path, "unit": "m", "axes": "x right, y down, z forward"}]
    path = f"{folder}/{stem}.png"
    if name in ("depth_m", "euclidean_depth_m"):
        write_depth_png(out / path, torch.from_numpy(value[0]), torch.from_numpy(valid))
        along = "z" if name == "depth_m" else "euclidean"
        return [{"file": path, "unit": "mm", "scale_m": 0.001, "invalid": 0, "depth_type": along}]
    if name in ("semantic", "instance"):
        _save(out / path, value.astype(np.uint8))
        return [{"file": path, "unit": "class" if name == "semantic" else "instance"}]
    if name == "normals":
        colours = np.where(valid, (value + 1) / 2 * 255 + 0.5, 128).astype(np.uint8)
        _save(out / path, colours.transpose(1, 2, 0))
        coding = "n = count / 127.5 - 1, x right, y down, z forward; invalid 128 128 128"
        return [{"file": path, "unit": "unit vector", "encoding": coding}]
    low, high, unit = _RANGES[name]
    step = (high - low) / 65534
    described = []
    for channel, numbers in enumerate(value):
        path = f"{folder}/{stem}{f'_{channel + 1}' if len(value) > 1 else ''}.png"
        counts = np.rint((np.clip(numbers, low, high) - low) / step) + 1
        _save(out / path, np.where(valid, counts, 0).astype(np.uint16))
        described.append(
            {"file": path, "unit": unit, "scale": step, "offset": low - step, "invalid": 0}
        )
    return described


def _record(rendering: Rendering, maps: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Return the contents of the JSON file of a scene."""
    return {
        "version": RENDERER_VERSION,
        "id": rendering.id,
        "image": f"images/{rendering.id}.png",
        "room_type": rendering.room_type,
        "caption": rendering.caption,
        "camera": {**asdict(rendering.camera), "first_pixel_centre": [0, 0]},
        "labels": maps,
        "class_names": list(CLASSES),
        "instance_classes": list(rendering.kinds),
        "keypoint_names": list(COCO_KEYPOINTS),
        "people": [
            {
                "instance": person.instance,
                "keypoints_px": np.round(person.keypoints, 3).tolist(),
                "box_px": [round(v, 3) for v in person.box],
                "visible_px": person.visible_px,
            }
            for person in rendering.people
        ],
        "expressions": [
            {"text": e.text, "instance": e.instance, "mask": encode_mask(e.mask)}
            for e in rendering.expressions
        ],
    }


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask ``h w`` as COCO's uncompressed RLE: run lengths by column, zeros first."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(bounds).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def decode_mask(runs: Mapping[str, Any]) -> np.ndarray:
    """Return the mask ``h w`` of run lengths from ``encode_mask``."""
    values = np.arange(len(runs["counts"])) % 2 == 1
    height, width = runs["size"]
    return np.repeat(values, runs["counts"]).reshape(width, height).T


def _save(path: Path, pixels: np.ndarray) -> None:
    with replacing(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, format="PNG")


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text + "\n")


def _write_ply(path: Path, points: np.ndarray, colours: np.ndarray) -> None:
    """Write a binary PLY file of points in metres and their RGB colours, ``3 n`` each."""
    fields = [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("red", "u1"),
        ("green", "u1"),
        ("blue", "u1"),
    ]
    rows = np.empty(points.shape[1], dtype=fields)
    for (name, _), column in zip(fields, (*points, *colours), strict=True):
        rows[name] = column
    kinds = {"<f4": "float", "u1": "uchar"}
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    lines += [f"property {kinds[kind]} {name}" for name, kind in fields] + ["end_header", ""]
    with replacing(path) as temporary:
        temporary.write_bytes("\n".join(lines).encode() + rows.tobytes())
