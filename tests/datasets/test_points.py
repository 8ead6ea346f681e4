"""Tables of points in the notations of people and spreadsheet programs, and errors."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support_labels import HEIGHT, WIDTH, write_folder

from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.datasets.pairs import content_hash
from diffsight.errors import InputError

DEPTH = "p0.jpg,4,7,2.3\np0.jpg,80,50,4\np1.jpg,0,0,1.5\np2.jpg,89,59,3\n"


def read(root: Path, table: str | bytes, kind: str = "depth", **options: Any) -> LabelledFolder:
    """Write three images and a table, and read them as a labelled folder."""
    images, _ = write_folder(root, None)
    file = root / "points.csv"
    file.write_bytes(table.encode() if isinstance(table, str) else table)
    classes = options.pop("classes", ())
    like = options.pop("like", None)
    form = LabelFormat(kind, **options)
    return read_labelled_folder(images, file, form, classes=classes, like=like)


def points_of(folder: LabelledFolder, root: Path) -> dict[tuple[int, int, int], list[float]]:
    """Return the labels of all labelled pixels by image number, row and column."""
    number_of = {content_hash(root / "images" / f"p{i}.jpg"): i for i in range(3)}
    labels = {}
    for sample in folder:
        label, valid = sample.labels[folder.label], sample.valid[folder.label]
        assert valid.shape == (HEIGHT, WIDTH)
        for row, column in valid.nonzero().tolist():
            values = label[..., row, column].reshape(-1).tolist()
            labels[number_of[sample.id], row, column] = [round(value, 4) for value in values]
    return labels


EXPECTED = {(0, 7, 4): [2.3], (0, 50, 80): [4.0], (1, 0, 0): [1.5], (2, 59, 89): [3.0]}


@pytest.mark.parametrize(
    "table",
    [
        DEPTH,
        "image,x,y,value\n" + DEPTH,
        ("image;x;y;value\n" + DEPTH.replace(",", ";")).encode("utf-16"),
        b"\xef\xbb\xbf" + DEPTH.replace(",", "\t").replace("\n", "\r\n").encode(),
        "sep=;\r\nImage;X;Y;Depth\r\n" + DEPTH.replace(",", ";"),
        "y,x,depth in m,image\n7,4,2.3,p0\n50,80,4,p0\n0,0,1.5,p1\n59,89,3,p2\n",
        re.sub(r"(p\d)\.jpg", r'"photos\\\1.JPG"', DEPTH).replace(",4,7,", ", 3.6 , 7.4999 ,"),
        DEPTH.replace("\n", ",,\n\n") + "p2.jpg,88.51,58.7,3\n",
    ],
    ids="plain titles utf-16 tabs sep columns fractions empty".split(),  # noqa: SIM905
)
def test_tables_in_every_notation_label_the_same_pixels(table: str | bytes, tmp_path: Path) -> None:
    folder = read(tmp_path, table)
    assert points_of(folder, tmp_path) == EXPECTED
    assert folder.label == "depth_m"
    assert any(re.search(r"points\.csv: [45] point\(s\) in 3 image", note) for note in folder.notes)


def test_values_are_converted_from_their_unit(tmp_path: Path) -> None:
    folder = read(tmp_path / "a", DEPTH.replace("2.3", "2300"), unit="mm")
    assert points_of(folder, tmp_path / "a")[0, 7, 4] == [2.3]
    folder = read(tmp_path / "b", DEPTH.replace("2.3", "-230"), "scalar", unit="K/100")
    assert points_of(folder, tmp_path / "b")[0, 7, 4] == [-2.3]
    assert folder.form.value_unit == "K"
    with pytest.raises(InputError, match=r"points are in m, cm, mm or m/N: give --unit m"):
        read(tmp_path / "c", DEPTH, unit="sunrgbd")


def test_normals_are_normalised_and_vectors_are_not(tmp_path: Path) -> None:
    folder = read(tmp_path / "n", "p0,1,2,0,0,-2\np1,1,2,3,0,4\np2,0,0,0,1,0", "normals")
    assert points_of(folder, tmp_path / "n") == {
        (0, 2, 1): [0, 0, -1],
        (1, 2, 1): [0.6, 0, 0.8],
        (2, 0, 0): [0, 1, 0],
    }
    folder = read(tmp_path / "v", "image,x,y,u,v\np0,1,2,0.5,-7\np1,1,2,3,1e-3", "vector")
    assert points_of(folder, tmp_path / "v") == {(0, 2, 1): [0.5, -7], (1, 2, 1): [3, 0.001]}
    with pytest.raises(InputError, match=r"line 1: a vector without a length"):
        read(tmp_path / "z", "p0,1,2,0,0,0", "normals")


CLASSES = "p0,1,2,wall\np0,5,5,floor\np1,1,2, door \np2,3,3,wall"


def test_class_names_get_ids_in_alphabetical_order_or_from_the_list(
    tmp_path: Path,
) -> None:
    folder = read(tmp_path / "a", CLASSES, "segmentation")
    assert folder.names == ("door", "floor", "wall")
    assert points_of(folder, tmp_path / "a")[0, 2, 1] == [2]
    assert points_of(folder, tmp_path / "a")[1, 2, 1] == [0]
    names = ("wall", "door", "window", "floor")
    folder = read(tmp_path / "b", CLASSES, "segmentation", classes=names)
    assert folder.names == names
    assert points_of(folder, tmp_path / "b")[0, 5, 5] == [3]
    with pytest.raises(InputError, match=r"class 'door' is not in the list of classes \(wall, fl"):
        read(tmp_path / "c", CLASSES, "segmentation", classes=("wall", "floor"))
    some = read(tmp_path / "d", "p0,1,2,floor\np1,9,9,floor", "segmentation", like=folder)
    assert points_of(some, tmp_path / "d") == {(0, 2, 1): [3], (1, 9, 9): [3]}
    with pytest.raises(
        InputError, match=r"contains the class 'lamp', which is not in the training set"
    ):
        read(tmp_path / "e", "p0,1,2,lamp\np1,9,9,floor", "segmentation", like=folder)


def test_classes_may_be_ids(tmp_path: Path) -> None:
    rows = [f"p{n % 3},{n},{n},{n % 20}" for n in range(50)]
    folder = read(tmp_path, "\n".join(rows), "segmentation")
    assert folder.ids == tuple(range(20))
    named = read(tmp_path, "\n".join(rows), "segmentation", classes=[f"c{i}" for i in range(20)])
    assert named.names[7] == "c7"


def test_many_points_of_rare_classes_are_not_taken_for_smoothing(tmp_path: Path) -> None:
    rows = [f"p{n % 3},{n % 90},{n // 90 % 60},{n % 2}" for n in range(4000)]
    rows += [f"p0,{4 * n},59,{n}" for n in range(2, 20)]
    assert len(read(tmp_path, "\n".join(rows), "segmentation").ids) == 20


@pytest.mark.parametrize(
    ("table", "kind", "message"),
    [
        ("", "depth", r"points\.csv: holds no point: write a line 'image,x,y,value' for each"),
        ("image,x,y,class\n", "segmentation", r"holds no point: write a line 'image,x,y,class'"),
        ("p0;4;7;2,3", "depth", r"line 1: 2,3 has a decimal comma: write 2\.3"),
        ("p0,4,7,2,3", "depth", r"line 1: 5 fields instead of 4: .* with a decimal point"),
        ("p0,4,7", "depth", r"line 1: 3 fields instead of 4: write image,x,y,value"),
        ("p0,4,,2", "depth", r"line 1: y is empty"),
        (",4,3,2", "depth", r"line 1: image is empty"),
        (
            "file,x,y,value\np0,1,1,1",
            "depth",
            r"line 1: 'value' is no number.*titles|'x' is no num",
        ),
        ("image,x,y,value,note\np0,1,1,1,a", "depth", r"line 2: 5 fields instead of 4"),
        ("image,x,x,y,value\np0,1,1,1,1", "depth", r"two columns are called 'x': keep one"),
        ("p0,4,7,far", "depth", r"line 1: 'far' is no number: correct it"),
        ("p0,4,7,nan", "depth", r"line 1: 'nan' is no number"),
        ("p0,4,7,1_0", "depth", r"line 1: '1_0' is no number"),
        ("p0,4,7,1e999", "depth", r"line 1: '1e999' is no number"),
        ("p0,4,7,1e300", "depth", r"line 1: the value 1e\+300 is too large"),
        ("p0,4,7,0", "depth", r"line 1: a depth of 0 m: give one above 0"),
        ("p0,4,7,2\np0,90,7,2", "depth", r"line 2: \(90, 7\) lies outside p0, which has 90 x 60"),
        ("p0,-0.6,7,2", "depth", r"line 1: \(-0\.6, 7\) lies outside p0"),
        ("p0.jpg,4,7,2\np0.png,4.2,6.8,3", "depth", r"line 2: p0\.png and p0\.jpg are one name"),
        ("p0,4,7,2\np0,4.2,6.8,3", "depth", r"line 2: contradicts line 1, .* pixel \(4, 7\) of p0"),
        (
            "p0,4,7,2\nzebra.jpg,4,6,3",
            "depth",
            r"1 of 2 label\(s\) .*\(first: line 2, zebra\.jpg\)",
        ),
        ("p0,4,7,1,2", "normals", r"line 1: 5 fields instead of 6: write image,x,y,nx,ny,nz"),
        ("p0,4,7,70000\np1,4,7,1", "segmentation", r"class ids go from 0 to 65535"),
        ("p0,4,7,wall\np1,4,7,wall", "segmentation", r"at least two classes are needed"),
    ],
)
def test_the_error_of_an_unusable_table_names_the_bad_line(
    table: str, kind: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, table, kind)
    assert "\n" not in str(error.value)


def test_points_with_the_no_label_value_are_left_out(tmp_path: Path) -> None:
    folder = read(tmp_path, DEPTH + "p0,5,5,-1", unit="m", invalid=-1)
    assert points_of(folder, tmp_path) == EXPECTED


def test_the_order_of_the_lines_does_not_matter(tmp_path: Path) -> None:
    one = read(tmp_path / "a", DEPTH)
    other = read(tmp_path / "b", "".join(reversed(DEPTH.splitlines(keepends=True))))
    for mine, theirs in zip(one, other, strict=True):
        assert mine.id == theirs.id
        assert torch.equal(mine.labels["depth_m"], theirs.labels["depth_m"])


def test_scribbles_and_points_give_the_same_label(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path, None)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(3):
        scalar = np.full((HEIGHT, WIDTH), np.nan, np.float32)
        for row, column in zip(rng.permutation(60)[:20], rng.permutation(90)[:20], strict=True):
            scalar[row, column] = value = round(float(rng.normal()), 3)
            rows.append(f"p{number},{column},{row},{value}")
        np.save(labels / f"p{number}.npy", scalar)
    form = LabelFormat("scalar")
    drawn = read_labelled_folder(images, labels, form)
    (tmp_path / "points.csv").write_text("\n".join(rows))
    typed = read_labelled_folder(images, tmp_path / "points.csv", form)
    for one, other in zip(drawn, typed, strict=True):
        assert torch.equal(one.valid["values"], other.valid["values"])
        assert torch.equal(one.labels["values"], other.labels["values"])
