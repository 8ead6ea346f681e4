"""Small views of Taskonomy on disk for the tests."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffsight.datasets.base import Sample
from diffsight.datasets.taskonomy import Taskonomy

PATHS = {
    "building": "{b}/{t}/{v}_domain_{d}.png",
    "merged": "{t}/{b}_{v}_domain_{d}.png",
    "task": "{t}/{b}/{v}_domain_{d}.png",
    "omnidata": "{t}/taskonomy/{b}/{v}_domain_{d}.png",
}
OLD = {
    **{"depth_euclidean": "mist", "depth_zbuffer": "depth", "edge_texture": "edge2d"},
    **{"edge_occlusion": "edge", "keypoints2d": "keypoint2d", "keypoints3d": "keypoint"},
    **{"reshading": "reshade", "principal_curvature": "curvature"},
}
DENSE = (
    *("depth_euclidean", "depth_zbuffer", "edge_texture", "edge_occlusion", "keypoints2d"),
    *("keypoints3d", "reshading", "principal_curvature", "normal"),
)
SIDE = 32
VIEWS = (
    ("hanson", "point_7_view_1"),
    ("woodbine", "point_0_view_12"),
    ("muleshoe", "point_3_view_0"),
)


def words(value: int, side: int = SIDE) -> np.ndarray:
    return np.full((side, side), value, np.uint16)


def colours(rgb: tuple[int, int, int], side: int = SIDE) -> np.ndarray:
    return np.broadcast_to(np.array(rgb, np.uint8), (side, side, 3)).copy()


def view(side: int = SIDE, seed: int = 0, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """Files of one view: a wall at 4 m, a chair in its lower half."""
    ids = np.ones((side, side), np.uint8)
    ids[side // 2 :] = 3
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return {
        "rgb": noise,
        "depth_euclidean": words(2048, side),
        "depth_zbuffer": words(2000, side),
        "edge_texture": words(1000, side),
        "edge_occlusion": words(100, side),
        "keypoints2d": words(164, side),
        "keypoints3d": words(8192, side),
        "reshading": colours((51, 51, 51), side),
        "principal_curvature": colours((127, 140, 0), side),
        "normal": colours((128, 128, 0), side),
        "segment_semantic": ids,
    } | changes


def write(
    root: Path, building: str, name: str, files: dict[str, np.ndarray], layout: str = "building"
) -> None:
    for task, pixels in files.items():
        domain = "segmentsemantic" if task == "segment_semantic" else task
        path = root / PATHS[layout].format(b=building, t=task, v=name, d=domain)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def write_all(root: Path, layout: str = "building", **changes: np.ndarray) -> Path:
    for building, name in VIEWS:
        write(root, building, name, view(**changes), layout)
    return root


def read(root: Path, task: str, *, preset: str = "vtm", scored: bool = False) -> Sample:
    """The image of muleshoe."""
    dataset = Taskonomy(root=root, task=task, split="muleshoe", preset=preset, scored=scored)
    return dataset[0]


def label(
    root: Path, task: str, *, preset: str = "vtm", scored: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Label and validity of the image of muleshoe."""
    sample = read(root, task, preset=preset, scored=scored)
    ((name, value),) = sample.labels.items()
    return value, sample.valid[name]


def one(values: torch.Tensor) -> list[float]:
    """The channels of a map that is the same everywhere."""
    flat = values.flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()
