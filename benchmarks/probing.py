"""Train heads on frozen features, fine-tuned UNets or networks from scratch with the same loop.

A *support* is one set of training images. A *stack* trains the heads of several supports at once:
their channels are concatenated, and every convolution has one group per support, so that the
trainings are independent. Axes: ``s`` support of the stack, ``n`` image in memory, ``k`` channel of
a raw map; the others as in ``diffsight.types``. All models map image indices and flips (both
``s b``) and the grid of computed pixels to raw maps ``s b k h w``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from labelled_rooms import AbstractTask, Grid, Images
from torch import Tensor, nn
from torch.nn import functional

EVALUATION_BATCH = 8
# A training step computes every fourth row and column, from a random offset, because thirty class
# maps at full size would take more time than the rest of the step.
PIXEL_STEP = 4


class LightHead(nn.Module):
    """Head that projects all levels to ``width`` channels and adds them at the finest size.

    A 3 x 3 and a 1 x 1 convolution follow. Features are standardised first.

    Args:
        channels: number of channels of each level, finest first.
        outputs: number of channels of the raw map.
        width: number of channels of the sum.
        stack: number of supports whose heads are trained together.
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
        """Set mean and scale of the input channels from features ``b s*c h w`` of the supports."""
        for i, x in enumerate(levels):
            deviation, mean = torch.std_mean(x.float(), dim=(0, 2, 3))
            self.get_buffer(f"mean{i}").copy_(mean[:, None, None])
            self.get_buffer(f"scale{i}").copy_(1 / (deviation[:, None, None] + 1e-4))

    def forward(self, levels: Sequence[Tensor], hw: tuple[int, int], grid: Grid) -> Tensor:
        """Return raw maps ``s b k h w`` at the pixels of a grid.

        Args:
            levels: features ``b s*c h w``, finest first.
            hw: height and width of the images.
            grid: pixels to compute.
        """
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
    """Return the matrix ``short long`` that upsamples one axis linearly."""
    return functional.interpolate(torch.eye(short).to(like)[None], long, mode="linear")[0]


class RGBUNet(nn.Module):
    """A U-Net on RGB pixels with four levels: two convolutions per level down, one per level up."""

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
        """Return raw maps ``b k h w`` at the pixels of a grid.

        Args:
            x: RGB images ``b 3 h w`` in [0, 1]; h and w are multiples of 8.
            grid: pixels to return.
        """
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
    """A stack of heads on features ``2n c h w`` of all images, then of their mirror images."""

    def __init__(self, levels: Sequence[Tensor], head: LightHead, hw: tuple[int, int]) -> None:
        super().__init__()
        self.levels, self.head, self.hw = levels, head, hw

    def take(self, index: Tensor, flip: Tensor) -> list[Tensor]:
        """Return the features ``b s*c h w`` of images ``s b``, mirrored where ``flip`` is true."""
        rows = index + flip * (len(self.levels[0]) // 2)
        return [level[rows.T].flatten(1, 2) for level in self.levels]

    def forward(self, index: Tensor, flip: Tensor, grid: Grid) -> Tensor:
        """Return raw maps ``s b k h w`` at the grid."""
        return self.head(self.take(index, flip), self.hw, grid)


class Whole(nn.Module):
    """A network on pixels that is trained from scratch on one support."""

    def __init__(self, images: Images, network: nn.Module) -> None:
        super().__init__()
        self.images, self.network = images, network

    def forward(self, index: Tensor, flip: Tensor, grid: Grid) -> Tensor:
        """Return raw maps ``1 b k h w`` at the grid."""
        return self.network(self.images.pixels(index[0], flip[0]), grid)[None]


class Tuned(nn.Module):
    """A UNet that is fine-tuned on one support, from latents ``2n c h w`` as in ``Frozen``."""

    def __init__(
        self, latents: Tensor, extractor: nn.Module, head: LightHead, hw: tuple[int, int]
    ) -> None:
        super().__init__()
        self.latents, self.extractor, self.head, self.hw = latents, extractor, head, hw

    def forward(self, index: Tensor, flip: Tensor, grid: Grid) -> Tensor:
        """Return raw maps ``1 b k h w`` at the grid."""
        latent = self.latents[index[0] + flip[0] * (len(self.latents) // 2)]
        return self.head(self.extractor(latent), self.hw, grid)


@dataclass(frozen=True)
class Schedule:
    """Options of AdamW; the learning rate warms up for 5 % of the steps, then falls as a cosine."""

    steps: int
    batch: int
    weight_decay: float

    def factor(self, step: int) -> float:
        """Return the factor by which the learning rates are multiplied at a step."""
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
    """Train a model on all supports; return the loss of each step and support, ``t s``.

    Args:
        model: model that maps (index, flip, grid) to raw maps ``s b k h w``.
        rates: learning rate of each trained part.
        task: task whose loss is minimised.
        images: rooms in memory.
        supports: indices of the training images of each support, ``s n``.
        schedule: steps, batch size and learning rates.
        seed: seed of the random batches, flips and grids.
    """
    # on the CPU, so that all rows of the table have the same batches on every device
    generator = torch.Generator().manual_seed(seed)
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in rates.items()]
    optimiser = torch.optim.AdamW(groups, weight_decay=schedule.weight_decay, fused=True)
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
    """Return the score of every support of a stack on the images with indices ``tests``."""
    sums: list[Tensor | int] = [0] * stack
    grid = Grid.every(1, (0, 0), images.image)
    for batch in tests.split(EVALUATION_BATCH):
        index = batch.expand(stack, -1)
        flip = torch.zeros_like(index, dtype=torch.bool)
        label, valid = images.truth(task, batch, flip[0], grid)
        for s, raw in enumerate(model(index, flip, grid)):
            sums[s] = sums[s] + task.measure(task.decode(raw), label, valid)
    return [task.score(torch.as_tensor(each)) for each in sums]
