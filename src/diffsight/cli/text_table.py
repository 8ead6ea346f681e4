"""Turn names into a table of CLIP text features; their order is stored with it."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from diffsight.errors import InputError
from diffsight.formats.text import read_lines

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="diffsight text-table", description=__doc__)
    parser.add_argument(
        "names",
        metavar="FILE|LIST",
        help="text file, one class or scene name per line, or a list: ade20k, nyu_scenes",
    )
    parser.add_argument(
        "--encoder",
        required=True,
        help="text tower: a Stable Diffusion or CLIP folder, a hub id, or tiny, the model of the "
        "package",
    )
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    parser.add_argument(
        "--templates",
        choices=("single", "imagenet"),
        default="imagenet",
        help='single: "a photo of a ..." (ADE20K); imagenet: the mean of CLIP\'s 80 prompts (NYU) '
        "(default: imagenet)",
    )
    parser.add_argument("--max-length", type=int, default=20, help="tokens per text (default: 20)")
    args = parser.parse_args(argv)

    from diffsight.prompts.text import build_text_table, save_table

    names = _names(args.names)
    if len(set(names)) != len(names) or not names:
        raise InputError(f"{args.names}: needs different names, one per line")
    rows = build_text_table(
        names, encoder=args.encoder, templates=args.templates, max_length=args.max_length
    )
    save_table(args.out, names, rows, f"{args.encoder}, {args.templates}, {args.max_length} tokens")
    norms = rows.norm(dim=1)
    log.info(
        "%s: %d rows of %d, norms %.2f to %.2f", args.out, *rows.shape, norms.min(), norms.max()
    )
    return 0


def _names(source: str) -> list[str]:
    """Return the lines of a file, or a list of ``label_maps``."""
    from diffsight.label_maps import class_names

    path = Path(source)
    if path.exists():
        return list(filter(None, read_lines(path, "no list of names ({reason}): give a text file")))
    try:
        return list(class_names(source))
    except InputError as error:
        raise InputError(f"{source}: no such file, and {error}") from None
