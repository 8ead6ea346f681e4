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
from diffsight.datasets.rig_picture import sheet_of
from diffsight.datasets.vector_map import VectorMapSource
from diffsight.errors import InputError
from diffsight.label_maps import NUSCENES_CLASSES
from diffsight.rig import POINT_CHANNELS, Rig, check_cells

CLOSE_M = 1.0  # points of the vehicle itself


class NuScenes(AbstractDataset):
    """Samples with six cameras, the LiDAR, and the label ``map``: six classes that may overlap.

    ``diffsight index-nuscenes`` makes the index. The frame of the map is that of the LiDAR, as in
    BEVFusion: x to the right of the vehicle, y forward, z up. So the first axis of the label runs
    to the right, the second forward. The cameras are FRONT, FRONT_RIGHT, FRONT_LEFT, BACK,
    BACK_LEFT and BACK_RIGHT; their poses include what the vehicle moved between its sensors.

    Points are those of the key frame and of earlier sweeps, brought into its frame. Of earlier
    sweeps, points that are less than 1 m from the LiDAR along x and along y are removed: they are
    of the vehicle.

    Differs from BEVFusion: in training too the latest sweeps are taken, not random ones, and their
    points are not shuffled, which decides which of them a full voxel keeps; and where there are no
    earlier sweeps (at the beginning of a scene), the key frame is not repeated.

    Args:
        root: folder of the data set, with ``samples``, ``sweeps`` and ``maps``.
        index: file of ``diffsight index-nuscenes``.
        split: official split of the indexed version; of v1.0-mini these are mini_train and
            mini_val.
        sweeps: largest number of sweeps before the key frame, 0 to 9.
        cells: of the map, along each axis.
        cell_m: length of a cell in metres.
        lidar: read its points.

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
            raise InputError(f"{index}: holds no samples of {split}: its splits are train and val")
        for location in sorted({frame.location for frame in self.frames}):
            self._file(map_file(location))
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
            InputError: naming a file that is missing or damaged, and its archive.
        """
        frame = self.frames[index]
        images = self._images(frame)
        count = len(images)
        intrinsics = torch.eye(4).repeat(count, 1, 1)
        intrinsics[:, :3, :3] = torch.from_numpy(frame.intrinsics).float()
        rig = Rig(
            images=images[None],
            intrinsics=intrinsics[None],
            camera_to_vehicle=torch.from_numpy(frame.camera_to_lidar).float()[None],
            image_change=torch.eye(4).repeat(1, count, 1, 1),
            points=(self._points(frame),) if self.lidar else None,
        )
        source = VectorMapSource(
            self.root / map_file(frame.location), frame.lidar_to_global, self.cells, self.cell_m
        )
        return Sample(
            id=frame.token,
            image=sheet_of(rig),
            labels={"map": source.draw(torch.eye(4))},
            valid={"map": torch.ones(self.cells, self.cells, dtype=torch.bool)},
            rig=rig,
            map_source=source,
        )

    def _file(self, name: str) -> Path:
        path = self.root / name
        if not os.path.isfile(path):  # that of Path raises for a name that is too long
            archive = archive_of(name, self.version)
            raise InputError(f"{path}: missing: extract {archive}")
        return path

    def _images(self, frame: Frame) -> UInt8[Tensor, "v 3 h w"]:
        images = [read_image(self._file(name)) for name in frame.images]
        for name, image in zip(frame.images, images, strict=True):
            if image.shape != images[0].shape:
                sizes = [f"{one.shape[2]} x {one.shape[1]}" for one in (image, images[0])]
                raise InputError(
                    f"{self.root / name}: {sizes[0]} pixels, the first camera of the sample has "
                    f"{sizes[1]}: extract {archive_of(name, self.version)} again"
                )
        return torch.stack(images)

    def _points(self, frame: Frame) -> Float[Tensor, "n 5"]:
        key = self._sweep(frame.points)
        key[:, 4] = 0
        sweeps = [key]
        earlier = zip(frame.sweeps, frame.sweep_to_lidar, frame.ages_s, strict=True)
        for name, pose, age_s in list(earlier)[: self.sweeps]:
            points = self._sweep(name)
            points = points[(np.abs(points[:, :2]) >= CLOSE_M).any(axis=1)]
            points[:, :3] = points[:, :3] @ pose[:3, :3].T + pose[:3, 3]
            points[:, 4] = age_s
            sweeps.append(points)
        return torch.from_numpy(np.concatenate(sweeps))

    def _sweep(self, name: str) -> Float32[np.ndarray, "n 5"]:
        """Return x, y, z, intensity and the number of the laser."""
        path = self._file(name)
        data = read_bytes(path)
        repair = f"extract {archive_of(name, self.version)} again"
        if len(data) % (4 * POINT_CHANNELS):
            raise InputError(f"{path}: {len(data):,} bytes are no whole points: {repair}")
        points = np.frombuffer(data, "<f4").reshape(-1, POINT_CHANNELS).astype(np.float32)
        if not np.isfinite(points).all():
            raise InputError(f"{path}: holds numbers that are not finite: {repair}")
        return points
