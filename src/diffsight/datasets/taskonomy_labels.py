"""What the counts in Taskonomy's files mean: as Visual Token Matching reads them, and plainly.

VTM (Kim et al., ICLR 2023) turns every task into channels in [0, 1] of 256 x 256 pixels, and later
papers copy its table. Preset ``vtm`` does as it does; ``clean`` gives the same channels without
values that are mixed with "no depth"; ``native`` gives one map per task at the size of the file.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8, UInt16
from PIL import Image
from torch import Tensor
from torch.nn import functional

from diffsight.datasets.labels import SHORTEST_NORMAL
from diffsight.datasets.source import Scoring, SourceTask
from diffsight.ops.resize import resized_image

Preset = Literal["vtm", "clean", "native"]
Maps = tuple[
    Float[Tensor, "d h w"],
    Bool[Tensor, "h w"],
    Float[Tensor, "d th tw"] | None,
    Bool[Tensor, "th tw"] | None,
]
"""Label, where there is one, what is scored, and where: the last fields of ``Labelled``."""

NO_DEPTH = 64500
"""Counts of the Euclidean depth from here on are none: 65535, or something mixed with it."""

CLASSES = {
    **{"chair": 3, "couch": 4, "potted-plant": 5, "bed": 6, "dining-table": 7, "tv": 9},
    **{"microwave": 10, "oven": 11, "sink": 13, "refrigerator": 14, "clock": 16, "vase": 17},
}
"""The twelve classes that VTM scores, as the files number them (0 uncertain, 1 background)."""

_HW = (256, 256)
_COUNTS_PER_M = 512.0
_SEGMENTS = torch.tensor((0.42, 0.62, 0.64, 0.68, 0.70, 1.0))
_Z_RANGE = (0.4, 1.0)
_LEVELS = torch.tensor((0.0005, 0.001, 0.002, 0.003, 0.01))
# 0.2 m to 24 m: what is farther is rare in a house, and bins that nothing falls into are lost
_DEPTH_LIMITS = (0.42, 0.85)
_TEXTURES = ((3, 1.0), (11, 2.0), (19, 3.0))  # side of the Gaussian in pixels, its sigma
_STRONGEST_TEXTURE = 0.4
_SOBEL = torch.tensor(((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)), dtype=torch.float64)

_SCORING: dict[str, Scoring] = {"depth": "depth", "normals": "angles"}
_VTM_MEASURES: dict[Scoring, str] = {"values": "vtm_mae", "angles": "merr_vtm"}

Decoder = Callable[[Float[Tensor, "c h w"]], Float[Tensor, "d h w"]]
Curve = Callable[[Float[Tensor, " n"]], Float[Tensor, "n d"]]


@dataclass(frozen=True)
class Rule:
    """How the files of a domain become labels of a task.

    Attributes:
        task: what they become.
        domain: whose files are read.
        decode: counts to labels.
        by_depth: pixels without Euclidean depth have no label.
        vtm_scores_all: VTM scores its predictions there all the same.
    """

    task: SourceTask
    domain: str
    decode: Decoder
    by_depth: bool = True
    vtm_scores_all: bool = False


def rules(preset: Preset) -> dict[str, Rule]:
    """Of all tasks but the segmentations, by the names of the tasks."""
    both = (
        _rule(
            "keypoints2d", "scalar", 20, lambda c: (c / 65536 / 0.005).clamp(0, 1), by_depth=False
        ),
        _rule("keypoints3d", "scalar", 20, lambda c: c / 65536),
        _rule("reshading", "scalar", 20, lambda c: c[:1] / 255, vtm_scores_all=True),
        _rule("principal_curvature", "vector", 40, lambda c: c[:2] / 255),
        _rule("normal", "normals", 40, lambda c: c / 127.5 - 1, vtm_scores_all=True),
    )
    every = (*(_native() if preset == "native" else _vtm()), *both)
    if preset == "vtm":
        every = tuple(
            replace(rule, task=replace(rule.task, primary=_VTM_MEASURES[rule.task.scoring]))
            for rule in every
        )
    return {rule.task.name: rule for rule in every}


def _native() -> tuple[Rule, ...]:
    return (
        _rule("depth_euclidean", "depth", 40, lambda c: c / _COUNTS_PER_M, unit="m"),
        _rule("depth_zbuffer", "depth", 40, lambda c: c / _COUNTS_PER_M, unit="m"),
        _rule(
            "edge_texture", "scalar", 20, lambda c: (c / 65535 / 0.08).clamp(0, 1), by_depth=False
        ),
        # the widest of VTM's five ranges; the authors' networks learned it blurred
        _rule("edge_occlusion", "scalar", 20, lambda c: (c / 65536 / _LEVELS[-1]).clamp(0, 1)),
    )


def _vtm() -> tuple[Rule, ...]:
    return (
        _rule(
            "depth_euclidean",
            "vector",
            40,
            lambda c: depth_segments(log_depth(c[0])).movedim(-1, 0),
            curve=depth_segments,
            limits=_DEPTH_LIMITS,
        ),
        _rule(
            "depth_zbuffer",
            "scalar",
            40,
            lambda c: z_range(log_depth(c[0])).movedim(-1, 0),
            curve=z_range,
            limits=_DEPTH_LIMITS,
        ),
        _rule("edge_texture", "vector", 20, texture_edges, domain="rgb", by_depth=False),
        _rule(
            "edge_occlusion",
            "vector",
            20,
            lambda c: edge_levels(c[0] / 65536).movedim(-1, 0),
            # fine steps near 0, where most pixels are: the inverse of log(1 + 99 u) / log 100
            curve=lambda g: edge_levels((100**g - 1) / 99 * _LEVELS[-1]),
        ),
    )


def _rule(
    name: str,
    kind: str,
    bins: int,
    decode: Decoder,
    *,
    domain: str = "",
    by_depth: bool = True,
    vtm_scores_all: bool = False,
    unit: str = "",
    curve: Curve | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Rule:
    scoring = _SCORING.get(kind, "values")
    clip = (0.0, 1.0) if scoring == "values" else None
    task = SourceTask(name, kind, scoring, bins, unit, curve=curve, limits=limits, clip=clip)
    return Rule(task, domain or name, decode, by_depth, vtm_scores_all)


def log_depth(counts: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Depth in counts of 1/512 m to [0, 1]: ``log(1 + u) / log 65536``."""
    return torch.log1p(counts) / math.log(65536)


