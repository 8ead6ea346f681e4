"""Fitting a method to a handful of labelled images whose frozen features are computed once."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from diffsight.codecs import Codes, Discrete, ScalarBins, VectorWords
from diffsight.codecs.scalar import Spacing
from diffsight.datasets.files import MIN_SIDE_PX
from diffsight.datasets.labelled_folder import Example, Support
from diffsight.errors import InputError
from diffsight.methods.base import AbstractCachedMethod
from diffsight.ops.resize import resized_image, resized_label, working_hw
from diffsight.tasks.classes import Classes
from diffsight.tasks.dense import AbstractDense
from diffsight.tasks.directions import Directions
from diffsight.tasks.values import Scalars, Vectors
from diffsight.training.stream import seed_of
from diffsight.types import Draws, Inputs, RawOutput, Target

CLIP_NORM = 1.0  # of the codebook's gradient
FEATURE_BATCH = 8


@dataclass(frozen=True)
class Encoded:
    """A labelled image with all that is frozen; as it is and, where it may be, mirrored.

    Attributes:
        inputs: as the method's ``encode`` gives them.
        target: at the working size.
        codes: classes of the labels.
    """

    inputs: tuple[Inputs, ...]
    target: tuple[Target, ...]
    codes: tuple[Codes, ...]


@dataclass(frozen=True)
class Where:
    """On what a method runs.

    Attributes:
        device: of method, images and labels.
        autocast: type of mixed precision; None is 32 bit.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: torch.dtype | None = None

    def mixed(self) -> torch.autocast:
        """A context for the passes."""
        enabled = self.autocast is not None
        return torch.autocast(self.device.type, self.autocast, enabled=enabled)


@dataclass(frozen=True)
class Recipe:
    """How a method is fitted.

    Attributes:
        rates: learning rate by the beginning of a parameter's name; the others have the first.
        batch_size: images per step.
        constant: share of the steps before the rate falls to 0 (a half cosine).
        weight_decay: of AdamW; 0 is Adam.
    """

    rates: tuple[tuple[str, float], ...]
    batch_size: int
    constant: float
    weight_decay: float = 0.0


CPU = Where()


def check_whole(name: str, value: int | None, least: int) -> None:
    """A whole number that is large enough, and fits where it is kept.

    Raises:
        InputError: if it is not.
    """
    if value is not None and not least <= value < 2**63:
        raise InputError(f"{name} {value}: give a whole number from {least} on, below 2**63")


def check_learning(minutes: float, steps: int | None, short_side: int | None, seed: int) -> None:
    """What ``adapt`` and the benchmark ask of a learning.

    Raises:
        InputError: for what is no length of one, no size of an image, or no seed.
    """
    if not 0 < minutes < math.inf:
        raise InputError(f"{minutes} minutes: give a number above 0")
    check_whole("steps", steps, 1)
    check_whole("short side", short_side, MIN_SIDE_PX)
    check_whole("seed", seed, 0)


RECIPES = {
    # Adam, 0.1 for the concepts as in SLiMe, whose concepts they are; the paper tells no rate
    "concepts": Recipe(
        (("concepts", 0.1), ("codebook.tables", 0.01), ("codebook.mix", 1e-3)), 2, constant=0.5
    ),
    "features": Recipe((("", 2e-3),), FEATURE_BATCH, constant=0.0, weight_decay=0.01),
}


def dense_task(
    support: Support,
    *,
    bins: int | None = None,
    spacing: Spacing | None = None,
    alpha: float = 1.0,
) -> AbstractDense:
    """The task that a support's labels describe.

    Args:
        support: labelled images.
        bins: classes for numbers; default: 50 for depth, 20 for a scalar, 40 for vectors (the
            paper's), and no more than there are different values.
        spacing: of the bins; default: ``log`` for depth, ``log1p`` for a scalar.
        alpha: weight of the squared error.

    Raises:
        InputError: if the labels cannot be learned (constant, not finite, fewer than the bins).
    """
    kind = support.form.kind
    if kind == "segmentation":
        codec = Discrete(len(support.ids))
        return Classes(codec, ids=support.ids, names=support.names, colours=support.colours)
    values = support.values()
    wish = bins or {"depth": 50, "scalar": 20}.get(kind, 40)
    count = wish if bins else max(2, min(wish, len(values.unique(dim=0))))
    spread = values.std(dim=0).clamp(min=1e-12)
    if kind in ("depth", "scalar"):
        spacing = spacing or ("log" if kind == "depth" else "log1p")
        codec = ScalarBins.fit(values, count, spacing=spacing)
        unit = support.form.value_unit
        return Scalars(codec, spread=spread, unit=unit, depth=kind == "depth", alpha=alpha)
    spherical = kind == "normals"
    codec = VectorWords.fit(values, count, spherical=spherical, soft=True)
    cls = Directions if spherical else Vectors
    return cls(codec, spread=spread, alpha=alpha)


