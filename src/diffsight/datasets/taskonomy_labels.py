"""Decode the label files of Taskonomy, as Visual Token Matching (VTM) does or in plain units.

VTM (Kim et al., ICLR 2023) turns every task into channels in [0, 1] of 256 x 256 pixels, and later
papers copy its table. Preset ``vtm`` does the same. ``clean`` gives the same channels without
values that are interpolated with "no depth". ``native`` gives labels in plain units at the size of
the file: depth in metres, and one channel instead of several for edges.
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
from diffsight.ops.resize import resize_image

LabelMap = tuple[Float[Tensor, "d lh lw"] | Int[Tensor, "lh lw"], Bool[Tensor, "lh lw"]]
"""A label map (d channels, or class ids) of lh x lw pixels, and the mask of its valid pixels."""

NO_DEPTH = 64500
"""Lowest count of the Euclidean depth that means "no depth": 65535, or a mixture with it."""

CLASSES = {
    **{"chair": 3, "couch": 4, "potted-plant": 5, "bed": 6, "dining-table": 7, "tv": 9},
    **{"microwave": 10, "oven": 11, "sink": 13, "refrigerator": 14, "clock": 16, "vase": 17},
}
"""Ids in the files of the twelve classes that VTM scores (0: uncertain, 1: background)."""

_HW = (256, 256)
_COUNTS_PER_M = 512.0
_SEGMENTS = torch.tensor((0.42, 0.62, 0.64, 0.68, 0.70, 1.0))  # borders of five ranges of log_depth
_Z_RANGE = (0.4, 1.0)  # range of log_depth that VTM's channel of the z-depth shows
EDGE_LEVELS = torch.tensor((0.0005, 0.001, 0.002, 0.003, 0.01))  # edge strengths that become 1
_TEXTURES = ((3, 1.0), (11, 2.0), (19, 3.0))  # side in pixels and sigma of the Gaussians
_STRONGEST_TEXTURE = 0.4  # of the largest gradient; stronger ones are clamped
_SOBEL = torch.tensor(((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)), dtype=torch.float64)

Decoder = Callable[[Float[Tensor, "c h w"]], Float[Tensor, "d h w"]]


@dataclass(frozen=True)
class Rule:
    """Rule that decodes the files of one domain (such as ``normal``) to labels of a dense task.

    Attributes:
        kind: kind of the labels (see ``LabelFormat``).
        domain: domain whose files are read.
        decode: function from stored counts ``c h w`` to labels ``d h w``.
        by_depth: whether pixels without Euclidean depth have no label.
        vtm_scores_all: whether VTM scores predictions also at pixels without Euclidean depth.
    """

    kind: str
    domain: str
    decode: Decoder
    by_depth: bool = True
    vtm_scores_all: bool = False


def rules(preset: Preset) -> dict[str, Rule]:
    """Return the rules of the nine dense tasks, by task name."""
    first = _native_rules() if preset == "native" else _vtm_rules()
    return first | {
        "keypoints2d": Rule(
            "scalar", "keypoints2d", lambda c: (c / 65536 / 0.005).clamp(0, 1), by_depth=False
        ),
        "keypoints3d": Rule("scalar", "keypoints3d", lambda c: c / 65536),
        "reshading": Rule("scalar", "reshading", lambda c: c[:1] / 255, vtm_scores_all=True),
        "principal_curvature": Rule("vector", "principal_curvature", lambda c: c[:2] / 255),
        "normal": Rule("normals", "normal", lambda c: c / 127.5 - 1, vtm_scores_all=True),
    }


def _native_rules() -> dict[str, Rule]:
    return {
        "depth_euclidean": Rule("depth", "depth_euclidean", lambda c: c / _COUNTS_PER_M),
        "depth_zbuffer": Rule("depth", "depth_zbuffer", lambda c: c / _COUNTS_PER_M),
        "edge_texture": Rule(
            "scalar", "edge_texture", lambda c: (c / 65535 / 0.08).clamp(0, 1), by_depth=False
        ),
        # the widest of VTM's five ranges; the authors' networks were trained on it blurred
        "edge_occlusion": Rule(
            "scalar", "edge_occlusion", lambda c: (c / 65536 / EDGE_LEVELS[-1]).clamp(0, 1)
        ),
    }


def _vtm_rules() -> dict[str, Rule]:
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
    """Return VTM's five channels of the Euclidean depth, each in [0, 1].

    Each channel is the relative position of ``log_depth`` within one of five ranges.

    Args:
        fraction: values of ``log_depth``.
    """
    low, high = _SEGMENTS[:-1], _SEGMENTS[1:]
    return ((fraction[..., None] - low) / (high - low)).clamp(0, 1)


def z_range(fraction: Float[Tensor, "*n"]) -> Float[Tensor, "*n 1"]:
    """Return VTM's one channel of the z-depth, in [0, 1].

    It is the relative position of ``log_depth`` between 0.4 and 1.

    Args:
        fraction: values of ``log_depth``.
    """
    low, high = _Z_RANGE
    return ((fraction[..., None] - low) / (high - low)).clamp(0, 1)


def edge_levels(strength: Float[Tensor, "*n"]) -> Float[Tensor, "*n 5"]:
    """Return VTM's five channels of the occlusion edges, each in [0, 1].

    Each channel is the strength divided by one of ``EDGE_LEVELS``, and at most 1.

    Args:
        strength: edge strength, the stored counts divided by 65536.
    """
    return (strength[..., None] / EDGE_LEVELS).clamp(0, 1)


def texture_edges(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Return VTM's texture edges: the Sobel gradient at three scales, in [0, 1].

    Gradients of at least 0.4 times the largest one get the value 1.

    Differs from the authors' code: the largest gradient is always that of the image. In
    fine-tuning, the authors use the largest gradient of all support images.

    Args:
        image: RGB from 0 to 255, at least 9 pixels on each side.
    """
    grey = image.double().sum(dim=0)
    channels = []
    for side, sigma in _TEXTURES:
        offset = torch.arange(side, dtype=torch.float64) - side // 2
        bell = torch.exp(-offset.square() / (2 * sigma**2))
        smooth = _convolve(_convolve(_pad(grey, side // 2), bell[None]), bell[:, None])
        smooth = _pad(smooth, 1)
        gradient = torch.hypot(_convolve(smooth, _SOBEL), _convolve(smooth, _SOBEL.T))
        # the gradients of a uniform image are rounding errors, not edges
        relative = gradient / gradient.max().clamp(min=1e-3)
        channels.append(relative.clamp(max=_STRONGEST_TEXTURE) / _STRONGEST_TEXTURE)
    return torch.stack(channels).float()


def _pad(x: Float[Tensor, "h w"], n: int) -> Float[Tensor, "h2 w2"]:
    """Return the image with VTM's padding: the outermost n pixels repeated, not mirrored."""
    x = torch.cat((x[:, :n], x, x[:, -n:]), dim=1)
    return torch.cat((x[:n], x, x[-n:]), dim=0)


def _convolve(x: Float[Tensor, "h w"], kernel: Float[Tensor, "k l"]) -> Float[Tensor, "h2 w2"]:
    """Return the correlation of an image with a kernel, without padding."""
    return functional.conv2d(x[None, None], kernel[None, None])[0, 0]


def dense_map(
    rule: Rule,
    counts: UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w"],
    depth: UInt16[np.ndarray, "h w"] | None,
) -> LabelMap:
    """Return the training label of an image at the size of its file; 0 where it is not valid.

    Args:
        rule: rule of the task.
        counts: pixels of the image's file in the rule's domain.
        depth: pixels of the Euclidean depth file, for rules with ``by_depth``; otherwise None.
    """
    valid = torch.ones(counts.shape[:2], dtype=torch.bool)
    if rule.domain == "rgb":  # an image filter, which is defined at VTM's size
        truth, _ = _vtm_truth(rule, counts, depth)
        return resize_image(truth[None], (counts.shape[0], counts.shape[1]))[0], valid
    if depth is not None:
        valid = torch.from_numpy(depth < NO_DEPTH)
    value = rule.decode(_to_channels(counts))
    if rule.kind == "depth":  # for depth, a count of 0 means "no depth" too
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
    """Return the label of an image for evaluation.

    Args:
        rule: rule of the task.
        preset: ``native`` (the label of ``dense_map``), ``vtm`` or ``clean``.
        counts: pixels of the image's file in the rule's domain.
        depth: pixels of the Euclidean depth file, for rules with ``by_depth``; otherwise None.
    """
    if preset == "vtm" or rule.domain == "rgb" or (preset == "clean" and depth is None):
        return _vtm_truth(rule, counts, depth)
    value, valid = dense_map(rule, counts, depth)
    if preset == "clean":
        return _clean_truth(rule, _to_channels(counts), valid)
    return value, valid


def _vtm_truth(
    rule: Rule, counts: np.ndarray, depth: np.ndarray | None
) -> tuple[Float[Tensor, "d 256 256"], Bool[Tensor, "256 256"]]:
    """Return VTM's label for evaluation, which is resized before it is masked.

    So values that are interpolated next to pixels without depth may count as depths.
    """
    truth = rule.decode(_to_channels(_resized(counts, Image.Resampling.BILINEAR)))
    scored = torch.ones(_HW, dtype=torch.bool)
    if depth is not None and not rule.vtm_scores_all:
        scored = torch.from_numpy(_resized(depth, Image.Resampling.BILINEAR) < NO_DEPTH)
    return torch.where(scored, truth, 0), scored


def _clean_truth(
    rule: Rule, full: Float[Tensor, "c h w"], valid: Bool[Tensor, "h w"]
) -> tuple[Float[Tensor, "d 256 256"], Bool[Tensor, "256 256"]]:
    """Return the resized label, which is valid where it is interpolated from valid pixels only.

    There, the normalised convolution over valid pixels equals the plain interpolation.
    """
    truth = rule.decode(resize_image(full[None], _HW)[0])
    if rule.kind == "normals":
        truth = functional.normalize(truth, dim=0)
    # the weights of the pixels sum to 1, and the smallest of them is far above a thousandth
    scored = resize_image(valid.float()[None, None], _HW)[0, 0] > 0.999
    return torch.where(scored, truth, 0), scored


def class_tasks() -> dict[str, tuple[str, ...]]:
    """Return the class names by segmentation task: a binary task per class, and one for all."""
    single = {f"segment_semantic/{c}": ("other", c) for c in CLASSES}
    return single | {"segment_semantic": ("background", *CLASSES)}


def class_map(classes: Sequence[str], ids: UInt8[np.ndarray, "h w"]) -> LabelMap:
    """Return the training label of a segmentation task at the size of its file.

    Pixels of other classes have class id 0; uncertain pixels are not valid.

    Args:
        classes: class names of the task, in the order of the class ids.
        ids: class ids as the file numbers them.
    """
    numbers = _class_numbers(classes)
    full = torch.from_numpy(ids.astype(np.int64))
    return numbers[full], full > 0


def scored_class_map(
    classes: Sequence[str], preset: Preset, ids: UInt8[np.ndarray, "h w"]
) -> LabelMap:
    """Return the label of a segmentation task for evaluation.

    In VTM's binary tasks, uncertain pixels are scored as class 0.

    Args:
        classes: class names of the task, in the order of the class ids.
        preset: ``native``, ``vtm`` or ``clean``.
        ids: class ids as the file numbers them.
    """
    if preset == "native":
        return class_map(classes, ids)
    small = torch.from_numpy(_resized(ids, Image.Resampling.NEAREST).astype(np.int64))
    scored = small > 0
    if preset == "vtm" and len(classes) == 2:
        scored = torch.ones_like(scored)
    return _class_numbers(classes)[small], scored


def _class_numbers(classes: Sequence[str]) -> Int[Tensor, "256"]:
    """Return a table that maps the 256 possible ids in the files to class ids of a task."""
    numbers = torch.zeros(256, dtype=torch.int64)
    for number, name in enumerate(classes[1:], start=1):
        numbers[CLASSES[name]] = number
    return numbers


def _to_channels(counts: np.ndarray) -> Float[Tensor, "c h w"]:
    """Return the counts as floats with the channels first."""
    bands = counts[None] if counts.ndim == 2 else counts.transpose(2, 0, 1)
    return torch.from_numpy(bands.astype(np.float32))


def _resized(
    counts: Shaped[np.ndarray, "h w *c"], resampling: Image.Resampling
) -> Shaped[np.ndarray, "256 256 *c"]:
    """Return the pixels of a file, resized by Pillow to 256 x 256 pixels of the same dtype.

    VTM's merged files already have this size.
    """
    return np.array(Image.fromarray(counts).resize(_HW, resampling))
