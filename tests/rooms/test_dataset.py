"""``Rooms``: reproducible bytes, samples, splits and errors."""

import hashlib
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from tests.support import assert_sample

from diffsight.config import to_config
from diffsight.datasets.base import collate
from diffsight.errors import InputError
from diffsight.rooms import LABELS, RENDERER_VERSION, ROOM_TYPES, Rooms, render_scene
from diffsight.rooms.labels import Geometry
from diffsight.rooms.render import add_noise, render_clean
from diffsight.rooms.scene import sample_scene
from diffsight.rooms.taskonomy import TASKONOMY_LABELS, TaskonomyRooms

# (split, seed, index, height, width) -> hash; if one changes, increase RENDERER_VERSION
DIGESTS: dict[tuple[str, int, int, int, int], str] = {
    ("train", 0, 0, 64, 64): "6df7a207219b3edf",
    ("train", 0, 17, 48, 80): "44af73b6aa445f42",
    ("train", 7, 2, 32, 32): "64c9724d2ccb8381",
    ("val", 0, 3, 64, 64): "4883c5bc848b0e72",
    ("test", 0, 5, 40, 40): "511d5a372e838506",
    ("test", 0, 1234, 96, 64): "a09541440c11daf4",
}


def digest(split: str, seed: int, index: int, height: int, width: int) -> str:
    """Return a hash of the image and of labels; labels are rounded, to ignore rounding errors."""
    names = ("semantic", "instance", "depth_m", "normals", "edge_occlusion")
    rendering = render_scene(index, split=split, seed=seed, size=(height, width), labels=names)
    parts = [rendering.image, rendering.labels["semantic"], rendering.labels["instance"]]
    parts += [
        np.rint(rendering.labels["depth_m"] * 1000),
        np.rint(rendering.labels["normals"] * 127),
    ]
    parts += [np.rint(rendering.labels["edge_occlusion"] * 1000)]
    code = hashlib.sha256()
    for part in parts:
        code.update(np.ascontiguousarray(part).astype("<i4").tobytes())
    text = [rendering.caption, *(e.text for e in rendering.expressions), rendering.room_type]
    code.update("\n".join(text).encode())
    return code.hexdigest()[:16]


@pytest.mark.parametrize("name", DIGESTS)
def test_images_and_main_labels_equal_the_recorded_hashes(
    name: tuple[str, int, int, int, int],
) -> None:
    assert RENDERER_VERSION == "rooms-1"
    assert digest(*name) == DIGESTS[name]


# (split, seed, index) -> hash of all labels and people at size 32, rounded to 1/100
DIGESTS_OF_OTHER_LABELS: dict[tuple[str, int, int], str] = {
    ("train", 0, 0): "fa375168a33edc98",
    ("val", 3, 8): "47b335c2abf6a61f",
}


@pytest.mark.parametrize("name", DIGESTS_OF_OTHER_LABELS)
def test_all_labels_and_people_equal_the_recorded_hashes(name: tuple[str, int, int]) -> None:
    split, seed, index = name
    rendering = render_scene(index, split=split, seed=seed, size=(32, 32), labels=LABELS)
    code = hashlib.sha256()
    for label in sorted(rendering.labels):
        values = np.where(rendering.valid[label], rendering.labels[label], 0)
        code.update(np.rint(values * 100).astype("<i4").tobytes())
    for person in rendering.people:
        code.update(np.rint(np.asarray(person.keypoints)).astype("<i4").tobytes())
    assert code.hexdigest()[:16] == DIGESTS_OF_OTHER_LABELS[name]


def test_another_process_renders_the_same_bytes() -> None:
    names = [("train", 0, 3, 40, 40), ("val", 1, 5, 32, 48)]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        other = [pool.submit(_digest_in_process, *name).result() for name in names]
    assert other == [digest(*name) for name in names]


def _digest_in_process(*name: object) -> str:
    return digest(*name)  # type: ignore[arg-type]


def test_a_sample_does_not_depend_on_order_count_or_other_labels() -> None:
    few, many = Rooms("train", 3, 32), Rooms("train", 9, 32, LABELS)
    backwards = [few[i] for i in (2, 1, 0)][::-1]
    for i, sample in enumerate(backwards):
        other = many[i]
        assert sample.id == other.id
        assert sample.prompt == other.prompt
        assert torch.equal(sample.image, other.image)
        assert torch.equal(sample.labels["depth_m"], other.labels["depth_m"])
        assert torch.equal(sample.valid["depth_m"], other.valid["depth_m"])
        again = few[i]
        assert torch.equal(again.image, sample.image)
    copy = pickle.loads(pickle.dumps(few))
    assert torch.equal(copy[1].image, few[1].image)


