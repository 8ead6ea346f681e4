"""Write small views of Taskonomy and read them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffsight.datasets.base import Sample
from diffsight.datasets.taskonomy import Taskonomy

PATH_TEMPLATES = {
    "building": "{b}/{t}/{v}_domain_{d}.png",
    "merged": "{t}/{b}_{v}_domain_{d}.png",
    "task": "{t}/{b}/{v}_domain_{d}.png",
    "omnidata": "{t}/taskonomy/{b}/{v}_domain_{d}.png",
}
OLD_NAMES = {
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


def make_counts(value: int, side: int = SIDE) -> np.ndarray:
    """Return a 16-bit map with one value."""
    return np.full((side, side), value, np.uint16)


def make_picture(rgb: tuple[int, int, int], side: int = SIDE) -> np.ndarray:
    """Return an RGB image with one colour."""
    return np.broadcast_to(np.array(rgb, np.uint8), (side, side, 3)).copy()


def make_view(side: int = SIDE, seed: int = 0, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the files of one view by task: a wall at 4 m with a chair in the lower half."""
    ids = np.ones((side, side), np.uint8)
    ids[side // 2 :] = 3
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return {
        "rgb": noise,
        "depth_euclidean": make_counts(2048, side),
        "depth_zbuffer": make_counts(2000, side),
        "edge_texture": make_counts(1000, side),
        "edge_occlusion": make_counts(100, side),
        "keypoints2d": make_counts(164, side),
        "keypoints3d": make_counts(8192, side),
        "reshading": make_picture((51, 51, 51), side),
        "principal_curvature": make_picture((127, 140, 0), side),
        "normal": make_picture((128, 128, 0), side),
        "segment_semantic": ids,
    } | changes


def write_view(
    root: Path, building: str, name: str, files: dict[str, np.ndarray], layout: str = "building"
) -> None:
    """Write the files of one view in a layout."""
    for task, pixels in files.items():
        domain = "segmentsemantic" if task == "segment_semantic" else task
        path = root / PATH_TEMPLATES[layout].format(b=building, t=task, v=name, d=domain)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def write_views(root: Path, layout: str = "building", **changes: np.ndarray) -> Path:
    """Write all ``VIEWS``; return ``root``."""
    for building, name in VIEWS:
        write_view(root, building, name, make_view(**changes), layout)
    return root


def read_sample(root: Path, task: str, *, preset: str = "vtm", scored: bool = False) -> Sample:
    """Return the sample of the building muleshoe."""
    dataset = Taskonomy(root=root, task=task, split="muleshoe", preset=preset, scored=scored)
    return dataset[0]


def read_label(
    root: Path, task: str, *, preset: str = "vtm", scored: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return label and validity mask of the sample of the building muleshoe."""
    sample = read_sample(root, task, preset=preset, scored=scored)
    ((name, value),) = sample.labels.items()
    return value, sample.valid[name]


def channel_values(values: torch.Tensor) -> list[float]:
    """Return the value of each channel of a map; every channel must be constant."""
    flat = values.flatten(1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()
