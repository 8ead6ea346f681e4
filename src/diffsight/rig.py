"""Camera images and LiDAR points of a vehicle, and the source of the map around it.

The coordinate frame of the vehicle is that of its map, in metres, with z up.
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

ROTATION_ERROR = 1e-2  # largest error of an element of R^T R, for a rotation R
FARTHEST_M = 1000.0  # largest coordinate of a camera in the frame of the vehicle
POINT_CHANNELS = 5  # x, y, z in metres, intensity, age in seconds


@dataclass(frozen=True)
class Rig(Record):
    """Images of several cameras of a vehicle at one time, with LiDAR points, for a batch.

    Axes: ``b`` row of the batch, ``v`` camera (view), ``h w`` pixels.

    Attributes:
        images: RGB, as floats in [0, 1], or as bytes in a sample.
        intrinsics: pinhole matrices, in pixels of the original images.
        camera_to_vehicle: poses of the cameras in the frame of the vehicle, in metres.
        image_change: matrices from pixels of the original images to pixels of ``images`` (resize,
            crop, flip, rotation).
        vehicle_change: matrices that augmentation applies to the frame of the vehicle; None: no
            augmentation.
        points: LiDAR points of every row: x, y and z in metres in the frame of the vehicle (before
            ``vehicle_change``), intensity, and age in seconds; None: there is no LiDAR.
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
        """Return a rig with only these rows of the batch."""
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
        """Refuse images and matrices with impossible values.

        Raises:
            InputError: if images are outside [0, 1], intrinsics are not finite or have a focal
                length that is not positive, or a pose is no rotation or is far from the vehicle.
        """
        images = self.images
        # written so that NaN fails
        if images.is_floating_point() and not bool(((images >= 0) & (images <= 1)).all()):
            raise InputError("camera images have values outside [0, 1]: scale them to [0, 1]")
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
        """Return a key; only rigs with the same key can be one batch."""
        return self.images.shape[1:], self.points is None, self.vehicle_change is None

    def each(self) -> "list[Rig]":
        """Return one rig per row of the batch."""
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
        """Return the LiDAR points after ``vehicle_change``; None if there is no LiDAR."""
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
        """Return the rigs of samples as a batch with images in [0, 1]; None if no sample has a rig.

        Args:
            rigs: rig of each sample, or None.
            dtype: dtype of the images; matrices and points keep theirs.

        Raises:
            InputError: if only some samples have a rig, or the rigs do not fit together (see
                ``joined``).
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
            InputError: if the rigs differ in the number of cameras or the size of images, or if
                only some of them have LiDAR points or a ``vehicle_change``.
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
    """Source that draws the map around a vehicle, after augmentation of the vehicle's frame."""

    def draw(self, vehicle_change: Float[Tensor, "4 4"]) -> Float[Tensor, "k x y"]:
        """Return the map of ``k`` classes on ``x y`` cells: 1 where a cell has the class, else 0.

        Args:
            vehicle_change: matrix from the frame of the vehicle to the augmented frame, in which
                the cells lie. A source may ignore a change of scale.
        """
        ...


def check_cells(cells: int, cell_m: float) -> None:
    """Refuse the size of a map that has no cells.

    Args:
        cells: number of cells along each axis.
        cell_m: length of a cell in metres.

    Raises:
        InputError: if one of the numbers is not positive or not finite.
    """
    if cells < 1 or not 0 < cell_m < math.inf:
        raise InputError(f"a map of {cells} cells of {cell_m:g} m: give positive numbers")
