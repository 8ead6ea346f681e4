"""From a folder of images and the path of their labels to pairs, in whatever form labels are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffsight.datasets.coco import read_coco
from diffsight.datasets.depth import DEPTH_SUFFIXES
from diffsight.datasets.files import IMAGE_SUFFIXES, list_files, read_json
from diffsight.datasets.label_source import AbstractLabelSource, LabelFiles
from diffsight.datasets.label_studio import is_brush_mask, read_label_studio
from diffsight.datasets.labelme import is_labelme, read_labelme
from diffsight.datasets.labels import LABEL_SUFFIXES, LOSSY_SUFFIXES
from diffsight.datasets.pairs import (
    common_ending,
    files_by_name,
    is_same,
    looks_like,
    name_of,
    pair_names,
    require_partners,
)
from diffsight.datasets.points import POINT_SUFFIXES, read_points
from diffsight.errors import InputError

LISTED = 30  # images without a label


@dataclass(frozen=True)
class LabelledImages:
    """Images with labels.

    Attributes:
        source: of the labels.
        pairs: the file of every image, and the name of its label in the source.
        unlabelled: images without a label.
        notes: what a user should know, a line each.
    """

    source: AbstractLabelSource
    pairs: list[tuple[Path, str]]
    unlabelled: list[Path]
    notes: tuple[str, ...]


def find_labels(
    images: Path, labels: Path, kind: str, *, some_without: bool = False
) -> LabelledImages:
    """Return images and their labels, ordered by name.

    Labels are a file for each image (masks, arrays, shapes of labelme, masks of Label Studio), one
    JSON file of COCO, or one CSV file of points. Names agree as in ``pair_names``.

    Args:
        images: folder.
        labels: folder or file.
        kind: of the labels, see ``LabelFormat``.
        some_without: images may have no label.

    Raises:
        InputError: if there is nothing, or a file has no partner.
    """
    image_files = files_by_name(images, IMAGE_SUFFIXES, "image")
    source = open_labels(labels, kind, has_images=is_same(images, labels))
    one_folder = is_same(images, labels) and source.classes is None
    if not one_folder:  # masks in a folder below the images
        image_files = {
            name: file for name, file in image_files.items() if labels not in file.parents
        } or image_files
    names = pair_names(list(image_files), list(source.names), is_one_folder=one_folder)
    used = set(names.values())
    if one_folder and names:
        image_files = {name: file for name, file in image_files.items() if name not in used}
    alone = [file for name, file in image_files.items() if name not in names]
    if not (names and some_without):
        hint = looks_like(image_files, {n: source.file(n) for n in source.names}, names)
        require_partners(
            alone, len(image_files), f"image(s) in {images}", f"label in {labels}", hint
        )
    if not one_folder:
        require_partners(
            [source.describe(name) for name in source.names if name not in used],
            len(source.names),
            f"label(s) in {labels}",
            f"image in {images}",
        )
    pairs = [(file, names[name]) for name, file in image_files.items() if name in names]
    return LabelledImages(source, pairs, alone, (*source.notes, *_notes(names, alone, len(pairs))))


def open_labels(labels: Path, kind: str, *, has_images: bool = False) -> AbstractLabelSource:
    """Return the labels in a folder or a file.

    Args:
        labels: its path.
        kind: of the labels, see ``LabelFormat``.
        has_images: the folder holds the images too.

    Raises:
        InputError: if there are none.
    """
    if labels.is_file():
        source: AbstractLabelSource = _open_file(labels, kind)
    else:
        source = _open_folder(labels, kind, has_images)
    if kind != "segmentation" and source.classes is not None:
        raise InputError(f"{labels}: holds classes, not {kind}: give --kind segmentation")
    return source


def _open_file(labels: Path, kind: str) -> AbstractLabelSource:
    if labels.suffix.lower() in POINT_SUFFIXES:
        return read_points(labels, kind)
    if labels.suffix.lower() != ".json":
        raise InputError(
            f"{labels}: is a file: give the folder of the labels, a JSON file of COCO, or a CSV "
            "file of points"
        )
    if is_labelme(read_json(labels)):
        return read_labelme(labels.parent, {name_of(Path(labels.name)): labels})
    return read_coco(labels)


def _open_folder(labels: Path, kind: str, has_images: bool) -> AbstractLabelSource:
    suffixes = DEPTH_SUFFIXES if kind == "depth" else LABEL_SUFFIXES
    files = list_files(labels) if labels.is_dir() else []
    json_files = [file for file in files if file.suffix.lower() == ".json"]
    masks = [file for file in files if file.suffix.lower() in suffixes]
    brush = [file for file in masks if is_brush_mask(file)]
    if brush and len(brush) == len(masks):
        return read_label_studio(labels, brush, next(iter(json_files), None))
    if json_files and (has_images or not masks):
        if is_labelme(read_json(json_files[0])):
            shapes = {name_of(file.relative_to(labels)): file for file in json_files}
            return read_labelme(labels, shapes)
        if not masks:
            raise InputError(
                f"{labels}: {len(json_files)} .json file(s), not of labelme: of COCO? Give the "
                f"file: --labels {json_files[0]}"
            )
    if kind == "segmentation" and not masks and any(_is_lossy(file) for file in files):
        suffixes = LOSSY_SUFFIXES  # refused by name where it is read, or snapped
    return LabelFiles(labels, files_by_name(labels, suffixes, "label"))


def _is_lossy(file: Path) -> bool:
    return file.suffix.lower() in LOSSY_SUFFIXES


def _notes(names: Mapping[str, str], alone: list[Path], count: int) -> list[str]:
    """Return how names were paired, and which images have no label."""
    notes = []
    ending = common_ending(list(names), list(names.values()))
    if ending and all(label == image + ending for image, label in names.items()):
        notes.append(f"labels are named as their images with {ending!r} at the end")
    if alone:
        listed = ", ".join(file.name for file in alone[:LISTED])
        more = ", ..." if len(alone) > LISTED else ""
        notes.append(
            f"{count} of {count + len(alone)} images have a label; the other {len(alone)} are left "
            f"out: {listed}{more}"
        )
    return notes
