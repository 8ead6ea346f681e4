"""The error measures of metric depth, averaged image by image as NYU and KITTI tables are."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffsight.errors import InputError
from diffsight.metrics.sums import SumMetric
from diffsight.types import Masks

Depths = Float[Tensor, "b h w"]
NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "d1", "d2", "d3")


class DepthMetrics(SumMetric):
    """Per-image measures over the valid pixels, then their mean over the images (float64 sums).

    ``compute`` gives scalars by name. With prediction p, truth g and e = ln p - ln g:

    * ``abs_rel`` = mean(abs(p - g) / g), ``sq_rel`` = mean((p - g)^2 / g) in metres,
    * ``rmse`` = sqrt(mean((p - g)^2)) in metres, ``rmse_log`` = sqrt(mean(e^2)),
    * ``log10`` = mean(abs(e)) / ln 10, ``silog`` = sqrt(mean(e^2) - mean(e)^2 / 2), not x 100,
    * ``d1``, ``d2``, ``d3``: share of pixels with max(p / g, g / p) < 1.25, 1.25^2, 1.25^3,
    * ``images``: how many counted, ``skipped``: how many had no valid pixel.
    """

    def __init__(self) -> None:
        super().__init__(len(NAMES) + 2)

    def update(self, prediction: Depths, target: Depths, valid: Masks) -> None:
        """Add a batch; depth in metres, finite and positive wherever ``valid``.

        Raises:
            InputError: if a valid depth is not finite or not positive.
        """
        for name, depth_m in (("prediction", prediction), ("target", target)):
            bad = int((valid & ~((depth_m > 0) & depth_m.isfinite())).sum())
            if bad:
                raise InputError(
                    f"{bad} valid pixels of the {name} are no positive number: give one for every "
                    "pixel that is scored, as a protocol's prepare() and mask() do"
                )
        counted = valid.flatten(1).any(dim=1)
        measures = per_image(prediction, target, valid).sum(dim=0)
        images = torch.stack([counted.sum(), (~counted).sum()])
        self.sums += torch.cat([measures, images])

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """The means by name.

        Raises:
            InputError: if no image had a valid pixel.
        """
        *measures, images, skipped = self.sums
        if images == 0:
            raise InputError(
                "no image with a valid pixel was seen: check the depth unit and the protocol's mask"
            )
        means = {name: total / images for name, total in zip(NAMES, measures, strict=True)}
        return means | {"images": images.clone(), "skipped": skipped.clone()}


def per_image(prediction: Depths, target: Depths, valid: Masks) -> Float64[Tensor, "b 9"]:
    """Each image's measures in the order of ``NAMES``; zeros without a valid pixel."""
    # pixels that do not count hold a perfect prediction of 1 m; the means divide by the others
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
