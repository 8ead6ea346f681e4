"""What ``pretraining_helps.py`` measures with: rooms in memory, three tasks, one light head, one
training loop.

A *stack* trains the heads of several supports at once: channels of the supports lie side by side
and every convolution has one group per support, so that the trainings do not touch one another.
Axes: ``s`` support of the stack, ``n`` image in memory; the others as in ``diffsight.types``.
"""

import abc
import math
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsight import protocols
from diffsight.datasets.rooms import CLASSES, Rooms
from diffsight.metrics.depth import NAMES, per_image

EVALUATION_BATCH = 8
# a step of training looks at every fourth row and column from a random start on: what it costs to
# compare thirty classes at all pixels, and to bring their maps to full size, is saved
PIXEL_STEP = 4


class AbstractTask(abc.ABC):
    """What to predict, how to learn it and how to score it.

    Attributes:
        name: for tables.
        label: of ``Rooms``.
        outputs: channels of the raw map ``b k h w`` that ``loss`` and ``decode`` take.
        mirror: factor on each channel of the label in a mirrored image.
        unit: of the score, with the number of decimals to show.
    """

    name: str
    label: str
    outputs: int
    mirror: tuple[float, ...] = (1.0,)
    unit: str
    decimals: int

    @abc.abstractmethod
    def loss(self, raw: Tensor, label: Tensor) -> Tensor:
        """Per pixel, ``b h w``."""

    @abc.abstractmethod
    def decode(self, raw: Tensor) -> Tensor:
        """Values in the form of the label, ``b c h w``."""

    @abc.abstractmethod
    def measure(self, value: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        """Sums over a batch, to be added up and given to ``score``."""

    @abc.abstractmethod
    def score(self, sums: Tensor) -> float:
        """The figure of a whole test set."""

    @abc.abstractmethod
    def blind(self, label: Tensor, valid: Tensor) -> Tensor:
        """The best map ``c h w`` for labelled images, without a look at any image."""


class Depth(AbstractTask):
    """RMSE per image, then the mean over the images: protocol ``rooms-v1``."""

    name, label, outputs, unit, decimals = "depth", "depth_m", 1, "RMSE, m", 3
    _CENTRE_M, _SPREAD_M = 3.0, 1.5

    def loss(self, raw: Tensor, label: Tensor) -> Tensor:
        return (raw - (label - self._CENTRE_M) / self._SPREAD_M).square()[:, 0]

    def decode(self, raw: Tensor) -> Tensor:
        return raw * self._SPREAD_M + self._CENTRE_M

    def measure(self, value: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        protocol = protocols.get("rooms-v1")
        mask = protocol.mask(label[:, 0], valid)
        rows = per_image(protocol.prepare(value[:, 0]), label[:, 0], mask)
        counted = mask.flatten(1).any(dim=1)
        return torch.stack([rows[:, NAMES.index("rmse")].sum(), counted.sum()])

    def score(self, sums: Tensor) -> float:
        return float(sums[0] / sums[1])

    def blind(self, label: Tensor, valid: Tensor) -> Tensor:
        mask = valid[:, None]
        return _mean_map(label, mask) + (mask.sum(0) == 0) * label[mask].mean()


class Normals(AbstractTask):
    """Mean angle to the true normal over all valid pixels, in degrees."""

    name, label, outputs, unit, decimals = "normals", "normals", 3, "mean angle, °", 2
    mirror = (-1.0, 1.0, 1.0)

    def loss(self, raw: Tensor, label: Tensor) -> Tensor:
        # the chord grows like the angle that is measured, and has a finite slope everywhere
        gap = functional.normalize(raw, dim=1, eps=1e-6) - label
        return (gap.square().sum(dim=1) + 1e-6).sqrt()

    def decode(self, raw: Tensor) -> Tensor:
        return functional.normalize(raw, dim=1, eps=1e-6)

    def measure(self, value: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        cosine = (value * functional.normalize(label, dim=1)).sum(dim=1).clamp(-1, 1)
        angle = torch.rad2deg(cosine.double().acos())
        return torch.stack([angle[valid].sum(), valid.sum()])

    def score(self, sums: Tensor) -> float:
        return float(sums[0] / sums[1])

    def blind(self, label: Tensor, valid: Tensor) -> Tensor:
        mask = valid[:, None]
        overall = (label * mask).sum(dim=(0, 2, 3))[:, None, None]
        mean = _mean_map(label, mask) + (mask.sum(0) == 0) * overall
        return functional.normalize(mean, dim=0)


class Classes(AbstractTask):
    """Mean IoU in percent from the confusion of all test pixels, over the classes present there."""

    name, label, outputs, unit, decimals = "class", "semantic", len(CLASSES), "mIoU, %", 1

    def loss(self, raw: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(raw, label[:, 0].long(), reduction="none")

    def decode(self, raw: Tensor) -> Tensor:
        return raw.argmax(dim=1, keepdim=True)

    def measure(self, value: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        pair = label[:, 0].long() * self.outputs + value[:, 0].long()
        return torch.bincount(pair[valid], minlength=self.outputs**2).double()

    def score(self, sums: Tensor) -> float:
        confusion = sums.reshape(self.outputs, self.outputs)
        truth, found = confusion.sum(dim=1), confusion.diagonal()
        iou = found / (truth + confusion.sum(dim=0) - found).clamp(min=1)
        return 100 * float(iou[truth > 0].mean())

    def blind(self, label: Tensor, valid: Tensor) -> Tensor:
        votes = functional.one_hot(label[:, 0].long(), self.outputs) * valid[..., None]
        return votes.sum(dim=0).argmax(dim=-1)[None].float()


def _mean_map(label: Tensor, mask: Tensor) -> Tensor:
    return (label * mask).sum(dim=0) / mask.sum(dim=0).clamp(min=1)


TASKS: Mapping[str, AbstractTask] = {task.name: task for task in (Depth(), Normals(), Classes())}


@dataclass(frozen=True)
class Grid:
    """The pixels that are looked at: whole rows and columns."""

    rows: Tensor
    columns: Tensor

    @classmethod
    def every(cls, step: int, offset: tuple[int, int], image: Tensor) -> "Grid":
        """Every so many rows and columns of images ``n c h w``."""
        (top, left), (height, width) = offset, image.shape[-2:]
        rows = torch.arange(top, height, step, device=image.device)
        return cls(rows, torch.arange(left, width, step, device=image.device))


@dataclass(frozen=True)
class Images:
    """Rooms in memory: ``n 3 h w`` of uint8, and per task labels ``n c h w`` and ``n h w``."""

    image: Tensor
    labels: Mapping[str, Tensor]
    valid: Mapping[str, Tensor]

    def pixels(self, index: Tensor, flip: Tensor) -> Tensor:
        """RGB in [0, 1] of a row of images, mirrored where ``flip``."""
        x = self.image[index].float() / 255
        return torch.where(flip[:, None, None, None], x.flip(-1), x)

    def truth(
        self, task: AbstractTask, index: Tensor, flip: Tensor, grid: Grid
    ) -> tuple[Tensor, Tensor]:
        """Labels and validity of a row of images at the grid, mirrored where ``flip``."""
        last = self.image.shape[-1] - 1
        columns = torch.where(flip[:, None], last - grid.columns, grid.columns)[:, None]
        where = index[:, None, None], grid.rows[:, None], columns
        label = self.labels[task.name].movedim(1, -1)[where].float()
        sign = torch.tensor(task.mirror).to(label)
        label = torch.where(flip[:, None, None, None], label * sign, label)
        return label.movedim(-1, 1), self.valid[task.name][where]


def render(scenes: Sequence[tuple[str, int]], size: int, processes: int, device: str) -> Images:
    """Render (split, index) pairs with the labels of every task."""
    if processes < 2:
        rows = [_render(size, scene) for scene in scenes]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            rows = list(pool.map(partial(_render, size), scenes, chunksize=16))
    image, labels, valid = zip(*rows, strict=True)
    stack = lambda column: torch.from_numpy(np.stack(column)).to(device)  # noqa: E731
    return Images(
        stack(image),
        {name: stack([row[name] for row in labels]) for name in TASKS},
        {name: stack([row[name] for row in valid]) for name in TASKS},
    )


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


class LightHead(nn.Module):
    """Project every level to ``width``, bring all to the finest, add, one 3 x 3 convolution.

    Args:
        channels: of each level, finest first.
        outputs: channels of the result.
        width: of the sum.
        stack: supports whose heads are trained side by side.
    """

    def __init__(self, channels: Sequence[int], outputs: int, width: int, stack: int = 1) -> None:
        super().__init__()
        self.stack = stack
        conv = partial(nn.Conv2d, groups=stack)
        self.project = nn.ModuleList(conv(stack * c, stack * width, 1) for c in channels)
        self.mix = conv(stack * width, stack * width, 3, padding=1)
        self.out = conv(stack * width, stack * outputs, 1)
        for i, c in enumerate(channels):
            self.register_buffer(f"mean{i}", torch.zeros(stack * c, 1, 1))
            self.register_buffer(f"scale{i}", torch.ones(stack * c, 1, 1))

    @torch.no_grad()
    def standardise(self, levels: Sequence[Tensor]) -> None:
        """Take mean and deviation of every channel from the features of a support."""
        for i, x in enumerate(levels):
            deviation, mean = torch.std_mean(x.float(), dim=(0, 2, 3))
            self.get_buffer(f"mean{i}").copy_(mean[:, None, None])
            self.get_buffer(f"scale{i}").copy_(1 / (deviation[:, None, None] + 1e-4))

    def forward(self, levels: Sequence[Tensor], hw: tuple[int, int], grid: Grid) -> Tensor:
        """From levels ``b s*c h w`` to ``s b k h w``: of an image of size ``hw``, the grid."""
        hidden: Tensor | None = None
        for i, (project, x) in enumerate(zip(self.project, levels, strict=True)):
            x = project((x.float() - self.get_buffer(f"mean{i}")) * self.get_buffer(f"scale{i}"))
            if hidden is None:
                hidden = x
            else:
                hidden = hidden + functional.interpolate(x, hidden.shape[-2:], mode="bilinear")
        assert hidden is not None
        raw = self.out(functional.gelu(self.mix(functional.gelu(hidden))))
        rows = _bilinear(raw.shape[-2], hw[0], raw)[:, grid.rows]
        raw = rows.T @ (raw @ _bilinear(raw.shape[-1], hw[1], raw)[:, grid.columns])
        return raw.unflatten(1, (self.stack, -1)).transpose(0, 1)


def _bilinear(short: int, long: int, like: Tensor) -> Tensor:
    """Bilinear interpolation along one axis as a matrix, of which a few columns can be taken."""
    return functional.interpolate(torch.eye(short).to(like)[None], long, mode="linear")[0]


class RGBUNet(nn.Module):
    """A U-Net on pixels: four sizes, two convolutions on the way down and one on the way up."""

    def __init__(self, outputs: int, width: int = 16) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        inputs = [3, *widths[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(_block(i, o), _block(o, o)) for i, o in zip(inputs, widths, strict=True)
        )
        ups = zip(widths[1:], widths[:-1], strict=True)
        self.up = nn.ModuleList(_block(deep + skip, skip) for deep, skip in ups)
        self.out = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """From RGB in [0, 1] to ``b k h w`` at the grid; sides must be multiples of 8."""
        x, skips = x * 2 - 1, []
        for level, block in enumerate(self.down):
            x = block(functional.avg_pool2d(x, 2) if level else x)
            skips.append(x)
        for skip, block in zip(skips[-2::-1], list(self.up)[::-1], strict=True):
            x = functional.interpolate(x, skip.shape[-2:], mode="bilinear")
            x = block(torch.cat([x, skip], dim=1))
        return self.out(x[:, :, grid.rows][..., grid.columns])


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()
    )


class Frozen(nn.Module):
    """A stack of heads on features ``2n c h w`` in memory; those of mirrored images come last."""

    def __init__(self, levels: Sequence[Tensor], head: LightHead, hw: tuple[int, int]) -> None:
        super().__init__()
        self.levels, self.head, self.hw = levels, head, hw

    def take(self, index: Tensor, flip: Tensor) -> list[Tensor]:
        """Features of the images ``s b``, the supports side by side."""
        rows = index + flip * (len(self.levels[0]) // 2)
        return [level[rows.T].flatten(1, 2) for level in self.levels]

    def forward(self, index: Tensor, flip: Tensor, grid: Grid) -> Tensor:
        """Raw maps ``s b k h w`` at the grid."""
        return self.head(self.take(index, flip), self.hw, grid)


class Whole(nn.Module):
    """A network that starts from pixels, as a stack of one support."""

    def __init__(self, images: Images, network: nn.Module) -> None:
        super().__init__()
        self.images, self.network = images, network

    def forward(self, index: Tensor, flip: Tensor, grid: Grid) -> Tensor:
        """Raw maps ``1 b k h w`` at the grid."""
        return self.network(self.images.pixels(index[0], flip[0]), grid)[None]


@dataclass(frozen=True)
class Schedule:
    """A fixed schedule: AdamW, warm-up over a twentieth of the steps, then a cosine to 0."""

    steps: int
    batch: int
    weight_decay: float

    def factor(self, step: int) -> float:
        """On the learning rate."""
        warm = max(self.steps // 20, 1)
        return min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / self.steps))


def train(
    model: nn.Module,
    rates: Mapping[nn.Module, float],
    task: AbstractTask,
    images: Images,
    supports: Tensor,
    schedule: Schedule,
    seed: int,
) -> Tensor:
    """Train on supports ``s n``; ``rates`` are the parts that learn. Returns losses ``t s``."""
    # drawn on the CPU, so that every row of the table sees the same batches on every device
    generator = torch.Generator().manual_seed(seed)
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in rates.items()]
    optimiser = torch.optim.AdamW(groups, weight_decay=schedule.weight_decay)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.factor)
    losses = []
    for _ in range(schedule.steps):
        pick = torch.rand(supports.shape, generator=generator).argsort(dim=1)[:, : schedule.batch]
        flip = (torch.rand(pick.shape, generator=generator) < 0.5).to(supports.device)
        index = supports.gather(1, pick.to(supports.device))
        top, left = torch.randint(PIXEL_STEP, (2,), generator=generator).tolist()
        grid = Grid.every(PIXEL_STEP, (top, left), images.image)
        label, valid = images.truth(task, index.flatten(), flip.flatten(), grid)
        pixels = task.loss(model(index, flip, grid).flatten(0, 1), label) * valid
        total = pixels.unflatten(0, index.shape).sum(dim=(1, 2, 3))
        loss = total / valid.unflatten(0, index.shape).sum(dim=(1, 2, 3)).clamp(min=1)
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        optimiser.step()
        rate.step()
        losses.append(loss.detach())
    return torch.stack(losses).cpu()


@torch.no_grad()
def evaluate(
    model: nn.Module, task: AbstractTask, images: Images, tests: Tensor, stack: int
) -> list[float]:
    """The score of every support of the stack on the images ``tests``."""
    sums: list[Tensor | int] = [0] * stack
    grid = Grid.every(1, (0, 0), images.image)
    for some in tests.split(EVALUATION_BATCH):
        index = some.expand(stack, -1)
        flip = torch.zeros_like(index, dtype=torch.bool)
        label, valid = images.truth(task, some, flip[0], grid)
        for s, raw in enumerate(model(index, flip, grid)):
            sums[s] = sums[s] + task.measure(task.decode(raw), label, valid)
    return [task.score(torch.as_tensor(each)) for each in sums]
