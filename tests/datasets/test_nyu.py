"""NYU: the layouts of training and test set, the scene types, and incomplete downloads."""

from pathlib import Path

import pytest
from tests.contracts import DatasetContract
from tests.support_images import write_depth, write_image

from diffsight.datasets.nyu import NYU_SCENES, NYUDepth, parse_scene
from diffsight.errors import InputError


def write_pair(base: Path, folder: str, number: int) -> None:
    write_image(base / folder / f"rgb_{number:05}.jpg", seed=number)
    write_depth(base / folder / f"sync_depth_{number:05}.png", 1000 * (1 + number))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder, number in (("kitchen_0028b", 0), ("kitchen_0028b", 3), ("study_room_0004", 1)):
        write_pair(tmp_path / "sync", folder, number)
    write_pair(tmp_path / "official_splits/test", "bathroom", 45)
    return tmp_path


def test_the_27_scene_types_have_the_order_of_the_text_table() -> None:
    assert len(NYU_SCENES) == len(set(NYU_SCENES)) == 27
    assert (NYU_SCENES[0], NYU_SCENES[6], NYU_SCENES[-1]) == (
        "printer_room",
        "kitchen",
        "bookstore",
    )


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("study_room_0004", "study"),
        ("office_kitchen_0001a", "kitchen"),
        ("nyu_office_0", "office"),
        ("home_office_0002", "home_office"),
        ("student_lounge_0001", "student_lounge"),
        ("excercise_room_0001", "excercise_room"),
        ("living_room", "living_room"),
    ],
)
def test_the_scene_type_is_the_first_type_that_the_folder_name_contains(
    folder: str, expected: str
) -> None:
    assert parse_scene(f"{folder}/rgb_00000.jpg") == expected


def test_two_of_27_scene_types_cannot_be_parsed() -> None:
    scenes = {parse_scene(f"{name}_0001/rgb_00000.jpg") for name in NYU_SCENES}
    assert set(NYU_SCENES) - scenes == {"study_room", "office_kitchen"}


def test_an_unknown_scene_type_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path / "sync", "garage_0001", 0)
    with pytest.raises(InputError, match=r"folder 'garage_0001' names none of the 27.*Folder"):
        NYUDepth(root=tmp_path)


def test_training_and_test_set_are_read_from_their_folders(root: Path) -> None:
    train, test = NYUDepth(root=root), NYUDepth(root=root, split="test")
    assert (train.name, test.name) == ("nyu-train", "nyu-test")
    assert [pair.id for pair in train.pairs] == [
        "kitchen_0028b/rgb_00000",
        "kitchen_0028b/rgb_00003",
        "study_room_0004/rgb_00001",
    ]
    assert train[1].labels["depth_m"].max() == 4
    assert (train[1].prompt, train[2].prompt, test[0].prompt) == ("kitchen", "study", "bathroom")
    assert len(test) == 1
    assert test[0].labels["depth_m"].max() == 46
    assert test.prompt_source == "oracle-scene"


def test_a_list_selects_and_orders_samples(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(
        "/study_room_0004/rgb_00001.jpg /study_room_0004/sync_depth_00001.png\n"
        "/kitchen_0028b/rgb_00003.jpg /kitchen_0028b/sync_depth_00003.png 518.8579\n"
    )
    data = NYUDepth(root=root, list_file=path)
    assert [data[0].id, data[1].id] == ["study_room_0004/rgb_00001", "kitchen_0028b/rgb_00003"]


def test_incomplete_downloads_are_refused(root: Path) -> None:
    (root / "sync/kitchen_0028b/sync_depth_00003.png").unlink()
    with pytest.raises(InputError, match=r"1 of 6 files are missing \(first: .*depth_00003\.png"):
        NYUDepth(root=root)
    with pytest.raises(InputError, match=r"holds no SCENE/rgb_\*\.jpg; root must be the folder"):
        NYUDepth(root=root / "sync")


class TestNYUDepth(DatasetContract):
    def build(self, folder: Path) -> NYUDepth:
        for number in (0, 3):
            write_pair(folder / "sync", "kitchen_0028b", number)
        return NYUDepth(root=folder)
