"""Train a model on a few labelled images in a plain loop.

The outputs of its frozen networks are computed once per image and kept in memory.
"""

import copy
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffsight.datasets.base import Sample
from diffsight.model import DenseModel
from diffsight.ops.machine import require_bytes
from diffsight.ops.precision import training_products
from diffsight.ops.resize import resize_image, resize_label_and_mask, working_hw
from diffsight.outputs import Output, SoftLabels
from diffsight.tasks.base import AbstractTask
from diffsight.training.state import load_trained_state, trained_state
from diffsight.training.statistics import take_statistics
from diffsight.training.step import TrainingStep
from diffsight.training.stream import seed_of
from diffsight.types import Boxes, Draws, Encoded, Inputs, Target


@dataclass(frozen=True)
class Runtime:
    """Device and dtype that a method runs with.

    Attributes:
        device: device of method, images and labels.
        dtype: dtype of mixed precision; None runs in float32.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype | None = None

    def mixed(self) -> torch.autocast:
        """Return the autocast context of forward passes, which does nothing without a dtype."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)


IMAGE_BYTES = 16  # least memory per pixel of an encoded image: three colours and a label
CPU = Runtime()


@dataclass(frozen=True)
class Example:
    """A labelled image with the outputs of the frozen networks, or a batch of such images.

    Attributes:
        inputs: image at the working size of the model.
        encoded: outputs of the frozen networks, from the method's ``encode``.
        target: label at the working size.
        soft_labels: label as weights of classes; None for tasks without classes.
        draws: one seed per image for the random numbers of a training step; None outside of one.
    """

    inputs: Inputs
    encoded: Encoded
    target: Target
    soft_labels: SoftLabels | None
    draws: Draws | None = None


Views = tuple[Example, ...]
"""The original of one image and, where mirroring is allowed, its mirror image."""


def require_memory(count: int, short_side: int, runtime: Runtime) -> None:
    """Check that all images fit into memory at their working size.

    Args:
        count: number of images.
        short_side: shorter side of the working size in pixels.
        runtime: device that keeps the images.

    Raises:
        InputError: if the device has too little memory.
    """
    require_bytes(
        count * short_side**2 * IMAGE_BYTES,
        f"{count} images at a short side of {short_side} px",
        "choose a smaller --short-side",
        device=str(runtime.device),
    )


@torch.no_grad()
def encode(
    model: DenseModel,
    sample: Sample,
    short_side: int,
    runtime: Runtime = CPU,
    *,
    mirror: bool = True,
) -> Views:
    """Return a sample and its mirror image at the working size, with frozen outputs.

    Args:
        model: model whose frozen networks encode the image.
        sample: labelled image.
        short_side: shorter side of the working size in pixels.
        runtime: device and dtype of the encoding.
        mirror: whether to encode the mirror image too.
    """
    task = model.task
    hw = working_hw(*sample.image.shape[-2:], short_side=short_side)
    image = resize_image(sample.image[None].float() / 255, hw)
    target = target_of(sample, hw, task.label)
    label, valid, boxes = target.label[0], target.valid[0], (target.boxes or (None,))[0]
    sides = [(image, label, valid, boxes)]
    if mirror:
        mirrored = boxes and boxes.mirrored(hw[1])
        sides.append((image.flip(-1), task.mirror_label(label), valid.flip(-1), mirrored))
    views = []
    for picture, one, mask, side_boxes in sides:
        inputs = Inputs(picture.to(runtime.device), (sample.prompt,) if sample.prompt else None)
        with runtime.mixed():
            encoded = model.encode(inputs)
        batch_boxes = None if side_boxes is None else (side_boxes,)
        target = Target(one[None], mask[None], batch_boxes).to(runtime.device)
        views.append(Example(inputs, encoded, target, task.encode_label(target.label)))
    return tuple(views)


