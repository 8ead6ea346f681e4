"""RefCOCO, RefCOCO+ and RefCOCOg: sentences that refer to objects in COCO images, with masks."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffsight.atomic import replacing
from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.files import read_sized_image, read_text
from diffsight.datasets.pairs import content_hash
from diffsight.datasets.plain_pickle import load_plain
from diffsight.datasets.shapes import count_parts
from diffsight.errors import InputError
from diffsight.formats.text import parse_json, read_json, reading

Variant = Literal["refcoco", "refcoco+", "refcocog"]
SPLITTERS = {
    "refcoco": ("unc", "google"),
    "refcoco+": ("unc",),
    "refcocog": ("umd", "google"),
}
IMAGES = Path("images", "mscoco", "images", "train2014")
_KEYS = ("ref_id", "ann_id", "split", "sentences")
MAX_LISTED = 3  # missing files in a message


class RefCOCO(AbstractDataset):
    """Objects in COCO images with sentences that refer to them, in the layout of the REFER tool.

    ``root`` contains ``images/mscoco/images/train2014`` and ``refcoco``, ``refcoco+`` or
    ``refcocog`` with ``instances.json`` and ``refs(SPLITTER).p``. The pickle is read without
    running any code in it, and converted once to ``refs(SPLITTER).json`` in the same folder. If the
    pickle is replaced, it is converted again.

    Label ``referent`` is ``h w`` of int64: 1 on the object, 0 elsewhere. Pixels where parts of the
    object overlap are 0, as in the authors' code.

    Args:
        root: folder of the data set.
        variant: ``refcoco``, ``refcoco+`` or ``refcocog``.
        splitter: group that made the split: ``unc``, ``google`` or ``umd``. None is ``umd`` for
            RefCOCOg and ``unc`` otherwise, as in the papers.
        split: ``train``, ``val``, ``testA``, ``testB`` or ``test``, if the file has it.
        size: side in pixels of the square to which image (bilinear) and mask (nearest) are
            stretched, as in the papers; None keeps the size of the image.
        all_images: whether all images must exist; if not, a missing image raises an error when it
            is read.

    Raises:
        InputError: if a file is missing or damaged, images are missing (the message counts them
            and names the first), or the split does not exist.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        variant: Variant = "refcoco",
        splitter: str | None = None,
        split: str = "train",
        size: int | None = 512,
        all_images: bool = True,
    ) -> None:
        splitter = SPLITTERS[variant][0] if splitter is None else splitter
        if splitter not in SPLITTERS[variant]:
            splitters = ", ".join(SPLITTERS[variant])
            raise InputError(f"{variant} was not split by {splitter!r}: choose {splitters}")
        self.name = f"{variant}-{splitter}-{split}"
        self.root = Path(root)
        self.size = size
        folder = self.root / variant
        rows = read_refs(folder / f"refs({splitter}).p")
        splits = sorted({row["split"] for row in rows})
        if split not in splits:
            raise InputError(
                f"{folder}: no split {split!r} by {splitter}; it has {', '.join(splits)}"
            )
        self.samples = [row for row in rows if row["split"] == split]
        wanted = {row["ann_id"] for row in self.samples}
        self._instances = folder / "instances.json"
        self._objects = _read_objects(self._instances, wanted)
        if all_images:
            self._require_images()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``; its prompt is its first sentence.

        Raises:
            InputError: if the image cannot be used, or does not have the size of its mask.
        """
        row = self.samples[index]
        sentences = tuple(row["sentences"])
        referent = self._objects[row["ann_id"]]
        height, width = referent.image_hw
        path = self.root / IMAGES / referent.image
        image = read_sized_image(path, (height, width), "instances.json")
        location = f"{self._instances}: annotation {row['ann_id']}"
        mask = torch.from_numpy(count_parts(location, referent.outline, (height, width)))
        if self.size is not None:
            image, mask = stretch_to_square(image, mask, self.size)
        return Sample(
            id=str(row["ref_id"]),
            image=image,
            labels={"referent": (mask == 1).long()},
            valid={"referent": torch.ones_like(mask, dtype=torch.bool)},
            prompt=sentences[0],
            sentences=sentences,
        )

    def _require_images(self) -> None:
        """Raise an error if images of the split are missing."""
        folder = self.root / IMAGES
        existing = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        wanted = sorted({referent.image for referent in self._objects.values()})
        missing = [name for name in wanted if name not in existing]
        if missing:
            some = ", ".join(missing[:MAX_LISTED]) + (", ..." if len(missing) > MAX_LISTED else "")
            raise InputError(
                f"{folder}: {len(missing)} of {len(wanted)} images of {self.name} are missing "
                f"({some}): copy COCO's train2014 there; diffsight check-data lists them all"
            )


def read_refs(path: Path) -> list[dict[str, Any]]:
    """Return the objects with their sentences, from the pickle of the REFER tool or its JSON copy.

    Args:
        path: path of the pickle. Its JSON copy has the same name with the suffix ``.json``, and
            the SHA-256 of the pickle. If there is no copy, or it was made from another pickle, it
            is written. Without the pickle, any copy is read.

    Returns:
        One dict per object: ``ref_id`` and ``ann_id`` (int), ``split`` (str) and ``sentences``
        (list of str).

    Raises:
        InputError: if the file is missing or damaged, or contains anything but plain data.
    """
    copy = path.with_suffix(".json")
    digest = content_hash(path) if path.is_file() else None
    if copy.is_file():
        with reading(copy, "damaged ({reason}): delete it"):
            content = read_json(copy)
            if isinstance(content, list):  # of an older version
                content = {"sha256": None, "refs": content}
            if digest in (None, content["sha256"]):
                return [_validate_row(row) for row in content["refs"]]
    try:
        rows = [_parse_ref(ref) for ref in load_plain(path)]
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}: unpack the data set of the REFER tool there"
        ) from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises errors of any type
        raise InputError(f"{path}: no list of references ({error}): copy it again") from None
    try:
        with replacing(copy) as partial:
            partial.write_text(json.dumps({"sha256": digest, "refs": rows}), encoding="utf-8")
    except (InputError, OSError):
        pass  # the folder is read-only: the pickle is read again next time
    return rows


def stretch_to_square(image: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return image and mask resized by Pillow to a square, as in the papers.

    Args:
        image: RGB, ``3 h w`` of uint8; resized bilinearly.
        mask: ``h w`` of uint8; resized to the nearest pixel.
        size: side of the square in pixels.
    """
    square = (size, size)
    pixels = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
        square, Image.Resampling.BILINEAR
    )
    labels = Image.fromarray(mask.numpy()).resize(square, Image.Resampling.NEAREST)
    return (
        torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous(),
        torch.from_numpy(np.array(labels)),
    )


