"""Smooth the predictions of a film over time: a moving average that follows what moves.

Let ``y_t`` be the output for frame ``t``: probabilities of classes, or maps of values. ``r_t`` is
the frame at the working size, reduced to a short side of at most 64 px. With a smoothing of ``s``
and ``y_0``, ``r_0`` as the first averages::

    d_t = mean over the colours of |r_t - averaged r_(t-1)|             (colours in [0, 1])
    w_t = 0 at every pixel if the mean of d_t over the frame exceeds 0.1 (a cut), else
    w_t = s * max(0, 1 - d_t / 0.1)
    averaged r_t = w_t * averaged r_(t-1) + (1 - w_t) * r_t
    averaged y_t = w_t * averaged y_(t-1) + (1 - w_t) * y_t

where ``w_t`` is resized to the size of ``y_t`` in the last line. The averaged output is the
prediction. Where the averaged output is not finite, the new output is used.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.errors import InputError
from diffsight.inference.confidence import Threshold
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Image, Predictor
from diffsight.ops.resize import resize_image, resize_maps, working_hw
from diffsight.outputs import Output
from diffsight.rig import Rig
from diffsight.tasks import Prediction
from diffsight.types import People

COMPARED_PX = 64  # short side at which frames are compared, where noise averages out
FULL_CHANGE = 0.1  # difference of colours at which earlier frames have no weight
CUT = 0.1  # mean difference of colours at a cut
log = logging.getLogger(__name__)


def check_smoothing(smoothing: float) -> None:
    """Check that a weight of earlier frames is in range.

    Raises:
        InputError: if it is not.
    """
    if not 0 <= smoothing < 1:
        raise InputError(f"smoothing {smoothing:g}: give a number from 0 to below 1, such as 0.8")


class Smoother:
    """Moving average of the outputs of a film.

    Args:
        smoothing: weight of earlier frames where the picture does not change, from 0 to below 1.

    Attributes:
        state: averaged frame ``picture`` (3 h w) and averaged output ``stack`` (c h w); empty
            before the first frame.
        cuts: number of cuts since the beginning.
    """

    def __init__(self, smoothing: float) -> None:
        check_smoothing(smoothing)
        self.smoothing = smoothing
        self.state: dict[str, Tensor] = {}
        self.cuts = 0

    def __call__(
        self, image: Float[Tensor, "3 _ _"], stack: Float[Tensor, "c h w"]
    ) -> Float[Tensor, "c h w"]:
        """Return the averaged output of a frame, and remember it for the next one.

        Args:
            image: the frame in [0, 1], of any size.
            stack: output for the frame (``Output.stack``).
        """
        height, width = image.shape[-2:]
        short = min(height, width, COMPARED_PX)
        picture = resize_image(image[None], working_hw(height, width, short))[0].to(stack)
        if self._fits(picture, stack):
            difference = (picture - self.state["picture"]).abs().mean(dim=0)
            if difference.mean() > CUT:
                self.cuts += 1
            else:
                weight = self.smoothing * (1 - difference / FULL_CHANGE).clamp(min=0)
                picture = torch.lerp(picture, self.state["picture"], weight)
                large = resize_maps(weight[None, None], (stack.shape[-2], stack.shape[-1]))[0]
                mixed = torch.lerp(stack, self.state["stack"], large)
                stack = torch.where(mixed.isfinite(), mixed, stack)
        self.state = {"picture": picture, "stack": stack}
        return stack

    def reset(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Forget all frames, or go back to an earlier state."""
        self.state, self.cuts = dict(state or {}), 0

    def _fits(self, picture: Tensor, stack: Tensor) -> bool:
        """Return whether there are averages of this size."""
        sizes = {name: one.shape for name, one in self.state.items()}
        return sizes == {"picture": picture.shape, "stack": stack.shape}


class SmoothedPredictor(Predictor):
    """A predictor for the frames of a film, whose predictions are smoothed over time.

    Every call is one film. Without smoothing its predictions are those of ``predictor``.

    Args:
        predictor: predictor with the model and its plan.
        smoothing: weight of earlier frames where the picture does not change, from 0 to below 1.

    Attributes:
        smoother: moving average.
        continues: whether calls continue the film of the previous call.

    Raises:
        InputError: if the number is out of range, or the model predicts joints or maps of cells.
    """

    def __init__(self, predictor: Predictor, smoothing: float) -> None:
        model = predictor.model
        super().__init__(
            model,
            predictor.plan,
            device=predictor.device,
            dtype=predictor.dtype,
            latents=predictor.latents,
        )
        self.smoother = Smoother(smoothing)
        self.continues = False
        self.text_features = predictor.text_features
        if smoothing and (model.task.has_regions or model.output.grid is not None):
            name = type(model.task).__name__
            raise InputError(f"{name} has no maps of pixels to smooth: leave the smoothing out")
        self.threshold = self._smoothed(predictor.threshold)

    def with_plan(self, plan: Plan) -> Self:
        """Return a copy with another plan, see ``Predictor``; it does not share the averages.

        If calls continue the film of the previous call, they are shared.
        """
        changed = super().with_plan(plan)
        if not self.continues:
            changed.smoother = Smoother(self.smoother.smoothing)
        return changed

    def use_confidence(self, confidence: float) -> None:
        """Add intervals or sets of classes, which are not calibrated for smoothed frames."""
        super().use_confidence(confidence)
        self.threshold = self._smoothed(self.threshold)

    def _smoothed(self, threshold: Threshold | None) -> Threshold | None:
        """Return a threshold that records whether predictions are smoothed; log it if they are."""
        if threshold is None or not self.smoother.smoothing:
            return threshold
        log.warning("the calibration of --confidence is for frames without smoothing")
        return replace(threshold, is_same_plan=False)

    def __call__(
        self,
        images: Iterable[Image],
        prompts: Iterable[str | None] | None = None,
        people: Iterable[People | None] | None = None,
        rigs: Iterable[Rig | None] | None = None,
    ) -> Iterator[Prediction]:
        """Yield one smoothed prediction per frame; see ``Predictor``."""
        if not self.continues:
            self.smoother.reset()
        yield from super().__call__(images, prompts, people, rigs)

    def _merge(self, canvas: Any, output: Output) -> Output:
        merged = super()._merge(canvas, output)
        if not (self.smoother.smoothing and canvas.is_last):
            return merged
        merged = merged.normalised()
        smoothed = self.smoother(canvas.image.cpu(), merged.stack[0])
        merged = merged.with_stack(smoothed[None])
        average = canvas.average if canvas.scales is None else canvas.scales
        if average.passes > 1:
            std = resize_image(average.std()[None], canvas.original_hw)
            merged = merged.with_std(std.cpu())
        return merged
