"""A data set whose prompts are captions from a file, as in EVP."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.errors import InputError
from diffsight.formats.text import read_json, reading

PHOTOS = "images"  # name of the data set in caption files of images that belong to no data set


class Captioned(AbstractDataset):
    """The samples of a data set, each with its caption as the prompt.

    Args:
        dataset: data set that provides the images and labels.
        captions: caption file that ``diffsight caption`` wrote for this data set: JSON with
            ``data`` (the name of the data set) and ``captions`` (texts by sample id).

    Raises:
        InputError: if the file is damaged or belongs to another data set.
    """

    def __init__(self, *, dataset: AbstractDataset, captions: str | Path) -> None:
        self.name = dataset.name
        self.describe_like(dataset)
        self.prompt_source = "caption"
        self._dataset = dataset
        self._path = Path(captions)
        self._captions = read_captions(self._path, data=dataset.name).texts

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``.

        Raises:
            InputError: if the file has no caption for this sample.
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
    """The contents of a caption file.

    Attributes:
        data: name of the captioned data set.
        captioner: folder or hub id of the captioning model; None if the file does not name it.
        texts: captions by sample id.
    """

    data: str
    captioner: str | None
    texts: dict[str, str]


def read_captions(path: Path, *, data: str | None = None) -> Captions:
    """Return the contents of a caption file.

    Args:
        path: file that ``diffsight caption`` wrote.
        data: required name of the data set; None accepts any.

    Raises:
        InputError: if the file is damaged or belongs to another data set.
    """
    with reading(path, "no captions ({reason}): write them with `diffsight caption`"):
        content = read_json(path)
    texts = content.get("captions") if isinstance(content, dict) else None
    if not isinstance(texts, dict) or "data" not in content:
        raise InputError(
            f"{path}: no captions (expected a JSON object with data and captions): write them with "
            "`diffsight caption`"
        )
    for name, text in texts.items():
        if not isinstance(text, str):
            raise InputError(f"{path}: the caption of {name} is {text!r}: replace it by a string")
    if not isinstance(content.get("captioner"), str | None):
        raise InputError(f"{path}: captioner is not a string: write the id of the captioning model")
    captions = Captions(str(content["data"]), content.get("captioner"), texts)
    if data not in (None, captions.data):
        raise InputError(
            f"{path}: captions of data set {captions.data!r}, not of {data!r}: choose another file"
        )
    return captions


def photo_key(image: Path, captions: Path) -> str:
    """Return the key of an image in a caption file: its path relative to the folder of this file.

    Args:
        image: path of the image.
        captions: path of the caption file.
    """
    return Path(os.path.relpath(image, captions.parent)).as_posix()