def encode(
    method: AbstractCachedMethod,
    task: AbstractDense,
    example: Example,
    short_side: int,
    where: Where = CPU,
    *,
    mirror: bool = True,
) -> Encoded:
    """An example at its working size, and its mirror image, through all that is frozen."""
    height, width = example.valid.shape
    hw = working_hw(height, width, short_side)
    image = resized_image(example.image[None].float() / 255, hw)
    value, valid = (resized_label(x, hw) for x in (example.value, example.valid[None]))
    sides = [(image, value, valid)]
    if mirror:
        sides.append((image.flip(-1), task.mirrored(value), valid.flip(-1)))
    inputs, targets, codes = [], [], []
    for picture, label, known in sides:
        with where.mixed():
            inputs.append(method.encode(Inputs(picture.to(where.device))))
        target = Target(label[None], known).to(where.device)
        targets.append(target)
        codes.append(task.codec.encode(target.label))
    return Encoded(tuple(inputs), tuple(targets), tuple(codes))


def fit(
    method: AbstractCachedMethod,
    task: AbstractDense,
    examples: Sequence[Encoded],
    recipe: Recipe,
    *,
    steps: int,
    seed: int,
    where: Where = CPU,
    start: int = 0,
    optimiser: torch.optim.Optimizer | None = None,
    advance: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
) -> None:
    """Train what learns in a method. Every random number is a function of seed and step.

    Args:
        method: put into training mode, and into evaluation mode at the end.
        task: the losses.
        examples: encoded; those of one size share a batch.
        recipe: rates and batch size.
        steps: of the whole training.
        seed: of batches, mirrors, noise and timesteps.
        where: the method and the examples are.
        start: steps that are done.
        optimiser: of an interrupted training.
        advance: called after every step with its number and the losses.
    """
    optimiser = optimiser or optimiser_for(method, recipe)
    initial = [group["initial"] for group in optimiser.param_groups]
    groups = _by_size(examples)
    clipped = [p for name, p in method.named_parameters() if name.startswith("codebook.")]
    method.train()
    try:
        for step in range(start, steps):
            factor = _factor(step / steps, recipe.constant)
            for group, rate in zip(optimiser.param_groups, initial, strict=True):
                group["lr"] = rate * factor
            inputs, target, codes, draws = _batch(groups, recipe.batch_size, seed, step)
            optimiser.zero_grad(set_to_none=True)
            with where.mixed():
                raw = method(inputs, draws=draws)
            losses = task.loss(raw, target, codes)
            losses["loss"].backward()
            if clipped:
                nn.utils.clip_grad_norm_(clipped, CLIP_NORM)
            optimiser.step()
            advance(step + 1, {name: float(value.detach()) for name, value in losses.items()})
    finally:
        method.eval()


