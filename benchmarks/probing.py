"""Heads on frozen features, networks from scratch, and the one training loop for both.

A *stack* trains the heads of several supports at once: channels of the supports lie side by side
and every convolution has one group per support, so that the trainings do not touch one another.
Axes: ``s`` support of the stack, ``n`` image in memory; the others as in ``diffsight.types``.
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
# a step of training looks at every fourth row and column from a random start on: what it costs to
# compare thirty classes at all pixels, and to bring their maps to full size, is saved
PIXEL_STEP = 4


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
    """A network that starts from pixels: a stack of one."""

    def __init__(self, images: Images, network: nn.Module) -> None:
        super().__init__()
        self.images, self.network = images, network

    def forward(self, index: Tensor, flip: Tensor, grid: Grid) -> Tensor:
        """Raw maps ``1 b k h w`` at the grid."""
        return self.network(self.images.pixels(index[0], flip[0]), grid)[None]


class Tuned(nn.Module):
    """A UNet that learns with its head, on latents ``2n c h w`` in memory: a stack of one."""

    def __init__(
        self, latents: Tensor, extractor: nn.Module, head: LightHead, hw: tuple[int, int]
    ) -> None:
        super().__init__()
        self.latents, self.extractor, self.head, self.hw = latents, extractor, head, hw

    def forward(self, index: Tensor, flip: Tensor, grid: Grid) -> Tensor:
        """Raw maps ``1 b k h w`` at the grid."""
        latent = self.latents[index[0] + flip[0] * (len(self.latents) // 2)]
        return self.head(self.extractor(latent), self.hw, grid)


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
