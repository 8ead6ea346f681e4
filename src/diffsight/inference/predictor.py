"""The predictor: a model and a plan turn a stream of images of any size into predictions."""

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffsight.errors import InputError
from diffsight.inference.confidence import Threshold, threshold_of
from diffsight.inference.plan import Plan
from diffsight.inference.text_features import TextFeatureCache
from diffsight.model import DenseModel
from diffsight.ops.groups import neighbours
from diffsight.ops.machine import require_bytes
from diffsight.ops.memory import keep_freed_memory, memory_for
from diffsight.ops.precision import float32_products
from diffsight.ops.resize import resized_image
from diffsight.ops.tiles import PassAverage, Window
from diffsight.outputs import Output
from diffsight.rig import Rig
from diffsight.tasks import Prediction
from diffsight.types import Draws, Encoded, Inputs, Latents, People

PIXEL_BYTES = 24  # memory of a pixel, at least: three colours, an output and its statistics
log = logging.getLogger(__name__)
Image = UInt8[Tensor, "3 _ _"] | Float[Tensor, "3 _ _"]


@dataclass(frozen=True)
class _Query:
    """What is known of an image besides its pixels.

    Attributes:
        prompt: a text, for depth the scene type.
        people: boxes for models of joints; None: the image shows one person.
        rig: of several cameras, a batch of one, for maps seen from above.
    """

    prompt: str | None = None
    people: People | None = None
    rig: Rig | None = None


@dataclass
class _Job:
    """One image, and the outputs of its regions so far.

    Attributes:
        hw: size of the image in pixels.
        outputs: of the regions that are done.
        places: of the regions that were begun.
        is_begun: whether that is all of them.
    """

    hw: tuple[int, int]
    outputs: list[Output] = field(default_factory=list)
    places: list[Any] = field(default_factory=list)
    is_begun: bool = False

    @property
    def is_done(self) -> bool:
        return self.is_begun and len(self.outputs) == len(self.places)


@dataclass(frozen=True)
class _Canvas:
    """One region of an image at a working size, and what was computed of it so far.

    Attributes:
        job: of the image.
        image: at the working size.
        query: what else is known of the image.
        original_hw: size of the region in pixels of the output.
        sides: mirrored or not, or both.
        average: of what was computed at the working size.
        scales: average over the scales and sides of the region, where there are several.
        last: whether the region is finished with this canvas.
    """

    job: _Job
    image: Tensor
    query: _Query
    original_hw: tuple[int, int]
    sides: tuple[bool, ...]
    average: PassAverage
    scales: PassAverage | None
    last: bool


@dataclass(frozen=True)
class _Pass:
    """One forward pass over one window of one canvas; ``member`` counts the ensemble."""

    canvas: _Canvas
    window: Window
    mirrored: bool
    member: int
    last: bool

    def image(self) -> Tensor:
        rows, columns = self.window
        view = self.canvas.image[:, rows, columns]
        return view.flip(-1) if self.mirrored else view

    def batch_key(self) -> tuple[object, ...]:
        """Return what passes must share to be run as one batch."""
        rig = self.canvas.query.rig
        return self.image().shape, rig and rig.layout()


