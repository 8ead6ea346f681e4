"""Every pair of a method and a task can be trained, or is refused with a message of one line.

``python -m tests.test_pairs`` writes the page docs/methods/pairs.md.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffsight.backbones import BackboneSource, StableDiffusion, VisionBackbone
from diffsight.diffusion import ClassEmbedding, ScalarMap
from diffsight.errors import InputError
from diffsight.heads import DeconvHead, HeatmapHead, UPerHead
from diffsight.heads.map_decoder import MapDecoder
from diffsight.methods import (
    DDP,
    EVP,
    VPD,
    FeatureHead,
    FewShot,
    LinearProbe,
    MetaPrompts,
    SmallUNet,
)
from diffsight.model import DenseModel
from diffsight.necks import Merging, NormalisedFPN, PerLevel
from diffsight.prompts import Aggregated, LearnedTokens
from diffsight.tasks import AbstractTask, Depth, Normals, Pose, Referring, Segmentation, Values
from diffsight.types import Draws, Inputs
from tests.support import SMALL, images, random_target
from tests.support_ddp import CONVNEXT

PAGE = Path(__file__).parents[1] / "docs" / "methods" / "pairs.md"
HEADER = """# Which method supports which task

This page shows which methods you can combine with which tasks, and which kind of output a pair
uses. A task lists the kinds that it has a loss for, in its order of preference. `DenseModel` uses
the first of them that the method supports. If there is none, it raises an `InputError` of one line.

| kind | meaning |
|---|---|
| values | one number per pixel and channel |
| classes | one of several classes per pixel |
| distribution | probabilities of bins or codebook vectors, for a task with `bins` |
| heatmaps | one map per joint with a peak at its position; give the method a `HeatmapHead` |

The first column lists the tasks. *Values* are other numbers, such as temperatures: one channel, or
*several values* for several channels. *With bins* means that the task has `bins`, so that a method
can predict numbers as classes. A method that predicts values ignores the bins.

"""
FOOTER = """
What to do about the refused pairs:

| task | refused methods | repair |
| --- | --- | --- |
"""
HW = (32, 64)


def fit_bins(task: AbstractTask, channels: int) -> AbstractTask:
    """Return the task with bins that are fitted to random labels."""
    generator = torch.Generator().manual_seed(0)
    return task.fitted(torch.rand(300, channels, generator=generator) + 0.5)


TASKS: dict[str, Callable[[], AbstractTask]] = {
    "segmentation": lambda: Segmentation(("wall", "door", "cat")),
    "referring segmentation": Referring,
    "depth": Depth,
    "depth with bins": lambda: fit_bins(Depth(bins=4), 1),
    "normals": Normals,
    "normals with bins": lambda: fit_bins(Normals(bins=6), 3),
    "values": Values,
    "values with bins": lambda: fit_bins(Values(bins=4), 1),
    "several values": lambda: Values(channels=2),
    "several values with bins": lambda: fit_bins(Values(channels=2, bins=6), 2),
    "joints": lambda: Pose(height=HW[0], width=HW[1]),
}


def build_diffusion() -> StableDiffusion:
    torch.manual_seed(0)
    return StableDiffusion(SMALL)


@functools.cache
def embedded_source() -> BackboneSource:
    return BackboneSource("tiny")


def vpd_or_evp(cls: Any, task: str) -> Any:
    """Return a builder of VPD or EVP with a head for the task and a fixed prompt."""
    maps = functools.partial(DeconvHead, widths=(4, 4, 4), width=8)
    return functools.partial(
        cls,
        backbone=build_diffusion(),
        prompts=Aggregated(4, dim=24),
        neck=functools.partial(Merging, width=16, groups=8),
        head=functools.partial(HeatmapHead, width=8) if task == "joints" else maps,
        attention_maps="A32",
    )


def meta_prompts(task: str) -> Any:
    """Return a builder of Meta Prompts with a head for the task."""
    torch.manual_seed(0)
    head = HeatmapHead if task == "joints" else UPerHead
    options = {"conv_out": True, "time_embedding": False, "resize_skips": True}
    return functools.partial(
        MetaPrompts,
        backbone=StableDiffusion(SMALL, **options),
        prompts=[LearnedTokens(4, dim=24)],
        rearrange=PerLevel,
        head=functools.partial(head, width=8),
        passes=2,
    )


def ddp(task: str) -> Any:
    """Return a builder of DDP with a small encoder and an encoding of the task's labels."""
    torch.manual_seed(0)
    is_class = "segmentation" in task
    return functools.partial(
        DDP,
        backbone=VisionBackbone(architecture=CONVNEXT),
        neck=functools.partial(NormalisedFPN, width=16),
        decoder=MapDecoder(width=16, layers=1, hidden=8, time_width=8),
        encoding=functools.partial(ClassEmbedding, width=8) if is_class else ScalarMap,
    )


