"""``diffsight convert``: turn an original checkpoint into a diffsight model."""

import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from diffsight.cli import options
from diffsight.cli.console import write_json
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.backbones.ldm_keys import KeyReport

log = logging.getLogger(__name__)

INDOORS_M = 10.0  # cap of NYU's models; those with a larger one are KITTI's


@command("convert")
def main(
    kind: str,
    checkpoint: Path,
    *,
    out: Annotated[Path, Flag("NAME")],
    max_depth: float | None = None,
    latent_std: float | None = None,
    names: options.File | None = None,
    encoder: Annotated[str | None, Flag("DIR|ID")] = None,
    partial: bool = False,
    json: bool = False,
) -> int:
    """Turn an original checkpoint into a diffsight model, with a report of every key.

    Args:
        kind: ddp-bev, ddp-depth, ddp-segmentation, evp-depth, evp-referring, meta-prompts-depth,
            meta-prompts-segmentation, vpd-depth, vpd-referring or vpd-segmentation.
        checkpoint: the authors' .ckpt / .pth, or a .safetensors.
        out: the model to write: a folder, or one .safetensors file.
        max_depth: cap of depth models in metres (default: 10).
        latent_std: number that EVP's latents were divided by (default: the authors').
        names: text file with a line for each scene or class of the checkpoint's text table.
        encoder: CLIP text model for sentences as prompts (default: none).
        partial: convert even where entries are missing.
        json: print the key report as JSON.

    Example:
        diffsight convert vpd-depth vpd_depth.ckpt --out vpd_depth.safetensors
    """
    from diffsight.datasets.class_lists import read_names
    from diffsight.hub import save
    from diffsight.hub.convert import CONVERTERS, IncompleteError
    from diffsight.weights import read_checkpoint

    if kind not in CONVERTERS:
        raise InputError(f"unknown kind {kind!r}: choose from {', '.join(CONVERTERS)}")
    converter = CONVERTERS[kind]
    arguments: dict[str, Any] = {"partial": partial}
    for option, name, value in (
        ("--max-depth", "max_depth_m", max_depth),
        ("--names", "names", names and read_names(names)),
        ("--encoder", "encoder", encoder),
        ("--latent-std", "latent_std", latent_std),
    ):
        if value is None:
            continue
        if name not in inspect.signature(converter).parameters:
            raise InputError(f"{option}: {kind} has none: leave it out")
        arguments[name] = value
    state, dropped = read_checkpoint(checkpoint)
    try:
        model, report = converter(state, **arguments)
    except IncompleteError as error:
        error.report.dropped |= dropped
        _report(error.report, as_json=json)
        raise
    report.dropped |= dropped
    about = {"converted_from": checkpoint.name, "converter": kind}
    side = _short_side(kind, max_depth or INDOORS_M)
    size = {} if side is None else {"short_side": side}
    save(model, out, info=about | size)
    log.info("%s -> %s: %s", checkpoint, out, report.summary())
    _report(report, as_json=json)
    return 0


def _short_side(kind: str, max_depth_m: float) -> int | None:
    """Return that of the authors' training images; KITTI's are cropped, not resized."""
    if kind == "ddp-bev":
        return None
    if not kind.endswith("depth"):
        return 512
    return 480 if max_depth_m <= INDOORS_M else None


def _report(report: "KeyReport", *, as_json: bool) -> None:
    if as_json:
        write_json(vars(report), indent=1)
        return
    for key, reason in report.dropped.items():
        log.info("  dropped %s: %s", key, reason)
    for title, keys in (("unused", report.unused), ("missing", report.missing)):
        for key in keys:
            log.info("  %s %s", title, key)
