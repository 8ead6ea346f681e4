"""``diffsight caption``: write a caption for every image, as EVP uses for its prompts."""

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from diffsight.cli import options
from diffsight.cli.console import progress, write_line
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError
from diffsight.locks import claim_name, made_folder

if TYPE_CHECKING:
    from diffsight.datasets.base import AbstractDataset, Sample
    from diffsight.prompts.captions import Captioner

log = logging.getLogger(__name__)
SAVE_EVERY = 50  # captions


@contextlib.contextmanager
def _claim(out: Path) -> Iterator[None]:
    with made_folder(out.parent), claim_name(out):
        yield


@command("caption", exclusive=("images", "data"), is_required=True, claim=_claim)
def main(
    *,
    images: options.Images | None = None,
    data: options.Data | None = None,
    captioner: Annotated[str | None, Flag("ID")] = None,
    out: options.File,
    batch_size: int = 8,
    trust: options.Trust = (),
    device: str | None = None,
    dtype: options.Dtype | None = None,
) -> int:
    """Write a caption for every image with BLIP-2, as EVP uses for its prompts.

    An interrupted run continues. If an image cannot be used, the others are still captioned, and
    the exit status is 1.

    Args:
        data: data set to caption: its class and arguments, such as NYUDepth root=nyu_depth_v2
            split=train.
        captioner: BLIP-2 model: a folder or a hub id (default: the one of EVP).
        out: JSON file of the captions to write.
        batch_size: number of images per batch.
        dtype: data type of the captioner's weights; float16 and bfloat16 need half the memory of
            float32 (default: the type in the files).

    Example:
        diffsight caption --images photos --out captions.json
    """
    import torch

    from diffsight.cli.recipe import data_of
    from diffsight.ops.device import usable_device
    from diffsight.prompts.captions import BLIP2, Captioner

    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: give at least 1")
    if out.is_dir():
        raise InputError(f"{out}: is a folder: give the name of a .json file as --out")
    samples = _Photos(images, out) if images else data_of(data or (), trusted=trust)
    source = captioner or BLIP2
    captions = _Captions(out, samples.name, source)
    kind = getattr(torch, dtype) if dtype else None
    captioner_model = Captioner(source, device=usable_device(device), dtype=kind)
    failed = _caption_missing(samples, captioner_model, captions, batch_size)
    log.info("%s: %d captions of %s", out, len(captions.texts), samples.name)
    return options.SOME_FAILED if failed else 0


class _Captions:
    """The file of captions; captions of an earlier run are kept.

    Raises:
        InputError: if the file has captions of another data set or by another captioner.
    """

    def __init__(self, out: Path, data: str, source: str) -> None:
        from diffsight.datasets.captioned import read_captions

        self._out, self._data, self._source = out, data, source
        self._unsaved = 0
        self.texts: dict[str, str] = {}
        if not out.exists():
            return
        earlier = read_captions(out, data=data)
        if earlier.texts and earlier.captioner != source:
            raise InputError(
                f"{out}: its captions are by {earlier.captioner or 'an unnamed captioner'}, not "
                f"by {source}: choose another --out, or delete the file"
            )
        self.texts = earlier.texts

    def add(self, samples: "Sequence[Sample]", texts: Sequence[str]) -> None:
        """Add captions; write the file after every ``SAVE_EVERY`` new ones."""
        self.texts.update((one.id, text) for one, text in zip(samples, texts, strict=True))
        self._unsaved += len(texts)
        if self._unsaved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write the file if there are new captions."""
        from diffsight.atomic import replacing

        if not self._unsaved:
            return
        report = {"data": self._data, "captioner": self._source, "captions": self.texts}
        with replacing(self._out) as partial:
            partial.write_text(json.dumps(report, indent=0) + "\n", encoding="utf-8")
        self._unsaved = 0


def _caption_missing(
    data: "AbstractDataset | _Photos", captioner: "Captioner", captions: _Captions, batch_size: int
) -> int:
    """Add and save the missing captions; return the number of images that could not be used."""
    waiting: list[Sample] = []
    failed = 0
    try:
        with progress("captions", len(data)) as advance:
            for index in range(len(data)):
                try:
                    sample = data[index]
                except InputError as error:
                    failed += 1
                    write_line(str(error))
                else:
                    waiting += [] if sample.id in captions.texts else [sample]
                if waiting and (len(waiting) == batch_size or index == len(data) - 1):
                    captions.add(waiting, captioner([one.image for one in waiting]))
                    waiting = []
                advance()
    finally:  # keep finished captions after any error
        captions.save()
    return failed


class _Photos:
    """Images of the user, as a data set."""

    def __init__(self, arguments: Sequence[str], captions: Path) -> None:
        from diffsight.datasets.captioned import PHOTOS
        from diffsight.inference.write import find_images

        self.name = PHOTOS
        self._images = [job.image for job in find_images(arguments)]
        self._captions = captions

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> "Sample":
        from diffsight.datasets.base import Sample
        from diffsight.datasets.captioned import photo_key
        from diffsight.datasets.files import read_image

        image = self._images[index]
        return Sample(photo_key(image, self._captions), read_image(image), {}, {})
