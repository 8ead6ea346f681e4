"""The predictor: it runs a model on a stream of images of any size, as a plan specifies."""

import copy
import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffsight.inference.confidence import Threshold, select_threshold
from diffsight.inference.plan import Plan
from diffsight.inference.text_features import TextFeatureCache
from diffsight.model import DenseModel
from diffsight.ops.groups import group_consecutive
from diffsight.ops.memory import keep_freed_memory, report_out_of_memory
from diffsight.ops.precision import float32_products
from diffsight.ops.resize import resize_image
from diffsight.ops.tiles import PassAverage, Window, require_aligned
from diffsight.outputs import Output
from diffsight.rig import Rig
from diffsight.tasks import Prediction
from diffsight.types import Draws, Encoded, Inputs, Latents, People

log = logging.getLogger(__name__)
Image = UInt8[Tensor, "3 _ _"] | Float[Tensor, "3 _ _"]


@dataclass(frozen=True)
class _Query:
    """The inputs of an image besides its pixels.

    Attributes:
        prompt: text; for depth the scene type.
        people: boxes of people, for models that predict joints; None: the image shows one person.
        rig: cameras, a batch of one, for bird's-eye-view maps.
    """

    prompt: str | None = None
    people: People | None = None
    rig: Rig | None = None


@dataclass
class _Job:
    """One image and the outputs of its regions (a task may split an image, for example by people).

    Attributes:
        hw: height and width of the image in pixels.
        outputs: outputs of the finished regions.
        positions: positions in the image of all regions that have been started.
        is_complete: whether all regions have been started.
    """

    hw: tuple[int, int]
    outputs: list[Output] = field(default_factory=list)
    positions: list[Any] = field(default_factory=list)
    is_complete: bool = False

    @property
    def is_done(self) -> bool:
        return self.is_complete and len(self.outputs) == len(self.positions)


@dataclass(frozen=True)
class _Canvas:
    """One region of an image at a working size, and the average of its passes so far.

    Attributes:
        job: job of the image.
        image: pixels of the region at the working size.
        query: other inputs of the image.
        original_hw: height and width of the region in pixels of the output.
        sides: True to run the mirrored region, False to run the region itself; one or both of them.
        average: average of the passes at this working size.
        scales: average over all scales and sides of the region; None if there is only one.
        is_last: whether this is the last canvas of the region.
    """

    job: _Job
    image: Tensor
    query: _Query
    original_hw: tuple[int, int]
    sides: tuple[bool, ...]
    average: PassAverage
    scales: PassAverage | None
    is_last: bool


@dataclass(frozen=True)
class _Pass:
    """One forward pass over one window of a canvas; ``member`` is the seed of its noise."""

    canvas: _Canvas
    window: Window
    is_mirrored: bool
    member: int
    is_last: bool

    def image(self) -> Tensor:
        rows, columns = self.window
        view = self.canvas.image[:, rows, columns]
        return view.flip(-1) if self.is_mirrored else view

    def batch_key(self) -> tuple[object, ...]:
        """Return a key that is equal for passes that can run in one batch."""
        rig = self.canvas.query.rig
        return self.image().shape, rig and rig.layout()


