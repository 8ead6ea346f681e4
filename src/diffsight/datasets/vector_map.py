"""The map expansion of nuScenes: outlines and lines of a city, drawn as masks around a vehicle.

The masks equal those of the official devkit, pixel for pixel. The steps of the devkit are kept in
their order, because rounding decides which pixels the border of an outline covers.
"""

import functools
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from diffsight.errors import InputError, MissingExtraError
from diffsight.formats.text import read_object, reading, reason_of
from diffsight.label_maps import NUSCENES_CLASSES

CLASS_LAYERS: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in NUSCENES_CLASSES},
    "divider": ("road_divider", "lane_divider"),
}
"""The classes of BEVFusion in its order, with the map layers that belong to each."""
ARCHIVE = "nuScenes-map-expansion-v1.3.zip"
MIN_VERSION = (1, 3)  # of the map expansion
LINE_PX = 2  # thickness of drawn lines
_LINES = frozenset({"road_divider", "lane_divider"})
_LAYERS = tuple(layer for layers in CLASS_LAYERS.values() for layer in layers)
_COLLECTION = 7  # Shapely's type id of a GeometryCollection


@dataclass(frozen=True)
class Patch:
    """A rotated rectangle in the map of a city.

    Attributes:
        x_m: x of the centre, to the east, in metres.
        y_m: y of the centre, to the north, in metres.
        height_m: length along y before the rotation, in metres.
        width_m: length along x before the rotation, in metres.
        angle_deg: rotation about the centre, from x to y, in degrees.
    """

    x_m: float
    y_m: float
    height_m: float
    width_m: float
    angle_deg: float


