"""Masks from the nuScenes map expansion equal those of the official devkit."""

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import support_nuscenes
from tests.support_nuscenes import START_M, MapBuilder, make_map, write_map
from torch import Tensor

from diffsight.datasets.vector_map import (
    CLASS_LAYERS,
    Patch,
    VectorMap,
    VectorMapSource,
    open_map,
)
from diffsight.errors import InputError
from diffsight.label_maps import NUSCENES_CLASSES
from diffsight.rig import MapSource

RECORDED = np.load(Path(__file__).with_name("vector_map.npz"))
LAYERS = tuple(RECORDED["layers"].tolist())
PATCHES = RECORDED["patches"].tolist()
HERE = Patch(*START_M, 100.0, 100.0, 0.0)
X, Y = START_M


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> VectorMap:
    return VectorMap(write_map(tmp_path_factory.mktemp("city"), make_map()))


@pytest.mark.parametrize("number", range(len(PATCHES)))
def test_masks_equal_those_of_the_devkit(city: VectorMap, number: int) -> None:
    shape = (len(PATCHES), len(LAYERS), 200, 200)
    masks = np.unpackbits(RECORDED["packed"])[: np.prod(shape)].reshape(shape)
    dx, dy, height_m, width_m, angle_deg = PATCHES[number]
    patch = Patch(X + dx, Y + dy, height_m, width_m, angle_deg)
    drawn = city.draw(patch, LAYERS, (200, 200))
    differing = dict(zip(LAYERS, (drawn != masks[number]).sum(axis=(1, 2)), strict=True))
    assert not any(differing.values()), differing
    assert drawn.any()


def test_classes_equal_those_of_the_task() -> None:
    assert tuple(CLASS_LAYERS) == NUSCENES_CLASSES


def test_areas_that_only_touch_the_patch_are_not_drawn(tmp_path: Path) -> None:
    builder = MapBuilder()
    # touches the patch in one point
    builder.add_area("walkway", [(X + 50, Y), (X + 60, Y - 5), (X + 60, Y + 5)])
    builder.add_area(
        "walkway", [(X + 50, Y - 5), (X + 60, Y - 5), (X + 60, Y + 5), (X + 50, Y + 5)]
    )
    assert (
        not VectorMap(write_map(tmp_path, builder.tables)).draw(HERE, ["walkway"], (50, 50)).any()
    )


def test_an_outline_that_runs_along_the_border_of_the_patch_is_cut(tmp_path: Path) -> None:
    builder = MapBuilder()
    # the outline runs inside, leaves the patch, and returns along its border
    corners = [(X, Y), (X + 50, Y), (X + 50, Y + 10), (X + 60, Y + 10), (X + 50, Y + 20)]
    builder.add_area("walkway", [*corners, (X + 50, Y + 30), (X + 70, Y + 40), (X, Y + 40)])
    builder.add_line(
        "road_divider", [(X, Y - 20), (X + 50, Y - 20), (X + 60, Y - 20), (X + 50, Y - 30)]
    )
    city = VectorMap(write_map(tmp_path, builder.tables))
    walkway, divider = city.draw(HERE, ["walkway", "road_divider"], (100, 100))
    assert walkway[50:90, 50:].all()
    assert not walkway[:49].any()
    assert divider[30, 50:].all()
    assert not divider[33:].any()


def test_a_hole_clears_earlier_areas(tmp_path: Path) -> None:
    builder = MapBuilder()
    square = np.array([(-20, -20), (20, -20), (20, 20), (-20, 20)])
    builder.add_area("walkway", square / 4 + START_M)
    builder.add_area("walkway", square + START_M, square / 2 + START_M)
    city = VectorMap(write_map(tmp_path, builder.tables))
    (mask,) = city.draw(HERE, ["walkway"], (100, 100))
    assert mask[35, 50]
    assert not mask[50, 50]


def crossing_source(tmp_path: Path, corners_m: Any, yaw_deg: float = 30.0) -> VectorMapSource:
    """Return a map with one crossing; its corners are in the frame of the vehicle."""
    yaw = np.deg2rad(yaw_deg)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:3, 3] = [*START_M, 3.0]
    builder = MapBuilder()
    builder.add_area("ped_crossing", np.array(corners_m) @ pose[:2, :2].T + pose[:2, 3])
    return VectorMapSource(write_map(tmp_path, builder.tables), pose, 200, 0.5)


def centre_m(label: Tensor) -> list[float]:
    """Return the centre of the crossing in metres; the vehicle is at (0, 0)."""
    assert label[1].any()
    return (label[1].nonzero().double().mean(dim=0) * 0.5 + 0.25 - 50).tolist()


CROSSING = [(10.0, 4.0), (16.0, 4.0), (16.0, 9.0), (10.0, 9.0)]
CROSSING_CENTRE = torch.tensor([13.0, 6.5, 0.0, 1.0])


def change(yaw_deg: float = 0.0, shift: tuple[float, float] = (0, 0), scale: float = 1) -> Tensor:
    yaw = torch.tensor(yaw_deg).deg2rad()
    matrix = torch.eye(4)
    matrix[:2, :2] = torch.tensor([[yaw.cos(), -yaw.sin()], [yaw.sin(), yaw.cos()]])
    matrix[:2, 3] = torch.tensor(shift)
    matrix[:3] *= scale
    return matrix


def test_the_label_is_in_the_frame_of_the_vehicle_with_x_first(tmp_path: Path) -> None:
    source = crossing_source(tmp_path, CROSSING)
    assert isinstance(source, MapSource)
    label = source.draw(torch.eye(4))
    assert label.shape == (6, 200, 200)
    assert label.dtype == torch.float32
    assert label[[0, 2, 3, 4, 5]].sum() == 0
    assert label[1].sum() == pytest.approx(12 * 10, rel=0.25)  # borders are filled too
    assert centre_m(label) == pytest.approx([13.0, 6.5], abs=0.5)
    assert torch.equal(pickle.loads(pickle.dumps(source)).draw(torch.eye(4)), label)


