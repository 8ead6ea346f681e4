"""Turn captions into one prompt for all images of a data set: the mean of their tokens (EVP)."""

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from diffsight.errors import InputError

log = logging.getLogger(__name__)
SPLIT = re.compile("-(train|training|val|validation|test|testA|testB)$")  # of a data set's name


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)

    from diffsight.datasets.captioned import read_captions
    from diffsight.prompts.text import mean_prompt, read_table, save_rows

    metadata: dict[str, str] = {}
    if args.table is not None:
        rows, count = read_table(args.table).mean(dim=0, keepdim=True), 1
    else:
        if args.encoder is None:
            raise InputError("--captions need a text tower: name one with --encoder")
        files = [read_captions(path) for path in args.captions]
        for path, file in zip(args.captions, files, strict=True):
            # the parts of one data set belong together: the authors' mean is over both lists
            if SPLIT.sub("", file.data) != SPLIT.sub("", files[0].data):
                raise InputError(
                    f"{path}: captions of data set {file.data!r}, those of {args.captions[0]} are "
                    f"of {files[0].data!r}: aggregate one data set at a time"
                )
        metadata = {"data": ", ".join(sorted({file.data for file in files}))}
        captions = [text for file in files for text in file.texts.values()]
        if not captions:
            raise InputError(f"{args.captions[0]}: no caption in it: see `diffsight caption`")
        count = len(captions)
        rows = mean_prompt(
            captions, encoder=args.encoder, num_tokens=args.tokens, pooled=args.pooled
        )
    metadata["source"] = f"{args.encoder or args.table}, {count} texts"
    save_rows(args.out, rows, metadata)
    log.info("%s: %d token(s) of %d numbers", args.out, *rows.shape)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffsight aggregate-prompts", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--captions", type=Path, nargs="+", metavar="FILE", help="files of `diffsight caption`"
    )
    what.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="file of `diffsight text-table`, whose mean is one vector",
    )
    parser.add_argument("--encoder", help="text tower of --captions, as for text-table")
    parser.add_argument(
        "--tokens",
        type=int,
        default=40,
        metavar="N",
        help="tokens of a caption, padded (default: 40)",
    )
    parser.add_argument(
        "--pooled",
        action="store_true",
        help="one vector: the mean of the captions' end-of-text features",
    )
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    return parser
