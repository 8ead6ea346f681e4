"""Export a saved model to a file that other runtimes read, and its certificate."""

import hashlib
import io
import json
import logging
import platform
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

import diffsight
from diffsight.atomic import report_unwritable, staging
from diffsight.choices import EXPORT_SUFFIXES, ExportFormat
from diffsight.config import to_config
from diffsight.datasets.files import read_image
from diffsight.errors import InputError
from diffsight.inference import onnx_file
from diffsight.inference.certificate import IMAGES, RunFile, certify, require_certificate
from diffsight.inference.export_graph import Traced, require_exportable, trace, working_size
from diffsight.model import DenseModel

DESCRIPTION = "diffsight.json"  # in a .pt2 file
ROOM_HW = (120, 160)
TOLERANCE = 1e-4
log = logging.getLogger(__name__)


def export_model(
    model: DenseModel,
    path: str | Path,
    *,
    format: ExportFormat = "onnx",
    size: tuple[int, int] | None = None,
    max_side: int = 1024,
    images: Sequence[Path] = (),
    tolerance: float = TOLERANCE,
    source: str = "the model",
) -> dict[str, Any]:
    """Write a model as a file for ONNX Runtime or PyTorch, and ``NAME.json`` with a certificate.

    The file maps a batch of images (``b 3 h w``, RGB in [0, 1]) to named maps, as one pass of the
    default plan does. For the certificate it is run on images of three other sizes than the
    traced one, and compared with diffsight in 32 bit.

    Args:
        model: model on the CPU, in 32 bit; it is set to evaluation mode.
        path: file to write.
        format: ``onnx`` (extra ``export``), or ``torch`` for a file of ``torch.export``.
        size: height and width of the traced images in pixels; default: the size of the training
            images.
        max_side: for a model that adds noise, the side in pixels of the largest square image that
            the file can process; its noise is stored in the file.
        images: images of the certificate, of which the first ten that can be read are used; the
            others before them are logged. Default: ten rendered rooms.
        tolerance: largest difference of an output, relative to its largest number in the image.
        source: name of the model, for messages.

    Returns:
        The content of ``NAME.json``.

    Raises:
        InputError: if the model cannot be exported, the size does not fit it, none of the images
            can be read, or the file cannot be written.
        MissingExtraError: if a library is missing.
        CertificateError: if a difference is above the tolerance; nothing is written.
    """
    path = Path(path)
    _require_name(path, format)
    require_exportable(model, source)
    hw = working_size(model.eval(), source, size)
    pictures = _read_images(images) if images else _rooms()
    log.info("%s: tracing, writing, and comparing with diffsight takes seconds to minutes", path)
    traced = trace(model, hw, max_side, source)
    if (traced.max_pixels or 0) > max_side**2:
        text = "--max-side %d is too small for the certificate: the file accepts up to %d pixels"
        log.info(text, max_side, traced.max_pixels)
    about = describe(model, traced)
    with report_unwritable(path), staging(path) as folder:
        file = folder / path.name
        run_file = _WRITERS[format](traced, file, about)
        certificate = certify(model, run_file, traced, pictures, tolerance)
        require_certificate(certificate, str(path))
        hashes = {one.name: _sha256(one) for one in sorted(folder.iterdir())}
        record = {
            "format": format,
            "sha256": hashes,
            **about,
            "certificate": certificate,
            "versions": _versions(format),
        }
        (folder / f"{path.name}.json").write_text(json.dumps(record, indent=1) + "\n")
        for one in sorted(folder.iterdir()):
            one.replace(path.with_name(one.name))
    if onnx_file.weights_of(path).name not in hashes:  # of an earlier, larger model
        onnx_file.weights_of(path).unlink(missing_ok=True)
    return record


def _require_name(path: Path, format: ExportFormat) -> None:
    """Check the name of a file, and that the libraries of its format are installed.

    Raises:
        InputError: if the name has another ending, or is that of a folder.
        MissingExtraError: if a library is missing.
    """
    if format == "onnx":
        onnx_file.require_extra()
    if path.suffix != EXPORT_SUFFIXES[format]:
        others = [name for name, suffix in EXPORT_SUFFIXES.items() if suffix == path.suffix]
        hint = "".join(f", or --format {name}" for name in others)
        raise InputError(
            f"{path}: give the file a name that ends in {EXPORT_SUFFIXES[format]}{hint}"
        )
    for one in (path, path.with_name(f"{path.name}.json")):
        if one.is_dir():
            raise InputError(f"{one}: is a folder: give the file another name")


def describe(model: DenseModel, traced: Traced) -> dict[str, Any]:
    """Return what a program must know about an exported file, as plain data.

    Args:
        model: the model.
        traced: the traced model.
    """
    task, (height, width) = model.task, traced.hw
    multiple = traced.multiple if traced.is_dynamic else None
    outputs = {
        name: {"unit": task.unit if name in ("values", "std") else ""} for name in traced.outputs
    }
    return {
        "diffsight": diffsight.__version__,
        "model": {
            "task": to_config(task),
            "method": type(model.method).__name__,
            "fingerprint": model.info.get("fingerprint"),
            "license": model.info.get("license"),
            "base_weights": model.info.get("base_weights", []),
        },
        "input": {
            "name": onnx_file.INPUT,
            "axes": "batch, RGB, height, width",
            "range": [0.0, 1.0],
            "size": None if traced.is_dynamic else [height, width],
            "size_multiple": multiple,
            "max_pixels": traced.max_pixels,
            "short_side": model.info.get("short_side"),
        },
        "outputs": outputs,
        "stride": model.output.stride,
        "classes": list(task.class_names),
    }


def _write_onnx(traced: Traced, path: Path, about: Mapping[str, Any]) -> RunFile:
    onnx_file.write_onnx(traced.program, traced.outputs, path, about)
    return onnx_file.OnnxFile(path)


def _write_torch(traced: Traced, path: Path, about: Mapping[str, Any]) -> RunFile:
    # not directly to the file: PyTorch ends the process if the disk is full
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about weights that are not on the CPU
        torch.export.save(traced.program, content, extra_files={DESCRIPTION: json.dumps(about)})
    path.write_bytes(content.getbuffer())
    graph = torch.export.load(path).module()

    def run_file(image: Any) -> list[Any]:
        with torch.inference_mode():
            return [one.numpy() for one in graph(torch.from_numpy(image))]

    return run_file


_WRITERS = {"onnx": _write_onnx, "torch": _write_torch}


def _versions(format: ExportFormat) -> dict[str, str]:
    """Return the versions of the libraries that wrote and ran the file."""
    used = {"python": platform.python_version(), "torch": torch.__version__}
    return used | (onnx_file.versions() if format == "onnx" else {})


def _read_images(paths: Sequence[Path]) -> list[UInt8[Tensor, "3 _ _"]]:
    """Return the first ten images that can be read; log those before them that cannot.

    Raises:
        InputError: if none can be read.
    """
    images: list[Tensor] = []
    for path in paths:
        try:
            images.append(read_image(path))
        except InputError as error:
            log.warning("skipped: %s", error)
        if len(images) == IMAGES:
            break
    if not images:
        raise InputError(
            f"none of the {len(paths)} images of the certificate can be read (first: {paths[0]}): "
            "give others with --images, or leave it out"
        )
    return images


def _rooms() -> list[UInt8[Tensor, "3 _ _"]]:
    """Return ten rendered rooms."""
    from diffsight.rooms import Rooms

    rooms = Rooms(split="val", count=IMAGES, size=ROOM_HW)
    return [rooms[index].image for index in range(IMAGES)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
