"""A folder of images and depth maps: pairs, splits, cameras, manifests and errors."""

import json
import math
import os
import unicodedata
from pathlib import Path

import jsonargparse
import pytest
import torch
from tests.contracts import DatasetContract
from tests.support_images import rgbd_rows, write_depth, write_image

from diffsight.config import to_config
from diffsight.datasets.base import AbstractDataset
from diffsight.datasets.folder import Folder
from diffsight.errors import InputError
from diffsight.types import Camera


def make_folder(root: Path, count: int) -> Path:
    """Write images with depth maps of 1000, 1001 ... millimetres."""
    for index in range(count):
        write_image(root / "images" / f"{index:02}.png", seed=index)
        write_depth(root / "depth" / f"{index:02}.png", 1000 + index)
    return root


def sample_ids(data: Folder) -> set[str]:
    """Return the ids of all samples."""
    return {data[index].id for index in range(len(data))}


def test_pairs_match_by_relative_path_without_suffix_and_case(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "Room 1" / "B.v2.JPG", size=(32, 16))
    write_depth(tmp_path / "depth" / "room 1" / "b.V2.png", size=(32, 16))
    write_image(tmp_path / "images" / "a.webp")
    write_depth(tmp_path / "depth" / "a.tiff")
    (tmp_path / "images" / ".hidden.png").touch()
    (tmp_path / "images" / "notes.txt").touch()
    data = Folder(root=tmp_path)
    assert [data[index].id for index in range(2)] == ["Room 1/B.v2", "a"]
    assert data[0].image.shape == (3, 16, 32)
    assert data[1].image.shape == (3, 20, 24)
    assert (data[1].labels["depth_m"][:, 1:] == 2).all()
    assert data.name == tmp_path.name


def test_unit_and_invalid_value_are_used_to_read_depth(tmp_path: Path) -> None:
    make_folder(tmp_path, 2)
    sample = Folder(root=tmp_path, unit="m/500", invalid=1001)[0]
    assert (sample.labels["depth_m"][:, 1:] == 2).all()
    with pytest.raises(InputError, match=r"01.png: no pixel has a depth \(all 480 are 0, 1001"):
        Folder(root=tmp_path, unit="m/500", invalid=1001)[1]
    with pytest.raises(InputError, match="unknown depth encoding 'feet'"):
        Folder(root=tmp_path, unit="feet")


def test_renaming_files_does_not_change_the_split(tmp_path: Path) -> None:
    make_folder(tmp_path, 40)
    train = Folder(root=tmp_path, split="train", val_fraction=0.25)
    val = Folder(root=tmp_path, split="val", val_fraction=0.25)
    assert sample_ids(train) | sample_ids(val) == sample_ids(Folder(root=tmp_path))
    assert not sample_ids(train) & sample_ids(val)
    assert 4 <= len(val) <= 16
    before = [val[index].image for index in range(len(val))]
    for folder in ("images", "depth"):
        for file in sorted((tmp_path / folder).iterdir()):
            file.rename(file.with_stem(f"x{99 - int(file.stem)}"))
    renamed = Folder(root=tmp_path, split="val", val_fraction=0.25)
    assert all(torch.equal(renamed[i].image, image) for i, image in enumerate(before))
    assert len(renamed) == len(before)


def test_images_stay_in_their_split_when_others_are_added(tmp_path: Path) -> None:
    make_folder(tmp_path, 30)
    val = sample_ids(Folder(root=tmp_path, split="val", val_fraction=0.3))
    make_folder(tmp_path, 60)
    later = sample_ids(Folder(root=tmp_path, split="val", val_fraction=0.3))
    assert val == {name for name in later if int(name) < 30}


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.999999])
def test_neither_split_is_empty(tmp_path: Path, count: int, fraction: float) -> None:
    make_folder(tmp_path, count)
    train = sample_ids(Folder(root=tmp_path, split="train", val_fraction=fraction))
    val = sample_ids(Folder(root=tmp_path, split="val", val_fraction=fraction))
    assert train
    assert val
    assert len(train) + len(val) == len(train | val) == count


