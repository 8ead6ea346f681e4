"""Turn an original checkpoint into a diffsight model, with a report of every key."""

import argparse
import inspect
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffsight.errors import InputError
from diffsight.formats.text import read_lines

if TYPE_CHECKING:
    from diffsight.backbones.ldm_keys import KeyReport

log = logging.getLogger(__name__)

INDOORS_M = 10.0  # cap of NYU's models; those with a larger one are KITTI's


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)

    from diffsight.hub import save
    from diffsight.hub.convert import CONVERTERS, IncompleteError, read_original

    if args.kind not in CONVERTERS:
        raise InputError(f"unknown kind {args.kind!r}: choose from {', '.join(CONVERTERS)}")
    converter = CONVERTERS[args.kind]
    options: dict[str, Any] = {"partial": args.partial}
    for option, name, value in (
        ("--max-depth", "max_depth_m", args.max_depth),
        ("--names", "names", args.names and _lines(args.names)),
        ("--encoder", "encoder", args.encoder),
        ("--latent-std", "latent_std", args.latent_std),
    ):
        if value is None:
            continue
        if name not in inspect.signature(converter).parameters:
            raise InputError(f"{option}: {args.kind} has none: leave it out")
        options[name] = value
    state, dropped = read_original(args.checkpoint)
    try:
        model, report = converter(state, **options)
    except IncompleteError as error:
        error.report.dropped |= dropped
        _report(error.report, as_json=args.json)
        raise
    report.dropped |= dropped
    about = {"converted_from": args.checkpoint.name, "converter": args.kind}
    side = _short_side(args.kind, args.max_depth or INDOORS_M)
    size = {} if side is None else {"short_side": side}
    save(model, args.out, info=about | size)
    log.info("%s -> %s: %s", args.checkpoint, args.out, report.summary())
    _report(report, as_json=args.json)
    return 0


def _short_side(kind: str, max_depth_m: float) -> int | None:
    """Return that of the authors' training images; KITTI's are cropped, not resized."""
    if not kind.endswith("depth"):
        return 512
    return 480 if max_depth_m <= INDOORS_M else None


def _report(report: "KeyReport", *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(vars(report), indent=1) + "\n")
        return
    for key, reason in report.dropped.items():
        log.info("  dropped %s: %s", key, reason)
    for title, keys in (("unused", report.unused), ("missing", report.missing)):
        for key in keys:
            log.info("  %s %s", title, key)


def _lines(path: Path) -> list[str]:
    line = "cannot be read as a list of names ({reason}): give a text file"
    return list(filter(None, read_lines(path, line)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffsight convert", description=__doc__)
    parser.add_argument(
        "kind",
        help="evp-depth, evp-referring, vpd-depth, vpd-referring or vpd-segmentation",
    )
    parser.add_argument(
        "checkpoint", type=Path, help="the authors' .ckpt / .pth, or a .safetensors"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="NAME",
        help="the model to write: a folder, or one .safetensors file",
    )
    parser.add_argument(
        "--max-depth",
        type=float,
        metavar="FLOAT",
        help="cap of depth models in metres (default: 10)",
    )
    parser.add_argument(
        "--latent-std",
        type=float,
        metavar="FLOAT",
        help="what EVP's latents were divided by (default: the authors' value)",
    )
    parser.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="text file with a line for each scene or class of the checkpoint's text table",
    )
    parser.add_argument(
        "--encoder",
        metavar="DIR|ID",
        help="CLIP text model for sentences as prompts (default: none)",
    )
    parser.add_argument(
        "--partial", action="store_true", help="convert even where entries are missing"
    )
    parser.add_argument("--json", action="store_true", help="print the key report as JSON")
    return parser
