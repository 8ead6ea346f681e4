"""What the counts in Taskonomy's files mean: as Visual Token Matching reads them, and plainly.

VTM (Kim et al., ICLR 2023) turns every task into channels in [0, 1] of 256 x 256 pixels, and later
papers copy its table. Preset ``vtm`` does as it does; ``clean`` gives the same channels without
values that are mixed with "no depth"; ``native`` gives one map per task at the size of the file.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8, UInt16
from PIL import Image
from torch import Tensor
from torch.nn import functional

from diffsight.choices import Preset
from diffsight.datasets.labels import SHORTEST_NORMAL
from diffsight.ops.resize import resized_image

LabelMap = tuple[Float[Tensor, "d lh lw"] | Int[Tensor, "lh lw"], Bool[Tensor, "lh lw"]]
"""A label and where there is one."""

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
EDGE_LEVELS = torch.tensor((0.0005, 0.001, 0.002, 0.003, 0.01))
_TEXTURES = ((3, 1.0), (11, 2.0), (19, 3.0))  # side of the Gaussian in pixels, its sigma
_STRONGEST_TEXTURE = 0.4
_SOBEL = torch.tensor(((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)), dtype=torch.float64)

Decoder = Callable[[Float[Tensor, "c h w"]], Float[Tensor, "d h w"]]


@dataclass(frozen=True)
class Rule:
    """How the files of a domain become labels of a dense task.

    Attributes:
        kind: of the labels, as ``LabelFormat`` has it.
        domain: whose files are read.
        decode: counts to labels.
        by_depth: pixels without Euclidean depth have no label.
        vtm_scores_all: VTM scores its predictions there all the same.
    """

    kind: str
    domain: str
    decode: Decoder
    by_depth: bool = True
    vtm_scores_all: bool = False


def rules(preset: Preset) -> dict[str, Rule]:
    """Return the rules of all tasks but the segmentations, by the names of the tasks."""
    first = _native() if preset == "native" else _vtm()
    return first | {
        "keypoints2d": Rule(
            "scalar", "keypoints2d", lambda c: (c / 65536 / 0.005).clamp(0, 1), by_depth=False
        ),
        "keypoints3d": Rule("scalar", "keypoints3d", lambda c: c / 65536),
        "reshading": Rule("scalar", "reshading", lambda c: c[:1] / 255, vtm_scores_all=True),
        "principal_curvature": Rule("vector", "principal_curvature", lambda c: c[:2] / 255),
        "normal": Rule("normals", "normal", lambda c: c / 127.5 - 1, vtm_scores_all=True),
    }


def _native() -> dict[str, Rule]:
    return {
        "depth_euclidean": Rule("depth", "depth_euclidean", lambda c: c / _COUNTS_PER_M),
        "depth_zbuffer": Rule("depth", "depth_zbuffer", lambda c: c / _COUNTS_PER_M),
        "edge_texture": Rule(
            "scalar", "edge_texture", lambda c: (c / 65535 / 0.08).clamp(0, 1), by_depth=False
        ),
        # the widest of VTM's five ranges; the authors' networks learned it blurred
        "edge_occlusion": Rule(
            "scalar", "edge_occlusion", lambda c: (c / 65536 / EDGE_LEVELS[-1]).clamp(0, 1)
        ),
    }


def _vtm() -> dict[str, Rule]:
    return {
        "depth_euclidean": Rule(
            "vector", "depth_euclidean", lambda c: depth_segments(log_depth(c[0])).movedim(-1, 0)
        ),
        "depth_zbuffer": Rule(
            "scalar", "depth_zbuffer", lambda c: z_range(log_depth(c[0])).movedim(-1, 0)
        ),
        "edge_texture": Rule("vector", "rgb", texture_edges, by_depth=False),
        "edge_occlusion": Rule(
            "vector", "edge_occlusion", lambda c: edge_levels(c[0] / 65536).movedim(-1, 0)
        ),
    }


def log_depth(counts: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return depth in counts of 1/512 m as a number in [0, 1]: ``log(1 + u) / log 65536``."""
    return torch.log1p(counts) / math.log(65536)


