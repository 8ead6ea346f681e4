"""Files of labels that were accepted from predictions."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from diffsight.datasets.files import decode, read_array
from diffsight.datasets.labels import NO_CLASS
from diffsight.studio.images import encode_png
from diffsight.studio.log import write_synced
from diffsight.studio.strokes import LabelMap


def write_accepted(folder: Path, stem: str, labels: Shaped[np.ndarray, "h w"]) -> str:
    """Write accepted labels, and return the name of the file.

    Args:
        folder: folder of the file, which is made if it does not exist.
        stem: name of the file without its suffix.
        labels: class ids of uint8, which become a PNG, or numbers of a scalar, which become an NPY
            file.

    Raises:
        InputError: if the file cannot be written.
    """
    folder.mkdir(exist_ok=True)
    if labels.dtype == np.uint8:
        name, data = f"{stem}.png", encode_png(labels)
    else:
        stream = io.BytesIO()
        np.save(stream, labels.astype(np.float32))
        name, data = f"{stem}.npy", stream.getvalue()
    write_synced(folder / name, data)
    return name


def read_accepted(path: Path, hw: tuple[int, int]) -> LabelMap:
    """Return the accepted labels in a file, resized by nearest-neighbour interpolation.

    Args:
        path: file that ``write_accepted`` wrote.
        hw: height and width of the result in pixels.

    Raises:
        InputError: if the file is damaged.
    """
    if path.suffix == ".png":
        values = decode(path, ("PNG",), _class_ids).astype(np.float32)
        is_labelled = values != NO_CLASS
    else:
        values = read_array(path, "f").astype(np.float32)
        is_labelled = np.isfinite(values)
    rows, columns = (
        (np.arange(new) * 2 + 1) * old // (2 * new)
        for old, new in zip(values.shape, hw, strict=True)
    )
    index = rows[:, None], columns[None]
    return LabelMap(values[index], is_labelled[index], np.zeros(hw, dtype=bool))


def _class_ids(image: Image.Image) -> Shaped[np.ndarray, "h w"]:
    if image.mode != "L":
        raise ValueError(f"its mode is {image.mode}, not L")
    return np.asarray(image)
