"""The certificate of an exported file: how much its numbers differ from those of diffsight."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from diffsight.errors import InputError
from diffsight.inference.export_graph import Traced, predict_maps
from diffsight.model import DenseModel
from diffsight.ops.resize import resize_image
from diffsight.types import Images

IMAGES = 10
ROUNDING_FRACTION = 0.01  # of squared values, for the rounding of variances
CHUNKS = (1, 3, 3, 3)  # batches of the ten images; the traced batch has two
RunFile = Callable[[Float[np.ndarray, "b 3 h w"]], Sequence[np.ndarray]]


class CertificateError(InputError):
    """An exported file computes other numbers than the model."""


@dataclass
class Difference:
    """The largest difference of one output over all images and sizes.

    Attributes:
        absolute: largest difference of a number.
        relative: largest difference of a number, divided by the largest number of the same image.
            For a standard deviation, the largest difference of the variance, divided by the largest
            variance plus a hundredth of the largest squared value: a small variance is the
            difference of two large numbers, and its root would multiply their rounding errors.
    """

    absolute: float = 0.0
    relative: float = 0.0

    def add(
        self,
        ours: Float[Tensor, "b k h w"],
        theirs: Float[Tensor, "b k h w"],
        values: Float[Tensor, "b _ h w"] | None = None,
    ) -> None:
        """Count the difference of two batches; numbers that are not finite must be equal.

        Args:
            ours: numbers of diffsight.
            theirs: numbers of the file.
            values: values whose standard deviations the numbers are; None for other numbers.
        """
        self.absolute = max(self.absolute, float(_largest_gaps(ours, theirs).max()))
        if values is not None:
            ours, theirs = ours.square(), theirs.square()
        largest = _largest_numbers(ours)
        if values is not None:
            largest += ROUNDING_FRACTION * _largest_numbers(values.square())
        relative = _largest_gaps(ours, theirs) / largest.clamp(min=1e-12)
        self.relative = max(self.relative, float(relative.max()))


def certify(
    model: DenseModel,
    run_file: RunFile,
    traced: Traced,
    images: Sequence[UInt8[Tensor, "3 _ _"]],
    tolerance: float,
) -> dict[str, Any]:
    """Return the certificate as plain data.

    Args:
        model: model in evaluation mode, on the CPU.
        run_file: function that runs the exported file.
        traced: the traced model.
        images: images of any size.
        tolerance: largest relative difference.
    """
    sizes = other_sizes(traced.hw, traced.multiple) if traced.is_dynamic else [traced.hw]
    largest = {name: Difference() for name in traced.outputs}
    for hw in sizes:
        resized = torch.cat([resize_image(one[None].float() / 255, hw) for one in images])
        for chunk in _chunks(resized):
            ours, theirs = predict_maps(model, chunk), run_file(chunk.numpy())
            for name, array in zip(traced.outputs, theirs, strict=True):
                values = ours["values"] if name == "std" else None
                largest[name].add(ours[name], torch.from_numpy(array), values)
    return {
        "images": len(images),
        "sizes": [list(hw) for hw in sizes],
        "traced_size": list(traced.hw),
        "tolerance": tolerance,
        "largest_difference": {name: asdict(one) for name, one in largest.items()},
        "holds": all(one.relative <= tolerance for one in largest.values()),
    }


def _largest_numbers(maps: Float[Tensor, "b k h w"]) -> Float64[Tensor, " b"]:
    """Return the largest finite number of each image."""
    return maps.double().abs().nan_to_num(posinf=0.0).flatten(1).amax(dim=1)


def _largest_gaps(
    ours: Float[Tensor, "b k h w"], theirs: Float[Tensor, "b k h w"]
) -> Float64[Tensor, " b"]:
    """Return the largest difference of each image; infinity if a number is not finite in one."""
    gap = (ours.double() - theirs.double()).abs()
    is_same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    return torch.where(is_same, 0.0, gap).nan_to_num(nan=torch.inf).flatten(1).amax(dim=1)


def other_sizes(hw: tuple[int, int], multiple: int) -> list[tuple[int, int]]:
    """Return three sizes other than the traced one: higher, wider, and less high but much wider."""
    height, width = hw
    lower = height - multiple if height > 2 * multiple else height
    return [
        (height + multiple, width),
        (height, width + multiple),
        (lower, width + 2 * multiple),
    ]


def require_certificate(certificate: Mapping[str, Any], name: str) -> None:
    """Refuse a certificate that does not hold.

    Args:
        certificate: result of ``certify``.
        name: name of the file, for the message.

    Raises:
        CertificateError: if a difference is above the tolerance.
    """
    if certificate["holds"]:
        return
    worst, difference = max(
        certificate["largest_difference"].items(), key=lambda item: item[1]["relative"]
    )
    raise CertificateError(
        f"{name}: not written: its output {worst} differs from diffsight's by "
        f"{difference['relative']:.1e} of the largest number, more than the tolerance of "
        f"{certificate['tolerance']:.0e}: keep using diffsight, or give a larger --tolerance"
    )


def _chunks(images: Images) -> Sequence[Float[Tensor, "_ 3 h w"]]:
    if len(images) == IMAGES:
        return images.split(CHUNKS)
    return images.split(CHUNKS[-1])
