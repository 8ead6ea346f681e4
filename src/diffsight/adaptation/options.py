"""Options of an adaptation, shared by Python and the command line."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from diffsight.codecs.scalar import Spacing
from diffsight.datasets.class_lists import ClassList
from diffsight.datasets.files import MIN_SIDE_PX
from diffsight.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """How ``adapt`` reads labels, which methods it compares, and how long it takes.

    Args:
        unit: of one stored count, see ``LabelFormat``.
        classes: names of the class ids from 0 on, or by id or colour.
        invalid: count that means "no label".
        snap: take the nearest of the frequent values, in smoothed or compressed class masks.
        shots: use only so many images.
        validation: folders of images and labels for the held-out scores; default: folds of the
            images, by content.
        minutes: time to take, roughly; ``steps`` is exact.
        steps: of every training; the same seed and steps give the same model.
        bins: classes for numbers.
        spacing: of the bins of depth or a scalar: ``log`` (default for depth), ``log1p`` (default
            for a scalar), ``linear`` or ``quantile``.
        alpha: weight of the squared error relative to the cross-entropy.
        short_side: pixels of the shorter side at which the model works; default: the backbone's.
        codebook: tables of the label codebook (few_shot); 0 is a fixed mapping. Default: ten where
            a CLIP vision model can mix them, else one.
        clip: CLIP vision model for a codebook of several tables; default: the backbone's own.
        maps: options of ``ConceptRequest`` (few_shot).
        mirror: train on mirrored images too; default: except for ``vector``, whose numbers may
            point to a side.
        seed: of everything random.
        device: where to run; the model is on the CPU in the end.
        dtype: ``torch.bfloat16`` for mixed precision; default: 32 bit.
        state: file that keeps what is needed to resume; to be deleted when the model is saved.
        resume: continue from ``state``; with the same seed and steps the result is that of an
            adaptation without interruption.
        trusted: further packages whose classes ``method`` may name.

    Raises:
        InputError: for what is no length of a training, no size of an image, or no seed.
    """

    unit: str | None = None
    classes: Sequence[str] | ClassList = ()
    invalid: int | float | None = None
    snap: bool = False
    shots: int | None = None
    validation: tuple[str | Path, str | Path] | None = None
    minutes: float = 5.0
    steps: int | None = None
    bins: int | None = None
    spacing: Spacing | None = None
    alpha: float = 1.0
    short_side: int | None = None
    codebook: int | None = None
    clip: str | Path | None = None
    maps: Mapping[str, Any] | None = None
    mirror: bool | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: torch.dtype | None = None
    state: Path | None = None
    resume: bool = False
    trusted: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be used."""
        validate_fit_options(self.minutes, self.steps, self.short_side, self.seed)
        check_whole("bins", self.bins, 2)
        if self.spacing not in (None, *get_args(Spacing)):
            known = ", ".join(get_args(Spacing))
            raise InputError(f"unknown spacing {self.spacing!r}: choose {known}")
        if not self.alpha >= 0:
            raise InputError(f"alpha {self.alpha}: give 0 or more")

    def check_kind(self, kind: str) -> None:
        """Refuse options that have no effect for a kind of labels.

        Raises:
            InputError: naming the option.
        """
        if kind == "segmentation" and self.bins is not None:
            raise InputError("bins are for numbers, segmentation has classes: leave them out")
        if kind != "segmentation" and self.classes:
            raise InputError(f"labels of kind {kind} have no classes: leave their names out")
        if self.spacing is not None and kind not in ("depth", "scalar"):
            raise InputError(f"labels of kind {kind} have no bins: leave their spacing out")

    @property
    def of_methods(self) -> dict[str, Any]:
        """Options that go to the methods, where they are given."""
        given = {"codebook": self.codebook, "clip": self.clip, "maps": self.maps}
        return {name: value for name, value in given.items() if value is not None}


def validate_fit_options(
    minutes: float, steps: int | None, short_side: int | None, seed: int
) -> None:
    """Check the options that ``adapt`` and the benchmark have in common.

    Raises:
        InputError: for what is no length of a training, no size of an image, or no seed.
    """
    if not 0 < minutes < math.inf:
        raise InputError(f"{minutes} minutes: give a number above 0")
    check_whole("steps", steps, 1)
    check_whole("short side", short_side, MIN_SIDE_PX)
    check_whole("seed", seed, 0)


def check_whole(name: str, value: int | None, least: int) -> None:
    """Refuse a whole number that is too small, or too large for where it is kept.

    Raises:
        InputError: if it is.
    """
    if value is not None and not least <= value < 2**63:
        raise InputError(f"{name} {value}: give a whole number from {least} on, below 2**63")
