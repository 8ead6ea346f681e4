"""``diffsight labels``: write class labels in another form."""

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
    """Write class labels as masks, COCO JSON or labelme JSON.

    It reads what `adapt` reads. Read again, the written labels differ in no pixel.

    Args:
        images: folder of the images.
        labels: folder of the labels, or a JSON file of COCO, as for adapt.
        to: masks (PNG of palette indices and classes.txt), coco (one JSON file), or labelme (a
            JSON file for every image).
        out: folder to write, or the JSON file of coco.
        classes: text file of class names, as for adapt.
        invalid: stored value for "no label", as for adapt.
        snap: take the nearest of the frequent values, as for adapt.
        overwrite: replace files of the same names (default: refuse).

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
    """Refuse a name that would replace what is read, or other files.

    Raises:
        InputError: naming it.
    """
    taken = [labels] if to == "labelme" else [labels, images]  # its files lie next to images
    if out.resolve() in [path.resolve() for path in taken]:
        raise InputError(f"{out}: holds what is read: choose another --out")
    if to == "coco" and (out.is_dir() or out.suffix.lower() != ".json"):
        raise InputError(f"{out}: COCO is one file: give --out NAME.json")
    if to != "coco" and out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, but {to} are many: give a folder as --out")
    if not overwrite and out.exists() and (out.is_file() or any(out.iterdir())):
        raise InputError(f"{out}: exists already: choose another --out, or give --overwrite")