def test_impossible_splits_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, 1)
    with pytest.raises(InputError, match="one sample cannot be split; use split 'all'"):
        Folder(root=tmp_path, split="val")
    with pytest.raises(InputError, match=r"val_fraction is 1\.5; give a fraction between 0 and 1"):
        Folder(root=tmp_path, split="val", val_fraction=1.5)


def test_split_all_reads_no_image_before_it_is_used(tmp_path: Path) -> None:
    make_folder(tmp_path, 2)
    (tmp_path / "images" / "00.png").write_bytes(b"")
    data = Folder(root=tmp_path)
    assert len(data) == 2
    with pytest.raises(InputError, match=r"00.png: the file is empty"):
        data[0]


def test_a_manifest_lists_the_pairs(tmp_path: Path) -> None:
    write_image(tmp_path / "pictures" / "a.png")
    write_depth(tmp_path / "far" / "b.png", 512)
    rows = [{"image": "../pictures/a.png", "label": "b.png", "encoding": "m/256", "prompt": "cafe"}]
    (tmp_path / "far" / "list.json").write_text(json.dumps(rows))
    sample = Folder(root=tmp_path, manifest="far/list.json")[0]
    assert (sample.id, sample.prompt) == ("../pictures/a.png", "cafe")
    assert sample.labels["depth_m"].max() == 2
    (tmp_path / "far" / "b.png").unlink()
    with pytest.raises(
        InputError, match=r"1 of 2 files are missing .*b\.png.*correct the paths in"
    ):
        Folder(root=tmp_path, manifest="far/list.json")


def test_paths_in_a_manifest_match_files_in_another_unicode_form(tmp_path: Path) -> None:
    folder, name = (unicodedata.normalize("NFD", text) for text in ("Küche", "é.png"))
    image = write_image(tmp_path / folder / name)
    write_depth(tmp_path / "d.png", 512)
    composed = unicodedata.normalize("NFC", f"{folder}/{name}")
    (tmp_path / "list.csv").write_bytes(f"image,label\n{composed},d.png\n".encode("utf-16"))
    data = Folder(root=tmp_path, manifest="list.csv")
    assert data.pairs[0].image == image
    assert data[0].image.shape == (3, 20, 24)


def test_the_camera_is_scaled_with_the_image_and_must_match_its_size(tmp_path: Path) -> None:
    make_folder(tmp_path, 1)
    values = {"fx_px": 30, "fy_px": 31, "cx_px": 11.5, "cy_px": 9.5}
    camera = tmp_path / "camera.json"
    camera.write_text(json.dumps({**values, "width_px": 24, "height_px": 20}))
    assert Folder(root=tmp_path, camera="camera.json")[0].camera == Camera(30.0, 31.0, 11.5, 9.5)
    half = Folder(root=tmp_path, camera="camera.json", size=(40, 48))[0]
    assert half.image.shape == (3, 40, 48)
    assert half.labels["depth_m"].shape == (1, 40, 48)
    assert half.camera == Camera(60.0, 62.0, 23.5, 19.5)
    camera.write_text(json.dumps({**values, "width_px": 20, "height_px": 24}))
    with pytest.raises(InputError, match=r"24 x 20 pixels, but the camera file says 20 x 24"):
        Folder(root=tmp_path, camera="camera.json")[0]
    camera.write_text(json.dumps(values))
    with pytest.raises(
        InputError, match=r"not a camera \('width_px'\); give JSON with the numbers"
    ):
        Folder(root=tmp_path, camera="camera.json")
    with pytest.raises(InputError, match="cannot be read"):
        Folder(root=tmp_path, camera="none.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fx_px": math.nan}, "fx_px is nan"),
        ({"cx_px": math.inf}, "cx_px is inf"),
        ({"fy_px": 0}, "fy_px is 0.0"),
        ({"width_px": -24}, "width_px is -24.0"),
        ({"fx_px": None}, "NoneType"),
        ({"fx_px": [30]}, "list"),
        ({"fx_px": 10**400}, "an integer of 401 digits"),
    ],
)
def test_impossible_camera_values_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    make_folder(tmp_path, 1)
    values = {"fx_px": 30, "fy_px": 31, "cx_px": 11.5, "cy_px": 9.5, "width_px": 24}
    (tmp_path / "camera.json").write_text(json.dumps({**values, "height_px": 20, **change}))
    with pytest.raises(InputError, match=rf"camera\.json: not a camera \(.*{message}.*\); give"):
        Folder(root=tmp_path, camera="camera.json")


