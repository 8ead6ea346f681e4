"""Options that several commands share: prompts, people, saved models and devices."""

import tempfile
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from diffsight.choices import Dtype, TrainingDtype
from diffsight.cli.flags import Flag
from diffsight.errors import InputError
from diffsight.inference.plan import Plan, PlanError, ShortSide, short_side_px

if TYPE_CHECKING:
    from torch import Tensor

    from diffsight.inference import Predictor
    from diffsight.inference.write import Job
    from diffsight.model import DenseModel
    from diffsight.training.loop import Runtime
    from diffsight.types import Latents, People

SOME_FAILED = 1  # exit status: some images could not be used, all others were processed

Folder = Annotated[Path, Flag("DIR")]
File = Annotated[Path, Flag("FILE")]
Images = Sequence[Annotated[str, Flag("PATH")]]
Model = Annotated[str, Flag("PATH|ID")]
SavedBackbone = Annotated[str | None, Flag("DIR|ID")]
Backbone = Annotated[str, Flag("tiny|DIR|FILE|ID")]
Recipe = Annotated[str, Flag("FILE|NAME")]
Data = Annotated[Sequence[str], Flag(("CLASS", "KEY=VALUE"))]
FindPeople: TypeAlias = Callable[["Tensor", Path], "People"]  # takes an image and its path
Trust = Annotated[Sequence[str], Flag("PACKAGE", repeatable=True)]


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Text prompt that all images have in common.

    Attributes:
        scene: scene type of the images, such as kitchen, for models with a table of scene types
            (default: the mean of the table).
        expression: sentence about the images, for models that read one: a description of the
            object to segment, or a caption.
    """

    scene: Annotated[str | None, Flag("NAME")] = None
    expression: Annotated[str | None, Flag("TEXT")] = None

    @property
    def text(self) -> str | None:
        """The expression, or else the scene type."""
        return self.scene if self.expression is None else self.expression


@dataclass(frozen=True, kw_only=True)
class PeopleOptions:
    """Boxes around people, for models that predict joints.

    Attributes:
        boxes: JSON file of person boxes in COCO's format of detections: a list of image_id (file
            name), bbox (left, top, width, height in pixels) and score (default: run --detector).
        detector: RT-DETR model that detects people if there is no --boxes: a folder or a hub id
            (default: RT-DETR with a ResNet-50).
    """

    boxes: File | None = None
    detector: Annotated[str | None, Flag("PATH|ID")] = None

    def __post_init__(self) -> None:
        """Check that the options fit together."""
        if self.boxes is not None and self.detector is not None:
            raise InputError("--boxes and --detector exclude each other: give one of them")

    def check(self, model: "DenseModel", source: str) -> None:
        """Refuse the options for a model that predicts no joints.

        Args:
            model: the model.
            source: value of ``--model``.

        Raises:
            InputError: if there is such an option.
        """
        for name, value in vars(self).items():
            if value is not None and not model.task.has_regions:
                raise InputError(f"{source} predicts no joints: leave --{name} out")

    def finder(self, jobs: "Sequence[Job]", device: str) -> "FindPeople":
        """Return a function that takes an image and its path, and returns the people in it.

        Raises:
            InputError: if the file of boxes or the detector cannot be used.
        """
        from diffsight.inference.detect import BoxFile, PersonDetector

        if self.boxes is not None:
            file = BoxFile(self.boxes)
            file.require([job.image for job in jobs])
            return lambda image, path: file.people(path, (image.shape[-2], image.shape[-1]))
        detector = PersonDetector(self.detector, device=device)
        return lambda image, path: detector(image.float() / 255)


@dataclass(frozen=True, kw_only=True)
class SavedOptions:
    """Frozen backbone of a saved model, and packages whose classes it may use.

    Attributes:
        backbone: frozen backbone of the saved model, if it has moved: a folder or a hub id
            (default: the location that is recorded in the model).
    """

    backbone: SavedBackbone = None
    trust: Trust = ()


@dataclass(frozen=True, kw_only=True)
class ModelOptions(SavedOptions):
    """Frozen backbone and device of a saved model."""

    device: str | None = None

    def load(self, source: str, shared: MutableMapping[str, Any] | None = None) -> "DenseModel":
        """Return a saved model on its device.

        Args:
            source: value of ``--model``.
            shared: cache of frozen parts that several models use.

        Raises:
            InputError: if the model or the device cannot be used.
        """
        from diffsight import hub
        from diffsight.ops.device import usable_device

        device = usable_device(self.device)
        return hub.load(
            source, device=device, trusted=self.trust, backbone=self.backbone, shared=shared
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions):
    """Frozen backbone, device, dtype and image size of a saved model.

    Attributes:
        short_side: pixels to which the shorter side of an image is resized; `training` for the
            size of the training images, `own` for no resizing (default: training, or own if the
            model does not record the size).
    """

    dtype: Dtype = "float32"
    short_side: ShortSide = "training"

    def load_predictor(
        self,
        source: str,
        plan: partial[Plan],
        *,
        shared: MutableMapping[str, Any] | None = None,
        latents: "Latents | None" = None,
    ) -> "Predictor":
        """Return a predictor with a saved model.

        Args:
            source: value of ``--model``.
            plan: plan of the prediction, without ``short_side``.
            shared: cache of frozen parts that several models use.
            latents: cache of image latents that several models use.

        Raises:
            InputError: if the model, the device or the plan cannot be used.
        """
        from diffsight.inference import Predictor
        from diffsight.ops.device import mixed_dtype, usable_device

        self.check_plan(plan)
        model = self.load(source, shared)
        with naming_flags():
            complete = plan(short_side=short_side_px(self.short_side, model.info))
        device, dtype = usable_device(self.device), mixed_dtype(self.dtype)
        with naming_flags(f"{source}: "):
            return Predictor(model, complete, device=device, dtype=dtype, latents=latents)

    def check_plan(self, plan: partial[Plan]) -> None:
        """Check the options of a plan before a model is loaded.

        Args:
            plan: plan of the prediction, without ``short_side``.

        Raises:
            InputError: if they cannot be used with any model.
        """
        # the size of the training images is not known yet
        side = 1 if self.short_side == "training" else short_side_px(self.short_side, {})
        with naming_flags():
            plan(short_side=side)


@contextmanager
def naming_flags(prefix: str = "") -> Iterator[None]:
    """Return a context in which the errors of a plan name flags, such as ``--batch-size``.

    Args:
        prefix: beginning of the messages.

    Raises:
        InputError: if there is such an error.
    """
    try:
        yield
    except PlanError as error:
        raise InputError(f"{prefix}{error.for_flags()}") from None


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Device and dtype of a training, and packages whose classes it may use."""

    trust: Trust = ()
    device: str | None = None
    dtype: TrainingDtype = "float32"

    def trusted(self, methods: Sequence[str]) -> tuple[str, ...]:
        """Return the packages of ``--trust`` and those of classes in ``--method``."""
        named = (package for name in methods for package in package_of(name.strip()))
        return (*self.trust, *named)

    def make_runtime(self) -> "Runtime":
        """Return the device and dtype of the training.

        Raises:
            InputError: if the device cannot be used.
        """
        import torch

        from diffsight.ops.device import mixed_dtype, usable_device
        from diffsight.training.loop import Runtime

        return Runtime(torch.device(usable_device(self.device)), mixed_dtype(self.dtype))


