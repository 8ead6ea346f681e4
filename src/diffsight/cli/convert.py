"""``diffsight convert``: convert an authors' checkpoint to a diffsight model."""

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
    from diffsight.model import DenseModel

log = logging.getLogger(__name__)

INDOORS_M = 10.0  # maximum depth of models for NYU; models for KITTI have a larger one


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
    """Convert an authors' checkpoint to a diffsight model, and report dropped and missing keys.

    Args:
        kind: method and task of the checkpoint: ddp-bev, ddp-depth, ddp-segmentation, evp-depth,
            evp-referring, meta-prompts-depth, meta-prompts-segmentation, vpd-depth, vpd-referring
            or vpd-segmentation.
        checkpoint: file of the checkpoint: .ckpt, .pth or .safetensors.
        out: saved model to write: a file that ends in .safetensors, or a folder.
        max_depth: maximum depth of a depth model in metres (default: 10).
        latent_std: standard deviation by which an EVP model divides its latents (default: the
            authors' value).
        names: text file with the scene types or class names of the checkpoint, one per line
            (default: those of the authors).
        encoder: CLIP text model for models that read sentences (default: none).
        partial: convert a checkpoint although keys are missing.
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
            raise InputError(f"{option}: {kind} does not have this option: leave it out")
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
    side = _short_side(kind, model, max_depth or INDOORS_M)
    size = {} if side is None else {"short_side": side}
    save(model, out, info=about | size)
    log.info("%s -> %s: %s", checkpoint, out, report.summary())
    _report(report, as_json=json)
    return 0


def _short_side(kind: str, model: "DenseModel", max_depth_m: float) -> int | None:
    """Return the short side of the authors' training images in pixels, before they were cropped.

    None if they were not resized: KITTI's are cropped.
    """
    from diffsight.label_maps import CITYSCAPES_CLASSES

    if kind == "ddp-bev":
        return None
    if kind.endswith("depth"):
        return 480 if max_depth_m <= INDOORS_M else None
    return 1024 if model.task.class_names == CITYSCAPES_CLASSES else 512


def _report(report: "KeyReport", *, as_json: bool) -> None:
    if as_json:
        write_json(vars(report), indent=1)
        return
    for key, reason in report.dropped.items():
        log.info("  dropped %s: %s", key, reason)
    for title, keys in (("unused", report.unused), ("missing", report.missing)):
        for key in keys:
            log.info("  %s %s", title, key)
