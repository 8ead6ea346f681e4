"""Labels written as masks, COCO or labelme are read back unchanged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image
from pycocotools.coco import COCO

from diffsight.datasets.class_lists import ClassList, read_class_list
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.datasets.outlines import mask_to_outline
from diffsight.datasets.shapes import BACKGROUND, NO_LABEL
from diffsight.datasets.write_labels import write_coco, write_labelme, write_masks
from diffsight.errors import InputError

HW = (48, 64)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NAMES = ("background", "cat", "dog", "pole")


def rings(number: int) -> np.ndarray:
    """Return class ids with separate parts, holes, touching borders, lines and single pixels."""
    ids = np.zeros(HW, np.uint8)
    ids[4:20, 4:24] = 1
    ids[8:14, 8 + number : 18] = 0  # a hole
    ids[10:12, 12:14] = 2  # inside the hole
    ids[4:20, 24:40] = 2  # touches class 1
    ids[30:40, 2:9] = ids[30:44, 20:33] = 2  # two more parts
    ids[::5, 50] = ids[45, 3:60:2] = 3  # single pixels
    for i in range(10):
        ids[25 + i, 40 + i] = 3  # touch at their corners
    return ids


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 4, HW).astype(np.uint8)


def with_unlabelled_areas(number: int) -> np.ndarray:
    ids = rings(number)
    ids[36:, 28:] = 255
    ids[:3] = 255
    return ids


def without_background(number: int) -> np.ndarray:
    ids = np.clip(rings(number), 1, 3)
    ids[:9, :5] = 255
    return ids


def first_is_background(number: int) -> np.ndarray:
    ids = rings(number) if number else np.zeros(HW, np.uint8)
    ids[40:, :9] = 255
    return ids


PICTURES = (rings, noise, with_unlabelled_areas, without_background, first_is_background)


def write_images(root: Path, picture: Callable[[int], np.ndarray]) -> tuple[Path, Path]:
    """Write three images and masks, one of them in a sub-folder; return the two folders."""
    images, labels = root / "images", root / "labels"
    for number, name in enumerate(("a", "sub.folder/b", "c.1")):
        for folder in (images, labels):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (*HW, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{name}.jpg")
        Image.fromarray(picture(number)).save(labels / f"{name}.png")
    return images, labels


def read(images: Path, labels: Path, classes: Any = (), invalid: int | None = None) -> Any:
    form = LabelFormat("segmentation", invalid=invalid)
    return read_labelled_folder(images, labels, form, classes=classes)


def names_of(folder: LabelledFolder) -> dict[str, np.ndarray]:
    """Return the class name of every pixel by image id; empty where there is no label."""
    names = np.array([*folder.names, ""])
    return {
        sample.id: names[np.where(sample.valid["semantic"], sample.labels["semantic"], -1)]
        for sample in folder
    }


def assert_same(one: LabelledFolder, other: LabelledFolder) -> None:
    """Check that two folders have the same images and the same class names in every pixel."""
    ours, theirs = names_of(one), names_of(other)
    assert ours.keys() == theirs.keys()
    for id, names in ours.items():
        assert (names == theirs[id]).all()
    assert one.images == other.images


def write_and_read(folder: LabelledFolder, form: str, root: Path, images: Path) -> LabelledFolder:
    """Write labels in a form and return the labels that are read from it."""
    if form == "masks":
        write_masks(folder, root / "masks")
        return read(images, root / "masks", read_class_list(root / "masks" / "classes.txt"))
    if form == "coco":
        write_coco(folder, root / "new" / "coco.json")
        return read(images, root / "new" / "coco.json")
    write_labelme(folder, root / "labelme", images)
    return read(images, root / "labelme")


@pytest.mark.parametrize("form", ["masks", "coco", "labelme"])
@pytest.mark.parametrize("picture", PICTURES, ids=lambda one: one.__name__)
def test_writing_and_reading_labels_changes_no_pixel(
    form: str, picture: Callable[[int], np.ndarray], tmp_path: Path
) -> None:
    images, labels = write_images(tmp_path, picture)
    folder = read(images, labels, NAMES, invalid=255)
    again = write_and_read(folder, form, tmp_path, images)
    assert_same(folder, again)
    # the same labels pass through all formats one after another
    for number, other in enumerate(("coco", "labelme", "masks")):
        again = write_and_read(again, other, tmp_path / str(number), images)
        assert_same(folder, again)


@pytest.mark.parametrize("form", ["masks", "coco", "labelme"])
@pytest.mark.parametrize("ids", [(0, 255, 1000, 70), (9, 3, 65535, 0), (1, 2, 3, 4)])
def test_any_class_ids_without_background_are_kept(
    form: str, ids: tuple[int, ...], tmp_path: Path
) -> None:
    images, labels = write_images(tmp_path, noise)
    for path in labels.rglob("*.png"):
        Image.fromarray(np.array(ids, np.uint16)[np.array(Image.open(path))]).save(path)
    names = ClassList(dict(zip(ids, ("wall", "floor, wet", "ä", "4"), strict=True)), "id")
    folder = read(images, labels, names)
    assert sorted(folder.names) == ["4", "floor, wet", "wall", "ä"]
    assert_same(folder, write_and_read(folder, form, tmp_path, images))


@pytest.mark.parametrize("form", ["masks", "coco", "labelme"])
def test_classes_in_colours_are_kept(form: str, tmp_path: Path) -> None:
    images, labels = write_images(tmp_path, rings)
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 9, 255]], np.uint8)
    for path in labels.rglob("*.png"):
        Image.fromarray(colours[np.array(Image.open(path))]).save(path)
    folder = read(images, labels)
    again = write_and_read(folder, form, tmp_path, images)
    assert_same(folder, again)
    if form == "masks":
        assert again.colours == folder.colours


def test_coco_annotations_equal_those_of_pycocotools(tmp_path: Path) -> None:
    images, labels = write_images(tmp_path, with_unlabelled_areas)
    (file,) = write_coco(read(images, labels, NAMES, invalid=255), tmp_path / "coco.json")
    data = json.loads(file.read_text())
    assert [one["file_name"] for one in data["images"]] == ["a.jpg", "c.1.jpg", "sub.folder/b.jpg"]
    names = {one["id"]: one["name"] for one in data["categories"]}
    assert names == {1: "cat", 2: "dog", 3: "pole", 5: NO_LABEL}
    kinds = set()
    picture = {
        1: with_unlabelled_areas(0),
        2: with_unlabelled_areas(2),
        3: with_unlabelled_areas(1),
    }
    for one in data["annotations"]:
        expected = picture[one["image_id"]] == {5: 255}.get(one["category_id"], one["category_id"])
        outline = one["segmentation"]
        kinds.add((names[one["category_id"]], type(outline)))
        if isinstance(outline, list):
            outline = pycocotools.mask.merge(pycocotools.mask.frPyObjects(outline, *HW))
        mask = pycocotools.mask.decode(outline).astype(bool)
        assert (mask == expected).all()
        assert one["area"] == expected.sum()
        assert (
            one["bbox"]
            == pycocotools.mask.toBbox(
                pycocotools.mask.encode(np.asfortranarray(expected.astype(np.uint8)))
            ).tolist()
        )
        assert one["iscrowd"] == 0
    assert {("cat", dict), ("dog", list), (NO_LABEL, list)} <= kinds


def test_the_coco_class_of_pycocotools_reads_the_file(tmp_path: Path) -> None:
    images, labels = write_images(tmp_path, rings)
    (file,) = write_coco(read(images, labels, NAMES), tmp_path / "coco.json")
    data = COCO(str(file))
    for image, number in zip(data.loadImgs(data.getImgIds()), (0, 2, 1), strict=True):
        ids = np.zeros(HW, np.uint8)
        for one in data.loadAnns(data.getAnnIds(imgIds=image["id"], iscrowd=False)):
            ids[data.annToMask(one) > 0] = one["category_id"]
        assert (ids == rings(number)).all()


def test_an_image_with_only_background_has_an_annotation(tmp_path: Path) -> None:
    images, labels = write_images(tmp_path, first_is_background)
    (file,) = write_coco(read(images, labels, NAMES, invalid=255), tmp_path / "coco.json")
    data = json.loads(file.read_text())
    (id,) = [one["id"] for one in data["categories"] if one["name"] == BACKGROUND]
    assert [one["image_id"] for one in data["annotations"] if one["category_id"] == id] == [1]


def test_labelme_files_have_mask_shapes_and_the_image_path(tmp_path: Path) -> None:
    images, labels = write_images(tmp_path, rings)
    files = write_labelme(read(images, labels, NAMES), tmp_path / "labelme", images)
    assert [file.relative_to(tmp_path / "labelme").as_posix() for file in files] == [
        "a.json",
        "c.1.json",
        "sub.folder/b.json",
    ]
    data = json.loads(files[2].read_text())
    assert data["imagePath"] == "../../images/sub.folder/b.jpg"
    (cat,) = [shape for shape in data["shapes"] if shape["label"] == "cat"]
    assert cat["shape_type"] == "mask"
    assert cat["points"] == [[4, 4], [23, 19]]


@pytest.mark.parametrize("seed", range(40))
def test_outlines_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((30, 41)) < (0.02, 0.5, 0.9)[seed % 3]
    if seed % 2:
        mask = np.repeat(np.repeat(mask, 7, axis=0), 5, axis=1)
    outline = mask_to_outline(mask)
    if isinstance(outline, list):
        outline = pycocotools.mask.merge(pycocotools.mask.frPyObjects(outline, *mask.shape))
    assert (pycocotools.mask.decode(outline).astype(bool) == mask).all()


def test_labels_that_a_form_cannot_store_are_refused(tmp_path: Path) -> None:
    images, labels = write_images(tmp_path, rings)
    with pytest.raises(InputError, match="a class is called 'no label', which is for pixels with"):
        write_coco(read(images, labels, (*NAMES[:3], NO_LABEL)), tmp_path / "c.json")
    many = read(images, labels, tuple(f"class {i}" for i in range(300)))
    with pytest.raises(InputError, match="300 classes, but a palette has room for 255"):
        write_masks(many, tmp_path / "masks")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="masks: cannot be made"):
        write_masks(read(images, labels), tmp_path / "file" / "masks")
    scalar = read_labelled_folder(images, labels, LabelFormat("scalar"))
    with pytest.raises(InputError, match="labels of kind scalar cannot be written: give"):
        write_masks(scalar, tmp_path / "masks")