def optimiser_for(method: AbstractCachedMethod, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam with a group per rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            rates = [rate for prefix, rate in recipe.rates if name.startswith(prefix)]
            groups.setdefault((rates or [recipe.rates[0][1]])[0], []).append(parameter)
    rows = [{"params": some, "lr": rate, "initial": rate} for rate, some in groups.items()]
    return torch.optim.AdamW(rows, weight_decay=recipe.weight_decay, betas=(0.9, 0.999))


@torch.no_grad()
def measure(
    method: AbstractCachedMethod,
    task: AbstractDense,
    examples: Sequence[Encoded],
    where: Where = CPU,
) -> Float64[Tensor, "..."]:
    """The task's sums over images that were not learned from; one noise for all, as predictions."""
    with where.mixed():
        raws = (method(e.inputs[0], draws=Draws((0,))) for e in examples)
        sums = [task.measure(raw, e.target[0]) for raw, e in zip(raws, examples, strict=True)]
    return torch.stack(sums).sum(dim=0).cpu()


def measure_constant(
    task: AbstractDense, known: Sequence[Encoded], asked: Sequence[Encoded]
) -> Float64[Tensor, "..."]:
    """The same for the best constant of the known labels."""
    labels = [e.target[0].label.movedim(1, -1)[e.target[0].valid] for e in known]
    flat = torch.cat(labels).T[None, :, None]
    value = task.constant(flat, torch.ones(1, 1, flat.shape[-1], dtype=torch.bool).to(flat.device))
    sums = []
    for example in asked:
        target = example.target[0]
        blind = value[None, :, None, None].expand_as(target.label)
        output: RawOutput = task.as_output(blind)
        sums.append(task.measure(output, target))
    return torch.stack(sums).sum(dim=0).cpu()


def class_shares(examples: Sequence[Encoded], classes: int) -> Float[Tensor, " classes"]:
    """How much of the labelled pixels is of each class."""
    total = torch.zeros(classes, dtype=torch.float64)
    for codes, target in ((c, t) for e in examples for c, t in zip(e.codes, e.target, strict=True)):
        weights = (codes.weights * target.valid).flatten().double().cpu()
        total.index_add_(0, codes.ids.flatten().long().cpu(), weights)
    return (total / total.sum()).float()


def folds_of(ids: Sequence[str], folds: int) -> Iterator[tuple[list[int], list[int]]]:
    """Known and asked places of examples in the order of their content: names do not matter, and
    the same picture under two names is in one fold.
    """
    numbers = {id: number % folds for number, id in enumerate(dict.fromkeys(ids))}
    for fold in range(folds):
        asked = [place for place, id in enumerate(ids) if numbers[id] == fold]
        yield [i for i in range(len(ids)) if i not in asked], asked


def seconds_per_step(
    method: AbstractCachedMethod,
    task: AbstractDense,
    examples: Sequence[Encoded],
    recipe: Recipe,
    where: Where = CPU,
) -> float:
    """What a step takes, from a few that are thrown away; reading the losses waits for the GPU."""
    state = {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}
    fit(method, task, examples, recipe, steps=2, seed=0, where=where)
    begin = time.perf_counter()
    fit(method, task, examples, recipe, steps=3, seed=0, where=where)
    took = (time.perf_counter() - begin) / 3
    with torch.no_grad():
        for name, value in state.items():
            method.get_parameter(name).copy_(value)
    return took


def _factor(share: float, constant: float) -> float:
    if share < constant:
        return 1.0
    angle = torch.pi * (share - constant) / (1 - constant)
    return 0.5 + 0.5 * float(torch.cos(torch.tensor(angle)))


def _by_size(examples: Sequence[Encoded]) -> list[list[Encoded]]:
    groups: dict[tuple[int, ...], list[Encoded]] = {}
    for example in examples:
        groups.setdefault(tuple(example.inputs[0].image.shape), []).append(example)
    return list(groups.values())


def _batch(
    groups: Sequence[Sequence[Encoded]], size: int, seed: int, step: int
) -> tuple[Inputs, Target, Codes, Draws]:
    generator = torch.Generator().manual_seed(seed_of(seed, step, 0))
    shares = torch.tensor([float(len(group)) for group in groups])
    group = groups[int(torch.multinomial(shares, 1, generator=generator))]
    places = torch.randperm(len(group), generator=generator)[:size].tolist()
    count = len(group[0].inputs)
    sides = torch.randint(count, (len(places),), generator=generator).tolist()
    pairs = list(zip(places, sides, strict=True))
    rows = [group[i].inputs[side] for i, side in pairs]
    targets = [group[i].target[side] for i, side in pairs]
    known = [group[i].codes[side] for i, side in pairs]
    cached = {name: torch.cat([row.cached[name] for row in rows]) for name in rows[0].cached}
    return (
        Inputs(torch.cat([row.image for row in rows]), cached=cached),
        Target(torch.cat([t.label for t in targets]), torch.cat([t.valid for t in targets])),
        Codes(torch.cat([c.ids for c in known]), torch.cat([c.weights for c in known])),
        Draws(tuple(seed_of(seed, step, i + 1) for i in range(len(rows)))),
    )
