"""Who takes part in the few-shot benchmark: our methods, ablations, baselines."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.adaptation.adapt import describe, method_options
from diffsight.adaptation.selection import LEAST_STEPS, METHODS, MOST_STEPS, Adaptation
from diffsight.backbones import PatchTokens, StableDiffusion, architectures
from diffsight.backbones.clip import tower_folder
from diffsight.benchmark.entrant import (
    AbstractEntrant,
    Learned,
    Lesson,
    files_hash,
    needed_tower,
)
from diffsight.benchmark.trivial_baselines import Constant, MeanMap
from diffsight.codecs import ScalarBins
from diffsight.datasets.source import Labelled, SourceTask
from diffsight.errors import InputError
from diffsight.heads import DeconvHead
from diffsight.hub.task_file import Base, learned_parameters
from diffsight.methods import VPD, LinearProbe
from diffsight.methods.base import AbstractCachedMethod
from diffsight.necks import Merging
from diffsight.ops.resize import resized_image, working_hw
from diffsight.prompts import TextTable
from diffsight.prompts.text import without_bars
from diffsight.tasks.classes import Classes
from diffsight.tasks.dense import AbstractDense
from diffsight.tasks.directions import Directions
from diffsight.tasks.values import Scalars
from diffsight.training.loop import RECIPES, Recipe, encode, fit, seconds_per_step
from diffsight.training.state import AdaptState
from diffsight.types import Draws, Inputs, RawOutput, Target


@dataclass(frozen=True)
class Adapted(AbstractEntrant):
    """``diffsight adapt``, or one of its methods with other options.

    Attributes:
        method: ``auto`` compares on folds of the support, as the product does.
        codebook: tables of the label codebook.
        maps: options of ``ConceptRequest``.
        regression: one concept that says how large the value is, learned by the squared error
            alone (the paper's Figure 3): two concepts of the values' extremes, whose softmax is a
            sigmoid. For scalars.
    """

    method: Literal["auto", "concepts", "features"]
    codebook: int = 10
    maps: Mapping[str, Any] = field(default_factory=dict)
    regression: bool = False

    def learn(self, lesson: Lesson) -> Learned:
        """On the support alone."""
        task = _extremes(lesson) if self.regression else lesson.task
        numbers = self.method == "concepts" and task.codec.centres is not None
        tables = self.codebook if numbers else None
        options = method_options(lesson.base, codebook=tables, clip=lesson.clip, maps=self.maps)
        tables = None if task.codec.centres is None else options["concepts"]["codebook"]
        about = describe(
            lesson.support,
            task,
            lesson.base,
            alpha=task.alpha,
            short_side=lesson.short_side,
            seed=lesson.seed,
        )
        job = Adaptation(
            support=lesson.support,
            others=None,
            base=lesson.base,
            task=task,
            about=about,
            options=options,
            seed=lesson.seed,
            advance=lambda progress: None,
            state=AdaptState(None, ""),
            compare=self.method == "auto",
            where=lesson.where,
        )
        wanted = METHODS if self.method == "auto" else (self.method,)
        found = job.run(job.plan(wanted, lesson.minutes, lesson.steps))
        report = found.about["report"]
        if report["interrupted"]:  # half a training is an answer for adapt's user, not for a table
            raise KeyboardInterrupt
        facts = {
            "parameters": found.about["parameters"],
            "steps": report["steps"],
            "chosen": report["chosen"],
            "held_out": report["held_out"],
            "codebook": tables,
        }
        method: Any = found.model.method
        return Learned(partial(_asked, method, task, lesson), facts)

    def content(self, spec: SourceTask, base: Base, clip: str | None) -> str:
        """The CLIP model's, where its features mix tables; ``adapt`` can do without."""
        if self.codebook < 2 or self.method == "features" or spec.kind == "segmentation":
            return ""
        if self.method == "auto":
            folder = tower_folder(clip or base.folder)
            return "" if folder == base.folder else files_hash(folder)
        return files_hash(needed_tower(f"a codebook of {self.codebook} tables", base, clip))


@dataclass(frozen=True)
class Probe(AbstractEntrant):
    """A linear probe of a vision transformer.

    Attributes:
        source: of its weights; None is the base's own CLIP tower.
        side: pixels of its input.
    """

    source: str | None = None
    side: int | None = None

    def learn(self, lesson: Lesson) -> Learned:
        """One linear layer, its tokens computed once."""
        with without_bars():
            vision = PatchTokens(self.source or lesson.clip or lesson.base.folder, side=self.side)
        torch.manual_seed(lesson.seed)
        method = LinearProbe(
            num_outputs=lesson.task.num_outputs, vision=vision, centres=lesson.task.codec.centres
        )
        return _fitted(method, lesson, RECIPES["features"])

    def content(self, spec: SourceTask, base: Base, clip: str | None) -> str:
        """The model's."""
        return files_hash(needed_tower("a linear probe", base, self.source or clip))


@dataclass(frozen=True)
class FineTuned(AbstractEntrant):
    """VPD: the UNet itself is trained, with a deconvolution head.

    Differs from the paper's unstated recipe: AdamW with VPD's rate and decay, batches of 8, no text
    but one learned vector; classes by cross-entropy, values by the squared error, both as ours. The
    whole UNet has the head's rate; the authors' depth recipe takes a hundredth of it, but on ten
    rooms the full rate did better than a tenth.
    """

    def learn(self, lesson: Lesson) -> Learned:
        """From the base's weights."""
        torch.manual_seed(lesson.seed)
        folder = lesson.base.folder
        backbone = StableDiffusion(
            architectures.of_folder(folder),
            weights=folder,
            latent_scale=architectures.scaling_factor(folder),
        )
        task = lesson.task
        vpd = VPD(
            num_outputs=task.num_outputs if task.spread is None else len(task.spread),
            backbone=backbone,
            prompts=TextTable(names=["any"], dim=backbone.context_dim, learn_rows=True),
            neck=partial(Merging, width=128, groups=8),
            head=partial(DeconvHead, widths=(32, 32, 32), width=32, max_value=None),
        )
        recipe = Recipe((("", 5e-4),), 8, constant=0.0, weight_decay=0.1)
        if task.spread is None:
            return _fitted(_Answering(vpd), lesson, recipe)
        values = copy.copy(task)
        values.alpha = math.inf
        middle = lesson.support.values().mean(dim=0)
        return _fitted(_Answering(vpd, middle, task.spread), lesson, recipe, values)


class _Answering(AbstractCachedMethod):
    """A network of plain maps as a dense task wants it: probabilities, or values."""

    def __init__(
        self, net: VPD, middle: Tensor | None = None, spread: Tensor | None = None
    ) -> None:
        super().__init__()
        self.net = net
        self.scale = None if middle is None or spread is None else (middle, spread)

    def encode(self, inputs: Inputs) -> Inputs:
        """With the latent: the autoencoder is frozen."""
        return self.net.encode(inputs)

    def forward(
        self, inputs: Inputs, target: Target | None = None, *, draws: Draws | None = None
    ) -> RawOutput:
        """The network's maps, in 32 bit."""
        maps = self.net(inputs, draws=draws).maps.float()
        if self.scale is None:
            return RawOutput(maps.softmax(dim=1), "probability")
        middle, spread = (x.to(maps)[:, None, None] for x in self.scale)
        return RawOutput(maps, "value", {"value": middle + spread * maps})


def entrants(
    names: tuple[str, ...], *, dino: str | None, clip_side: int | None
) -> dict[str, AbstractEntrant]:
    """The entrants of these names.

    Args:
        names: out of ``NAMES``.
        dino: folder of a DINOv2, for ``dinov2-linear``.
        clip_side: pixels of the input of ``clip-linear``; None is the tower's own.

    Raises:
        InputError: for another name, or if DINOv2 has no folder.
    """
    found: dict[str, AbstractEntrant] = {}
    for name in names:
        if name == "clip-linear":
            found[name] = Probe(side=clip_side)
        elif name == "dinov2-linear":
            if dino is None:
                raise InputError("dinov2-linear: give --dino DIR, the folder of a DINOv2 model")
            found[name] = Probe(dino)
        elif name in PLAIN:
            found[name] = PLAIN[name]
        else:
            raise InputError(f"unknown method {name!r}: choose from {', '.join(NAMES)}")
    return found


def suits(entrant: AbstractEntrant, spec: SourceTask) -> bool:
    """Whether an entrant can learn a task: a regression by one concept is for one number."""
    alone = isinstance(entrant, Adapted) and entrant.regression
    return not alone or (spec.kind in ("depth", "scalar") and spec.curve is None)


PLAIN: Mapping[str, AbstractEntrant] = {
    "auto": Adapted("auto"),
    "concepts": Adapted("concepts"),
    "features": Adapted("features"),
    "concepts-k1": Adapted("concepts", codebook=1),
    "concepts-k0": Adapted("concepts", codebook=0),
    "concepts-no-self-attention": Adapted("concepts", maps={"self_attention": False}),
    "concepts-regression": Adapted("concepts", codebook=0, regression=True),
    "vpd": FineTuned(),
    "constant": Constant(),
    "mean-map": MeanMap(),
}
NAMES = (*PLAIN, "clip-linear", "dinov2-linear")


def _extremes(lesson: Lesson) -> AbstractDense:
    """The task as a regression between the least and the largest label."""
    task = lesson.task
    assert isinstance(task, Scalars), "others are left out beforehand"
    assert task.spread is not None
    values = lesson.support.values()[:, 0]
    low, high = float(values.min()), float(values.max())
    codec = ScalarBins(torch.tensor([low, (low + high) / 2, high]), torch.tensor([low, high]))
    return Scalars(codec, spread=task.spread, unit=task.unit, depth=task.depth, alpha=math.inf)


def _fitted(
    method: AbstractCachedMethod,
    lesson: Lesson,
    recipe: Recipe,
    task: AbstractDense | None = None,
) -> Learned:
    task = task or lesson.task
    where, method = lesson.where, method.to(lesson.where.device)
    encoded = [encode(method, task, e, lesson.short_side, where) for e in lesson.support.examples]
    steps = lesson.steps
    if steps is None:
        took = seconds_per_step(method, task, encoded, recipe, where)
        fitting = math.floor(60 * lesson.minutes / took)
        steps = max(LEAST_STEPS, min(MOST_STEPS["concepts"], fitting))
    fit(method, task, encoded, recipe, steps=steps, seed=lesson.seed, where=where)
    facts = {"parameters": learned_parameters(method), "steps": steps}
    return Learned(partial(_asked, method, task, lesson), facts)


@torch.no_grad()
def _asked(
    method: AbstractCachedMethod, task: AbstractDense, lesson: Lesson, query: Labelled
) -> Float[Tensor, "d h w"]:
    """At the size at which the method works."""
    height, width = query.valid.shape
    hw = working_hw(height, width, lesson.short_side)
    image = resized_image(query.image[None].to(lesson.where.device).float() / 255, hw)
    with lesson.where.mixed():
        raw = method(Inputs(image), draws=Draws((0,)))
    if isinstance(task, Classes):
        return raw.maps[0].float().cpu()
    value = task.value(raw).float().cpu()
    return functional.normalize(value, dim=1)[0] if isinstance(task, Directions) else value[0]