class VectorMap:
    """The layers of one city's map from which the masks of the classes are drawn.

    Args:
        path: JSON file of the map expansion.

    Raises:
        InputError: if the file is missing, damaged or too old, or if Shapely is not installed.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path}: missing: extract {ARCHIVE} into {path.parents[1]}")
        self.path = path
        self._trees: dict[str, Any] = {}
        shapely = _import_library("shapely")
        with reading(path, f"damaged ({{reason}}): extract {ARCHIVE} again"):
            tables = read_object(path)
            _check_version(path, str(tables.get("version", "1.0")))
            try:
                geometries = _geometries(tables)
            except shapely.errors.ShapelyError as error:
                raise ValueError(reason_of(error)) from None
        for name, values in geometries.items():
            self._trees[name] = shapely.STRtree(values)

    def draw(
        self, patch: Patch, layers: Sequence[str], hw: tuple[int, int]
    ) -> UInt8[np.ndarray, "k h w"]:
        """Return the mask of each layer: 1 on the layer, 0 elsewhere.

        Rows run along y of the rotated patch, columns along x. The outlines of a layer are filled
        one after another. Clearing the holes of an outline also clears what earlier outlines filled
        there. Lines are two pixels thick.

        Args:
            patch: rectangle to draw.
            layers: names of layers in ``CLASS_LAYERS``.
            hw: height and width of the masks in pixels.

        Raises:
            InputError: if an outline cannot be cut because it crosses itself, or OpenCV is not
                installed.
        """
        masks = np.zeros((len(layers), *hw), np.uint8)
        shapely = _import_library("shapely")
        for mask, name in zip(masks, layers, strict=True):
            try:
                geometries = _cut_to_patch(self._trees[name], patch, hw, 1 if name in _LINES else 2)
            except shapely.errors.ShapelyError as error:
                raise InputError(
                    f"{self.path}: {name} cannot be cut to a patch ({reason_of(error)}): extract "
                    f"{ARCHIVE} again"
                ) from None
            fill = _draw_lines if name in _LINES else _fill_outlines
            for geometry in geometries:
                fill(mask, geometry)
        return masks


@functools.lru_cache(maxsize=8)
def open_map(path: Path) -> VectorMap:
    """Return the map of a city, which is read once in each process.

    Raises:
        InputError: as ``VectorMap``.
    """
    return VectorMap(path)


@dataclass(frozen=True)
class VectorMapSource:
    """Map around a vehicle with one mask per class of ``CLASS_LAYERS`` (a ``MapSource``).

    The drawn patch is that of BEVFusion. Its centre is the origin of the augmented coordinate
    frame, its angle is that of the augmented x axis, and its size is fixed. So a change of scale
    resizes the points and the cameras, but not the map, as in the released code.

    For a mirrored frame, the mask is drawn without the mirroring and then flipped, as in BEVFusion.
    This matters because the devkit's rounding moves outlines by half a cell towards larger x and y.
    A change is decomposed into a rotation of at most 90 degrees and a mirroring of x, y or both; a
    larger rotation counts as mirroring both axes.

    Attributes:
        path: JSON file of the map expansion.
        vehicle_to_global: pose of the vehicle's frame in the coordinates of the city, in metres.
        cells: number of cells along each axis.
        cell_m: side of a cell in metres.
    """

    path: Path
    vehicle_to_global: Float64[np.ndarray, "4 4"]
    cells: int
    cell_m: float

    def draw(self, vehicle_change: Float[Tensor, "4 4"]) -> Float[Tensor, "k x y"]:
        """Return the mask ``x y`` of each of k classes: 1 on the class, 0 elsewhere.

        The cells lie in the augmented frame of the vehicle, without its scale.

        Args:
            vehicle_change: matrix from the original to the augmented frame.

        Raises:
            InputError: if the map cannot be read or drawn.
        """
        change = vehicle_change.double().cpu().numpy()
        mirrors_x = change[0, 0] < 0
        mirrors_y = mirrors_x != (np.linalg.det(change[:2, :2]) < 0)
        steps = (-1 if mirrors_x else 1, -1 if mirrors_y else 1)
        change = np.diag([*steps, 1, 1]) @ change
        pose = self.vehicle_to_global @ np.linalg.inv(change)
        angle_deg = math.degrees(math.atan2(pose[1, 0], pose[0, 0]))
        side_m = self.cells * self.cell_m
        patch = Patch(float(pose[0, 3]), float(pose[1, 3]), side_m, side_m, angle_deg)
        layers = open_map(self.path).draw(patch, _LAYERS, (self.cells, self.cells))
        by_name = dict(zip(_LAYERS, layers, strict=True))
        masks = np.stack(
            [np.max([by_name[name] for name in names], axis=0) for names in CLASS_LAYERS.values()]
        ).transpose(0, 2, 1)[:, :: steps[0], :: steps[1]]
        return torch.from_numpy(masks.astype(np.float32))


def _import_library(name: str) -> Any:
    """Return an optional package, or raise an error that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(
            "maps of nuScenes need OpenCV and Shapely: pip install 'diffsight[nuscenes]'"
        ) from None


def _check_version(path: Path, version: str) -> None:
    if tuple(map(int, version.split("."))) < MIN_VERSION:
        raise InputError(f"{path}: version {version} of the map expansion: get {ARCHIVE}")