def depth_segments(fraction: Float[Tensor, "*n"]) -> Float[Tensor, "*n 5"]:
    """Return VTM's five channels of the Euclidean depth.

    They say how far ``log_depth`` is through five ranges.
    """
    low, high = _SEGMENTS[:-1], _SEGMENTS[1:]
    return ((fraction[..., None] - low) / (high - low)).clamp(0, 1)


def z_range(fraction: Float[Tensor, "*n"]) -> Float[Tensor, "*n 1"]:
    """Return VTM's one channel of the z-depth, from ``log_depth``."""
    low, high = _Z_RANGE
    return ((fraction[..., None] - low) / (high - low)).clamp(0, 1)


def edge_levels(strength: Float[Tensor, "*n"]) -> Float[Tensor, "*n 5"]:
    """Return VTM's five channels of the occlusion edges, which end at five strengths."""
    return (strength[..., None] / EDGE_LEVELS).clamp(0, 1)


def texture_edges(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Return VTM's texture edges: Sobel's gradient at three scales, 1 at 0.4 of the largest.

    Differs from the authors' code: the largest gradient is always the image's own; they divide
    the images of a fine-tuning by the largest of all of them.

    Args:
        image: RGB from 0 to 255, of at least 9 pixels a side.
    """
    grey = image.double().sum(dim=0)
    channels = []
    for side, sigma in _TEXTURES:
        offset = torch.arange(side, dtype=torch.float64) - side // 2
        bell = torch.exp(-offset.square() / (2 * sigma**2))
        smooth = _filtered(_filtered(_wider(grey, side // 2), bell[None]), bell[:, None])
        smooth = _wider(smooth, 1)
        gradient = torch.hypot(_filtered(smooth, _SOBEL), _filtered(smooth, _SOBEL.T))
        # a plain image has only rounding errors, which are no edges
        relative = gradient / gradient.max().clamp(min=1e-3)
        channels.append(relative.clamp(max=_STRONGEST_TEXTURE) / _STRONGEST_TEXTURE)
    return torch.stack(channels).float()


def _wider(x: Float[Tensor, "h w"], n: int) -> Float[Tensor, "h2 w2"]:
    """Return the image with VTM's padding: the outermost strip once more, not mirrored."""
    x = torch.cat((x[:, :n], x, x[:, -n:]), dim=1)
    return torch.cat((x[:n], x, x[-n:]), dim=0)


def _filtered(x: Float[Tensor, "h w"], kernel: Float[Tensor, "k l"]) -> Float[Tensor, "h2 w2"]:
    return functional.conv2d(x[None, None], kernel[None, None])[0, 0]


def dense_map(
    rule: Rule,
    counts: UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w"],
    depth: UInt16[np.ndarray, "h w"] | None,
) -> LabelMap:
    """Return the label of an image at the size of its file; 0 where there is none.

    Args:
        rule: of the task.
        counts: the rule's file.
        depth: the file of the Euclidean depth, for rules ``by_depth``.
    """
    valid = torch.ones(counts.shape[:2], dtype=torch.bool)
    if rule.domain == "rgb":  # a filter, which is defined at VTM's size
        truth, _ = _vtm_truth(rule, counts, depth)
        return resized_image(truth[None], (counts.shape[0], counts.shape[1]))[0], valid
    if depth is not None:
        valid = torch.from_numpy(depth < NO_DEPTH)
    value = rule.decode(_bands(counts))
    if rule.kind == "depth":  # the z-depth's own: 0 is none either
        valid = valid & torch.from_numpy((counts > 0) & (counts < NO_DEPTH))
    if rule.kind == "normals":
        valid = valid & (value.norm(dim=0) > SHORTEST_NORMAL)
        value = functional.normalize(value, dim=0)
    return torch.where(valid, value, 0), valid


def scored_dense_map(
    rule: Rule,
    preset: Preset,
    counts: UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w"],
    depth: UInt16[np.ndarray, "h w"] | None,
) -> LabelMap:
    """Return the map that a preset scores predictions by; arguments as those of ``dense_map``."""
    if preset == "vtm" or rule.domain == "rgb" or (preset == "clean" and depth is None):
        return _vtm_truth(rule, counts, depth)
    value, valid = dense_map(rule, counts, depth)
    if preset == "clean":
        return _clean_truth(rule, _bands(counts), valid)
    return value, valid


def _vtm_truth(
    rule: Rule, counts: np.ndarray, depth: np.ndarray | None
) -> tuple[Float[Tensor, "d 256 256"], Bool[Tensor, "256 256"]]:
    """Return VTM's map, which is resized before anything is masked.

    Near "no depth", a mixture may pass as a depth.
    """
    truth = rule.decode(_bands(_resized(counts, Image.Resampling.BILINEAR)))
    scored = torch.ones(_HW, dtype=torch.bool)
    if depth is not None and not rule.vtm_scores_all:
        scored = torch.from_numpy(_resized(depth, Image.Resampling.BILINEAR) < NO_DEPTH)
    return torch.where(scored, truth, 0), scored


def _clean_truth(
    rule: Rule, full: Float[Tensor, "c h w"], known: Bool[Tensor, "h w"]
) -> tuple[Float[Tensor, "d 256 256"], Bool[Tensor, "256 256"]]:
    """Return the map that is scored where every averaged pixel is valid.

    There the mean of the valid pixels (the normalised convolution) is the plain mean.
    """
    truth = rule.decode(resized_image(full[None], _HW)[0])
    if rule.kind == "normals":
        truth = functional.normalize(truth, dim=0)
    # the weights of the pixels sum to 1, and the smallest of them is far above a thousandth
    scored = resized_image(known.float()[None, None], _HW)[0, 0] > 0.999
    return torch.where(scored, truth, 0), scored


def class_tasks() -> dict[str, tuple[str, ...]]:
    """Return the classes of the segmentations: a binary one per class, and one of all of them."""
    single = {f"segment_semantic/{c}": ("other", c) for c in CLASSES}
    return single | {"segment_semantic": ("background", *CLASSES)}


def class_map(classes: Sequence[str], ids: UInt8[np.ndarray, "h w"]) -> LabelMap:
    """Return the numbers of the classes, all other objects being 0; uncertain pixels have none."""
    numbers = _class_numbers(classes)
    full = torch.from_numpy(ids.astype(np.int64))
    return numbers[full], full > 0


def scored_class_map(
    classes: Sequence[str], preset: Preset, ids: UInt8[np.ndarray, "h w"]
) -> LabelMap:
    """Return the classes that a preset scores predictions by.

    VTM's binary tasks score the uncertain pixels as not the class.
    """
    if preset == "native":
        return class_map(classes, ids)
    small = torch.from_numpy(_resized(ids, Image.Resampling.NEAREST).astype(np.int64))
    scored = small > 0
    if preset == "vtm" and len(classes) == 2:
        scored = torch.ones_like(scored)
    return _class_numbers(classes)[small], scored


def _class_numbers(classes: Sequence[str]) -> Int[Tensor, "256"]:
    """Return the number of a class by its id in the files."""
    numbers = torch.zeros(256, dtype=torch.int64)
    for number, name in enumerate(classes[1:], start=1):
        numbers[CLASSES[name]] = number
    return numbers


def _bands(counts: np.ndarray) -> Float[Tensor, "c h w"]:
    """Return the counts with channels first."""
    bands = counts[None] if counts.ndim == 2 else counts.transpose(2, 0, 1)
    return torch.from_numpy(bands.astype(np.float32))


def _resized(
    counts: Shaped[np.ndarray, "h w *c"], how: Image.Resampling
) -> Shaped[np.ndarray, "256 256 *c"]:
    """Return the file as Pillow resizes it, in whole counts.

    VTM's merged files have this size already.
    """
    return np.array(Image.fromarray(counts).resize(_HW, how))
