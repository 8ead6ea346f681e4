"""nuScenes: six cameras and a LiDAR of a vehicle, with the map around it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.files import read_bytes, read_image
from diffsight.datasets.nuscenes_tables import (
    MAX_SWEEPS,
    Frame,
    archive_of,
    map_file,
    read_index,
)
from diffsight.datasets.rig_picture import draw_rig
from diffsight.datasets.vector_map import VectorMapSource
from diffsight.errors import InputError
from diffsight.label_maps import NUSCENES_CLASSES
from diffsight.rig import POINT_CHANNELS, Rig, check_cells

EGO_HALF_SIDE_M = 1.0  # closer points belong to the vehicle itself


class NuScenes(AbstractDataset):
    """Samples with the images of six cameras, the points of the LiDAR, and a map of the street.

    The label ``map`` is ``k x y`` of 0 and 1 for six classes that may overlap. It is in the frame
    of the LiDAR, as in BEVFusion: x to the right of the vehicle, y forward, z up. So the first axis
    after the classes runs to the right, and the second one forward. The cameras are FRONT,
    FRONT_RIGHT, FRONT_LEFT, BACK, BACK_LEFT and BACK_RIGHT. Their poses account for the motion of
    the vehicle between the times of the LiDAR sweep and of the image.

    The points are those of the key frame and of earlier sweeps, transformed into the frame of the
    key frame. Points of earlier sweeps that are less than 1 m from the LiDAR along both x and y
    belong to the vehicle and are removed.

    Differs from BEVFusion in three ways. Training uses the latest sweeps, not random ones. Points
    are not shuffled; their order decides which of them a full voxel keeps. At the beginning of a
    scene, where there are no earlier sweeps, the key frame is not repeated.

    Args:
        root: folder of the data set, with ``samples``, ``sweeps`` and ``maps``.
        index: file that ``diffsight index-nuscenes`` wrote.
        split: ``train`` or ``val``, the official splits of the indexed version of nuScenes (for
            v1.0-mini they are called mini_train and mini_val).
        sweeps: largest number of sweeps before the key frame, 0 to 9.
        cells: number of map cells along each axis.
        cell_m: side of a cell in metres.
        lidar: whether to read the points of the LiDAR.

    Raises:
        InputError: if the index cannot be read, the split is empty, a map is missing, or a number
            is out of range.
    """

    class_names: Mapping[str, tuple[str, ...]] = {"map": NUSCENES_CLASSES}

    def __init__(
        self,
        *,
        root: str | Path,
        index: str | Path,
        split: Literal["train", "val"] = "train",
        sweeps: int = MAX_SWEEPS,
        cells: int = 200,
        cell_m: float = 0.5,
        lidar: bool = True,
    ) -> None:
        if not 0 <= sweeps <= MAX_SWEEPS:
            raise InputError(f"{sweeps} sweeps: give a number from 0 to {MAX_SWEEPS}")
        check_cells(cells, cell_m)
        self.root = Path(root)
        self.version, frames = read_index(Path(index))
        self.frames = [frame for frame in frames if frame.split == split]
        if not self.frames:
            raise InputError(
                f"{index}: holds no samples of {split}: choose the other split, or make the index "
                "again with `diffsight index-nuscenes`"
            )
        for location in sorted({frame.location for frame in self.frames}):
            self._require_file(map_file(location))
        self.name = f"nuscenes-{split}"
        self.sweeps = sweeps
        self.cells = cells
        self.cell_m = cell_m
        self.map_cells = (cells, cell_m)
        self.lidar = lidar

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``.

        Raises:
            InputError: if a file is missing or damaged; the message names its archive.
        """
        frame = self.frames[index]
        images = self._read_images(frame)
        count = len(images)
        intrinsics = torch.eye(4).repeat(count, 1, 1)
        intrinsics[:, :3, :3] = torch.from_numpy(frame.intrinsics).float()
        rig = Rig(
            images=images[None],
            intrinsics=intrinsics[None],
            camera_to_vehicle=torch.from_numpy(frame.camera_to_lidar).float()[None],
            image_change=torch.eye(4).repeat(1, count, 1, 1),
            points=(self._read_points(frame),) if self.lidar else None,
        )
        source = VectorMapSource(
            self.root / map_file(frame.location), frame.lidar_to_global, self.cells, self.cell_m
        )
        return Sample(
            id=frame.token,
            image=draw_rig(rig),
            labels={"map": source.draw(torch.eye(4))},
            valid={"map": torch.ones(self.cells, self.cells, dtype=torch.bool)},
            rig=rig,
            map_source=source,
        )

    def _require_file(self, name: str) -> Path:
        """Return the path of a file of the data set, or raise an error if it is missing."""
        path = self.root / name
        if not os.path.isfile(path):  # Path.is_file raises if the name is too long
            archive = archive_of(name, self.version)
            raise InputError(f"{path}: missing: extract {archive}")
        return path

    def _read_images(self, frame: Frame) -> UInt8[Tensor, "v 3 h w"]:
        """Return the images of the v cameras, which must have one size."""
        images = [read_image(self._require_file(name)) for name in frame.images]
        for name, image in zip(frame.images, images, strict=True):
            if image.shape != images[0].shape:
                sizes = [f"{one.shape[2]} x {one.shape[1]}" for one in (image, images[0])]
                raise InputError(
                    f"{self.root / name}: {sizes[0]} pixels, but the first camera of the sample "
                    f"has {sizes[1]}: extract {archive_of(name, self.version)} again"
                )
        return torch.stack(images)

    def _read_points(self, frame: Frame) -> Float[Tensor, "n 5"]:
        """Return the points of the key frame and of the earlier sweeps.

        The five numbers are x, y and z in metres in the frame of the key frame, the intensity, and
        the age in seconds.
        """
        key = self._read_sweep(frame.points)
        key[:, 4] = 0
        sweeps = [key]
        earlier = zip(frame.sweeps, frame.sweep_to_lidar, frame.ages_s, strict=True)
        for name, pose, age_s in list(earlier)[: self.sweeps]:
            points = self._read_sweep(name)
            points = points[(np.abs(points[:, :2]) >= EGO_HALF_SIDE_M).any(axis=1)]
            points[:, :3] = points[:, :3] @ pose[:3, :3].T + pose[:3, 3]
            points[:, 4] = age_s
            sweeps.append(points)
        return torch.from_numpy(np.concatenate(sweeps))

    def _read_sweep(self, name: str) -> Float32[np.ndarray, "n 5"]:
        """Return x, y and z in metres, intensity and laser number of every point of a file."""
        path = self._require_file(name)
        data = read_bytes(path)
        repair = f"extract {archive_of(name, self.version)} again"
        if len(data) % (4 * POINT_CHANNELS):
            raise InputError(
                f"{path}: {len(data):,} bytes are not a whole number of points: {repair}"
            )
        points = np.frombuffer(data, "<f4").reshape(-1, POINT_CHANNELS).astype(np.float32)
        if not np.isfinite(points).all():
            raise InputError(f"{path}: holds numbers that are not finite: {repair}")
        return points