def _geometries(tables: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the outlines and lines by layer, in the order of the file.

    Outlines that cross themselves are left out, except those of drivable areas.
    """
    shapely = _import_library("shapely")
    xy = np.array([(node["x"], node["y"]) for node in tables["node"]], np.float64).reshape(-1, 2)
    if not np.isfinite(xy).all():
        raise ValueError("a node is not finite")
    nodes = {node["token"]: point for node, point in zip(tables["node"], xy, strict=True)}
    outlines = {one["token"]: one for one in tables["polygon"]}
    lines = {one["token"]: one for one in tables["line"]}

    def outline(token: str) -> Any:
        record = outlines[token]
        holes = [hole["node_tokens"] for hole in record["holes"] if hole["node_tokens"]]
        rings = [[nodes[t] for t in ring] for ring in (record["exterior_node_tokens"], *holes)]
        return shapely.Polygon(rings[0], rings[1:])

    def line(token: str) -> Any:
        return shapely.LineString([nodes[t] for t in lines[token]["node_tokens"]])

    geometries: dict[str, list[Any]] = {}
    for name in _LAYERS:
        if name in _LINES:
            geometries[name] = [line(one["line_token"]) for one in tables[name]]
        elif name == "drivable_area":
            geometries[name] = [outline(t) for one in tables[name] for t in one["polygon_tokens"]]
        else:
            all_outlines = (outline(one["polygon_token"]) for one in tables[name])
            geometries[name] = [one for one in all_outlines if one.is_valid]
    return geometries


def _cut_to_patch(tree: Any, patch: Patch, hw: tuple[int, int], dimension: int) -> list[Any]:
    """Return the parts of geometries inside a patch, in pixel coordinates of its mask.

    Args:
        tree: search tree of the geometries of a layer.
        patch: rectangle to which they are cut.
        hw: height and width of the mask in pixels.
        dimension: 2 for outlines, 1 for lines.
    """
    shapely, affinity = _import_library("shapely"), _import_library("shapely.affinity")
    x, y, height, width = patch.x_m, patch.y_m, patch.height_m, patch.width_m
    area = affinity.rotate(_box(x, y, height, width), patch.angle_deg, origin=(x, y))
    near = tree.geometries[np.sort(tree.query(area))]
    cut = shapely.GeometryCollection(_cut(near, area, dimension))
    cut = affinity.rotate(cut, -patch.angle_deg, origin=(x, y))
    cut = affinity.translate(cut, -x, -y)
    # cut again: the rotation moves points on the border by a rounding error
    local = _box(0.0, 0.0, height, width)
    cut = shapely.GeometryCollection(_cut(shapely.get_parts(cut), local, dimension))
    cut = affinity.translate(cut, width / 2, height / 2)
    return list(affinity.scale(cut, hw[1] / width, hw[0] / height, origin=(0, 0)).geoms)


def _box(x_m: float, y_m: float, height_m: float, width_m: float) -> Any:
    half_x, half_y = width_m / 2, height_m / 2
    return _import_library("shapely").box(x_m - half_x, y_m - half_y, x_m + half_x, y_m + half_y)


def _cut(geometries: np.ndarray, box: Any, dimension: int) -> list[Any]:
    """Return the parts of geometries inside a box; outlines that only touch it are left out."""
    shapely = _import_library("shapely")
    inside = shapely.intersection(geometries, box)
    whole = [_keep_dimension(one, dimension) for one in inside if not one.is_empty]
    return [one for one in whole if dimension == 1 or shapely.get_dimensions(one) == dimension]


def _keep_dimension(geometry: Any, dimension: int) -> Any:
    """Return a geometry; of a collection, only the parts of this dimension are kept."""
    shapely = _import_library("shapely")
    if shapely.get_type_id(geometry) != _COLLECTION:
        return geometry
    parts = shapely.get_parts(geometry)
    parts = parts[shapely.get_dimensions(parts) == dimension]
    return shapely.multipolygons(parts) if dimension == 2 else shapely.multilinestrings(parts)


def _fill_outlines(mask: UInt8[np.ndarray, "h w"], geometry: Any) -> None:
    """Set the pixels inside the outlines of a geometry to 1 in place, and those in holes to 0."""
    shapely, cv2 = _import_library("shapely"), _import_library("cv2")
    parts = shapely.get_parts(geometry)
    outer = [shapely.get_coordinates(part.exterior) for part in parts]
    holes = [shapely.get_coordinates(hole) for part in parts for hole in part.interiors]
    cv2.fillPoly(mask, [np.round(ring).astype(np.int32) for ring in outer], 1)
    cv2.fillPoly(mask, [np.round(ring).astype(np.int32) for ring in holes], 0)


def _draw_lines(mask: UInt8[np.ndarray, "h w"], geometry: Any) -> None:
    """Set the pixels on the lines of a geometry to 1 in place."""
    shapely, cv2 = _import_library("shapely"), _import_library("cv2")
    for part in shapely.get_parts(geometry):
        points = shapely.get_coordinates(part).astype(np.int32)  # the devkit truncates
        cv2.polylines(mask, [points], False, 1, LINE_PX)