def target_of(sample: Sample, hw: tuple[int, int], label: str) -> Target:
    """Return a label of a sample as a batch of one, resized to a height and width in pixels.

    Args:
        sample: labelled image.
        hw: height and width.
        label: key in ``Sample.labels``.
    """
    one, valid = resize_label_and_mask(sample.labels[label], sample.valid[label], hw)
    height, width = sample.image.shape[-2:]
    boxes = sample.boxes and sample.boxes.resized((height, width), hw)
    return Target(one[None], valid[None], boxes and (boxes,))


def fit_statistics(model: DenseModel, images: Sequence[Views]) -> None:
    """Fit the feature statistics of a method to its encoded training images.

    Features are those of the original images; labels are also those of the mirror images.
    """
    labels = [(view.soft_labels, view.target.valid) for image in images for view in image]
    take_statistics(model, [image[0].encoded for image in images], labels)


def train(
    step: TrainingStep,
    batches: Iterable[Any],
    *,
    start: int = 0,
    optimiser: torch.optim.Optimizer | None = None,
    runtime: Runtime = CPU,
    advance: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
) -> None:
    """Train in a plain loop: one optimiser step per batch, until the training's last step.

    Args:
        step: training step; its module is in training mode during the loop, in evaluation mode
            afterwards.
        batches: one batch for each step from ``start`` on.
        start: number of finished steps.
        optimiser: optimiser of an interrupted training; default: a new one.
        runtime: device and dtype.
        advance: called after every step with the number of finished steps and the losses by name.
    """
    optimiser = optimiser or step.optimiser()
    step.trained.train()
    try:
        for number, batch in zip(range(start, step.steps), batches, strict=False):
            step.set_rates(optimiser, number)
            optimiser.zero_grad(set_to_none=True)
            with training_products(runtime.device):
                with runtime.mixed():
                    losses = step.losses(batch)
                losses["loss"].backward()
            step.clip()
            optimiser.step()
            advance(number + 1, {name: float(value.detach()) for name, value in losses.items()})
    finally:
        step.trained.eval()


def few_shot_losses(model: DenseModel) -> Callable[[Example], dict[str, Tensor]]:
    """Return a function from a batch of encoded images to the losses of a model by name."""

    def losses(batch: Example) -> dict[str, Tensor]:
        rest = {"encoded": batch.encoded, "soft_labels": batch.soft_labels, "draws": batch.draws}
        return model.losses(batch.inputs, batch.target, **rest)

    return losses


def few_shot_batches(
    images: Sequence[Views], batch_size: int, seed: int, *, start: int = 0
) -> Iterator[Example]:
    """Yield random batches of encoded images without end, each with images of one size.

    The random numbers of a step depend only on the seed and the number of the step, so a resumed
    training gets the same batches.

    Args:
        images: encoded images.
        batch_size: largest number of images per batch.
        seed: seed of the choice of images, of mirroring, noise and timesteps.
        start: number of the first step.
    """
    by_size: dict[tuple[int, ...], list[Views]] = defaultdict(list)
    for views in images:
        by_size[tuple(views[0].inputs.image.shape)].append(views)
    groups = list(by_size.values())
    sizes = torch.tensor([float(len(group)) for group in groups])
    for step in itertools.count(start):
        generator = torch.Generator().manual_seed(seed_of(seed, step, 0))
        group = groups[int(torch.multinomial(sizes, 1, generator=generator))]
        chosen = torch.randperm(len(group), generator=generator)[:batch_size].tolist()
        sides = torch.randint(len(group[0]), (len(chosen),), generator=generator).tolist()
        views = [group[i][side] for i, side in zip(chosen, sides, strict=True)]
        seeds = tuple(seed_of(seed, step, i + 1) for i in range(len(views)))
        yield replace(_joined(views), draws=Draws(seeds))