@dataclass(frozen=True)
class _Object:
    """An annotated object: the file name and (height, width) of its image, and its COCO outline."""

    image: str
    image_hw: tuple[int, int]
    outline: Any


def _parse_ref(ref: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an entry of the pickle that the data set needs.

    Raises:
        TypeError: if a field has another type than expected.
    """
    row = {
        "ref_id": ref["ref_id"],
        "ann_id": ref["ann_id"],
        "split": ref["split"],
        "sentences": [sentence["sent"] for sentence in ref["sentences"]],
    }
    # checked before JSON is written: a list that contains itself many times would fill the memory
    if not all(isinstance(row[key], int) for key in ("ref_id", "ann_id")):
        raise TypeError("an id is not a number")
    if not all(isinstance(text, str) for text in (row["split"], *row["sentences"])):
        raise TypeError("a sentence or split is not a string")
    return row


def _validate_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the JSON copy, checked to have the fields that ``_parse_ref`` returns.

    Raises:
        ValueError: if a field has another type than expected, or there is no sentence.
    """
    split, sentences = row["split"], row["sentences"]
    if not isinstance(split, str) or not all(isinstance(one, str) for one in sentences):
        raise ValueError("a sentence or split is not a string")
    if not isinstance(sentences, list) or not sentences:
        raise ValueError("no sentence")
    return {
        "ref_id": int(row["ref_id"]),
        "ann_id": int(row["ann_id"]),
        "split": split,
        "sentences": sentences,
    }


def _read_objects(path: Path, wanted: set[int]) -> dict[int, _Object]:
    """Return the annotated objects by annotation id, for the ids in ``wanted``.

    Raises:
        InputError: if the file cannot be read, or lacks one of the annotations.
    """
    text = read_text(path, "COCO's instances")
    with reading(path, "not COCO's instances of this data set ({reason}): unpack it there"):
        data = parse_json(text)
        images = {
            image["id"]: (str(image["file_name"]), (int(image["height"]), int(image["width"])))
            for image in data["images"]
        }
        objects = {
            a["id"]: _Object(*images[a["image_id"]], a["segmentation"])
            for a in data["annotations"]
            if a["id"] in wanted
        }
    if missing := sorted(wanted - objects.keys()):
        raise InputError(
            f"{path}: {len(missing)} of {len(wanted)} annotations are missing (first: "
            f"{missing[0]}): take the file that came with the references"
        )
    return objects
