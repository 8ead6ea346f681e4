"""Options of trainings on few labels, shared by Python and the command line. Imports no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from diffsight.choices import Spacing
from diffsight.errors import InputError, check_whole

if TYPE_CHECKING:
    import torch

    from diffsight.datasets.class_lists import ClassList


@dataclass(frozen=True, kw_only=True)
class FewShotOptions:
    """Length and image size of a training on few labels.

    Args:
        minutes: rough time of all trainings together.
        steps: steps of every training, exactly; the same seed and steps give the same model
            (default: by the minutes).
        short_side: pixels of the shorter side that images are resized to (default: the backbone's).
        clip: CLIP vision model that mixes the tables of a codebook (default: the backbone's, else
            CLIP ViT-L/14 from the hub).
        seed: seed of everything random.

    Raises:
        InputError: for an impossible number of minutes or steps, an impossible size or seed.
    """

    minutes: float = 5.0
    steps: int | None = None
    short_side: int | None = None
    clip: str | Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        from diffsight.formats.sizes import MIN_SIDE_PX

        if not 0 < self.minutes < math.inf:
            raise InputError(f"{self.minutes} minutes: give a number above 0")
        check_whole("steps", self.steps, 1)
        check_whole("short side", self.short_side, MIN_SIDE_PX)
        check_whole("seed", self.seed, 0)


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(FewShotOptions):
    """Options of ``adapt``: how labels are read, and how methods are trained and compared.

    Args:
        unit: unit of one stored count: mm, m, m/256 for depth, K or K/100 for a scalar (default: mm
            for whole numbers of depth in images, m for points, else the number itself).
        invalid: stored count for "no label" (default: 0 for depth; for class ids 255, unless it
            looks like a class, which is logged).
        classes: names of the class ids from 0 on, names by id or colour, or the path of a file of
            names.
        snap: take the nearest of the frequent values, in smoothed or compressed class masks
            (default: refuse them).
        shots: number of images to use (default: all).
        validation: folders of images and labels for the held-out scores (default: folds of the
            images, by content).
        bins: classes that numbers are divided into (default: 50 for depth, 20 for a scalar, 40 for
            vectors).
        spacing: spacing of the bins (default: log for depth, log1p for a scalar).
        alpha: weight of the squared error relative to the cross-entropy; inf trains with the
            squared error alone.
        hard_labels: labels of normals and vectors become the nearest codebook vector, not a mixture
            of those around them.
        codebook: tables of the label codebook of few_shot; 0 keeps the values fixed (default: 10,
            or 1 where no CLIP vision model can mix them).
        mirror: train on mirrored images too (default: yes, except for vectors, whose numbers may
            point to a side).
        calibrate: keep what `predict --confidence` needs; from 9 images on, a single method is
            trained on two more folds for it (default: yes).
        maps: options of ``ConceptRequest`` (few_shot).
        device: where to train (default: the GPU if there is one); the final model is on the CPU.
        dtype: ``bfloat16`` for mixed precision, as a name or of torch (default: ``float32``).
        state: file for resuming; the caller deletes it after the model is saved.
        resume: continue from ``state``; with the same seed and steps the result equals that of an
            adaptation without interruption.
        trusted: further packages whose classes ``method`` may name.

    Raises:
        InputError: as ``FewShotOptions``, and for an unknown spacing or a negative ``alpha``.
    """

    unit: str | None = None
    invalid: int | float | None = None
    classes: "Sequence[str] | ClassList | str | Path" = ()
    snap: bool = False
    shots: int | None = None
    validation: tuple[str | Path, str | Path] | None = None
    bins: int | None = None
    spacing: Spacing | None = None
    alpha: float = 1.0
    hard_labels: bool = False
    codebook: int | None = None
    mirror: bool | None = None
    calibrate: bool | None = None
    maps: Mapping[str, Any] | None = None
    device: "torch.device | str | None" = None
    dtype: "torch.dtype | str | None" = None
    state: Path | None = None
    resume: bool = False
    trusted: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check the values."""
        FewShotOptions.__post_init__(self)
        check_whole("bins", self.bins, 2)
        if self.spacing not in (None, *get_args(Spacing)):
            choices = ", ".join(get_args(Spacing))
            raise InputError(f"unknown spacing {self.spacing!r}: choose {choices}")
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
        if self.hard_labels and kind not in ("normals", "vector"):
            raise InputError(f"labels of kind {kind} are never mixtures: leave hard_labels out")

    @property
    def of_methods(self) -> dict[str, Any]:
        """Options for the methods, without those that are not set."""
        options = {"codebook": self.codebook, "clip": self.clip, "maps": self.maps}
        return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class DistilOptions:
    """Options of ``distil``: the training of a student on the predictions of a teacher.

    Args:
        steps: steps of the student's training.
        batch_size: images per step.
        short_side: pixels of the shorter side of the student's images (default: the teacher's).
        seed: seed of the student's first weights, of batches and of augmentation.
        dtype: ``bfloat16`` trains the student in mixed precision, as a name or of torch (default:
            ``float32``).
        state: folder for resuming; the caller deletes it after the student is saved.
        resume: continue from ``state``; the student equals that of a training without interruption.

    Raises:
        InputError: for an impossible number of steps or images, an impossible size or seed.
    """

    steps: int = 2000
    batch_size: int = 8
    short_side: int | None = None
    seed: int = 0
    dtype: "torch.dtype | str | None" = None
    state: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        from diffsight.formats.sizes import MIN_SIDE_PX

        check_whole("steps", self.steps, 1)
        check_whole("batch size", self.batch_size, 2)  # for batch normalisation
        check_whole("short side", self.short_side, MIN_SIDE_PX)
        check_whole("seed", self.seed, 0)
