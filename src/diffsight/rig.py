"""What several cameras and a LiDAR of one vehicle see, and the map around it.

The frame of the vehicle is that of its map, in metres, with z up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffsight.errors import InputError
from diffsight.records import Record

ROTATION_ERROR = 1e-2  # of an element of R^T R
FARTHEST_M = 1000.0  # of a camera from the vehicle
POINT_CHANNELS = 5  # x, y, z in metres, intensity, age in seconds


@dataclass(frozen=True)
class Rig(Record):
    """What several cameras of a vehicle see at one time, for a batch.

    Attributes:
        images: RGB, in [0, 1], or bytes in a sample.
        intrinsics: pinhole matrices, in pixels of the original images.
        camera_to_vehicle: poses of the cameras.
        image_change: from pixels of the original images to those of ``images`` (resize, crop, flip,
            rotation).
        vehicle_change: of the frame of the vehicle (augmentation); None: none.
        points: of the LiDAR, for every row: x, y and z in the frame of the vehicle, before
            ``vehicle_change``, the intensity, and the age in seconds; None: there is no LiDAR.
    """

    images: Float[Tensor, "b v 3 h w"] | UInt8[Tensor, "b v 3 h w"]
    intrinsics: Float[Tensor, "b v 4 4"]
    camera_to_vehicle: Float[Tensor, "b v 4 4"]
    image_change: Float[Tensor, "b v 4 4"]
    vehicle_change: Float[Tensor, "b 4 4"] | None = None
    points: tuple[Float[Tensor, "_ 5"], ...] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.images)

    def rows(self, index: Sequence[int]) -> Self:
        """Select rows."""
        chosen = list(index)
        rows: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            is_tuple = isinstance(value, tuple)
            rows[field.name] = tuple(value[i] for i in chosen) if is_tuple else value
            if isinstance(value, Tensor):
                rows[field.name] = value[chosen]
        return replace(self, **rows)

    def require_usable(self) -> None:
        """Refuse numbers that describe no cameras.

        Raises:
            InputError: if images are outside [0, 1], or matrices are not finite, are no rotation,
                or have no positive focal length.
        """
        images = self.images
        # written so that NaN fails
        if images.is_floating_point() and not bool(((images >= 0) & (images <= 1)).all()):
            raise InputError("images with values outside [0, 1]: scale floats to [0, 1]")
        focal = self.intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2]
        if not bool(self.intrinsics.isfinite().all() and (focal > 0).all()):
            raise InputError("intrinsics must be finite, with positive focal lengths in pixels")
        turn = self.camera_to_vehicle[..., :3, :3]
        off = (turn.mT @ turn - torch.eye(3).to(turn)).abs().amax()
        is_turn = bool(off < ROTATION_ERROR) and bool((torch.linalg.det(turn) > 0).all())
        if not (is_turn and bool((self.camera_to_vehicle[..., :3, 3].abs() < FARTHEST_M).all())):
            raise InputError(
                "camera_to_vehicle must be a rotation and a position in metres near the vehicle"
            )

    def layout(self) -> tuple[object, ...]:
        """Return what rigs must share to be one batch."""
        return self.images.shape[1:], self.points is None, self.vehicle_change is None

    def each(self) -> "list[Rig]":
        """Return every row by itself."""
        return [self.rows([row]) for row in range(len(self))]

    def in_floats(self) -> Self:
        """Return a rig whose images are floats in [0, 1]."""
        if self.images.is_floating_point():
            return self
        return replace(self, images=self.images.float() / 255)

    def in_bytes(self) -> Self:
        """Return a rig whose images are bytes."""
        if not self.images.is_floating_point():
            return self
        return replace(self, images=(self.images * 255).round().to(torch.uint8))

    def moved_points(self) -> tuple[Float[Tensor, "_ 5"], ...] | None:
        """Return the points after ``vehicle_change``."""
        if self.points is None or self.vehicle_change is None:
            return self.points
        rows = zip(self.points, self.vehicle_change, strict=True)
        return tuple(
            # no matrix product, which TF32 would round to centimetres
            torch.cat([(p[:, None, :3] * m[:3, :3]).sum(-1) + m[:3, 3], p[:, 3:]], dim=1)
            for p, m in rows
        )

    @classmethod
    def of_samples(
        cls, rigs: "Sequence[Rig | None]", dtype: torch.dtype = torch.float32
    ) -> "Rig | None":
        """Return the rigs of samples as a batch with images in [0, 1]; None if there are none.

        Args:
            rigs: of the samples.
            dtype: of the images; matrices and points stay as they are.

        Raises:
            InputError: as ``joined``, or if only some samples have several cameras.
        """
        some = [rig for rig in rigs if rig is not None]
        if some and len(some) < len(rigs):
            raise InputError(
                "some samples of a batch have several cameras, others one image: use one kind"
            )
        if not some:
            return None
        rig = cls.joined([rig.in_floats() for rig in some])
        return replace(rig, images=rig.images.to(dtype))

    @classmethod
    def joined(cls, rigs: "Sequence[Rig]") -> "Rig":
        """Return the rows of several rigs as one batch.

        Raises:
            InputError: if they differ in the number or size of their cameras, or only some have a
                LiDAR.
        """
        shapes = sorted({tuple(rig.images.shape[1:]) for rig in rigs})
        if len(shapes) > 1:
            several = ", ".join(f"{v} of {w} x {h} px" for v, _, h, w in shapes)
            repair = "use samples with the same cameras"
            if len({v for v, *_ in shapes}) == 1:
                repair = "add RandomCameras, or set the batch size to 1"
            raise InputError(f"the cameras of one batch differ ({several}): {repair}")
        parts = {}
        for field in fields(cls):
            values = [getattr(rig, field.name) for rig in rigs]
            if any(value is None for value in values):
                if any(value is not None for value in values):
                    name = field.name.replace("_", " ")
                    raise InputError(f"only some samples of a batch have {name}: give all or none")
                parts[field.name] = None
            elif isinstance(values[0], tuple):
                parts[field.name] = tuple(one for value in values for one in value)
            else:
                parts[field.name] = torch.cat(values)
        return cls(**parts)


@runtime_checkable
class MapSource(Protocol):
    """Draws the map around a vehicle, in a frame that was changed."""

    def draw(self, vehicle_change: Float[Tensor, "4 4"]) -> Float[Tensor, "k x y"]:
        """Return 1 where a cell is of a class; the cells lie in the changed frame.

        A source may ignore a change of scale.
        """
        ...


def check_cells(cells: int, cell_m: float) -> None:
    """Refuse a map without cells.

    Raises:
        InputError: if a number is not positive, or not finite.
    """
    if cells < 1 or not 0 < cell_m < math.inf:
        raise InputError(f"a map of {cells} cells of {cell_m:g} m: give positive numbers")
