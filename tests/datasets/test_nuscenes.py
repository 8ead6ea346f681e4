"""nuScenes: index, LiDAR sweeps, camera poses, map labels, and unusable files."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import support_nuscenes
from tests.contracts import DatasetContract
from tests.support_nuscenes import CAMERAS, HW, WORLD, lidar_to_global, make_pose

from diffsight.datasets import NuScenes
from diffsight.datasets.base import collate
from diffsight.datasets.nuscenes_tables import (
    is_val,
    read_index,
    read_tables,
    write_index,
)
from diffsight.errors import InputError
from diffsight.tasks.bev import NUSCENES_CLASSES

STEP_S = support_nuscenes.STEP_US / 1e6
SWEEP_S = STEP_S / support_nuscenes.SWEEPS


def write(folder: Path) -> Path:
    """Write the data set and its index unless they exist; return the path of the index."""
    index = folder / "index.json"
    if not index.exists():
        support_nuscenes.write_nuscenes(folder)
        write_index(index, "v1.0-mini", read_tables(folder, "v1.0-mini"))
    return index


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nuscenes")
    write(folder)
    return folder


def opened(root: Path, **options: Any) -> NuScenes:
    return NuScenes(root=root, index=root / "index.json", **options)


class TestNuScenes(DatasetContract):
    def build(self, folder: Path) -> NuScenes:
        return NuScenes(root=folder, index=write(folder))


def test_the_splits_are_the_official_ones(root: Path) -> None:
    scenes = {frame.scene for frame in opened(root).frames}
    assert scenes == {"scene-0061"}
    assert {frame.scene for frame in opened(root, split="val").frames} == {"scene-0103"}
    numbers = range(1, 1111)
    assert sum(is_val(f"scene-{n:04}", "v1.0-trainval") for n in numbers) == 150
    assert is_val("scene-0553", "v1.0-trainval")
    assert not is_val("scene-0553", "v1.0-mini")
    assert [n for n in numbers if is_val(f"scene-{n:04}", "v1.0-mini")] == [103, 916]


def test_an_index_is_read_as_it_was_written(root: Path, tmp_path: Path) -> None:
    frames = read_tables(root, "v1.0-mini")
    write_index(tmp_path / "index.json", "v1.0-mini", frames)
    version, read = read_index(tmp_path / "index.json")
    assert version == "v1.0-mini"
    assert len(read) == len(frames) == 6
    for ours, theirs in zip(read, frames, strict=True):
        for field in fields(ours):
            a, b = (getattr(one, field.name) for one in (ours, theirs))
            assert np.allclose(a, b, atol=1e-8) if isinstance(a, np.ndarray) else a == b


def test_a_sample_has_six_cameras_in_the_order_of_bevfusion(root: Path) -> None:
    sample = opened(root)[1]
    rig = sample.rig
    assert rig is not None
    assert rig.images.shape == (1, 6, 3, *HW)
    assert rig.images.dtype == torch.uint8
    reds = rig.images[0, :, 0].float().mean(dim=(1, 2))
    assert reds.tolist() == pytest.approx([40 * i for i in range(6)], abs=6)
    assert torch.equal(rig.image_change, torch.eye(4).expand(1, 6, 4, 4))
    expected = torch.eye(4)
    expected[:3, :3] = torch.tensor(support_nuscenes.INTRINSIC)
    assert torch.equal(rig.intrinsics, expected.expand(1, 6, 4, 4))
    assert sample.id == "0-1"
    assert sample.image.shape == (3, 2 * HW[0], 3 * HW[1])


def test_camera_poses_account_for_the_motion_between_image_and_sweep(root: Path) -> None:
    sample = opened(root)[2]
    assert sample.rig is not None
    start = 2 * support_nuscenes.STEP_US
    for number, camera in enumerate(CAMERAS):
        time_us = start + 10_000 + number
        to_global = make_pose(*support_nuscenes.ego_pose(time_us)) @ make_pose(
            *support_nuscenes.camera_to_ego(number)
        )
        point = np.array([0.3, -0.2, 7.0, 1.0])  # a point in front of the camera
        expected = np.linalg.inv(lidar_to_global(start)) @ to_global @ point
        point_in_lidar = sample.rig.camera_to_vehicle[0, number].numpy() @ point
        assert np.allclose(point_in_lidar, expected, atol=1e-4), camera


def test_points_of_earlier_sweeps_are_moved_to_the_frame_of_the_last(root: Path) -> None:
    sample = opened(root)[2]
    assert sample.rig is not None
    assert sample.rig.points is not None
    (points,) = sample.rig.points
    points = points.numpy()
    to_global = lidar_to_global(2 * support_nuscenes.STEP_US)
    ages = points[:, 4]
    assert sorted(set(ages.round(4))) == pytest.approx([SWEEP_S * i for i in range(9)], abs=1e-4)
    for age in set(ages):
        of_sweep = points[ages == age]
        world = of_sweep[:, :3] @ to_global[:3, :3].T + to_global[:3, 3]
        assert np.allclose(world[: len(WORLD)], WORLD, atol=2e-3)
        assert of_sweep[: len(WORLD), 3].tolist() == list(range(len(WORLD)))  # the intensity
        # earlier sweeps drop the point close to the vehicle, but not the one beyond 1 m along y
        assert len(of_sweep) == len(WORLD) + (2 if age == 0 else 1)


def test_the_number_of_sweeps_is_limited_by_option_and_scene_start(root: Path) -> None:
    def sweeps(index: int, **options: Any) -> int:
        rig = opened(root, **options)[index].rig
        assert rig is not None
        assert rig.points is not None
        return len(rig.points[0][:, 4].unique())

    assert sweeps(0) == 1  # the first sweep of the scene
    assert sweeps(1) == 1 + support_nuscenes.SWEEPS
    assert sweeps(2, sweeps=2) == 3
    assert sweeps(2, sweeps=0) == 1
    rig = opened(root, lidar=False)[0].rig
    assert rig is not None
    assert rig.points is None
    with pytest.raises(InputError, match="10 sweeps: give a number from 0 to 9"):
        opened(root, sweeps=10)


def test_the_label_is_the_map_around_the_lidar(tmp_path: Path) -> None:
    builder = support_nuscenes.MapBuilder()
    to_global = lidar_to_global(0)
    corners = np.array([[-3, 20], [3, 20], [3, 30], [-3, 30]])  # 25 m in front of the vehicle
    corners = np.c_[corners, np.zeros(4)] @ to_global[:3, :3].T + to_global[:3, 3]
    builder.add_area("walkway", corners[:, :2])
    index = write(tmp_path)
    support_nuscenes.write_map(tmp_path, builder.tables)
    data = NuScenes(root=tmp_path, index=index)
    sample = data[0]
    label = sample.labels["map"]
    assert data.class_names == {"map": NUSCENES_CLASSES}
    assert label.shape == (6, 200, 200)
    assert sample.valid["map"].all()
    assert label.sum(dim=(1, 2)).nonzero().tolist() == [[2]]
    middle = label[2].nonzero().double().mean(dim=0) * 0.5 - 50
    assert middle.tolist() == pytest.approx([0.0, 25.0], abs=0.5)  # x to the right, y forward
    assert sample.map_source is not None
    assert torch.equal(sample.map_source.draw(torch.eye(4)), label)
    coarse = NuScenes(root=tmp_path, index=index, cells=20, cell_m=4.0)[0]
    assert coarse.labels["map"].shape == (6, 20, 20)
    assert coarse.labels["map"][2].any()


def test_samples_become_a_batch(root: Path) -> None:
    data = opened(root)
    batch = collate([data[0], data[1]], "map")
    assert batch.target.label.shape == (2, 6, 200, 200)
    rig = batch.inputs.rig
    assert rig is not None
    assert rig.images.shape == (2, 6, 3, *HW)
    assert rig.points is not None
    assert [len(points) for points in rig.points] == [42, 42 + 4 * 41]


def error_message(root: Path) -> str:
    """Return the error of reading the first sample, which must be one line."""
    with pytest.raises(InputError) as caught:
        opened(root)[0]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unusable_files_are_named_with_their_archive(tmp_path: Path) -> None:
    write(tmp_path)
    frame = opened(tmp_path).frames[0]
    sweep, image = tmp_path / frame.points, tmp_path / frame.images[2]
    Image.new("RGB", (40, 20)).save(image)
    assert f"{image}: 40 x 20 pixels, but the first camera" in error_message(tmp_path)
    image.unlink()
    assert error_message(tmp_path) == f"{image}: missing: extract v1.0-mini.tgz"
    shutil.copyfile(tmp_path / frame.images[1], image)
    sweep.write_bytes(sweep.read_bytes()[:-3])
    assert f"{sweep}: 837 bytes are not a whole number of points" in error_message(tmp_path)
    np.full(5, np.nan, np.float32).tofile(sweep)
    assert f"{sweep}: holds numbers that are not finite" in error_message(tmp_path)
    sweep.unlink()
    assert error_message(tmp_path) == f"{sweep}: missing: extract v1.0-mini.tgz"
    (city,) = (tmp_path / "maps" / "expansion").iterdir()
    city.unlink()
    archive = "nuScenes-map-expansion-v1.3.zip (into maps)"
    assert error_message(tmp_path) == f"{city}: missing: extract {archive}"


def test_an_unusable_index_is_refused_with_the_repair(tmp_path: Path) -> None:
    index = write(tmp_path)
    whole = index.read_text()

    def changed(edit: Callable[[Any], Any]) -> str:
        index.write_text(whole)
        support_nuscenes.edit_json(index, edit)
        message = error_message(tmp_path)
        assert message.startswith(f"{index}: ")
        return message

    def changed_sample(edit: Callable[[dict[str, Any]], Any]) -> str:
        return changed(lambda content: edit(content["samples"][0]))

    repair = "make it again with `diffsight index-nuscenes`"
    assert changed(lambda content: content.pop("format")).endswith(repair)
    assert "version 7, not 1" in changed(lambda content: content.update(format_version=7))
    assert "unknown version" in changed(lambda content: content.update(version="v1.0-test"))
    assert "holds no samples of train" in changed(lambda content: content.update(samples=[]))
    assert "'scene'" in changed_sample(lambda row: row.pop("scene"))
    assert "not a string" in changed_sample(lambda row: row.update(token=5))
    assert "5 cameras" in changed_sample(lambda row: row["cameras"].pop())
    assert repair in changed_sample(lambda row: row["cameras"][0][1].pop())
    assert repair in changed_sample(lambda row: row["sweeps"].append(["a"]))
    assert "not finite" in changed_sample(
        lambda row: row["lidar_to_global"].__setitem__(0, json.loads("NaN"))
    )
    index.write_text(whole[:-9])
    assert "cannot be read as an index of nuScenes" in error_message(tmp_path)
