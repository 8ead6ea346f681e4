"""An example folder of rendered rooms to paint on."""

import logging
from pathlib import Path

from PIL import Image

from diffsight.atomic import replacing
from diffsight.errors import InputError
from diffsight.studio.images import SUFFIXES
from diffsight.studio.project import Project

ROOMS = 12
SIZE = (480, 640)  # height and width in pixels
log = logging.getLogger(__name__)
CLASSES = ("wall", "floor", "furniture")


def write_example(folder: Path) -> None:
    """Write rendered rooms to a folder, unless it has them already.

    Raises:
        InputError: if the folder has other images, or cannot be written.
    """
    names = [f"room{number:02d}.png" for number in range(ROOMS)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = {path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be used ({error.strerror}): give another folder for the example"
        ) from None
    if other := sorted(present - set(names)):
        raise InputError(
            f"{folder}: has other images ({other[0]}): leave --example out, or give a new folder"
        )
    if present >= set(names):
        return
    from diffsight.rooms import Rooms  # takes a second

    log.info("rendering %d rooms", ROOMS)
    rooms = Rooms("val", ROOMS, SIZE, ("semantic",), seed=1)
    for number, name in enumerate(names):
        if name in present:
            continue
        picture = Image.fromarray(rooms[number].image.permute(1, 2, 0).numpy())
        with replacing(folder / name) as partial:
            picture.save(partial, format="PNG")


def add_example_classes(project: Project) -> None:
    """Add classes to paint, unless there are some."""
    for name in CLASSES if not project.classes else ():
        project.add_class(name)
