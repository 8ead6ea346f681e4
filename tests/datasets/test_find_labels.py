"""Labels in the formats of many tools are read correctly, or refused with a repair."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support_labels import (
    COUNT,
    ORIENTATION,
    change_a_pixel_byte,
    ids,
    photograph,
    write_coco,
    write_folder,
    write_labelme,
    write_png,
    write_shuffled_palette,
    write_smoothed,
)

from diffsight.datasets import ClassFolder, Folder
from diffsight.datasets.class_lists import read_class_list
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.datasets.pairs import content_hash
from diffsight.errors import InputError

FORM = LabelFormat("segmentation")
COLOURS = np.array([[0, 0, 0], [48, 112, 32], [176, 112, 32]], np.uint8)
GREY = np.array([0, 128, 255], np.uint8)


def read_masks(folders: tuple[Path, Path], **options) -> LabelledFolder:
    """Return the labelled images in two folders."""
    form = LabelFormat("segmentation", snap=options.pop("snap", False))
    return read_labelled_folder(*folders, form, **options)


def assert_classes(folder: LabelledFolder, images: Path, tolerance: float = 0) -> None:
    """Check that the classes of all images are those that were written.

    Up to the fraction ``tolerance`` of the pixels of an image may differ.
    """
    numbers = {content_hash(path): i for i, path in enumerate(sorted(images.rglob("*.jpg")))}
    assert len(folder) == len(numbers)
    for sample in folder:
        assert sample.valid["semantic"].all()
        is_wrong = sample.labels["semantic"].numpy() != ids(numbers[sample.id])
        assert is_wrong.mean() <= tolerance


def write_transparent_mask(classes: np.ndarray, path: Path) -> None:
    """Write a white mask in which only class 2 is opaque."""
    alpha = np.where(classes == 2, 255, 0).astype(np.uint8)
    write_png(np.dstack([np.full_like(alpha, 255)] * 3 + [alpha]), path)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda c, p: write_png(c, p), (0, 1, 2)),
        (lambda c, p: write_png(GREY[c], p), (0, 128, 255)),
        (write_shuffled_palette, (0, 0x00C800, 0xC80000)),
        (lambda c, p: write_png(COLOURS[c], p), (0, 0x307020, 0xB07020)),
        (lambda c, p: write_png(c, Path(f"{p}_mask")), (0, 1, 2)),
        (lambda c, p: write_png(c, Path(f"{p}.jpg")), (0, 1, 2)),
        (lambda c, p: Image.fromarray(c).save(f"{p}.bmp"), (0, 1, 2)),
        (lambda c, p: Image.fromarray(c).save(f"{p}.gif"), (0, 1, 2)),
        (lambda c, p: Image.fromarray(c).save(f"{p}.tif"), (0, 1, 2)),
        (
            lambda c, p: Image.fromarray(COLOURS[c]).save(f"{p}.webp", lossless=True),
            (0, 0x307020, 0xB07020),
        ),
        (lambda c, p: Image.fromarray(COLOURS[c]).save(f"{p}.ppm"), (0, 0x307020, 0xB07020)),
    ],
    ids="ids grey palettes colours ending two-suffixes bmp gif tif webp ppm".split(" "),  # noqa: SIM905
)
def test_masks_in_every_file_format_give_the_same_classes(
    write: Callable, expected: tuple[int, ...], tmp_path: Path
) -> None:
    folders = write_folder(tmp_path, write)
    folder = read_masks(folders)
    assert folder.ids == expected
    assert_classes(folder, folders[0])
    names = "sky", "grass", "house"
    data = ClassFolder(root=tmp_path, classes=dict(zip(names, expected, strict=True)))
    for number in range(COUNT):
        assert (data[number].labels["semantic"].numpy() == ids(number)).all()


def test_the_alpha_channel_is_the_class_in_masks_of_one_colour(tmp_path: Path) -> None:
    folder = read_masks(write_folder(tmp_path, write_transparent_mask))
    assert folder.ids == (0, 255)
    assert int((folder[0].labels["semantic"] == 1).sum()) == 28 * 30


@pytest.mark.parametrize(
    ("values", "is_class"),
    [
        ((0, 255, 255), True),
        ((0, 100, 255), True),
        ((0, 1, 255), False),
        ((7, 9, 255), False),
    ],
)
def test_255_is_a_class_among_grey_values_and_no_label_among_class_ids(
    values: tuple[int, ...], is_class: bool, tmp_path: Path
) -> None:
    folders = write_folder(tmp_path, lambda c, p: write_png(np.array(values, np.uint8)[c], p))
    folder = read_masks(folders)
    assert (255 in folder.ids) == is_class
    assert all(bool(sample.valid["semantic"].all()) == is_class for sample in folder)
    (note,) = [note for note in folder.notes if "255" in note]
    assert ("is a class, because" if is_class else "taken for 'no label'") in note
    assert "pixels" in note
    for invalid, is_present in ((255, False), (-1, True)):
        form = LabelFormat("segmentation", invalid=invalid)
        if len(set(values) - {255}) > 1:
            folder = read_labelled_folder(*folders, form)
            assert (255 in folder.ids) == is_present
            reasons = [note.rpartition("have no label: ")[2] for note in folder.notes]
            assert reasons == ([] if is_present else ["255 (--invalid)"])


def test_255_in_most_pixels_is_a_class_unless_the_other_values_are_scribbles(
    tmp_path: Path,
) -> None:
    def areas(classes: np.ndarray, path: Path) -> None:
        mask = np.full_like(classes, 255)
        mask[5:25, 5:30], mask[30:50, 40:70] = 1, 2
        write_png(mask, path)

    def scribbles(classes: np.ndarray, path: Path) -> None:
        mask = np.full_like(classes, 255)
        mask[7, 5:60], mask[40, 20:80] = 1, 2
        write_png(mask, path)

    assert read_masks(write_folder(tmp_path / "a", areas)).ids == (1, 2, 255)
    assert read_masks(write_folder(tmp_path / "s", scribbles)).ids == (1, 2)


def test_class_names_by_id_are_refused_if_palettes_differ_between_files(tmp_path: Path) -> None:
    folders = write_folder(tmp_path, write_shuffled_palette)
    for read_all in (
        lambda: read_masks(folders, classes=("sky", "grass", "house")),
        lambda: [sample.id for sample in ClassFolder(root=tmp_path, classes={"a": [0, 1], "b": 2})],
    ):
        with pytest.raises(InputError, match=r"id 1 is #\w+, but in .*\.png it is #\w+: save"):
            read_all()


@pytest.mark.parametrize("kind", ["smoothed", "jpeg"])
def test_smoothed_masks_are_refused_unless_they_are_snapped(kind: str, tmp_path: Path) -> None:
    def write(classes: np.ndarray, path: Path) -> None:
        if kind == "smoothed":
            write_smoothed(np.array([0, 100, 200], np.uint8)[classes], path)
        else:
            Image.fromarray(np.array([0, 100, 200], np.uint8)[classes]).save(f"{path}.jpg")

    folders = write_folder(tmp_path, write)
    reason = "of them nearly empty: smoothed" if kind == "smoothed" else r"JPEG\) changes values"
    with pytest.raises(InputError, match=reason):
        read_masks(folders)
    folder = read_masks(folders, snap=True)
    assert folder.ids == (0, 100, 200)
    assert_classes(folder, folders[0], tolerance=0.05)
    assert any("other values were snapped to the nearest of 0, 100" in n for n in folder.notes)
    data = ClassFolder(root=tmp_path, classes={"a": 0, "b": 100, "c": 200}, snap=True)
    assert (data[0].labels["semantic"].numpy() != ids(0)).mean() < 0.05


def test_snap_keeps_255_as_a_class(tmp_path: Path) -> None:
    folders = write_folder(
        tmp_path, lambda c, p: write_smoothed(np.where(c == 2, GREY[2], GREY[0]), p)
    )
    folder = read_masks(folders, snap=True)
    # in small images, values at edges may be frequent enough to be kept
    assert {0, 255} <= set(folder.ids)
    assert all(bool(sample.valid["semantic"].all()) for sample in folder)


def test_lossy_webp_masks_are_refused(tmp_path: Path) -> None:
    folders = write_folder(tmp_path, lambda c, p: Image.fromarray(COLOURS[c]).save(f"{p}.webp"))
    with pytest.raises(InputError, match=r"p\d\.webp: lossy compression \(WEBP\)"):
        read_masks(folders)


@pytest.mark.parametrize("title", ["# label:color_rgb:parts:actions\n", ""])
def test_masks_with_a_label_map_of_cvat_are_read(title: str, tmp_path: Path) -> None:
    folders = write_folder(tmp_path, lambda c, p: write_png(COLOURS[c], p))
    rows = "background:0,0,0::\nhouse:176,112,32::\ngrass:48,112,32::\nunused:1,2,3::\n"
    (tmp_path / "labelmap.txt").write_text(title + rows)
    folder = read_masks(folders, classes=read_class_list(tmp_path / "labelmap.txt"))
    assert folder.names == ("background", "grass", "house")
    assert_classes(folder, folders[0])
    data = ClassFolder(root=tmp_path, classes="labelmap.txt")
    assert data.class_names["semantic"] == ("background", "unused", "grass", "house")
    assert data[1].labels["semantic"].unique().tolist() == [0, 2, 3]
    (tmp_path / "labelmap.txt").write_text(title + rows.replace("grass:48", "grass:49"))
    with pytest.raises(InputError, match=r"contain colours without a name: #307020 \(\d+ px\)"):
        read_masks(folders, classes=read_class_list(tmp_path / "labelmap.txt"))


def test_a_colour_list_names_palette_colours(tmp_path: Path) -> None:
    folders = write_folder(tmp_path, write_shuffled_palette)
    (tmp_path / "classes.csv").write_text("name,r,g,b\nsky,0,0,0\ngrass,0,200,0\nhouse,200,0,0\n")
    folder = read_masks(folders, classes=read_class_list(tmp_path / "classes.csv"))
    assert folder.names == ("sky", "grass", "house")
    assert_classes(folder, folders[0])


def test_images_and_masks_of_roboflow_in_one_folder_are_read(tmp_path: Path) -> None:
    images, _ = write_folder(tmp_path, None)
    for number in range(COUNT):
        write_png(ids(number) + 1, images / f"p{number}_mask")
    (images / "_classes.csv").write_text("Pixel Value, Class\n0, sea\n1, sky\n2, grass\n3, house\n")
    folder = read_masks((images, images), classes=read_class_list(images / "_classes.csv"))
    assert (folder.ids, folder.names) == ((1, 2, 3), ("sky", "grass", "house"))
    assert_classes(folder, images)


def test_masks_of_label_studio_need_the_export_of_their_tasks(tmp_path: Path) -> None:
    folders = write_folder(tmp_path, None)
    tasks = []
    for number in range(COUNT):
        for value, name in ((1, "grass"), (2, "house")):
            mask = np.where(ids(number) == value, 255, 0).astype(np.uint8)
            write_png(mask, folders[1] / f"task-{90 - number}-annotation-4-by-1-tag-{name}-0")
        url = f"/data/upload/1/0a1b2c3d-p{number}.jpg"
        tasks.append({"id": 90 - number, "data": {"image": url}})
    with pytest.raises(InputError, match=r"6 masks of Label Studio.*export the tasks as JSON"):
        read_masks(folders)
    (folders[1] / "project.json").write_text(json.dumps(tasks))
    folder = read_masks(folders)
    assert folder.names == ("background", "grass", "house")
    assert_classes(folder, folders[0])
    (folders[1] / "project.json").write_text(json.dumps(tasks[:2]))
    with pytest.raises(InputError, match=r"project\.json: does not contain task 88"):
        read_masks(folders)


def test_files_of_labelme_are_read(tmp_path: Path) -> None:
    folders = write_folder(tmp_path, None)
    for number in range(COUNT):
        write_labelme(folders[1], number)
    folder = read_masks(folders)
    assert (folder.ids, folder.names) == ((0, 1, 2), ("background", "grass", "house"))
    assert_classes(folder, folders[0])
    data = ClassFolder(root=tmp_path, classes=None)
    assert data.class_names == {"semantic": ("background", "grass", "house")}
    for path in folders[1].iterdir():  # labelme writes its files next to the images
        path.rename(folders[0] / path.name)
    assert_classes(read_masks((folders[0], folders[0])), folders[0])


def test_a_coco_file_is_read_and_its_folder_is_refused(tmp_path: Path) -> None:
    folders = write_folder(tmp_path, None)
    file = write_coco(tmp_path / "instances.json")
    folder = read_labelled_folder(folders[0], file, FORM)
    assert (folder.ids, folder.names) == ((0, 3, 8), ("background", "grass", "house"))
    assert_classes(folder, folders[0])
    data = ClassFolder(root=tmp_path, labels="instances.json", classes={"a": [0, 3], "b": 8})
    assert data[0].labels["semantic"].sum() == 28 * 30
    (tmp_path / "labels" / "a.json").write_text(file.read_text())
    with pytest.raises(
        InputError, match=r"1 \.json file\(s\) that are not of labelme.*--labels .*a\.json"
    ):
        read_labelled_folder(*folders, FORM)
    with pytest.raises(InputError, match="contains classes, not depth: give --kind segmentation"):
        read_labelled_folder(folders[0], file, LabelFormat("depth"))


def test_images_without_label_are_skipped_and_listed(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path, lambda c, p: write_png(c, p))
    others = [f"more{number:02}.jpg" for number in range(31)]
    for name in others[:24]:
        photograph(5).save(images / name)
    folder = read_masks((images, labels))
    assert len(folder) == COUNT
    line = "3 of 27 images have a label; the other 24 are skipped: "
    assert folder.notes == (line + ", ".join(others[:24]),)
    for name in others[24:]:
        photograph(5).save(images / name)
    (note,) = read_masks((images, labels)).notes
    assert note.endswith("more28.jpg, more29.jpg, ...")
    (images / "p1.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 3 label\(s\) .* have no image .*p1\.png"):
        read_masks((images, labels))


def test_names_in_different_unicode_forms_are_paired(tmp_path: Path) -> None:
    names = tuple(f"Café é {number}" for number in range(COUNT))
    composed = tuple(unicodedata.normalize("NFC", name) for name in names)
    images, labels = write_folder(tmp_path, None, composed)
    for number, name in enumerate(names):
        write_png(ids(number), labels / unicodedata.normalize("NFD", name))
    assert_classes(read_masks((images, labels)), images)


def test_similar_names_and_other_files_are_suggested_if_none_match(tmp_path: Path) -> None:
    folders = write_folder(tmp_path, lambda c, p: write_png(c, p.with_name(f"frame_{p.name}x")))
    with pytest.raises(InputError, match=r"\(frame_p\dx\.png looks like p\d\.jpg\)|first: .*p0"):
        read_masks(folders)
    for path in folders[1].iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(InputError, match=r"holds no label .* it holds 3 \.txt: if they are YOLO"):
        read_masks(folders)


def test_exif_orientation_is_applied_to_masks_and_depth(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    images, labels = write_folder(tmp_path, None)
    (tmp_path / "depth").mkdir()
    for number in range(COUNT):
        upside_down = np.ascontiguousarray(ids(number)[::-1, ::-1])
        write_png(upside_down, labels / f"p{number}", exif=exif)
        write_png(upside_down.astype(np.uint16) + 5, tmp_path / "depth" / f"p{number}", exif=exif)
    assert_classes(read_masks((images, labels)), images)
    counts = Folder(root=tmp_path)[0].labels["depth_m"][0].numpy() * 1000
    assert (counts.round() == ids(0) + 5).all()


def test_wrong_png_checksums_are_refused_in_masks_and_depth(tmp_path: Path) -> None:
    folders = write_folder(tmp_path, lambda c, p: write_png(c, p))
    change_a_pixel_byte(folders[1] / "p1.png")
    with pytest.raises(InputError, match=r"p1\.png: damaged \(the checksum of the pixels is w"):
        read_masks(folders)
    folders[1].rename(tmp_path / "depth")
    with pytest.raises(InputError, match="the checksum of the pixels is wrong"):
        Folder(root=tmp_path)[1]


def test_links_to_folders_are_followed_without_endless_recursion(tmp_path: Path) -> None:
    elsewhere = write_folder(tmp_path / "elsewhere", lambda c, p: write_png(c, p))
    folders = write_folder(tmp_path / "here", None, ())
    for folder, other in zip(folders, elsewhere, strict=True):
        (folder / "more").symlink_to(other)
        (other / "loop").symlink_to(folder)
    assert_classes(read_masks(folders), elsewhere[0])


def test_masks_with_json_files_of_another_tool_are_read(tmp_path: Path) -> None:
    folders = write_folder(tmp_path, lambda c, p: write_png(c, p))
    for number in range(COUNT):
        (folders[1] / f"p{number}.json").write_text('{"author": "me"}')
    assert read_masks(folders).ids == (0, 1, 2)


def test_masks_inside_the_folder_of_images_are_no_images_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = write_folder(tmp_path, lambda c, p: write_png(c, p))
    labels.rename(images / "masks")
    monkeypatch.chdir(tmp_path)
    for folders in (
        (Path("images"), images / "masks"),
        (images, Path("images/masks")),
        (images, Path("images/../images/masks")),
    ):
        folder = read_masks(folders)
        assert len(folder) == COUNT
        assert folder.notes == ()