class Predictor:
    """Runs a model on images as a plan specifies.

    Images are read when they are needed, so only a few are in memory at a time. A prediction does
    not depend on the other images in its batch. Without ``dtype`` a GPU computes in full float32,
    not in TF32. On a CPU the process keeps the memory of freed tensors (``ops.memory``).

    Args:
        model: model; it is set to evaluation mode and moved to ``device``.
        plan: how the model is run on an image; default: in one pass at the image's own size.
        device: device to run on; default: the device of the model.
        dtype: ``torch.bfloat16`` or ``torch.float16`` for mixed precision; None: the precision of
            the weights.
        latents: cache of encoded images that several predictors share, such as ``SharedLatents``.

    Raises:
        InputError: if the device has too little memory for the size of the plan, or the plan does
            not fit the model (``Plan.for_model``).
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
        self.device = first.device if device is None else torch.device(device)
        self.plan = (plan or Plan()).for_model(model, str(self.device))
        self.model = model.to(self.device).eval()
        self.threshold: Threshold | None = None
        self.dtype = dtype
        self.latents = latents
        self.text_features = TextFeatureCache()
        self._image_dtype = first.dtype
        if self.device.type == "cpu":  # after loading, whose freed memory would fragment the heap
            keep_freed_memory()

    def __call__(
        self,
        images: Iterable[Image],
        prompts: Iterable[str | None] | None = None,
        people: Iterable[People | None] | None = None,
        rigs: Iterable[Rig | None] | None = None,
    ) -> Iterator[Prediction]:
        """Yield one prediction per image, in order, at the size of the image, on the CPU.

        The uncertainty of values is the standard deviation of the predicted distribution. If the
        method predicts none, it is the standard deviation over the passes of the plan, if there are
        several. Classes have the uncertainty of the method, if it has one.

        Args:
            images: RGB images, uint8 or float in [0, 1]; their sizes may differ.
            prompts: one text or None per image (for depth the scene type); default: None for all.
            people: boxes of people per image, to predict joints in; None: one person per image.
            rigs: cameras that each image shows side by side, a batch of one each, for models of
                bird's-eye-view maps.

        Raises:
            InputError: if the model cannot use a prompt, an image is too large, or the rig of an
                image is missing.
        """
        self.model.to(self.device)  # the predictor of another model may have moved a shared part
        inputs = (itertools.repeat(None) if one is None else one for one in (prompts, people, rigs))
        queries = itertools.starmap(_Query, zip(*inputs, strict=False))
        views = _EncodedViews(self.model, self.plan.ensemble_size)
        jobs: deque[_Job] = deque()
        passes = self._passes(zip(images, queries, strict=False), jobs)
        for batch in group_consecutive(passes, self.plan.batch_size, _Pass.batch_key):
            outputs = self._forward(batch, views)
            for step, output in zip(batch, outputs, strict=True):
                canvas = step.canvas
                with _memory_for_prediction(canvas.job):
                    canvas.average.add(output.stack[0], self._in_output(step.window))
                    merged = self._merge(canvas, output) if step.is_last else None
                if merged is not None and canvas.is_last:
                    canvas.job.outputs.append(merged)
                yield from self._finished(jobs)
        yield from self._finished(jobs)  # images without regions

    def one(
        self,
        image: Image,
        prompt: str | None = None,
        people: People | None = None,
        rig: Rig | None = None,
    ) -> Prediction:
        """Return the prediction of one image; arguments and errors are those of ``__call__``."""
        return next(self([image], [prompt], [people], [rig]))

    def with_plan(self, plan: Plan) -> Self:
        """Return a copy of the predictor with another plan; both share the model and the caches.

        Args:
            plan: how the model is run on an image.

        Raises:
            InputError: see the constructor.
        """
        changed = copy.copy(self)
        changed.plan = plan.for_model(self.model, str(self.device))
        if self.threshold is not None:
            changed.use_confidence(self.threshold.confidence)
        return changed

    def use_confidence(self, confidence: float) -> None:
        """Add intervals or sets of classes to all further predictions.

        Args:
            confidence: expected fraction of the pixels whose true label is in the interval or set.

        Raises:
            InputError: if the model has no calibration for this confidence.
        """
        self.threshold = select_threshold(self.model.info, self.plan, confidence)
        if not self.threshold.is_same_plan:
            log.warning(
                "%s: differs from the plan of the calibration, see docs/predict.md",
                self.plan.describe(),
            )

    def _finished(self, jobs: deque[_Job]) -> Iterator[Prediction]:
        """Yield the predictions of the first images whose regions are all finished."""
        while jobs and jobs[0].is_done:
            job = jobs.popleft()
            with _memory_for_prediction(job):
                prediction = self.model.task.assemble(job.outputs, job.positions, job.hw)
                if self.threshold is not None:
                    (output,) = job.outputs
                    prediction = self.threshold.apply(self.model.task, prediction, output)
            yield prediction

    def _passes(self, images: Iterable[tuple[Image, _Query]], jobs: deque[_Job]) -> Iterator[_Pass]:
        """Yield the forward passes of all images in order; append one job per image to ``jobs``."""
        for image, query in images:
            job = _Job((image.shape[-2], image.shape[-1]))
            jobs.append(job)
            for canvas in self._regions(job, image, query):
                height, width = canvas.image.shape[-2:]
                # the mirrored image has its own windows
                windows = [self.plan.make_windows(height, width, mirrored=m) for m in canvas.sides]
                require_aligned(itertools.chain(*windows), self.model.output.stride)
                views = [
                    view
                    for row in zip(*windows, strict=True)
                    for view in zip(row, canvas.sides, strict=True)
                ]
                steps = list(itertools.product(views, range(self.plan.ensemble_size)))
                for i, ((window, is_mirrored), member) in enumerate(steps):
                    yield _Pass(canvas, window, is_mirrored, member, is_last=i == len(steps) - 1)

    def _regions(self, job: _Job, image: Image, query: _Query) -> Iterator[_Canvas]:
        """Yield the canvases of every region of an image."""
        with report_out_of_memory(self._advice(1, *job.hw)):
            pixels = image.to(self.device).float()
            if image.dtype == torch.uint8:
                pixels = pixels / 255
        regions = self.model.task.regions(pixels, query.people)
        following = next(regions, None)
        while following is not None:
            (region, position), following = following, next(regions, None)
            job.positions.append(position)
            job.is_complete = following is None  # set before the pass that finishes the image
            yield from self._canvases(job, region, query)
        job.is_complete = True

    def _canvases(
        self, job: _Job, pixels: Float[Tensor, "3 h w"], query: _Query
    ) -> Iterator[_Canvas]:
        """Yield one canvas of a region; with several scales, one per scale and mirror image."""
        original = (pixels.shape[-2], pixels.shape[-1])
        sides = (False, True) if self.plan.flip else (False,)
        scales = self.plan.scales
        output_hw = self._output_hw(original)
        total = PassAverage(*output_hw) if len(scales) > 1 else None
        groups = [sides] if total is None else [(side,) for side in sides]
        views = list(itertools.product(scales, groups))
        for i, (scale, group) in enumerate(views):
            hw = self.plan.working_hw(*original, scale)
            average, is_last = PassAverage(*self._output_hw(hw)), i == len(views) - 1
            with report_out_of_memory(self._advice(1, *hw)):
                resized = resize_image(pixels[None], hw)[0]
            yield _Canvas(job, resized, query, output_hw, group, average, total, is_last)

    def _advice(self, count: int, height: int, width: int) -> str:
        repair = "--short-side or --batch-size, or --tile N --stride N"
        if self.model.reads_rig:
            repair = "--batch-size, or --device cpu"
        problem = f"{self.device} has not enough memory for {count} x {width} x {height} px"
        return f"{problem}: choose a smaller {repair}"

    def _output_hw(self, hw: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the output for an image of this height and width."""
        if self.model.output.grid is not None:
            return self.model.output.grid
        stride = self.model.output.stride
        return -(-hw[0] // stride), -(-hw[1] // stride)

    def _in_output(self, window: Window) -> Window:
        """Return a window of image pixels in pixels of the output."""
        if self.model.output.grid is not None:
            return slice(None), slice(None)
        stride = self.model.output.stride
        rows, columns = (slice(s.start // stride, -(-s.stop // stride)) for s in window)
        return rows, columns

    @torch.inference_mode()
    def _forward(self, batch: Sequence[_Pass], views: "_EncodedViews") -> list[Output]:
        """Return the reduced output of every pass; outputs of mirrored passes are mirrored back."""
        prompts = tuple(step.canvas.query.prompt for step in batch)
        rigs = [step.canvas.query.rig for step in batch]
        mixed = torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()
        advice = self._advice(len(batch), *batch[0].image().shape[-2:])
        # the same seeds for all images, so that a prediction depends on its image only
        draws = Draws(tuple(step.member for step in batch))
        with report_out_of_memory(advice):
            image = torch.stack([step.image() for step in batch]).to(self._image_dtype)
            rig = Rig.of_samples([rig and rig.to(self.device) for rig in rigs], self._image_dtype)
            caches = {"latents": self.latents, "text_features": self.text_features}
            inputs = Inputs(image, prompts, **caches, steps=self.plan.steps, rig=rig)
            with float32_products(tf32=False), mixed:
                output = self.model(inputs, views.encode(inputs, batch), draws=draws)
            rows = [output.row(i).reduced() for i in range(len(batch))]
            return [
                self.model.task.mirror_output(row) if step.is_mirrored else row
                for row, step in zip(rows, batch, strict=True)
            ]

    def _merge(self, canvas: _Canvas, output: Output) -> Output:
        """Return the average of a region's passes so far, at the size of the region.

        It is moved to the CPU, so that results that the caller keeps do not fill the GPU.

        Args:
            canvas: canvas whose passes are finished.
            output: output of one of the passes, which defines the kind.
        """
        average, hw = canvas.average, canvas.original_hw
        merged = output.with_stack(resize_image(average.mean()[None], hw))
        if canvas.scales is not None:
            merged = merged.normalised()
            average = canvas.scales
            average.add(merged.stack[0], (slice(None), slice(None)))
            merged = merged.with_stack(average.mean()[None])
        merged = merged.with_stack(merged.stack.cpu())
        if average.passes > 1:
            merged = merged.with_std(resize_image(average.std()[None], hw).cpu())
        return merged


class _EncodedViews:
    """Encodes each window once for all members of the ensemble, which run one after another."""

    def __init__(self, model: DenseModel, ensemble_size: int) -> None:
        self.model = model
        self.ensemble_size = ensemble_size
        self._last = Encoded()  # encoding of the last window, whose members may not be finished

    def encode(self, inputs: Inputs, batch: Sequence[_Pass]) -> Encoded:
        """Return the output of the frozen part for every pass of a batch."""
        if self.ensemble_size == 1:
            return self.model.encode(inputs)
        fresh = [i for i, step in enumerate(batch) if step.member == 0]
        views = [self._last]
        if fresh:
            prompts = tuple(batch[i].canvas.query.prompt for i in fresh)
            rig = inputs.rig and inputs.rig.rows(fresh)
            image = inputs.image[fresh]
            encoded = self.model.encode(replace(inputs, image=image, prompts=prompts, rig=rig))
            views += [encoded.rows(slice(n, n + 1)) for n in range(len(fresh))]
        # member 0 is the first pass of a view
        rows = [views[i] for i in itertools.accumulate(step.member == 0 for step in batch)]
        self._last = rows[-1]
        return type(self._last).concatenate(rows)


def _memory_for_prediction(job: _Job) -> AbstractContextManager[None]:
    height, width = job.hw
    return report_out_of_memory(
        f"not enough memory for the prediction of {width} x {height} px: give a smaller image"
    )
