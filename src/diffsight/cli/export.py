"""``diffsight export``: write a saved model as a file that other runtimes read."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from diffsight.choices import EXPORT_SUFFIXES, ExportFormat
from diffsight.cli import options
from diffsight.cli.console import write_json
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError
from diffsight.locks import claim_name

DIFFERS = 4  # exit status: the exported file computes other numbers than the model


@command("export")
def main(
    *,
    model: options.Model,
    format: ExportFormat = "onnx",
    out: options.File | None = None,
    size: Annotated[Sequence[int], Flag("PX")] = (),
    max_side: int = 1024,
    images: options.Images = (),
    tolerance: float = 1e-4,
    overwrite: bool = False,
    json: bool = False,
    network: options.SavedOptions,
) -> int:
    """Write a saved model as a file that other runtimes read, and a certificate.

    The file maps images to named maps, as one pass of `diffsight predict --short-side own` does.
    It accepts any number of images, and most models any size. The certificate, NAME.json, has the
    largest difference between the file and diffsight on ten images and, if the file accepts them,
    three other sizes. If it is above the tolerance, nothing is written, and the exit status is 4.

    Args:
        format: `onnx` for ONNX Runtime (extra export), or `torch` for PyTorch without diffsight.
        out: file to write (default: the name of the model with .onnx or .pt2).
        size: size of the traced images in pixels: one number for a square, or height and width
            (default: the size of the training images).
        max_side: for a model that adds noise, side of the largest square image; the noise is
            stored in the file.
        images: image files, folders or patterns for the certificate, of which the first ten are
            used; those that cannot be read are reported and skipped (default: rendered rooms).
        tolerance: largest difference of an output, relative to its largest number in the image.
        overwrite: replace an existing file (default: stop with an error).
        json: print the contents of NAME.json.
        network: frozen backbone of the model.

    Example:
        diffsight export --model mine.safetensors --format onnx
    """
    if len(size) > 2:
        raise InputError(f"--size {' '.join(map(str, size))}: give one or two numbers")
    if max_side < 1 or not tolerance >= 0:
        raise InputError("--max-side must be at least 1, and --tolerance at least 0")
    from diffsight import hub
    from diffsight.inference.certificate import CertificateError
    from diffsight.inference.export import export_model
    from diffsight.inference.write import find_images

    name = Path(model).name.removesuffix(".safetensors")
    path = Path(f"{name}{EXPORT_SUFFIXES[format]}") if out is None else out
    if path.is_file() and not overwrite:
        raise InputError(f"{path}: exists already: choose another --out, or give --overwrite")
    options.require_writable(path, is_file=True)
    chosen = [job.image for job in find_images(images)] if images else []
    loaded = hub.load(model, trusted=network.trust, backbone=network.backbone)
    try:
        with claim_name(path):
            record = export_model(
                loaded,
                path,
                format=format,
                size=(size[0], size[-1]) if size else None,
                max_side=max_side,
                images=chosen,
                tolerance=tolerance,
                source=model,
            )
    except CertificateError as error:
        sys.stderr.write(f"diffsight: {error}\n")
        return DIFFERS
    if json:
        write_json(record)
    else:
        sys.stdout.write(f"{path}: {_summary(record)}\n")
    return 0


def _summary(record: Mapping[str, Any]) -> str:
    """Return a line about the accepted sizes and the largest difference."""
    shape, certificate = record["input"], record["certificate"]
    sizes = f"sides are multiples of {shape['size_multiple']} px"
    if shape["size"] is not None:
        height, width = shape["size"]
        sizes = f"images of {width} x {height} px only (width x height)"
    elif shape["max_pixels"] is not None:
        sizes += f", at most {shape['max_pixels'] / 1e6:.2g} megapixels"
    worst = max(one["relative"] for one in certificate["largest_difference"].values())
    return f"{sizes}; differs from diffsight by at most {worst:.1e}"