def require_writable(out: Path, *, is_file: bool = False) -> None:
    """Check that ``--out`` can be written; called before a model is loaded. Nothing is created.

    Args:
        out: folder, which need not exist; or file, whose folder must exist.
        is_file: whether ``out`` is a file.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        with tempfile.TemporaryFile(dir=out.parent if is_file else _existing_folder(out)):
            pass
    except OSError as error:
        raise _unwritable(out, error) from None


def _existing_folder(out: Path) -> Path:
    """Return a path, or the deepest folder above it that exists."""
    for path in (out, *out.absolute().parents):
        try:
            path.lstat()  # a path that is too long raises an error
        except (FileNotFoundError, NotADirectoryError):
            continue
        return path
    return out


def _unwritable(out: Path, error: OSError) -> InputError:
    reason = error.strerror or error
    return InputError(f"{out}: cannot be written ({reason}): choose another --out")


def require_png(out: Path) -> None:
    """Check that ``--out`` ends in .png and can be written.

    Raises:
        InputError: if it does not, or cannot.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: the output is a PNG image: give a name that ends in .png")
    require_writable(out, is_file=True)


def package_of(name: str) -> tuple[str, ...]:
    """Return the top-level package of a class path; an empty tuple for a short name.

    Args:
        name: path or short name of a class; the options of a method spec may follow it.
    """
    module = name.partition(":")[0].rpartition(".")[0]
    return (module.partition(".")[0],) if module else ()
