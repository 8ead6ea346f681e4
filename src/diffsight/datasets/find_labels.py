"""Find the labels of a folder of images in any supported format, and pair them with the images."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffsight.datasets.coco import read_coco
from diffsight.datasets.depth import DEPTH_SUFFIXES
from diffsight.datasets.files import IMAGE_SUFFIXES, list_files, read_json
from diffsight.datasets.label_source import AbstractLabelSource, LabelFiles
from diffsight.datasets.label_studio import is_brush_mask, read_label_studio
from diffsight.datasets.labelme import is_labelme, read_labelme
from diffsight.datasets.labels import LABEL_SUFFIXES, LOSSY_SUFFIXES
from diffsight.datasets.pair_names import pair_names, suggest_similar_name
from diffsight.datasets.pairs import files_by_name, is_same_folder, name_of, require_partners
from diffsight.datasets.points import POINT_SUFFIXES, read_points
from diffsight.errors import InputError

MAX_LISTED = 30  # images without a label that a note lists


@dataclass(frozen=True)
class LabelledImages:
    """Images and their labels, which are not read yet.

    Attributes:
        source: source from which the labels are read.
        pairs: path of each labelled image, and the name of its label in ``source``.
        unlabelled: files of images without a label.
        notes: notes for the user, one line each.
    """

    source: AbstractLabelSource
    pairs: list[tuple[Path, str]]
    unlabelled: list[Path]
    notes: tuple[str, ...]


def find_labels(
    images: Path, labels: Path, kind: str, *, allow_unlabelled: bool = False
) -> LabelledImages:
    """Find the images in a folder and the label of each, sorted by name.

    The labels are files of each image (masks, arrays, labelme JSON, masks of Label Studio), one
    COCO JSON file, or one CSV file of points. ``pair_names`` defines which names match.

    Args:
        images: folder of the images.
        labels: folder or file of the labels.
        kind: kind of the labels, see ``LabelFormat``.
        allow_unlabelled: accept images without a label, as long as one image has a label.

    Raises:
        InputError: if there are no images or no labels, or a file has no partner.
    """
    image_files = files_by_name(images, IMAGE_SUFFIXES, "image")
    source = open_labels(labels, kind, has_images=is_same_folder(images, labels))
    one_folder = is_same_folder(images, labels) and source.classes is None
    if not one_folder:  # the folder of the masks may be inside the folder of the images
        inside = _folders_inside({file.parent for file in image_files.values()}, labels)
        image_files = {
            name: file for name, file in image_files.items() if file.parent not in inside
        } or image_files
    names = pair_names(list(image_files), list(source.names), is_one_folder=one_folder)
    used = set(names.values())
    if one_folder and names:
        image_files = {name: file for name, file in image_files.items() if name not in used}
    unlabelled = [file for name, file in image_files.items() if name not in names]
    if not (names and allow_unlabelled):
        hint = suggest_similar_name(image_files, {n: source.file(n) for n in source.names}, names)
        require_partners(
            unlabelled, len(image_files), f"image(s) in {images}", f"label in {labels}", hint
        )
    if not one_folder:
        require_partners(
            [source.describe(name) for name in source.names if name not in used],
            len(source.names),
            f"label(s) in {labels}",
            f"image in {images}",
        )
    pairs = [(file, names[name]) for name, file in image_files.items() if name in names]
    notes = (*source.notes, *_describe_pairs(names, unlabelled, len(pairs)))
    return LabelledImages(source, pairs, unlabelled, notes)


def _folders_inside(folders: Collection[Path], parent: Path) -> set[Path]:
    """Return those of the folders that are ``parent`` or inside it, however the paths are written.

    Args:
        folders: paths of folders.
        parent: path of a folder.
    """
    target = parent.resolve()
    return {one for one in folders if target in ((real := one.resolve()), *real.parents)}


def open_labels(labels: Path, kind: str, *, has_images: bool = False) -> AbstractLabelSource:
    """Return the source of the labels in a folder or a file.

    Args:
        labels: folder or file of the labels.
        kind: kind of the labels, see ``LabelFormat``.
        has_images: whether the folder also contains the images.

    Raises:
        InputError: if there are no labels of this kind.
    """
    if labels.is_file():
        source: AbstractLabelSource = _open_file(labels, kind)
    else:
        source = _open_folder(labels, kind, has_images)
    if kind != "segmentation" and source.classes is not None:
        raise InputError(f"{labels}: contains classes, not {kind}: give --kind segmentation")
    return source


def _open_file(labels: Path, kind: str) -> AbstractLabelSource:
    """Return the labels in a single file.

    Raises:
        InputError: if the file is neither a table of points nor a JSON file of COCO or labelme.
    """
    if labels.suffix.lower() in POINT_SUFFIXES:
        return read_points(labels, kind)
    if labels.suffix.lower() != ".json":
        raise InputError(
            f"{labels}: not a label file of many images: give the folder of the labels, a COCO "
            "JSON file, or a CSV file of points"
        )
    if is_labelme(read_json(labels)):
        return read_labelme(labels, {name_of(Path(labels.name)): labels})
    return read_coco(labels)


def _open_folder(labels: Path, kind: str, has_images: bool) -> AbstractLabelSource:
    """Return the labels in a folder with one or more files per image.

    Raises:
        InputError: if the folder has no labels, or only JSON files that are not labelme files.
    """
    suffixes = DEPTH_SUFFIXES if kind == "depth" else LABEL_SUFFIXES
    files = list_files(labels) if labels.is_dir() else []
    json_files = [file for file in files if file.suffix.lower() == ".json"]
    masks = [file for file in files if file.suffix.lower() in suffixes]
    brush = [file for file in masks if is_brush_mask(file)]
    if brush and len(brush) == len(masks):
        lists = (file for file in json_files if isinstance(read_json(file), list))
        return read_label_studio(labels, brush, next(lists, next(iter(json_files), None)))
    are_photographs = kind == "segmentation" and _are_photographs(labels, masks, json_files)
    if json_files and (has_images or not masks or are_photographs):
        if any(is_labelme(read_json(file)) for file in json_files):
            source = read_labelme(labels, files_by_name(labels, frozenset({".json"}), "label"))
            if masks and not has_images:
                source.notes += (
                    f"the labels are the labelme files; {len(masks)} other images in {labels} are "
                    "not read",
                )
            return source
        if not masks:
            raise InputError(
                f"{labels}: contains {len(json_files)} .json file(s) that are not of labelme: if "
                f"it is a COCO file, give its path: --labels {json_files[0]}"
            )
    if kind == "segmentation" and not masks and any(_is_lossy(file) for file in files):
        suffixes = LOSSY_SUFFIXES  # read_label raises an error for these, unless form.snap is set
    return LabelFiles(labels, files_by_name(labels, suffixes, "label"))


def _are_photographs(labels: Path, images: Sequence[Path], json_files: Sequence[Path]) -> bool:
    """Return whether every image in a folder of labels has a JSON file of its own.

    Then the images are probably the photographs, next to which labelme writes its files.
    """
    names = {name_of(file.relative_to(labels)) for file in json_files}
    return all(name_of(file.relative_to(labels)) in names for file in images)


def _is_lossy(file: Path) -> bool:
    """Return whether a file has the suffix of a format with lossy compression."""
    return file.suffix.lower() in LOSSY_SUFFIXES


def _describe_pairs(names: Mapping[str, str], unlabelled: list[Path], count: int) -> list[str]:
    """Return notes on how names were paired, and on images without a label.

    Args:
        names: name of the label by the name of its image.
        unlabelled: files of images without a label.
        count: number of labelled images.
    """
    notes = []
    endings = {label.removeprefix(image) for image, label in names.items()}
    ending = endings.pop() if len(endings) == 1 else ""
    if ending and all(label == image + ending for image, label in names.items()):
        notes.append(f"the name of each label is the name of its image followed by {ending!r}")
    if unlabelled:
        listed = ", ".join(file.name for file in unlabelled[:MAX_LISTED])
        more = ", ..." if len(unlabelled) > MAX_LISTED else ""
        notes.append(
            f"{count} of {count + len(unlabelled)} images have a label; the other "
            f"{len(unlabelled)} are skipped: {listed}{more}"
        )
    return notes
