"""Every pair of a method and a task trains, or is refused in one line.

``python -m tests.test_pairs`` writes the table of docs/methods/pairs.md.
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
from diffsight.methods import DDP, EVP, VPD, FeatureHead, FewShot, LinearProbe, MetaPrompts
from diffsight.model import DenseModel
from diffsight.necks import Merging, NormalisedFPN, PerLevel
from diffsight.prompts import Aggregated, LearnedTokens
from diffsight.tasks import AbstractTask, Depth, Normals, Pose, Referring, Segmentation, Values
from diffsight.types import Draws, Inputs
from tests.support import SMALL, images, random_target

PAGE = Path(__file__).parents[1] / "docs" / "methods" / "pairs.md"
HEADER = """# Which method learns which task

Every method can be combined with every task, as long as the method gives a form of output that the
task has a loss for. `DenseModel` chooses the first one that fits. What does not fit is refused when
the model is built, in one line.

| form | what it is |
|---|---|
| values | one number per pixel and channel |
| classes | one of several classes per pixel |
| distribution | probabilities of bins or codebook vectors, for a task with `bins` |
| heatmaps | one map per joint, with a peak where it is; needs `HeatmapHead` |

"""
FOOTER = """
The reasons, with the first of the methods that are refused:

"""
HW = (32, 64)
CONVNEXT = {
    "model_type": "convnext",
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}


def fitted(task: AbstractTask, channels: int) -> AbstractTask:
    generator = torch.Generator().manual_seed(0)
    return task.fitted(torch.rand(300, channels, generator=generator) + 0.5)


TASKS: dict[str, Callable[[], AbstractTask]] = {
    "segmentation": lambda: Segmentation(("wall", "door", "cat")),
    "referring segmentation": Referring,
    "depth": Depth,
    "depth with bins": lambda: fitted(Depth(bins=4), 1),
    "normals": Normals,
    "normals with bins": lambda: fitted(Normals(bins=6), 3),
    "values": Values,
    "values with bins": lambda: fitted(Values(bins=4), 1),
    "several values": lambda: Values(channels=2),
    "several values with bins": lambda: fitted(Values(channels=2, bins=6), 2),
    "joints": lambda: Pose(height=HW[0], width=HW[1]),
}


def small() -> StableDiffusion:
    torch.manual_seed(0)
    return StableDiffusion(SMALL)


@functools.cache
def tiny() -> BackboneSource:
    return BackboneSource("tiny")


def prompted(cls: Any, task: str) -> Any:
    """VPD or EVP with a head that gives what the task wants; one condition for all images."""
    maps = functools.partial(DeconvHead, widths=(4, 4, 4), width=8)
    return functools.partial(
        cls,
        backbone=small(),
        prompts=Aggregated(4, dim=24),
        neck=functools.partial(Merging, width=16, groups=8),
        head=functools.partial(HeatmapHead, width=8) if task == "joints" else maps,
        attention_maps="A32",
    )


def meta_prompts(task: str) -> Any:
    """Meta Prompts with a head that gives what the task wants."""
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
    """DDP on a small encoder, with an encoding of the task's labels."""
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
    "vpd": functools.partial(prompted, VPD),
    "evp": functools.partial(prompted, EVP),
    "meta_prompts": meta_prompts,
    "ddp": ddp,
    "few_shot": lambda task: FewShot.from_backbone(tiny(), codebook=1),
    "feature_head": lambda task: FeatureHead.from_backbone(tiny(), width=8),
    "linear_probe": lambda task: LinearProbe.from_backbone(tiny()),
}


def pair(method: str, task: str) -> DenseModel | str:
    """The model, or the reason why there is none."""
    try:
        return DenseModel(task=TASKS[task](), method=METHODS[method](task))
    except InputError as error:
        return str(error)


def form_of(model: DenseModel) -> str:
    """The form of output that the method gives."""
    kinds = type(model.method).output_kinds
    return next(spec.kind for spec in model.task.outputs if spec.kind in kinds)


def page() -> str:
    """The page: a row per task, a column per method, and the refusals."""
    rows = [["task", *METHODS], ["---"] * (1 + len(METHODS))]
    refusals: list[str] = []
    for task in TASKS:
        found = [pair(method, task) for method in METHODS]
        refused = [reason for reason in found if isinstance(reason, str)]
        refusals += [f"* {task}: {reason}" for reason in refused[:1]]
        rows.append([task, *("refused" if isinstance(f, str) else form_of(f) for f in found)])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return HEADER + table + FOOTER + "\n".join(refusals) + "\n"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_a_pair_trains_or_is_refused_in_one_line(method: str, task: str) -> None:
    model = pair(method, task)
    if isinstance(model, str):
        assert "\n" not in model
        assert ":" in model  # the repair comes after it
        return
    model.train()
    inputs, target = Inputs(images(2, *HW)), random_target(model.task, 2, *HW)
    learning = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in learning]
    optimiser = torch.optim.SGD(learning, lr=0.01)
    encoded = model.encode(inputs)
    for step in range(2):
        optimiser.zero_grad()
        draws = Draws((2 * step, 2 * step + 1))
        loss = model.losses(inputs, target, encoded=encoded, draws=draws)["loss"]
        loss.backward()
        optimiser.step()
        assert loss.isfinite()
    assert all(p.isfinite().all() for p in learning)
    changed = [not torch.equal(p, b) for p, b in zip(learning, before, strict=True)]
    assert any(changed)
    with torch.no_grad():
        (prediction, _) = model.eval().predict(inputs)
    assert prediction.hw == HW


def test_the_page_shows_all_pairs() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.test_pairs"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
