"""Write and run ONNX files. Only this module imports onnx and onnxruntime (extra ``export``)."""

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from diffsight.errors import InputError, MissingExtraError

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
INPUT = "image"
KEY = "diffsight"  # of the description in the metadata of the file


def require_extra() -> None:
    """Check that the libraries of the extra are installed.

    Raises:
        MissingExtraError: if one is missing.
    """
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"{name} is not installed: pip install 'diffsight[export]'")


def versions() -> dict[str, str]:
    """Return the versions of the libraries."""
    return {name: metadata.version(name) for name in LIBRARIES}


def write_onnx(
    program: torch.export.ExportedProgram,
    outputs: Sequence[str],
    path: Path,
    about: Mapping[str, Any],
) -> None:
    """Write a traced model as an ONNX file; weights above 2 GB go to a second file ``NAME.data``.

    Args:
        program: graph with one input.
        outputs: names of the outputs in their order.
        path: file to write.
        about: description of the model, stored as JSON in the metadata of the file.

    Raises:
        InputError: if an operation of the graph cannot be converted.
    """
    with _quiet():
        try:
            made = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=list(outputs), verbose=False
            )
        except torch.onnx.OnnxExporterError as error:
            raise InputError(
                f"{path.name}: the model cannot be converted to ONNX "
                f"({_first_line(error.__cause__ or error)}): try --format torch"
            ) from error
        assert made is not None
        made.model.metadata_props[KEY] = json.dumps(about)
        made.save(path)


def weights_of(path: Path) -> Path:
    """Return the path of the second file of an ONNX file, which has weights above 2 GB."""
    return path.with_name(f"{path.name}.data")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Return a context without the messages of the exporter about its steps."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


class OnnxFile:
    """An ONNX file in onnxruntime, on the CPU.

    Args:
        path: the file.

    Raises:
        InputError: if ONNX Runtime cannot run it.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self._name = path.name
        with self._one_line():
            self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def __call__(self, image: Float[np.ndarray, "b 3 h w"]) -> list[np.ndarray]:
        """Return the outputs of the file for images in [0, 1]."""
        with self._one_line():
            outputs: Any = self._session.run(None, {INPUT: image})
        return outputs

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        """Return a context that turns an error of ONNX Runtime into one line."""
        try:
            yield
        except Exception as error:  # its errors have no base class of their own
            raise InputError(
                f"{self._name}: ONNX Runtime cannot run it ({_first_line(error)}): give a smaller "
                "--size, or --format torch"
            ) from error
