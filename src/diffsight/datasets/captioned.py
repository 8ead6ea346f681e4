"""A data set whose prompts are captions that were made before (EVP)."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.errors import InputError
from diffsight.formats.text import read_json, reading

PHOTOS = "images"  # data set of captions of images that belong to none


class Captioned(AbstractDataset):
    """The samples of a data set, each with its caption as its prompt.

    Args:
        dataset: where samples and labels come from.
        captions: file that ``diffsight caption`` wrote for it: JSON with ``data``, the name of the
            data set, and ``captions`` by sample id.

    Raises:
        InputError: if the file is damaged or is of another data set.
    """

    def __init__(self, *, dataset: AbstractDataset, captions: str | Path) -> None:
        self.name = dataset.name
        self.class_names = dataset.class_names
        self._dataset = dataset
        self._path = Path(captions)
        self._captions = read_captions(self._path, data=dataset.name).texts

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``.

        Raises:
            InputError: if it has no caption.
        """
        sample = self._dataset[index]
        if sample.id not in self._captions:
            raise InputError(
                f"{self._path}: no caption for {sample.id}: write the missing ones with `diffsight "
                "caption`"
            )
        return replace(sample, prompt=self._captions[sample.id], sentences=())


@dataclass(frozen=True)
class Captions:
    """What ``diffsight caption`` wrote.

    Attributes:
        data: name of the data set.
        captioner: folder or hub id of what made them; None where the file does not say.
        texts: by sample id.
    """

    data: str
    captioner: str | None
    texts: dict[str, str]


def read_captions(path: Path, *, data: str | None = None) -> Captions:
    """Return the contents of a file of captions.

    Args:
        path: file that ``diffsight caption`` wrote.
        data: name of the data set that they must be of; None takes any.

    Raises:
        InputError: if the file is damaged or is of another data set.
    """
    with reading(path, "no captions ({reason}): write them with `diffsight caption`"):
        content = read_json(path)
    texts = content.get("captions") if isinstance(content, dict) else None
    if not isinstance(texts, dict) or "data" not in content:
        raise InputError(
            f"{path}: no captions (an object of data and captions is expected): write them with "
            "`diffsight caption`"
        )
    for name, text in texts.items():
        if not isinstance(text, str):
            raise InputError(f"{path}: the caption of {name} is {text!r}: write a text there")
    if not isinstance(content.get("captioner"), str | None):
        raise InputError(f"{path}: captioner is no text: write the id of what made the captions")
    captions = Captions(str(content["data"]), content.get("captioner"), texts)
    if data not in (None, captions.data):
        raise InputError(
            f"{path}: captions of data set {captions.data!r}, not of {data!r}: choose another file"
        )
    return captions


def photo_key(image: Path, captions: Path) -> str:
    """Return an image's name in a file of captions: its path from the file's folder.

    Args:
        image: its file.
        captions: the file.
    """
    return Path(os.path.relpath(image, captions.parent)).as_posix()