@pytest.mark.parametrize("text", ["[" * 10_000, "[]", "3", '"x"', "7" * 5000, "{"])
def test_malformed_camera_files_are_refused(tmp_path: Path, text: str) -> None:
    make_folder(tmp_path, 1)
    (tmp_path / "camera.json").write_text(text)
    with pytest.raises(InputError, match=r"camera\.json: not a camera"):
        Folder(root=tmp_path, camera="camera.json")


def test_files_without_partner_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, 5)
    (tmp_path / "depth" / "02.png").unlink()
    (tmp_path / "depth" / "03.png").unlink()
    with pytest.raises(
        InputError, match=r"2 of 5 image\(s\) .*no depth map .*first: .*images/02\.png"
    ):
        Folder(root=tmp_path)
    for name in ("01", "02", "03"):
        (tmp_path / "images" / f"{name}.png").unlink()
    with pytest.raises(
        InputError, match=r"1 of 3 depth map\(s\) .*no image .*first: .*depth/01\.png"
    ):
        Folder(root=tmp_path)


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images: no such folder; put the images there"):
        Folder(root=tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"images: holds no image \(.*\.jpg.*\); check"):
        Folder(root=tmp_path)
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "depth").mkdir()
    with pytest.raises(InputError, match=r"depth: holds no depth map \(.*\.npy.*\); check"):
        Folder(root=tmp_path)


def test_two_images_with_the_same_name_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, 1)
    write_image(tmp_path / "images" / "00.jpg")
    with pytest.raises(InputError, match=r"00\.png: has the same name as .*00\.jpg"):
        Folder(root=tmp_path)


def test_a_data_set_is_rebuilt_from_its_config(tmp_path: Path) -> None:
    make_folder(tmp_path, 2)
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(AbstractDataset, "data")
    settings = {"root": str(tmp_path), "unit": "m/500", "split": "val", "size": [16, 18]}
    call = {"class_path": "diffsight.datasets.folder.Folder", "init_args": settings}
    built = parser.instantiate(parser.parse_object({"data": call})).data
    rebuilt = parser.instantiate(parser.parse_object({"data": to_config(built)})).data
    assert rebuilt[0].image.shape == (3, 16, 18)
    assert torch.equal(rebuilt[0].image, built[0].image)
    assert torch.equal(rebuilt[0].labels["depth_m"], built[0].labels["depth_m"])


@pytest.mark.realdata
def test_five_real_pairs_are_read_by_a_manifest(tmp_path: Path) -> None:
    folder = os.environ.get("DIFFSIGHT_DATA_DIR")
    assert folder, "set DIFFSIGHT_DATA_DIR to the folder with the real data (it contains rgbd/)"
    (tmp_path / "list.csv").write_text("image,label,encoding\n" + rgbd_rows(Path(folder) / "rgbd"))
    data = Folder(root=tmp_path, manifest="list.csv")
    for index in range(5):
        sample = data[index]
        depth_m = sample.labels["depth_m"][0][sample.valid["depth_m"]]
        assert depth_m.min() > 0.9
        assert depth_m.max() < 10
    train = Folder(root=tmp_path, manifest="list.csv", split="train")
    val = Folder(root=tmp_path, manifest="list.csv", split="val")
    assert (len(train), len(val)) == (4, 1)


class TestFolder(DatasetContract):
    def build(self, folder: Path) -> Folder:
        return Folder(root=make_folder(folder, 3))