def seconds_per_step(
    model: DenseModel, step: TrainingStep, batches: Iterator[Any], runtime: Runtime = CPU
) -> float:
    """Return the seconds of a training step, measured on five steps that are undone afterwards.

    The work of a GPU is included, because ``train`` waits for the losses of every step.

    Args:
        model: model that is trained; its weights are restored.
        step: training step of the model.
        batches: batches of encoded images.
        runtime: device and dtype.
    """
    state = copy.deepcopy(trained_state(model))
    count = step.steps
    step.steps = 2
    train(step, batches, runtime=runtime)
    begin = time.perf_counter()
    step.steps = 3
    train(step, batches, runtime=runtime)
    seconds = (time.perf_counter() - begin) / 3
    step.steps = count
    load_trained_state(model, state)
    return seconds


def flat_labels(labels: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the labels of all n valid pixels as an image with one row.

    Args:
        labels: labels ``d h w``, or class ids ``h w``, each with its mask of valid pixels ``h w``.

    Returns:
        ``1 d 1 n``, or ``1 1 n`` for class ids.
    """
    columns = [label[valid] if label.ndim == 2 else label[:, valid].T for label, valid in labels]
    flat = torch.cat(columns)
    return flat[None, None] if flat.ndim == 1 else flat.T[None, :, None]


@torch.no_grad()
def measure_variants(
    model: DenseModel,
    held: Sequence[Views],
    targets: Sequence[Target],
    runtime: Runtime = CPU,
) -> list[Tensor]:
    """Return the metric sums of all variants of a method on every held-out image.

    Variants are settings that are chosen after the training, such as the feature head's weight of
    the prior. Outputs are resized to the size of the targets. All images share the noise of seed 0,
    as in prediction.

    Args:
        model: trained model.
        held: encoded held-out images; mirror images are not used.
        targets: label of each image.
        runtime: device and dtype.

    Returns:
        One tensor per image, whose rows are the results of ``AbstractTask.measure`` for the
        variants.
    """
    sums = []
    for view, target in zip((views[0] for views in held), targets, strict=True):
        truth = target.to(runtime.device)
        with runtime.mixed():
            outputs = model.method.forward_variants(view.inputs, view.encoded)
        rows = [model.task.measure(label_at(model.task, one, truth), truth) for one in outputs]
        sums.append(torch.stack(rows).cpu())
    return sums


def label_at(task: AbstractTask, output: Output, target: Target) -> Tensor:
    """Return the prediction of an output in the form of a label, at the size of a target."""
    hw = (target.valid.shape[-2], target.valid.shape[-1])
    if output.hw != hw:
        output = output.reduced()
        output = output.with_stack(resize_image(output.stack, hw))
    return task.to_label(output)


def split_folds(ids: Sequence[str], folds: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the indices of the training images and of the held-out images of every fold.

    Args:
        ids: one id per image. Images with the same id are held out together.
        folds: number of folds.
    """
    numbers = {id: number % folds for number, id in enumerate(dict.fromkeys(ids))}
    for fold in range(folds):
        held = [position for position, id in enumerate(ids) if numbers[id] == fold]
        yield [i for i in range(len(ids)) if i not in held], held


def _joined(views: Sequence[Example]) -> Example:
    """Return single images of one size as one batch."""
    prompts = [view.inputs.prompts for view in views]
    texts = None if prompts[0] is None else tuple(p for some in prompts for p in some or (None,))
    soft = [view.soft_labels for view in views if view.soft_labels is not None]
    encoded = [view.encoded for view in views]
    return Example(
        Inputs(torch.cat([view.inputs.image for view in views]), texts),
        type(encoded[0]).concatenate(encoded),
        Target(
            torch.cat([view.target.label for view in views]),
            torch.cat([view.target.valid for view in views]),
            _joined_boxes([view.target for view in views]),
        ),
        SoftLabels(torch.cat([s.ids for s in soft]), torch.cat([s.weights for s in soft]))
        if soft
        else None,
    )


def _joined_boxes(targets: Sequence[Target]) -> tuple[Boxes | None, ...] | None:
    if all(target.boxes is None for target in targets):
        return None
    return tuple(one for target in targets for one in target.boxes or (None,))
