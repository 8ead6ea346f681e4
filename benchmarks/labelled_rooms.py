"""Rendered rooms in memory, with the labels of three tasks: depth, normals and classes.

Axes: ``n`` image in memory, ``k`` channel of a raw map; the others as in ``diffsight.types``.
"""

import abc
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from diffsight import protocols
from diffsight.metrics.depth import NAMES, errors_per_image
from diffsight.rooms import CLASSES, Rooms


class AbstractTask(abc.ABC):
    """A task: the label that is predicted at every pixel, with its loss and its score.

    Attributes:
        name: name of the task in tables.
        label: key of the label in ``Rooms``.
        channels: number of channels of the raw map ``b k h w``, the output of a network.
        mirror: factor by which each channel of the label is multiplied in a mirrored image.
        unit: name and unit of the score.
        decimals: digits after the point of the score in tables.
    """

    name: str
    label: str
    channels: int
    mirror: tuple[float, ...] = (1.0,)
    unit: str
    decimals: int

    @abc.abstractmethod
    def loss(self, raw: Tensor, label: Tensor) -> Tensor:
        """Return the loss of every pixel, ``b h w``, for raw maps and labels."""

    @abc.abstractmethod
    def decode(self, raw: Tensor) -> Tensor:
        """Return the predictions of raw maps in the format of the label, ``b c h w``."""

    @abc.abstractmethod
    def ideal(self, label: Tensor) -> Tensor:
        """Return the raw map ``b k h w`` that decodes to the label."""

    @abc.abstractmethod
    def measure(self, value: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        """Return sums over the valid pixels or images of a batch, from which a score is computed.

        The sums of all batches are added; ``score`` takes the total.

        Args:
            value: predictions in the format of the label, ``b c h w``.
            label: true labels, ``b c h w``.
            valid: mask of the valid pixels, ``b h w``.
        """

    @abc.abstractmethod
    def score(self, sums: Tensor) -> float:
        """Return the score of the sums over all batches."""

    @abc.abstractmethod
    def mean_map(self, label: Tensor, valid: Tensor) -> Tensor:
        """Return the baseline without an image: the mean or most frequent label at each position.

        Its shape is ``c h w``.

        Args:
            label: labels of the training images, ``n c h w``.
            valid: masks of their valid pixels, ``n h w``.
        """


class Depth(AbstractTask):
    """Depth in metres; the score is the RMSE of an image, averaged by protocol ``rooms-v1``."""

    name, label, channels, unit, decimals = "depth", "depth_m", 1, "RMSE, m", 3
    _CENTRE_M, _STD_M = 3.0, 1.5

    def loss(self, raw: Tensor, label: Tensor) -> Tensor:
        return (raw - self.ideal(label)).square()[:, 0]

    def decode(self, raw: Tensor) -> Tensor:
        return raw * self._STD_M + self._CENTRE_M

    def ideal(self, label: Tensor) -> Tensor:
        return (label - self._CENTRE_M) / self._STD_M

    def measure(self, value: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        protocol = protocols.get("rooms-v1")
        mask = protocol.mask(label[:, 0], valid)
        rows = errors_per_image(protocol.prepare(value[:, 0]), label[:, 0], mask)
        counted = mask.flatten(1).any(dim=1)
        return torch.stack([rows[:, NAMES.index("rmse")].sum(), counted.sum()])

    def score(self, sums: Tensor) -> float:
        return float(sums[0] / sums[1])

    def mean_map(self, label: Tensor, valid: Tensor) -> Tensor:
        mask = valid[:, None]
        return _mean(label, mask) + (mask.sum(0) == 0) * label[mask].mean()


class Normals(AbstractTask):
    """Surface normals; the score is the mean angle to the true normals in degrees."""

    name, label, channels, unit, decimals = "normals", "normals", 3, "mean angle, °", 2
    mirror = (-1.0, 1.0, 1.0)

    def loss(self, raw: Tensor, label: Tensor) -> Tensor:
        # the distance of unit vectors grows with the angle, and its gradient is finite everywhere
        gap = functional.normalize(raw, dim=1, eps=1e-6) - label
        return (gap.square().sum(dim=1) + 1e-6).sqrt()

    def decode(self, raw: Tensor) -> Tensor:
        return functional.normalize(raw, dim=1, eps=1e-6)

    def ideal(self, label: Tensor) -> Tensor:
        return label

    def measure(self, value: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        cosine = (value * functional.normalize(label, dim=1)).sum(dim=1).clamp(-1, 1)
        angle = torch.rad2deg(cosine.double().acos())
        return torch.stack([angle[valid].sum(), valid.sum()])

    def score(self, sums: Tensor) -> float:
        return float(sums[0] / sums[1])

    def mean_map(self, label: Tensor, valid: Tensor) -> Tensor:
        mask = valid[:, None]
        overall = (label * mask).sum(dim=(0, 2, 3))[:, None, None]
        mean = _mean(label, mask) + (mask.sum(0) == 0) * overall
        return functional.normalize(mean, dim=0)


class Classes(AbstractTask):
    """Class of every pixel; the score is the mean IoU in percent over the classes in the labels."""

    name, label, channels, unit, decimals = "class", "semantic", len(CLASSES), "mIoU, %", 1

    def loss(self, raw: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(raw, label[:, 0].long(), reduction="none")

    def decode(self, raw: Tensor) -> Tensor:
        return raw.argmax(dim=1, keepdim=True)

    def ideal(self, label: Tensor) -> Tensor:
        return functional.one_hot(label[:, 0].long(), self.channels).movedim(-1, 1).float()

    def measure(self, value: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        pair = label[:, 0].long() * self.channels + value[:, 0].long()
        return torch.bincount(pair[valid], minlength=self.channels**2).double()

    def score(self, sums: Tensor) -> float:
        confusion = sums.reshape(self.channels, self.channels)
        truth, correct = confusion.sum(dim=1), confusion.diagonal()
        iou = correct / (truth + confusion.sum(dim=0) - correct).clamp(min=1)
        return 100 * float(iou[truth > 0].mean())

    def mean_map(self, label: Tensor, valid: Tensor) -> Tensor:
        votes = functional.one_hot(label[:, 0].long(), self.channels) * valid[..., None]
        return votes.sum(dim=0).argmax(dim=-1)[None].float()


def _mean(label: Tensor, mask: Tensor) -> Tensor:
    return (label * mask).sum(dim=0) / mask.sum(dim=0).clamp(min=1)


TASKS: Mapping[str, AbstractTask] = {task.name: task for task in (Depth(), Normals(), Classes())}


@dataclass(frozen=True)
class Grid:
    """The pixels of an image that are computed: those at crossings of some rows and columns.

    Attributes:
        rows: indices of the rows.
        columns: indices of the columns.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def every(cls, step: int, offset: tuple[int, int], image: Tensor) -> "Grid":
        """Return every ``step``-th row and column of images ``n c h w``, from an offset y, x."""
        (top, left), (height, width) = offset, image.shape[-2:]
        rows = torch.arange(top, height, step, device=image.device)
        return cls(rows, torch.arange(left, width, step, device=image.device))


@dataclass(frozen=True)
class Images:
    """Rooms in memory.

    Attributes:
        image: RGB images, ``n 3 h w`` of uint8.
        labels: labels ``n c h w`` by name of the task.
        valid: masks ``n h w`` of the valid pixels, by name of the task.
    """

    image: Tensor
    labels: Mapping[str, Tensor]
    valid: Mapping[str, Tensor]

    def pixels(self, index: Tensor, flip: Tensor) -> Tensor:
        """Return images ``b 3 h w`` in [0, 1] by index ``b``, mirrored where ``flip`` is true."""
        x = self.image[index].float() / 255
        return torch.where(flip[:, None, None, None], x.flip(-1), x)

    def truth(
        self, task: AbstractTask, index: Tensor, flip: Tensor, grid: Grid
    ) -> tuple[Tensor, Tensor]:
        """Return labels ``b c h w`` and valid masks ``b h w`` at the pixels of a grid.

        Args:
            task: task of the labels.
            index: indices of the images, ``b``.
            flip: whether each image is mirrored, ``b``.
            grid: pixels of the (mirrored) image.
        """
        last = self.image.shape[-1] - 1
        columns = torch.where(flip[:, None], last - grid.columns, grid.columns)[:, None]
        crossings = index[:, None, None], grid.rows[:, None], columns
        label = self.labels[task.name].movedim(1, -1)[crossings].float()
        sign = torch.tensor(task.mirror).to(label)
        label = torch.where(flip[:, None, None, None], label * sign, label)
        return label.movedim(-1, 1), self.valid[task.name][crossings]


def render(scenes: Sequence[tuple[str, int]], size: int, processes: int, device: str) -> Images:
    """Return rendered rooms with the labels of every task.

    Args:
        scenes: name of the split and index in it, for every room.
        size: side of the images in pixels.
        processes: number of processes that render; with 1, this process renders.
        device: device of the tensors.
    """
    if processes < 2:
        rows = [_render(size, scene) for scene in scenes]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            rows = list(pool.map(partial(_render, size), scenes, chunksize=16))
    image, labels, valid = zip(*rows, strict=True)
    by_task = (
        {name: _stack([row[name] for row in c], device) for name in TASKS} for c in (labels, valid)
    )
    return Images(_stack(image, device), *by_task)


def _stack(arrays: Sequence[np.ndarray], device: str) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(device)


def _render(size: int, scene: tuple[str, int]) -> tuple[np.ndarray, dict, dict]:
    split, index = scene
    sample = Rooms(split, index + 1, size, tuple(t.label for t in TASKS.values()))[index]
    labels = {name: sample.labels[task.label] for name, task in TASKS.items()}
    labels["class"] = labels["class"][None].to(torch.uint8)
    return (
        sample.image.numpy(),
        {name: label.numpy() for name, label in labels.items()},
        {name: sample.valid[task.label].numpy() for name, task in TASKS.items()},
    )