def depth_segments(share: Float[Tensor, "*n"]) -> Float[Tensor, "*n 5"]:
    """VTM's five channels of the Euclidean depth: how far ``log_depth`` is through five ranges."""
    low, high = _SEGMENTS[:-1], _SEGMENTS[1:]
    return ((share[..., None] - low) / (high - low)).clamp(0, 1)


def z_range(share: Float[Tensor, "*n"]) -> Float[Tensor, "*n 1"]:
    """VTM's one channel of the z-depth, from ``log_depth``."""
    low, high = _Z_RANGE
    return ((share[..., None] - low) / (high - low)).clamp(0, 1)


def edge_levels(strength: Float[Tensor, "*n"]) -> Float[Tensor, "*n 5"]:
    """VTM's five channels of the occlusion edges, which end at five strengths."""
    return (strength[..., None] / _LEVELS).clamp(0, 1)


def texture_edges(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """VTM's texture edges: Sobel's gradient at three scales, as a share of 0.4 of the largest.

    Differs from the authors' code: the largest gradient is always the image's own; they divide a
    support in fine-tuning by the largest of all its images.

    Args:
        image: RGB from 0 to 255, of at least 9 pixels a side.
    """
    grey = image.double().sum(dim=0)
    channels = []
    for side, sigma in _TEXTURES:
        place = torch.arange(side, dtype=torch.float64) - side // 2
        bell = torch.exp(-place.square() / (2 * sigma**2))
        smooth = _filtered(_filtered(_wider(grey, side // 2), bell[None]), bell[:, None])
        smooth = _wider(smooth, 1)
        gradient = torch.hypot(_filtered(smooth, _SOBEL), _filtered(smooth, _SOBEL.T))
        # a plain image has only rounding errors, which are no edges
        share = gradient / gradient.max().clamp(min=1e-3)
        channels.append(share.clamp(max=_STRONGEST_TEXTURE) / _STRONGEST_TEXTURE)
    return torch.stack(channels).float()


def _wider(x: Float[Tensor, "h w"], n: int) -> Float[Tensor, "h2 w2"]:
    """VTM's padding: beyond the border the outermost strip comes once more, not mirrored."""
    x = torch.cat((x[:, :n], x, x[:, -n:]), dim=1)
    return torch.cat((x[:n], x, x[-n:]), dim=0)


def _filtered(x: Float[Tensor, "h w"], kernel: Float[Tensor, "k l"]) -> Float[Tensor, "h2 w2"]:
    return functional.conv2d(x[None, None], kernel[None, None])[0, 0]


def dense_maps(
    rule: Rule,
    preset: Preset,
    counts: UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w"],
    depth: UInt16[np.ndarray, "h w"] | None,
) -> Maps:
    """Labels and what is scored of one image.

    Args:
        rule: of the task.
        preset: decides what is scored; learned from is always what is valid in the file.
        counts: the rule's file.
        depth: the file of the Euclidean depth, for rules ``by_depth``.
    """
    known = torch.ones(counts.shape[:2], dtype=torch.bool)
    if rule.domain == "rgb":  # a filter, which is defined at VTM's size
        truth, truth_valid = _vtm_truth(rule, counts, depth)
        value = resized_image(truth[None], (counts.shape[0], counts.shape[1]))[0]
        return value, known, truth, truth_valid
    full = _bands(counts)
    if depth is not None:
        known = torch.from_numpy(depth < NO_DEPTH)
    value = rule.decode(full)
    if rule.task.kind == "depth":  # the z-depth's own: 0 is none either
        known = known & torch.from_numpy((counts > 0) & (counts < NO_DEPTH))
    if rule.task.kind == "normals":
        known = known & (value.norm(dim=0) > SHORTEST_NORMAL)
        value = functional.normalize(value, dim=0)
    truth, truth_valid = None, None
    if preset == "vtm" or (preset == "clean" and depth is None):
        truth, truth_valid = _vtm_truth(rule, counts, depth)
    elif preset == "clean":
        truth, truth_valid = _clean_truth(rule, full, known)
    return torch.where(known, value, 0), known, truth, truth_valid


def _vtm_truth(
    rule: Rule, counts: np.ndarray, depth: np.ndarray | None
) -> tuple[Float[Tensor, "d 256 256"], Bool[Tensor, "256 256"]]:
    """Resized before anything is masked: near "no depth", what is a mixture may pass as a depth."""
    truth = rule.decode(_bands(_resized(counts, Image.Resampling.BILINEAR)))
    scored = torch.ones(_HW, dtype=torch.bool)
    if depth is not None and not rule.vtm_scores_all:
        scored = torch.from_numpy(_resized(depth, Image.Resampling.BILINEAR) < NO_DEPTH)
    return torch.where(scored, truth, 0), scored


def _clean_truth(
    rule: Rule, full: Float[Tensor, "c h w"], known: Bool[Tensor, "h w"]
) -> tuple[Float[Tensor, "d 256 256"], Bool[Tensor, "256 256"]]:
    """Scored where every pixel that is averaged is valid; there the mean of the valid ones (the
    normalised convolution) is the plain mean.
    """
    truth = rule.decode(resized_image(full[None], _HW)[0])
    if rule.task.kind == "normals":
        truth = functional.normalize(truth, dim=0)
    # the weights of the pixels sum to 1, and the smallest of them is far above a thousandth
    scored = resized_image(known.float()[None, None], _HW)[0, 0] > 0.999
    return torch.where(scored, truth, 0), scored


def class_tasks() -> dict[str, SourceTask]:
    """The segmentations: a binary one per class, and one of all of them."""
    every = SourceTask(
        "segment_semantic", "segmentation", "classes", 13, classes=("background", *CLASSES)
    )
    single = (
        SourceTask(f"segment_semantic/{c}", "segmentation", "binary", 2, classes=("other", c))
        for c in CLASSES
    )
    return {task.name: task for task in (*single, every)}


def class_maps(task: SourceTask, preset: Preset, ids: UInt8[np.ndarray, "h w"]) -> Maps:
    """Places of the classes in ``task.classes``, all other objects being 0, and what is scored.

    The uncertain pixels are no label; VTM's binary tasks score them as not the class.
    """
    places = torch.zeros(256)
    for place, name in enumerate(task.classes[1:], start=1):
        places[CLASSES[name]] = place
    full = torch.from_numpy(ids.astype(np.int64))
    value, known = places[full][None], full > 0
    if preset == "native":
        return value, known, None, None
    small = torch.from_numpy(_resized(ids, Image.Resampling.NEAREST).astype(np.int64))
    scored = small > 0
    if preset == "vtm" and task.scoring == "binary":
        scored = torch.ones_like(scored)
    return value, known, places[small][None], scored


def _bands(counts: np.ndarray) -> Float[Tensor, "c h w"]:
    """Channels first."""
    bands = counts[None] if counts.ndim == 2 else counts.transpose(2, 0, 1)
    return torch.from_numpy(bands.astype(np.float32))


def _resized(
    counts: Shaped[np.ndarray, "h w *c"], how: Image.Resampling
) -> Shaped[np.ndarray, "256 256 *c"]:
    """As Pillow resizes the file, in whole counts; VTM's merged files have this size already."""
    return np.array(Image.fromarray(counts).resize(_HW, how))
