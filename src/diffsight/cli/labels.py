"""``diffsight labels``: convert class labels to another file format."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from diffsight.choices import LabelFileForm
from diffsight.cli import options
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.datasets.labelled_folder import LabelledFolder


@command("labels")
def main(
    *,
    images: options.Folder,
    labels: Annotated[Path, Flag("DIR|FILE")],
    to: LabelFileForm,
    out: Annotated[Path, Flag("PATH")],
    classes: options.File | None = None,
    invalid: Annotated[float | None, Flag("N")] = None,
    snap: bool = False,
    overwrite: bool = False,
) -> int:
    """Convert class labels to masks, COCO JSON or labelme JSON.

    The command reads all formats of class labels that `diffsight adapt` reads. The conversion
    changes no pixel.

    Args:
        images: folder of the images.
        labels: folder of the label files (masks or labelme JSON), or a COCO JSON file, as for
            `diffsight adapt`.
        to: output format: masks (PNG files with a palette, and classes.txt), coco (one JSON file),
            or labelme (one JSON file per image).
        out: folder to write; for coco, the JSON file to write.
        classes: text file of class names, as for `diffsight adapt`.
        invalid: value in the masks that marks pixels without a label.
        snap: replace values of smoothed or compressed masks by the nearest frequent value.
        overwrite: replace existing files (default: stop with an error).

    Example:
        diffsight labels --images photos --labels masks --to coco --out labels.json
    """
    _check_out(to, out, images, labels, overwrite)

    from diffsight.cli.console import write_line
    from diffsight.datasets.class_lists import read_class_list
    from diffsight.datasets.labelled_folder import read_labelled_folder
    from diffsight.datasets.labels import LabelFormat

    form = LabelFormat("segmentation", invalid=invalid, snap=snap)
    names = () if classes is None else read_class_list(classes)
    folder = read_labelled_folder(images, labels, form, classes=names)
    for note in folder.notes:
        write_line(note)
    _write(folder, to, out, images)
    count = len(folder)
    read_with = f"; read them with --classes {out / 'classes.txt'}" if to == "masks" else ""
    sys.stdout.write(
        f"labels of {count} image(s) with {len(folder.names)} classes in {out}{read_with}\n"
    )
    return 0


def _write(folder: "LabelledFolder", to: str, out: Path, images: Path) -> None:
    from diffsight.datasets import write_labels

    if to == "masks":
        write_labels.write_masks(folder, out)
    elif to == "coco":
        write_labels.write_coco(folder, out)
    else:
        write_labels.write_labelme(folder, out, images)


def _check_out(to: str, out: Path, images: Path, labels: Path, overwrite: bool) -> None:
    """Check that ``--out`` would not replace the labels that are read, or other files.

    Raises:
        InputError: if it would.
    """
    # labelme keeps its files in the folder of the images
    inputs = [labels] if to == "labelme" else [labels, images]
    if out.resolve() in [path.resolve() for path in inputs]:
        raise InputError(f"{out}: is an input of the command: choose another --out")
    if to == "coco" and (out.is_dir() or out.suffix.lower() != ".json"):
        raise InputError(f"{out}: COCO labels are one file: give --out NAME.json")
    if to != "coco" and out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, but {to} needs a folder: choose another --out")
    if not overwrite and out.exists() and (out.is_file() or any(out.iterdir())):
        raise InputError(f"{out}: exists already: choose another --out, or give --overwrite")
