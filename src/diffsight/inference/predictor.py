"""The predictor: a model and a plan turn a stream of images of any size into predictions."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from diffsight.inference.plan import Plan
from diffsight.methods.base import AbstractCachedMethod
from diffsight.model import DenseModel
from diffsight.ops.memory import keep_freed_memory, memory_for
from diffsight.ops.tiles import PassAverage, Window
from diffsight.types import Draws, Inputs, RawOutput

VALUE = "value"  # what a method may give beside its maps, to be averaged like them
Image = UInt8[Tensor, "3 _ _"] | Float[Tensor, "3 _ _"]


@dataclass(frozen=True)
class _Canvas:
    """One image at a working size, and what was computed of it so far.

    Attributes:
        image: at the working size.
        prompt: of the image.
        original_hw: size of the image in pixels.
        sides: mirrored or not, or both.
        average: of what was computed at the working size.
        scales: average over the scales and sides of the image, where there are several.
        last: whether the image is finished with this canvas.
    """

    image: Tensor
    prompt: str | None
    original_hw: tuple[int, int]
    sides: tuple[bool, ...]
    average: PassAverage
    scales: PassAverage | None
    last: bool


@dataclass(frozen=True)
class _Pass:
    """One forward pass over one window of one canvas."""

    canvas: _Canvas
    window: Window
    mirrored: bool
    noise: int
    last: bool

    def image(self) -> Tensor:
        rows, columns = self.window
        view = self.canvas.image[:, rows, columns]
        return view.flip(-1) if self.mirrored else view


class Predictor:
    """Runs a model on images as a plan says.

    Images are read one after another, as they are needed: a few at a time are in memory, however
    many there are. A prediction does not depend on which others are run beside it. On a CPU the
    process keeps the memory of freed tensors (``ops.memory``).

    Args:
        model: put into evaluation mode and moved to ``device``.
        plan: windows, flips, size, batch size.
        device: where to run; default: where the model is.
        autocast: ``torch.bfloat16`` or ``torch.float16`` for mixed precision; None is the model's
            own precision.
    """

    def __init__(
        self,
        model: DenseModel,
        plan: Plan | None = None,
        *,
        device: torch.device | str | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        first = next(model.parameters(), torch.empty(0))
        self.plan = plan or Plan()
        self.device = first.device if device is None else torch.device(device)
        self.model = model.to(self.device).eval()
        self.dtype = first.dtype
        self.autocast = autocast
        if self.device.type == "cpu":  # not earlier: what a load leaves behind would split the heap
            keep_freed_memory()

    def __call__(
        self, images: Iterable[Image], prompts: Iterable[str | None] | None = None
    ) -> Iterator[Any]:
        """One prediction per image, in order, at the size of the image, on the CPU.

        ``uncertainty`` in a prediction is the spread of the predicted distribution where a task has
        one (those of ``adapt``), else that over the plan's passes; there is none with one pass.

        Args:
            images: RGB, uint8 or float in [0, 1], of any size each.
            prompts: one name or None per image (for depth the scene type); None alone stands for
                None each.

        Raises:
            InputError: if the model does not know a prompt, or an image is too large.
        """
        self.model.to(self.device)  # tasks share a backbone: another one's may have moved it
        names = itertools.repeat(None) if prompts is None else prompts
        method, frozen = self.model.method, None
        if self.plan.noises > 1 and isinstance(method, AbstractCachedMethod):
            frozen = _Frozen(method)
        for batch in _batches(self._passes(images, names), self.plan.batch_size):
            maps, form = self._forward(batch, frozen)
            for step, row in zip(batch, maps, strict=True):
                step.canvas.average.add(row, step.window)
                if step.last:
                    height, width = step.canvas.original_hw
                    advice = f"not enough memory for the answer to {width} x {height} px"
                    with memory_for(f"{advice}: give a smaller image"):
                        raw = self._finish(step.canvas, form)
                        found = self.model.task.decode(raw)[0] if step.canvas.last else None
                    if found is not None:
                        yield found

    def one(self, image: Image, prompt: str | None = None) -> Any:
        """The prediction of one image."""
        return next(self([image], [prompt]))

    def _passes(self, images: Iterable[Image], prompts: Iterable[str | None]) -> Iterator[_Pass]:
        for image, prompt in zip(images, prompts, strict=False):
            for canvas in self._canvases(image, prompt):
                height, width = canvas.image.shape[-2:]
                # as if the mirrored image were laid out by itself
                windows = [self.plan.windows_of(height, width, mirrored=m) for m in canvas.sides]
                places = [
                    place
                    for row in zip(*windows, strict=True)
                    for place in zip(row, canvas.sides, strict=True)
                ]
                steps = list(itertools.product(places, range(self.plan.noises)))
                for i, ((window, mirrored), noise) in enumerate(steps):
                    yield _Pass(canvas, window, mirrored, noise, last=i == len(steps) - 1)

    def _canvases(self, image: Image, prompt: str | None) -> Iterator[_Canvas]:
        """One, or for several scales one for each of them and each side."""
        original = (image.shape[-2], image.shape[-1])
        pixels = image.to(self.device).float()
        if image.dtype == torch.uint8:
            pixels = pixels / 255
        sides = (False, True) if self.plan.flip else (False,)
        scales = self.plan.scales
        together = PassAverage(*original) if len(scales) > 1 else None
        groups = [sides] if together is None else [(side,) for side in sides]
        views = list(itertools.product(scales, groups))
        for i, (scale, group) in enumerate(views):
            hw = self.plan.working_hw(*original, scale)
            average, last = PassAverage(*hw), i == len(views) - 1
            yield _Canvas(
                _resize(pixels, hw), prompt, original, group, average, together, last=last
            )

    @torch.inference_mode()
    def _forward(
        self, batch: Sequence[_Pass], frozen: "_Frozen | None"
    ) -> tuple[list[Tensor], "_Form"]:
        image = torch.stack([step.image() for step in batch]).to(self.dtype)
        inputs = Inputs(image, tuple(step.canvas.prompt for step in batch))
        mixed = torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()
        height, width = image.shape[-2:]
        advice = (
            f"{self.device} has not enough memory for {len(batch)} x {width} x {height} px: "
            "choose a smaller batch size or short side, or more windows"
        )
        with memory_for(advice), mixed:
            if frozen is not None:
                inputs = frozen.of(inputs, batch)
            # the same seeds for all images: a prediction is a function of its image
            raw = self.model(inputs, draws=Draws(tuple(step.noise for step in batch)))
        form = _Form.of(raw)
        raw = form.split(form.joined(raw))
        back = self.model.task.hflip(raw) if any(step.mirrored for step in batch) else raw
        rows = [form.joined(back if step.mirrored else raw)[i] for i, step in enumerate(batch)]
        return rows, form

    def _finish(self, canvas: _Canvas, form: "_Form") -> RawOutput:
        """What is known of the image by now, at its own size.

        On the CPU, so that what the caller keeps does not fill the GPU.
        """
        average, hw = canvas.average, canvas.original_hw
        known = form.split(average.mean()[None])
        compact = self.model.task.compact(known)
        form = _Form.of(compact)
        stack = _resize(form.joined(compact)[0], hw)
        if canvas.scales is not None:
            if form.space == "logits":
                raw = form.split(stack[None])
                stack = form.joined(replace(raw, maps=raw.maps.softmax(dim=1)))[0]
                form = replace(form, space="probability")
            average = canvas.scales
            average.add(stack, (slice(None), slice(None)))
            stack = average.mean()
        raw = form.split(stack[None].cpu())
        if average.passes > 1 and compact is known:  # else the spread of the passes is in it
            raw = replace(raw, std=form.split(_resize(average.std(), hw)[None].cpu()).maps)
        return raw


class _Frozen:
    """What does not depend on the noise, once for all noises of a view: they follow one another."""

    def __init__(self, method: AbstractCachedMethod) -> None:
        self.method = method
        self._row: Mapping[str, Tensor] = {}  # of the last view

    def of(self, inputs: Inputs, batch: Sequence[_Pass]) -> Inputs:
        """The inputs of a batch with it."""
        fresh = [i for i, step in enumerate(batch) if step.noise == 0]
        cached: Mapping[str, Tensor] = {}
        if fresh:
            names = tuple(batch[i].canvas.prompt for i in fresh)
            cached = self.method.encode(Inputs(inputs.image[fresh], names)).cached
        rows = []
        for i in range(len(batch)):
            if i in fresh:
                place = fresh.index(i)
                self._row = {name: x[place : place + 1] for name, x in cached.items()}
            rows.append(self._row)
        return replace(
            inputs, cached={name: torch.cat([row[name] for row in rows]) for name in self._row}
        )


@dataclass(frozen=True)
class _Form:
    """How an output's maps, and the values beside them, lie in one stack of maps."""

    space: Any
    extra: Mapping[str, int]

    @classmethod
    def of(cls, raw: RawOutput) -> "_Form":
        """That of an output."""
        extra = {VALUE: raw.auxiliary[VALUE].shape[1]} if VALUE in raw.auxiliary else {}
        return cls(raw.space, extra)

    def joined(self, raw: RawOutput) -> Tensor:
        return torch.cat([raw.maps, *(raw.auxiliary[name] for name in self.extra)], dim=1).float()

    def split(self, stack: Tensor) -> RawOutput:
        parts = stack.split(
            [stack.shape[1] - sum(self.extra.values()), *self.extra.values()], dim=1
        )
        return RawOutput(parts[0], self.space, dict(zip(self.extra, parts[1:], strict=True)))


def _resize(maps: Float[Tensor, "c _ _"], hw: tuple[int, int]) -> Float[Tensor, "c _ _"]:
    if tuple(maps.shape[-2:]) == hw:
        return maps
    return functional.interpolate(
        maps[None], hw, mode="bilinear", antialias=True, align_corners=False
    )[0]


def _batches(passes: Iterator[_Pass], size: int) -> Iterator[list[_Pass]]:
    """Neighbouring passes of one window size, at most ``size`` together."""
    batch: list[_Pass] = []
    for step in passes:
        if batch and (len(batch) == size or step.image().shape != batch[0].image().shape):
            yield batch
            batch = []
        batch.append(step)
    if batch:
        yield batch