METHODS: dict[str, Callable[[str], Any]] = {
    "vpd": functools.partial(vpd_or_evp, VPD),
    "evp": functools.partial(vpd_or_evp, EVP),
    "meta_prompts": meta_prompts,
    "ddp": ddp,
    "few_shot": lambda task: FewShot.from_backbone(embedded_source(), codebook=1),
    "feature_head": lambda task: FeatureHead.from_backbone(embedded_source(), width=8),
    "linear_probe": lambda task: LinearProbe.from_backbone(embedded_source()),
    "small_unet": lambda task: functools.partial(SmallUNet, widths=(4, 8)),
}


def build_pair(method: str, task: str) -> DenseModel | str:
    """Return the model, or the reason why the pair is refused."""
    try:
        return DenseModel(task=TASKS[task](), method=METHODS[method](task))
    except InputError as error:
        return str(error)


def kind_of(model: DenseModel) -> str:
    """Return the kind of output that a model predicts."""
    kinds = type(model.method).output_kinds
    return next(spec.kind for spec in model.task.outputs if spec.kind in kinds)


def write_page() -> str:
    """Return the page: a table with a row per task and a column per method, and refusals."""
    rows = [["task", *METHODS], ["---"] * (1 + len(METHODS))]
    repairs: dict[tuple[str, str], list[str]] = {}
    for task in TASKS:
        models = {method: build_pair(method, task) for method in METHODS}
        for method, reason in models.items():
            if isinstance(reason, str):
                repairs.setdefault((task, reason.rpartition(": ")[2]), []).append(method)
        kinds = ("refused" if isinstance(m, str) else kind_of(m) for m in models.values())
        rows.append([task, *kinds])
    refusals = [[task, ", ".join(methods), repair] for (task, repair), methods in repairs.items()]
    return HEADER + format_rows(rows) + FOOTER + format_rows(refusals)


def format_rows(rows: list[list[str]]) -> str:
    """Return the rows of a table in Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_a_pair_can_be_trained_or_is_refused_in_one_line(method: str, task: str) -> None:
    model = build_pair(method, task)
    if isinstance(model, str):
        assert "\n" not in model
        assert ":" in model  # the repair follows the colon
        return
    model.train()
    inputs, target = Inputs(images(2, *HW)), random_target(model.task, 2, *HW)
    trainable = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trainable]
    optimiser = torch.optim.SGD(trainable, lr=0.01)
    encoded = model.encode(inputs)
    for step in range(2):
        optimiser.zero_grad()
        draws = Draws((2 * step, 2 * step + 1))
        loss = model.losses(inputs, target, encoded=encoded, draws=draws)["loss"]
        loss.backward()
        optimiser.step()
        assert loss.isfinite()
    assert all(p.isfinite().all() for p in trainable)
    changed = [not torch.equal(p, b) for p, b in zip(trainable, before, strict=True)]
    assert any(changed)
    with torch.no_grad():
        (prediction, _) = model.eval().predict(inputs)
    assert prediction.hw == HW


def test_the_page_of_pairs_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == write_page(), "run: python -m tests.test_pairs"


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
