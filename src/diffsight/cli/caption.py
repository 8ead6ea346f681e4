"""Describe images in sentences, which EVP's prompts are made of."""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffsight.cli.options import (
    SOME_FAILED,
    add_device,
    add_trust,
    device_of,
    require_writable,
    write_line,
)
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.datasets.base import AbstractDataset, Sample
    from diffsight.prompts.captions import Captioner

log = logging.getLogger(__name__)
SAVE_EVERY = 50  # images


def main(argv: Sequence[str]) -> int:
    """Run the command; what is in --out already is kept, so an interrupted run goes on.

    Status 1 if an image could not be used, after all others are done.
    """
    args = _parser().parse_args(argv)

    from diffsight.cli.recipe import data_of
    from diffsight.prompts.captions import BLIP2, Captioner

    if args.batch_size < 1:
        raise InputError(f"--batch-size {args.batch_size}: give at least 1")
    if args.out.is_dir():
        raise InputError(f"{args.out}: a folder: give --out the name of a .json file in it")
    require_writable(args.out.parent)
    data = _Photos(args.images, args.out) if args.images else data_of(args.data, trusted=args.trust)
    source = args.captioner or BLIP2
    captions = _kept(args.out, data.name, source)
    captioner = Captioner(source, device=device_of(args))
    failed = _describe(data, captioner, captions, args, source)
    log.info("%s: %d captions of %s", args.out, len(captions), data.name)
    return SOME_FAILED if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffsight caption", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--images", nargs="+", metavar="PATH", help="files, folders or quoted patterns"
    )
    what.add_argument(
        "--data",
        nargs="+",
        metavar=("CLASS", "KEY=VALUE"),
        help="data set and its arguments, such as: NYUDepth root=nyu_depth_v2 split=train",
    )
    parser.add_argument(
        "--captioner", metavar="ID", help="BLIP-2 folder or hub id (default: EVP's)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the .json to write"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="images that run together (default: 8)",
    )
    add_trust(parser)
    add_device(parser)
    return parser


def _kept(out: Path, data: str, source: str) -> dict[str, str]:
    """Return what an earlier run wrote.

    Raises:
        InputError: if that is of another data set or by another captioner.
    """
    from diffsight.datasets.captioned import read_captions

    if not out.exists():
        return {}
    kept = read_captions(out, data=data)
    if kept.texts and kept.captioner != source:
        raise InputError(
            f"{out}: its captions are by {kept.captioner or 'an unnamed captioner'}, not "
            f"by {source}: choose another --out, or delete the file"
        )
    return kept.texts


def _describe(
    data: "AbstractDataset | _Photos",
    captioner: "Captioner",
    captions: dict[str, str],
    args: argparse.Namespace,
    source: str,
) -> int:
    """Add the missing captions and save them; return how many images could not be used."""
    from rich.console import Console
    from rich.progress import Progress

    from diffsight.datasets.files import replacing

    def save() -> None:
        report = {"data": data.name, "captioner": source, "captions": captions}
        with replacing(args.out) as partial:
            partial.write_text(json.dumps(report, indent=0) + "\n", encoding="utf-8")

    console = Console(stderr=True)
    waiting: list[Sample] = []
    unsaved = failed = 0
    try:
        with Progress(console=console, disable=not console.is_terminal) as bar:
            for index in bar.track(range(len(data)), description="captions"):
                try:
                    sample = data[index]
                except InputError as error:
                    failed += 1
                    write_line(console, str(error))
                else:
                    waiting += [] if sample.id in captions else [sample]
                if waiting and (len(waiting) == args.batch_size or index == len(data) - 1):
                    texts = captioner([one.image for one in waiting])
                    captions.update(
                        (one.id, text) for one, text in zip(waiting, texts, strict=True)
                    )
                    unsaved += len(waiting)
                    waiting = []
                if unsaved >= SAVE_EVERY:
                    save()
                    unsaved = 0
    finally:  # what is done is kept, whatever stopped the run
        if unsaved:
            save()
    return failed


class _Photos:
    """Images of the user."""

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
