"""Outputs of a teacher for unlabelled images: stored in files, and read as training batches.

A file has one image at the size of the student, and the teacher's output at every fourth row and
column, for the image and for its mirror image. Outputs of neighbouring pixels are alike, and all
pixels of many classes would take hundreds of megabytes. The first row and column are random.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Generator, Tensor

from diffsight.atomic import replacing
from diffsight.datasets.base import Sample
from diffsight.datasets.transforms import (
    HueSaturationValue,
    RandomBrightnessContrast,
    RandomGamma,
    integer,
)
from diffsight.formats.tensors import TensorFile
from diffsight.methods import SmallUNet
from diffsight.model import DenseModel
from diffsight.ops.precision import float32_products
from diffsight.ops.resize import resize_image, working_hw
from diffsight.outputs import Output, OutputSpec, SoftLabels
from diffsight.tasks.base import AbstractTask
from diffsight.training.stream import seed_of
from diffsight.types import Draws, Inputs, Target
from diffsight.weights import write_tensors

PIXEL_STEP = 4
# weaker than the defaults, because the teacher has seen the original colours
COLOURS = (
    RandomBrightnessContrast(brightness=0.1, contrast=0.1),
    RandomGamma(low_percent=90.0, high_percent=110.0),
    HueSaturationValue(hue=5.0, saturation=15.0, value=10.0),
)
ORIGINAL, MIRRORED = "original", "mirrored"  # prefixes of the tensors of a view
DAMAGED = "damaged ({reason}): delete it"


@dataclass(frozen=True)
class StudentBatch:
    """Images with the outputs of the teacher at some of their pixels.

    Attributes:
        inputs: images.
        target: the teacher's labels at every ``PIXEL_STEP``-th row and column.
        soft_labels: the teacher's probabilities there; None for an output of values.
        first: first row and column of each image.
    """

    inputs: Inputs
    target: Target
    soft_labels: SoftLabels | None
    first: Sequence[tuple[int, int]]

    def to(self, device: torch.device) -> "StudentBatch":
        """Return the batch on ``device``."""
        soft = self.soft_labels
        soft = soft and SoftLabels(soft.ids.to(device), soft.weights.to(device))
        return StudentBatch(self.inputs.to(device), self.target.to(device), soft, self.first)

    def run(self, student: SmallUNet) -> Output:
        """Return the output of a student at the pixels of the target, as probabilities."""
        height, width = self.target.valid.shape[-2:]
        output = student.forward_at(self.inputs, self.first, PIXEL_STEP, (height, width))
        return output.normalised()


@dataclass(frozen=True)
class _View:
    """The stored pixels of an image or of its mirror image, with the output of the teacher.

    Attributes:
        image: pixels.
        label: values ``d gh gw``, or class numbers ``gh gw``.
        first: row and column of the first pixel with an output.
        probability: probability of every class.
        weight: probability that a pixel counts in a training step.
    """

    image: UInt8[Tensor, "3 h w"]
    label: Tensor
    first: tuple[int, int]
    probability: Tensor | None
    weight: Tensor | None

    @classmethod
    def read(cls, path: Path, *, mirrored: bool) -> "_View":
        """Read a view; without a stored mirror image, it is the original.

        Raises:
            InputError: if the file is damaged.
        """
        with TensorFile(path, DAMAGED) as file:
            mirrored = mirrored and f"{MIRRORED}.label" in file.names
            side = MIRRORED if mirrored else ORIGINAL
            parts = {
                name: file.tensor(f"{side}.{name}") if f"{side}.{name}" in file.names else None
                for name in ("label", "first", "probability", "weight")
            }
            image = file.tensor("image")
        label, first, probability, weight = parts.values()
        assert label is not None
        assert first is not None
        if probability is not None:
            probability = probability.float()
            probability = probability / probability.sum(dim=0)
        row, column = first.tolist()
        image = image.flip(-1) if mirrored else image
        return cls(image, label, (row, column), probability, weight)

    def crop(self, hw: tuple[int, int], generator: Generator) -> "_View":
        """Return a random window; its height and width are multiples of ``PIXEL_STEP``."""
        grid, pixels = [], []
        for side, length in zip(self.image.shape[-2:], hw, strict=True):
            start = integer(generator, (side - length) // PIXEL_STEP + 1)
            grid.append(slice(start, start + length // PIXEL_STEP))
            pixels.append(slice(PIXEL_STEP * start, PIXEL_STEP * start + length))
        rows, columns = grid
        return _View(
            self.image[:, pixels[0], pixels[1]],
            self.label[..., rows, columns],
            self.first,
            None if self.probability is None else self.probability[..., rows, columns],
            None if self.weight is None else self.weight[rows, columns],
        )

    def valid(self, generator: Generator | None) -> Tensor:
        """Return the pixels that count; with a generator, uncertain ones are left out at random."""
        valid = self.label.isfinite()
        valid = valid.all(dim=0) if valid.ndim == 3 else valid
        if self.weight is None or generator is None:
            return valid
        return valid & (torch.rand(valid.shape, generator=generator) < self.weight)


@torch.no_grad()
def write_output(
    teacher: DenseModel,
    spec: OutputSpec,
    image: UInt8[Tensor, "3 _ _"],
    path: Path,
    *,
    teacher_side: int,
    student_side: int,
    seed: int,
) -> None:
    """Run a teacher on an image in one pass, and write the image and the output to a file.

    The mirror image is left out if the teacher was not trained on mirror images.

    Args:
        teacher: model in evaluation mode, on its device.
        spec: specification of the student's output.
        image: image of any size.
        path: file to write.
        teacher_side: shorter side of the teacher's image in pixels.
        student_side: shorter side of the student's image in pixels.
        seed: seed of the first row and column.

    Raises:
        InputError: if the file cannot be written.
    """
    task, device = teacher.task, next(teacher.parameters()).device
    height, width = image.shape[-2:]
    pixels = image[None].float() / 255
    seen = resize_image(pixels, working_hw(height, width, teacher_side)).to(device)
    with float32_products(tf32=False):
        output = teacher(Inputs(seen), draws=Draws((0,))).normalised().to("cpu")
    hw = working_hw(height, width, student_side)
    output = output.with_stack(resize_image(output.stack, hw))
    small = (resize_image(pixels, hw)[0] * 255).round().clamp(0, 255).to(torch.uint8)
    views = {ORIGINAL: output}
    if task.is_mirrorable and teacher.info.get("mirror", True):
        views[MIRRORED] = task.mirror_output(output)
    tensors, generator = {"image": small}, Generator().manual_seed(seed)
    for side, view in views.items():
        row, column = torch.randint(PIXEL_STEP, (2,), generator=generator).tolist()
        maps = _maps_at(task, spec, view, (row, column))
        tensors |= {f"{side}.{name}": value for name, value in maps.items()}
    with replacing(path) as partial:
        write_tensors(tensors, partial)


def _maps_at(
    task: AbstractTask, spec: OutputSpec, output: Output, first: tuple[int, int]
) -> dict[str, Tensor]:
    """Return the output for one image as the tensors of a ``_View``.

    Args:
        task: task of teacher and student.
        spec: specification of the student's output.
        output: output of the teacher for the whole image.
        first: first row and column.
    """
    chosen = _select(output, [first])
    label = task.to_label(chosen)
    maps = {"label": label[0], "first": torch.tensor(first)}
    if spec.kind != "values":
        probability = chosen.class_probabilities()
        if probability is None:  # the teacher predicts values, although its task has bins
            soft = task.encode_label(label)
            assert soft is not None
            probability = soft.distribution(spec.channels)
        return maps | {"probability": probability[0].half()}
    std = task.decode(output)[0].std
    if std is None:
        return maps
    std = std[first[0] :: PIXEL_STEP, first[1] :: PIXEL_STEP]
    typical = std[std.isfinite()].median().clamp(min=1e-12)
    return maps | {"weight": (1 / (1 + (std / typical).square())).nan_to_num(nan=0.0)}


def _select(output: Output, first: Sequence[tuple[int, int]]) -> Output:
    """Return an output at every ``PIXEL_STEP``-th row and column, from those of each image on."""
    rows = [
        maps[:, row::PIXEL_STEP, column::PIXEL_STEP]
        for maps, (row, column) in zip(output.stack.unbind(), first, strict=True)
    ]
    return output.with_stack(torch.stack(rows))


def training_batches(
    paths: Sequence[Path],
    hw: tuple[int, int],
    batch_size: int,
    seed: int,
    *,
    start: int = 0,
) -> Iterator[StudentBatch]:
    """Yield random batches without end: random windows, half of them mirrored, in random colours.

    The random numbers of a step depend only on the seed and the number of the step, so a resumed
    training gets the same batches.

    Args:
        paths: files of ``write_output``.
        hw: height and width of the windows, multiples of ``PIXEL_STEP``.
        batch_size: largest number of images per batch.
        seed: seed of everything random.
        start: number of the first step.

    Raises:
        InputError: if a file is damaged.
    """
    for step in itertools.count(start):
        generator = Generator().manual_seed(seed_of(seed, step, 0))
        chosen = torch.randperm(len(paths), generator=generator)[:batch_size].tolist()
        chosen = chosen if len(chosen) > 1 else 2 * chosen  # for batch normalisation
        mirrored = (torch.rand(len(chosen), generator=generator) < 0.5).tolist()
        views, valid = [], []
        for i, is_mirrored in zip(chosen, mirrored, strict=True):
            view = _View.read(paths[i], mirrored=is_mirrored).crop(hw, generator)
            sample = Sample("", view.image, {}, {})
            for change in COLOURS:
                sample = change(sample, generator)
            valid.append(view.valid(generator))
            views.append(replace(view, image=sample.image))
        yield _collate(views, valid)


def read_whole(path: Path) -> StudentBatch:
    """Return an unchanged image as a batch of one.

    Args:
        path: file of ``write_output``.

    Raises:
        InputError: if the file is damaged.
    """
    view = _View.read(path, mirrored=False)
    return _collate([view], [view.valid(None)])


def _collate(views: Sequence[_View], valid: Sequence[Tensor]) -> StudentBatch:
    image = torch.stack([view.image for view in views]).float() / 255
    target = Target(torch.stack([view.label for view in views]), torch.stack([*valid]))
    soft, rows = None, [view.probability for view in views if view.probability is not None]
    if rows:
        weights = torch.stack(rows)
        ids = torch.arange(weights.shape[1])[:, None, None].expand_as(weights)
        soft = SoftLabels(ids, weights)
    return StudentBatch(Inputs(image), target, soft, [view.first for view in views])