class Predictor:
    """Runs a model on images as a plan says.

    Images are read one after another, as they are needed: a few at a time are in memory, however
    many there are. A prediction does not depend on which others are in its batch. Without ``dtype``
    a GPU computes in full 32 bit, not in TF32. On a CPU the process keeps the memory of freed
    tensors (``ops.memory``).

    Args:
        model: put into evaluation mode and moved to ``device``.
        plan: windows, flips, size, batch size.
        device: where to run; default: where the model is.
        dtype: ``torch.bfloat16`` or ``torch.float16`` for mixed precision; None is the model's own
            precision.
        latents: shared with the predictors of other models, such as ``SharedLatents``.

    Raises:
        InputError: if the device has too little memory for images of the plan's size, the plan has
            steps and the method none, or windows and flips where the output has its own grid.
    """

    def __init__(
        self,
        model: DenseModel,
        plan: Plan | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        latents: Latents | None = None,
    ) -> None:
        first = next(model.parameters(), torch.empty(0))
        self.plan = plan or Plan()
        if model.output.grid is not None:
            self.plan = self.plan.on_grid(type(model.task).__name__)
        self.device = first.device if device is None else torch.device(device)
        if self.plan.steps is not None and not model.method.accepts_steps:
            raise InputError(
                f"{type(model.method).__name__} does not refine its output step by step: leave "
                "steps out"
            )
        side = (self.plan.short_side or 0) * max(self.plan.scales)
        require_bytes(
            side**2 * PIXEL_BYTES,
            f"images at a short side of {side:.0f} px",
            "choose a smaller --short-side",
            device=str(self.device),
        )
        self.model = model.to(self.device).eval()
        self.threshold: Threshold | None = None
        self.dtype = dtype
        self.latents = latents
        self.text_features = TextFeatureCache()
        self._image_dtype = first.dtype
        if self.device.type == "cpu":  # not earlier: what a load leaves behind would split the heap
            keep_freed_memory()

    def __call__(
        self,
        images: Iterable[Image],
        prompts: Iterable[str | None] | None = None,
        people: Iterable[People | None] | None = None,
        rigs: Iterable[Rig | None] | None = None,
    ) -> Iterator[Prediction]:
        """Yield one prediction per image, in order, at the size of the image, on the CPU.

        The uncertainty of a prediction is the standard deviation of the predicted distribution
        where the method gives one, else that over the plan's passes; with one pass there is none.
        Classes have the method's own uncertainty, if it gives one.

        Args:
            images: RGB, uint8 or float in [0, 1], of any size each.
            prompts: one text or None per image (for depth the scene type); None alone stands for
                None each.
            people: boxes of each image for models of joints; None: an image shows one person.
            rigs: the cameras that an image shows side by side, a batch of one each, for maps seen
                from above.

        Raises:
            InputError: if the model does not know a prompt, an image is too large, or the model
                reads a rig and there is none.
        """
        self.model.to(self.device)  # models share a backbone, which another one may have moved
        known = (itertools.repeat(None) if one is None else one for one in (prompts, people, rigs))
        queries = itertools.starmap(_Query, zip(*known, strict=False))
        views = _EncodedViews(self.model, self.plan.ensemble_size)
        jobs: deque[_Job] = deque()
        passes = self._passes(zip(images, queries, strict=False), jobs)
        for batch in neighbours(passes, self.plan.batch_size, _Pass.batch_key):
            outputs = self._forward(batch, views)
            for step, output in zip(batch, outputs, strict=True):
                canvas = step.canvas
                with _memory_for_prediction(canvas.job):
                    canvas.average.add(output.stack[0], self._in_output(step.window))
                    merged = self._merge(canvas, output) if step.last else None
                if merged is not None and canvas.last:
                    canvas.job.outputs.append(merged)
                yield from self._finished(jobs)
        yield from self._finished(jobs)  # images in which there is nothing to run

    def one(
        self,
        image: Image,
        prompt: str | None = None,
        people: People | None = None,
        rig: Rig | None = None,
    ) -> Prediction:
        """Return the prediction of one image."""
        return next(self([image], [prompt], [people], [rig]))

    def use_confidence(self, confidence: float) -> None:
        """Yield predictions with intervals or sets of classes from now on.

        Args:
            confidence: fraction of the pixels of a new image that they hold on average.

        Raises:
            InputError: if the model has no calibration for it.
        """
        self.threshold = threshold_of(self.model.info, self.plan, confidence)
        if not self.threshold.is_same_plan:
            log.warning(
                "%s: not the plan of the calibration, see docs/predict.md", self.plan.describe()
            )

    def _finished(self, jobs: deque[_Job]) -> Iterator[Prediction]:
        """Yield the predictions of the images that are done, in order."""
        while jobs and jobs[0].is_done:
            job = jobs.popleft()
            with _memory_for_prediction(job):
                prediction = self.model.task.assemble(job.outputs, job.places, job.hw)
                if self.threshold is not None:
                    (output,) = job.outputs
                    prediction = self.threshold.apply(self.model.task, prediction, output)
            yield prediction

    def _passes(self, images: Iterable[tuple[Image, _Query]], jobs: deque[_Job]) -> Iterator[_Pass]:
        for image, query in images:
            job = _Job((image.shape[-2], image.shape[-1]))
            jobs.append(job)
            for canvas in self._regions(job, image, query):
                height, width = canvas.image.shape[-2:]
                # as if the mirrored image were laid out by itself
                windows = [self.plan.windows_of(height, width, mirrored=m) for m in canvas.sides]
                views = [
                    view
                    for row in zip(*windows, strict=True)
                    for view in zip(row, canvas.sides, strict=True)
                ]
                steps = list(itertools.product(views, range(self.plan.ensemble_size)))
                for i, ((window, mirrored), member) in enumerate(steps):
                    yield _Pass(canvas, window, mirrored, member, last=i == len(steps) - 1)

    def _regions(self, job: _Job, image: Image, query: _Query) -> Iterator[_Canvas]:
        """Yield the canvases of every region of an image."""
        with memory_for(self._advice(1, *job.hw)):
            pixels = image.to(self.device).float()
            if image.dtype == torch.uint8:
                pixels = pixels / 255
        regions = self.model.task.regions(pixels, query.people)
        following = next(regions, None)
        while following is not None:
            (region, place), following = following, next(regions, None)
            job.places.append(place)
            job.is_begun = following is None  # known before the pass, after which it is yielded
            yield from self._canvases(job, region, query)
        job.is_begun = True

    def _canvases(
        self, job: _Job, pixels: Float[Tensor, "3 h w"], query: _Query
    ) -> Iterator[_Canvas]:
        """Yield one canvas, or for several scales one for each of them and each side."""
        original = (pixels.shape[-2], pixels.shape[-1])
        sides = (False, True) if self.plan.flip else (False,)
        scales = self.plan.scales
        output_hw = self._output_hw(original)
        together = PassAverage(*output_hw) if len(scales) > 1 else None
        groups = [sides] if together is None else [(side,) for side in sides]
        views = list(itertools.product(scales, groups))
        for i, (scale, group) in enumerate(views):
            hw = self.plan.working_hw(*original, scale)
            average, last = PassAverage(*self._output_hw(hw)), i == len(views) - 1
            with memory_for(self._advice(1, *hw)):
                resized = resized_image(pixels[None], hw)[0]
            yield _Canvas(job, resized, query, output_hw, group, average, together, last=last)

    def _advice(self, count: int, height: int, width: int) -> str:
        repair = "--short-side or --batch-size, or --tile N --stride N"
        if self.model.reads_rig:
            repair = "--batch-size, or --device cpu"
        what = f"{self.device} has not enough memory for {count} x {width} x {height} px"
        return f"{what}: choose a smaller {repair}"

    def _output_hw(self, hw: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the output for so many pixels."""
        if self.model.output.grid is not None:
            return self.model.output.grid
        stride = self.model.output.stride
        return -(-hw[0] // stride), -(-hw[1] // stride)

    def _in_output(self, window: Window) -> Window:
        """Return a window of pixels in the output's own."""
        if self.model.output.grid is not None:
            return slice(None), slice(None)
        stride = self.model.output.stride
        rows, columns = (slice(s.start // stride, -(-s.stop // stride)) for s in window)
        return rows, columns

    @torch.inference_mode()
    def _forward(self, batch: Sequence[_Pass], views: "_EncodedViews") -> list[Output]:
        """Return what has to be averaged of every pass, in the orientation of the image."""
        prompts = tuple(step.canvas.query.prompt for step in batch)
        rigs = [step.canvas.query.rig for step in batch]
        mixed = torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()
        advice = self._advice(len(batch), *batch[0].image().shape[-2:])
        # the same seeds for all images: a prediction is a function of its image
        draws = Draws(tuple(step.member for step in batch))
        with memory_for(advice):
            image = torch.stack([step.image() for step in batch]).to(self._image_dtype)
            rig = Rig.of_samples([rig and rig.to(self.device) for rig in rigs], self._image_dtype)
            known = {"latents": self.latents, "text_features": self.text_features}
            inputs = Inputs(image, prompts, **known, steps=self.plan.steps, rig=rig)
            with float32_products(tf32=False), mixed:
                output = self.model(inputs, views.encode(inputs, batch), draws=draws)
            rows = [output.row(i).reduced() for i in range(len(batch))]
            return [
                self.model.task.mirror_output(row) if step.mirrored else row
                for row, step in zip(rows, batch, strict=True)
            ]

    def _merge(self, canvas: _Canvas, output: Output) -> Output:
        """Return the average of the image's passes until now, at its own size.

        On the CPU, so that what the caller keeps does not fill the GPU.

        Args:
            canvas: whose passes are done.
            output: of one of them, for its kind.
        """
        average, hw = canvas.average, canvas.original_hw
        merged = output.with_stack(resized_image(average.mean()[None], hw))
        if canvas.scales is not None:
            merged = merged.normalised()
            average = canvas.scales
            average.add(merged.stack[0], (slice(None), slice(None)))
            merged = merged.with_stack(average.mean()[None])
        merged = merged.with_stack(merged.stack.cpu())
        if average.passes > 1:
            merged = merged.with_std(resized_image(average.std()[None], hw).cpu())
        return merged


class _EncodedViews:
    """Encodes every view of an image once for its whole ensemble, whose passes are neighbours."""

    def __init__(self, model: DenseModel, ensemble_size: int) -> None:
        self.model = model
        self.ensemble_size = ensemble_size
        self._last = Encoded()  # of the last view

    def encode(self, inputs: Inputs, batch: Sequence[_Pass]) -> Encoded:
        """Return what is frozen and free of noise, for every pass of a batch."""
        if self.ensemble_size == 1:
            return self.model.encode(inputs)
        fresh = [i for i, step in enumerate(batch) if step.member == 0]
        views = [self._last]
        if fresh:
            prompts = tuple(batch[i].canvas.query.prompt for i in fresh)
            rig = inputs.rig and inputs.rig.rows(fresh)
            image = inputs.image[fresh]
            some = self.model.encode(replace(inputs, image=image, prompts=prompts, rig=rig))
            views += [some.rows(slice(n, n + 1)) for n in range(len(fresh))]
        # the first pass of a view comes first
        rows = [views[i] for i in itertools.accumulate(step.member == 0 for step in batch)]
        self._last = rows[-1]
        return type(self._last).concatenate(rows)


def _memory_for_prediction(job: _Job) -> AbstractContextManager[None]:
    height, width = job.hw
    return memory_for(
        f"not enough memory for the prediction of {width} x {height} px: give a smaller image"
    )
