"""Labels as people have them: every form is read as it is meant, or refused with the repair."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image
from tests.support_labels import (
    COUNT,
    HEIGHT,
    ORIENTATION,
    WIDTH,
    box,
    change_a_pixel_byte,
    ids,
    photograph,
    png,
    shuffled_palette,
    smoothed,
    write_coco,
    write_folder,
    write_labelme,
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


def read(where: tuple[Path, Path], **options) -> LabelledFolder:
    form = LabelFormat("segmentation", snap=options.pop("snap", False))
    return read_labelled_folder(*where, form, **options)


def assert_classes(folder: LabelledFolder, images: Path, tolerance: float = 0) -> None:
    """Compare the classes of all pictures with those that were drawn."""
    number_of = {content_hash(path): i for i, path in enumerate(sorted(images.rglob("*.jpg")))}
    assert len(folder) == len(number_of)
    for sample in folder:
        assert sample.valid["semantic"].all()
        differ = sample.labels["semantic"].numpy() != ids(number_of[sample.id])
        assert differ.mean() <= tolerance


def rgba(classes: np.ndarray, path: Path) -> None:
    alpha = np.where(classes == 2, 255, 0).astype(np.uint8)
    png(np.dstack([np.full_like(alpha, 255)] * 3 + [alpha]), path)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda c, p: png(c, p), (0, 1, 2)),
        (lambda c, p: png(GREY[c], p), (0, 128, 255)),
        (shuffled_palette, (0, 0x00C800, 0xC80000)),
        (lambda c, p: png(COLOURS[c], p), (0, 0x307020, 0xB07020)),
        (lambda c, p: png(c, Path(f"{p}_mask")), (0, 1, 2)),
        (lambda c, p: png(c, Path(f"{p}.jpg")), (0, 1, 2)),
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
def test_masks_of_every_form_are_the_classes(
    write: Callable, expected: tuple[int, ...], tmp_path: Path
) -> None:
    where = write_folder(tmp_path, write)
    folder = read(where)
    assert folder.ids == expected
    assert_classes(folder, where[0])
    names = "sky", "grass", "house"
    data = ClassFolder(root=tmp_path, classes=dict(zip(names, expected, strict=True)))
    for number in range(COUNT):
        assert (data[number].labels["semantic"].numpy() == ids(number)).all()


def test_the_transparency_is_the_class_where_it_alone_tells_classes_apart(tmp_path: Path) -> None:
    folder = read(write_folder(tmp_path, rgba))
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
def test_255_is_a_class_among_shades_of_grey_and_no_label_among_ids(
    values: tuple[int, ...], is_class: bool, tmp_path: Path
) -> None:
    where = write_folder(tmp_path, lambda c, p: png(np.array(values, np.uint8)[c], p))
    folder = read(where)
    assert (255 in folder.ids) == is_class
    assert all(bool(one.valid["semantic"].all()) == is_class for one in folder)
    (note,) = [note for note in folder.notes if "255" in note]
    assert ("is a class, because" if is_class else "taken for 'no label'") in note
    assert "pixels" in note
    for invalid, there in ((255, False), (-1, True)):
        form = LabelFormat("segmentation", invalid=invalid)
        if len(set(values) - {255}) > 1:
            folder = read_labelled_folder(*where, form)
            assert (255 in folder.ids) == there
            why = [note.rpartition("have no label: ")[2] for note in folder.notes]
            assert why == ([] if there else ["255 (--invalid)"])


def test_255_over_most_of_the_image_is_a_class_unless_the_others_are_scribbles(
    tmp_path: Path,
) -> None:
    def areas(classes: np.ndarray, path: Path) -> None:
        mask = np.full_like(classes, 255)
        mask[5:25, 5:30], mask[30:50, 40:70] = 1, 2
        png(mask, path)

    def scribbles(classes: np.ndarray, path: Path) -> None:
        mask = np.full_like(classes, 255)
        mask[7, 5:60], mask[40, 20:80] = 1, 2
        png(mask, path)

    assert read(write_folder(tmp_path / "a", areas)).ids == (1, 2, 255)
    assert read(write_folder(tmp_path / "s", scribbles)).ids == (1, 2)


def test_one_index_with_two_colours_is_refused_where_ids_are_named(tmp_path: Path) -> None:
    where = write_folder(tmp_path, shuffled_palette)
    for read_all in (
        lambda: read(where, classes=("sky", "grass", "house")),
        lambda: [one.id for one in ClassFolder(root=tmp_path, classes={"a": [0, 1], "b": 2})],
    ):
        with pytest.raises(InputError, match=r"id 1 is #\w+, but in .*\.png it is #\w+: save"):
            read_all()


@pytest.mark.parametrize("kind", ["smoothed", "jpeg"])
def test_smoothed_masks_are_refused_and_snapped(kind: str, tmp_path: Path) -> None:
    def write(classes: np.ndarray, path: Path) -> None:
        if kind == "smoothed":
            smoothed(np.array([0, 100, 200], np.uint8)[classes], path)
        else:
            Image.fromarray(np.array([0, 100, 200], np.uint8)[classes]).save(f"{path}.jpg")

    where = write_folder(tmp_path, write)
    reason = "of them nearly empty: smoothed" if kind == "smoothed" else r"JPEG\) changes the numb"
    with pytest.raises(InputError, match=reason):
        read(where)
    folder = read(where, snap=True)
    assert folder.ids == (0, 100, 200)
    assert_classes(folder, where[0], tolerance=0.05)
    assert any("other values are taken for the nearest of 0, 100" in n for n in folder.notes)
    data = ClassFolder(root=tmp_path, classes={"a": 0, "b": 100, "c": 200}, snap=True)
    assert (data[0].labels["semantic"].numpy() != ids(0)).mean() < 0.05


def test_255_of_smoothed_masks_is_a_class_when_they_are_snapped(tmp_path: Path) -> None:
    where = write_folder(tmp_path, lambda c, p: smoothed(np.where(c == 2, GREY[2], GREY[0]), p))
    folder = read(where, snap=True)
    assert {0, 255} <= set(folder.ids)  # straight edges of small pictures may be frequent too
    assert all(bool(sample.valid["semantic"].all()) for sample in folder)


def test_lossy_webp_is_refused(tmp_path: Path) -> None:
    where = write_folder(tmp_path, lambda c, p: Image.fromarray(COLOURS[c]).save(f"{p}.webp"))
    with pytest.raises(InputError, match=r"p\d\.webp: lossy compression \(WEBP\)"):
        read(where)


@pytest.mark.parametrize("title", ["# label:color_rgb:parts:actions\n", ""])
def test_cvat(title: str, tmp_path: Path) -> None:
    where = write_folder(tmp_path, lambda c, p: png(COLOURS[c], p))
    rows = "background:0,0,0::\nhouse:176,112,32::\ngrass:48,112,32::\nunused:1,2,3::\n"
    (tmp_path / "labelmap.txt").write_text(title + rows)
    folder = read(where, classes=read_class_list(tmp_path / "labelmap.txt"))
    assert folder.names == ("background", "grass", "house")
    assert_classes(folder, where[0])
    data = ClassFolder(root=tmp_path, classes="labelmap.txt")
    assert data.class_names["semantic"] == ("background", "unused", "grass", "house")
    assert data[1].labels["semantic"].unique().tolist() == [0, 2, 3]
    (tmp_path / "labelmap.txt").write_text(title + rows.replace("grass:48", "grass:49"))
    with pytest.raises(InputError, match=r"hold colours without one: #307020 \(\d+ px\)"):
        read(where, classes=read_class_list(tmp_path / "labelmap.txt"))


def test_colours_of_a_palette_have_the_names_of_a_list_by_colour(tmp_path: Path) -> None:
    where = write_folder(tmp_path, shuffled_palette)
    (tmp_path / "classes.csv").write_text("name,r,g,b\nsky,0,0,0\ngrass,0,200,0\nhouse,200,0,0\n")
    folder = read(where, classes=read_class_list(tmp_path / "classes.csv"))
    assert folder.names == ("sky", "grass", "house")
    assert_classes(folder, where[0])


def test_roboflow_has_images_and_masks_in_one_folder(tmp_path: Path) -> None:
    images, _ = write_folder(tmp_path, None)
    for number in range(COUNT):
        png(ids(number) + 1, images / f"p{number}_mask")
    (images / "_classes.csv").write_text("Pixel Value, Class\n0, sea\n1, sky\n2, grass\n3, house\n")
    folder = read((images, images), classes=read_class_list(images / "_classes.csv"))
    assert (folder.ids, folder.names) == ((1, 2, 3), ("sky", "grass", "house"))
    assert_classes(folder, images)


def test_label_studio_needs_the_file_of_its_tasks(tmp_path: Path) -> None:
    where = write_folder(tmp_path, None)
    tasks = []
    for number in range(COUNT):
        for value, name in ((1, "grass"), (2, "house")):
            mask = np.where(ids(number) == value, 255, 0).astype(np.uint8)
            png(mask, where[1] / f"task-{90 - number}-annotation-4-by-1-tag-{name}-0")
        url = f"/data/upload/1/0a1b2c3d-p{number}.jpg"
        tasks.append({"id": 90 - number, "data": {"image": url}})
    with pytest.raises(InputError, match=r"6 masks of Label Studio.*export the tasks as JSON"):
        read(where)
    (where[1] / "project.json").write_text(json.dumps(tasks))
    folder = read(where)
    assert folder.names == ("background", "grass", "house")
    assert_classes(folder, where[0])
    (where[1] / "project.json").write_text(json.dumps(tasks[:2]))
    with pytest.raises(InputError, match=r"project\.json: has no task 88"):
        read(where)


def test_labelme(tmp_path: Path) -> None:
    where = write_folder(tmp_path, None)
    for number in range(COUNT):
        write_labelme(where[1], number)
    folder = read(where)
    assert (folder.ids, folder.names) == ((0, 1, 2), ("background", "grass", "house"))
    assert_classes(folder, where[0])
    data = ClassFolder(root=tmp_path, classes=None)
    assert data.class_names == {"semantic": ("background", "grass", "house")}
    for path in where[1].iterdir():  # as labelme does it
        path.rename(where[0] / path.name)
    assert_classes(read((where[0], where[0])), where[0])


def test_coco(tmp_path: Path) -> None:
    where = write_folder(tmp_path, None)
    file = write_coco(tmp_path / "instances.json")
    folder = read((where[0], file))
    assert (folder.ids, folder.names) == ((0, 3, 8), ("background", "grass", "house"))
    assert_classes(folder, where[0])
    data = ClassFolder(root=tmp_path, labels="instances.json", classes={"a": [0, 3], "b": 8})
    assert data[0].labels["semantic"].sum() == 28 * 30
    (tmp_path / "labels" / "a.json").write_text(file.read_text())
    with pytest.raises(InputError, match=r"1 \.json file\(s\), not of labelme.*--labels .*a\.json"):
        read(where)
    with pytest.raises(InputError, match="holds classes, not depth: give --kind segmentation"):
        read_labelled_folder(where[0], file, LabelFormat("depth"))


def runs_of(number: int, compressed: bool) -> dict:
    top, bottom, left, right = box(number)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[top:bottom, left:right] = 1
    mask[top + 9 : top + 15, left + 9 : left + 12] = 0  # a hole
    if compressed:
        runs = pycocotools.mask.encode(mask)
        return {"size": list(runs["size"]), "counts": runs["counts"].decode()}
    flat = mask.flatten(order="F")
    borders = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *borders, flat.size]).tolist()}


def parts_of(number: int) -> list[list[float]]:
    left = 3.3 + number
    return [[left, 4.7, left + 21.5, 9.2, left + 9.9, 33.4], [50.5, 20.2, 70, 20, 70.6, 41, 55, 44]]


@pytest.mark.parametrize("form", ["parts", "runs", "compressed"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_shapes_of_coco_are_rasterised_as_pycocotools_does(form: str, tmp_path: Path) -> None:
    def house(number: int) -> object:
        return parts_of(number) if form == "parts" else runs_of(number, form == "compressed")

    where = write_folder(tmp_path, None)
    folder = read((where[0], write_coco(tmp_path / "c.json", house=house)))
    number_of = {content_hash(where[0] / f"p{i}.jpg"): i for i in range(COUNT)}
    for sample in folder:
        number = number_of[sample.id]
        runs = house(number)
        if form != "compressed":
            runs = pycocotools.mask.frPyObjects(runs, HEIGHT, WIDTH)
        one = pycocotools.mask.merge(runs) if form == "parts" else runs
        expected = pycocotools.mask.decode(one).astype(bool)
        assert 100 < expected.sum() < expected.size
        assert ((sample.labels["semantic"].numpy() == 2) == expected).all()


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ({"size": [HEIGHT, WIDTH], "counts": [1, 2]}, "run lengths that do not fill 90 x 60"),
        ({"size": [HEIGHT, WIDTH], "counts": "ooooooooooooooo"}, "run lengths that do not fill"),
        ({"size": [9, 9], "counts": [81]}, "run lengths that do not fill"),
        ([[0, 0, 1e12, 0, 1e12, 1e12]], "a corner lies far outside the image"),
        ([[0, 0, 5, 5]], "a polygon has three corners"),
        ([["a"] * 6], "a polygon has three corners"),
        ("abc", "no instances|no polygon|three corners"),
    ],
)
def test_outlines_that_cannot_be_drawn(outline: object, message: str, tmp_path: Path) -> None:
    where = write_folder(tmp_path, None)
    file = write_coco(tmp_path / "c.json", house=lambda number: outline)
    with pytest.raises(InputError, match=message):
        read((where[0], file))


def test_a_few_labelled_frames_of_many(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path, lambda c, p: png(c, p))
    others = [f"more{number:02}.jpg" for number in range(31)]
    for name in others[:24]:
        photograph(5).save(images / name)
    folder = read((images, labels))
    assert len(folder) == COUNT
    line = "3 of 27 images have a label; the other 24 are left out: "
    assert folder.notes == (line + ", ".join(others[:24]),)
    for name in others[24:]:
        photograph(5).save(images / name)
    (note,) = read((images, labels)).notes
    assert note.endswith("more28.jpg, more29.jpg, ...")
    (images / "p1.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 3 label\(s\) .* have no image .*p1\.png"):
        read((images, labels))


def test_names_in_two_unicode_forms_are_paired(tmp_path: Path) -> None:
    names = tuple(f"Café é {number}" for number in range(COUNT))
    composed = tuple(unicodedata.normalize("NFC", name) for name in names)
    images, labels = write_folder(tmp_path, None, composed)
    for number, name in enumerate(names):
        png(ids(number), labels / unicodedata.normalize("NFD", name))
    assert_classes(read((images, labels)), images)


def test_names_without_partner_are_compared(tmp_path: Path) -> None:
    where = write_folder(tmp_path, lambda c, p: png(c, p.with_name(f"frame_{p.name}x")))
    with pytest.raises(InputError, match=r"\(frame_p\dx\.png looks like p\d\.jpg\)|first: .*p0"):
        read(where)
    for path in where[1].iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(InputError, match=r"holds no label .* it holds 3 \.txt: boxes or poly"):
        read(where)


def test_label_and_depth_are_turned_as_their_notes_say(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    images, labels = write_folder(tmp_path, None)
    (tmp_path / "depth").mkdir()
    for number in range(COUNT):
        upside_down = np.ascontiguousarray(ids(number)[::-1, ::-1])
        png(upside_down, labels / f"p{number}", exif=exif)
        png(upside_down.astype(np.uint16) + 5, tmp_path / "depth" / f"p{number}", exif=exif)
    assert_classes(read((images, labels)), images)
    counts = Folder(root=tmp_path)[0].labels["depth_m"][0].numpy() * 1000
    assert (counts.round() == ids(0) + 5).all()


def test_a_wrong_checksum_is_refused_in_labels_depth_and_photographs(tmp_path: Path) -> None:
    where = write_folder(tmp_path, lambda c, p: png(c, p))
    change_a_pixel_byte(where[1] / "p1.png")
    with pytest.raises(InputError, match=r"p1\.png: damaged \(the checksum of the pixels is w"):
        read(where)
    where[1].rename(tmp_path / "depth")
    with pytest.raises(InputError, match="the checksum of the pixels is wrong"):
        Folder(root=tmp_path)[1]


def test_links_to_folders_are_followed_and_end(tmp_path: Path) -> None:
    elsewhere = write_folder(tmp_path / "elsewhere", lambda c, p: png(c, p))
    where = write_folder(tmp_path / "here", None, ())
    for folder, other in zip(where, elsewhere, strict=True):
        (folder / "more").symlink_to(other)
        (other / "loop").symlink_to(folder)
    assert_classes(read(where), elsewhere[0])