@pytest.mark.parametrize("mirror", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
@pytest.mark.parametrize("yaw_deg", [0.0, 25.0, -40.0])
def test_the_label_moves_with_the_vehicle_frame(
    tmp_path: Path, yaw_deg: float, mirror: tuple[int, int]
) -> None:
    source = crossing_source(tmp_path, CROSSING)
    moved = torch.diag(torch.tensor([*mirror, 1.0, 1.0])) @ change(yaw_deg, (2.0, -3.0))
    expected = (moved @ CROSSING_CENTRE)[:2].tolist()
    assert centre_m(source.draw(moved)) == pytest.approx(expected, abs=0.6)


@pytest.mark.parametrize("yaw_deg", [10.0, -44.0])
def test_the_mask_of_a_mirrored_frame_is_the_flipped_mask(tmp_path: Path, yaw_deg: float) -> None:
    path = write_map(tmp_path, make_map())
    source = VectorMapSource(path, support_nuscenes.lidar_to_global(0), 200, 0.5)
    turned = change(yaw_deg, (1.0, 0.5))
    plain = source.draw(turned)
    for axes, mirror in (((2,), (1, -1)), ((1,), (-1, 1)), ((1, 2), (-1, -1))):
        mirrored = source.draw(torch.diag(torch.tensor([*mirror, 1.0, 1.0])) @ turned)
        assert torch.equal(mirrored, plain.flip(axes))


def test_rotations_of_90_degrees_and_more_are_drawn(tmp_path: Path) -> None:
    source = crossing_source(tmp_path, CROSSING)
    expected = (change(150.0) @ CROSSING_CENTRE)[:2].tolist()
    assert centre_m(source.draw(change(150.0))) == pytest.approx(expected, abs=0.6)
    expected = (change(90.0) @ CROSSING_CENTRE)[:2].tolist()
    assert centre_m(source.draw(change(90.0))) == pytest.approx(expected, abs=0.6)


def test_a_change_of_scale_does_not_resize_the_map(tmp_path: Path) -> None:
    source = crossing_source(tmp_path, CROSSING)
    turned, larger = change(25.0, (2.0, -3.0)), change(25.0, (2.0, -3.0), scale=1.1)
    assert torch.equal(source.draw(larger), source.draw(turned))


def test_the_divider_class_has_the_dividers_of_roads_and_lanes(tmp_path: Path) -> None:
    path = write_map(tmp_path, make_map())
    source = VectorMapSource(path, support_nuscenes.lidar_to_global(0), 200, 0.5)
    divider = source.draw(torch.eye(4))[5]
    pose = source.vehicle_to_global
    angle_deg = float(np.degrees(np.arctan2(pose[1, 0], pose[0, 0])))
    patch = Patch(pose[0, 3], pose[1, 3], 100.0, 100.0, angle_deg)
    road, lane = open_map(path).draw(patch, ["road_divider", "lane_divider"], (200, 200))
    assert np.array_equal(divider.numpy(), (road | lane).T)
    assert (road & ~lane).any()


def test_self_intersecting_outlines_are_left_out_or_refused(tmp_path: Path) -> None:
    bow_tie = [(X - 9, Y), (X + 9, Y + 8), (X + 9, Y), (X - 9, Y + 8)]
    builder = MapBuilder()
    builder.add_area("walkway", bow_tie)
    small = Patch(X, Y, 10.0, 10.0, 0.0)
    city = VectorMap(write_map(tmp_path, builder.tables))
    assert not city.draw(small, LAYERS, (50, 50)).any()
    builder.add_drivable_area(builder.add_outline(bow_tie))
    city = VectorMap(write_map(tmp_path, builder.tables))
    with pytest.raises(InputError, match="drivable_area cannot be cut to a patch"):
        city.draw(small, LAYERS, (50, 50))


def error_message(path: Path) -> str:
    """Return the error of drawing a map, which must be one line that names the archive."""
    with pytest.raises(InputError) as caught:
        VectorMap(path).draw(HERE, LAYERS, (50, 50))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "nuScenes-map-expansion-v1.3.zip" in message
    return message


def test_unusable_maps_are_refused_with_their_path(tmp_path: Path) -> None:
    missing = tmp_path / "maps" / "expansion" / "boston-seaport.json"
    assert error_message(missing).endswith(f"into {tmp_path / 'maps'}")
    assert "version 1.0 of the map" in error_message(write_map(tmp_path, {}))
    assert "'node'" in error_message(write_map(tmp_path, {"version": "1.3"}))

    def changed(table: str, row: dict[str, Any]) -> str:
        builder = MapBuilder()
        builder.add_area("walkway", [(X, Y), (X + 1, Y), (X, Y + 1)])
        builder.add_line("lane_divider", [(X, Y), (X + 1, Y)])
        builder.tables[table][0] |= row
        return error_message(write_map(tmp_path, builder.tables))

    assert "not finite" in changed("node", {"x": float("nan")})
    assert "'p9'" in changed("walkway", {"polygon_token": "p9"})
    assert "damaged" in changed("line", {"node_tokens": ["n0"]})
    assert "damaged" in changed("polygon", {"exterior_node_tokens": ["n0", "n1"]})


def test_missing_libraries_are_reported_with_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, city: VectorMap
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"pip install 'diffsight\[nuscenes\]'"):
        city.draw(HERE, LAYERS, (50, 50))
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(InputError, match=r"pip install 'diffsight\[nuscenes\]'"):
        VectorMap(city.path)