def test_a_sample_has_the_chosen_labels_in_the_right_shapes() -> None:
    data = Rooms("val", 4, (40, 56), ("depth_m", "semantic", "principal_curvature_per_m"), seed=7)
    assert len(data) == 4
    sample = data[0]
    assert sample.id == "rooms-val-7-000000"
    assert sample.prompt in ROOM_TYPES
    assert Rooms(count=1).prompt_source == "oracle-scene"
    assert Rooms(count=1, prompt="caption").prompt_source == "caption"
    assert set(sample.labels) == set(sample.valid) == set(data.labels)
    assert sample.image.shape == (3, 40, 56)
    assert sample.labels["depth_m"].shape == (1, 40, 56)
    assert sample.labels["principal_curvature_per_m"].shape == (2, 40, 56)
    assert sample.labels["semantic"].dtype == torch.int64
    assert int(sample.labels["semantic"].max()) < len(data.class_names["semantic"])
    camera = sample.camera
    assert camera is not None
    assert (camera.cx_px, camera.cy_px) == (27.5, 19.5)
    assert 50 <= np.degrees(2 * np.arctan(28 / camera.fx_px)) <= 80
    batch = collate([data[0], data[1]], "depth_m")
    assert batch.target.label.shape == (2, 1, 40, 56)


def test_splits_and_seeds_have_no_scene_in_common() -> None:
    images = [
        Rooms(split, 4, 16, seed=seed)[i].image.numpy().tobytes()
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for i in range(4)
    ]
    assert len(set(images)) == len(images)


def test_images_have_sensor_noise_and_labels_have_none() -> None:
    scene = sample_scene("train", 0, 2)
    clean = render_clean(scene, 64, 64)
    assert clean.dtype == np.float32
    assert 0 <= clean.min() <= clean.max() <= 1
    noisy = add_noise(scene, clean).astype(float) / 255
    inner = (clean > 0.1) & (clean < 0.9)
    assert float((noisy - clean)[inner].std()) == pytest.approx(scene.noise, rel=0.1)
    with_image, without = Geometry(scene, 64, 64, clean), Geometry(scene, 64, 64)
    edges = [g.label("edge_texture").value for g in (with_image, without)]
    assert (edges[0] == edges[1]).all()


def test_a_data_set_is_rebuilt_from_its_recipe() -> None:
    data = Rooms(split="test", count=5, size=64, labels=("normals",))
    config = to_config(data)
    assert isinstance(config, dict)
    assert config["class_path"] == "diffsight.rooms.dataset.Rooms"
    again = Rooms(**config["init_args"])
    assert (again.split, again.count, again.size) == ("test", 5, (64, 64))
    assert again.labels == ("normals",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "unknown split 'dev' of rooms: choose from train, val, test"),
        ({"count": 0}, "a data set of 0 rooms: give a count of at least 1"),
        ({"size": 7}, "rooms of size 7: give one number or (height, width), each at least 8"),
        ({"size": (64, 4)}, "rooms of size (64, 4)"),
        ({"labels": ("depth",)}, "unknown label 'depth' of rooms: choose from semantic, instance"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Rooms(**arguments)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_index_beyond_the_last_scene_is_an_error() -> None:
    with pytest.raises(IndexError, match="scenes 0 to 1, not 2"):
        Rooms("train", 2, 16)[2]
    assert len(list(Rooms("train", 2, 16))) == 2
    with pytest.raises(InputError, match="give an index of at least 0"):
        render_scene(-1)


def test_taskonomy_rooms_keep_rendered_samples_in_memory() -> None:
    rooms = TaskonomyRooms("test", 2, 32)
    sample = rooms[1]
    assert rooms[1] is sample
    assert sample.id == "test/1"
    assert sample.labels.keys() == set(TASKONOMY_LABELS)
    assert_sample(sample, rooms)
    plain = Rooms("test", 2, 32, ("depth_m",))[1]
    valid = plain.valid["depth_m"]
    assert torch.equal(sample.image, plain.image)
    assert torch.equal(sample.labels["depth_m"][:, valid], plain.labels["depth_m"][:, valid])
    assert not sample.labels["depth_m"][:, ~valid].any()
    assert float(sample.labels["principal_curvature_per_m"].abs().max()) <= 1 / 0.03 + 1e-3
    with pytest.raises(IndexError):
        rooms[2]
