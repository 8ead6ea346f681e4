"""The error metrics of metric depth, averaged over images as in the tables of NYU and KITTI."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffsight.errors import InputError
from diffsight.metrics.sums import SumMetric
from diffsight.types import Masks

Depths = Float[Tensor, "b h w"]
NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "d1", "d2", "d3")


class DepthMetrics(SumMetric):
    """Depth errors over the valid pixels of each image, then the mean over the images.

    ``compute`` returns scalars by name. With prediction p, target g and e = ln p - ln g:

    * ``abs_rel`` = mean(abs(p - g) / g), ``sq_rel`` = mean((p - g)^2 / g) in metres,
    * ``rmse`` = sqrt(mean((p - g)^2)) in metres, ``rmse_log`` = sqrt(mean(e^2)),
    * ``log10`` = mean(abs(e)) / ln 10,
    * ``silog`` = sqrt(mean(e^2) - mean(e)^2 / 2), without the factor 100 of some tables,
    * ``d1``, ``d2``, ``d3``: fraction of pixels with max(p / g, g / p) < 1.25, 1.25^2, 1.25^3,
    * ``images``: number of images with a valid pixel, ``skipped``: number of images without one.

    Sums are in float64.
    """

    def __init__(self) -> None:
        super().__init__(len(NAMES) + 2)

    def update(self, prediction: Depths, target: Depths, valid: Masks) -> None:
        """Add a batch.

        Args:
            prediction: predicted depth in metres; finite and positive where ``valid``.
            target: true depth in metres; finite and positive where ``valid``.
            valid: pixels that count.

        Raises:
            InputError: if a valid depth is not finite or not positive.
        """
        for name, depth_m in (("prediction", prediction), ("target", target)):
            bad = int((valid & ~((depth_m > 0) & depth_m.isfinite())).sum())
            if bad:
                raise InputError(
                    f"{bad} valid pixels of the {name} are not a finite positive number: apply the "
                    "prepare() and mask() of a protocol first"
                )
        has_valid = valid.flatten(1).any(dim=1)
        errors = errors_per_image(prediction, target, valid).sum(dim=0)
        images = torch.stack([has_valid.sum(), (~has_valid).sum()])
        self.sums += torch.cat([errors, images])

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """Return the mean errors and the numbers of images by name.

        Raises:
            InputError: if no image had a valid pixel.
        """
        *errors, images, skipped = self.sums
        if images == 0:
            raise InputError(
                "no image with a valid pixel was seen: check the depth unit and the protocol's mask"
            )
        means = {name: total / images for name, total in zip(NAMES, errors, strict=True)}
        return means | {"images": images.clone(), "skipped": skipped.clone()}


def errors_per_image(prediction: Depths, target: Depths, valid: Masks) -> Float64[Tensor, "b 9"]:
    """Return the errors of each image in the order of ``NAMES``; all 0 without a valid pixel."""
    # invalid pixels are set to a perfect prediction of 1 m, so that their logarithms are finite
    p = torch.where(valid, prediction.double(), 1)
    g = torch.where(valid, target.double(), 1)
    count = valid.flatten(1).sum(dim=1).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return torch.where(valid, values, 0).flatten(1).sum(dim=1) / count

    difference = p - g
    log_difference = p.log() - g.log()
    ratio = torch.maximum(p / g, g / p)
    mean_square_log = mean(log_difference.square())
    return torch.stack(
        [
            mean(difference.abs() / g),
            mean(difference.square() / g),
            mean(difference.square()).sqrt(),
            mean_square_log.sqrt(),
            mean(log_difference.abs()) / torch.log(p.new_tensor(10)),
            (mean_square_log - mean(log_difference).square() / 2).sqrt(),
            *(mean((ratio < 1.25**k).double()) for k in (1, 2, 3)),
        ],
        dim=1,
    )
