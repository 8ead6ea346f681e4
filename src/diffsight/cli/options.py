"""Flags that several commands share, and where models run."""

import tempfile
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from diffsight.choices import Dtype, TrainingDtype
from diffsight.cli.flags import Flag
from diffsight.errors import InputError
from diffsight.inference.plan import Plan, ShortSide, short_side_px

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from diffsight.inference import Predictor
    from diffsight.inference.write import Job
    from diffsight.model import DenseModel
    from diffsight.training.loop import Runtime
    from diffsight.types import Latents, People

SOME_FAILED = 1  # exit status: some images could not be used, all others are done

Folder = Annotated[Path, Flag("DIR")]
File = Annotated[Path, Flag("FILE")]
Images = Sequence[Annotated[str, Flag("PATH")]]
Model = Annotated[str, Flag("PATH|ID")]
SavedBackbone = Annotated[str | None, Flag("DIR|ID")]
Backbone = Annotated[str, Flag("tiny|DIR|FILE|ID")]
Recipe = Annotated[str, Flag("FILE|NAME")]
Data = Annotated[Sequence[str], Flag(("CLASS", "KEY=VALUE"))]
FindPeople: TypeAlias = Callable[["Tensor", Path], "People"]  # of an image and its file
Trust = Annotated[Sequence[str], Flag("PACKAGE", repeat=True)]


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """The prompt of all images.

    Attributes:
        scene: scene type of the images, such as kitchen, for models with a table of them (default:
            the mean of the table).
        expression: sentence about the images, for models that read one, such as what to find.
    """

    scene: Annotated[str | None, Flag("NAME")] = None
    expression: Annotated[str | None, Flag("TEXT")] = None

    @property
    def text(self) -> str | None:
        """The one that is given."""
        return self.scene if self.expression is None else self.expression


@dataclass(frozen=True, kw_only=True)
class PeopleOptions:
    """Where people are, for models of joints.

    Attributes:
        boxes: JSON list of image_id (the name of a file), bbox (left, top, width, height) and
            score, as detectors write it for COCO (default: the boxes of a detector).
        detector: RT-DETR that finds people where there are no boxes: a folder or a hub id (default:
            the one of ResNet-50).
    """

    boxes: File | None = None
    detector: Annotated[str | None, Flag("PATH|ID")] = None

    def finder(self, jobs: "Sequence[Job]", device: str) -> "FindPeople":
        """Return a function from an image and its file to the people in it.

        Raises:
            InputError: if boxes or detector cannot be used.
        """
        from diffsight.inference.detect import BoxFile, PersonDetector

        if self.boxes is not None:
            file = BoxFile(self.boxes)
            file.require([job.image for job in jobs])
            return lambda image, path: file.people(path, (image.shape[-2], image.shape[-1]))
        detector = PersonDetector(self.detector, device=device)
        return lambda image, path: detector(image.float() / 255)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Where the parts of a saved model are, and where it runs.

    Attributes:
        backbone: where the frozen model is that the saved one refers to (default: where it was).
    """

    backbone: SavedBackbone = None
    trust: Trust = ()
    device: str | None = None

    def load(self, source: str, shared: MutableMapping[str, Any] | None = None) -> "DenseModel":
        """Return a saved model on its device.

        Args:
            source: what ``--model`` names.
            shared: frozen parts that several models share.

        Raises:
            InputError: if the model or the device cannot be used.
        """
        from diffsight import hub

        device = device_of(self.device)
        return hub.load(
            source, device=device, trusted=self.trust, backbone=self.backbone, shared=shared
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions(ModelOptions):
    """Where the parts of a saved model are, and how it runs.

    Attributes:
        short_side: resize the shorter side of images to N pixels, to that of the training images,
            or keep the image's own size (default: training, or own where the model does not record
            it).
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
        """Return a saved model, ready to run.

        Args:
            source: what ``--model`` names.
            plan: how images are run, but for their size.
            shared: frozen parts that several models share.
            latents: of images, shared with other models.

        Raises:
            InputError: if the model, the device or the plan cannot be used.
        """
        from diffsight.inference import Predictor

        model = self.load(source, shared)
        complete = plan(short_side=short_side_px(self.short_side, model.info))
        if complete.steps is not None and not model.method.accepts_steps:
            name = type(model.method).__name__
            raise InputError(f"{source}: {name} has no steps to choose: leave --steps out")
        device, dtype = device_of(self.device), dtype_of(self.dtype)
        return Predictor(model, complete, device=device, dtype=dtype, latents=latents)


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Device and precision of a training, and whose code it may run."""

    trust: Trust = ()
    device: str | None = None
    dtype: TrainingDtype = "float32"

    def trusted(self, methods: Sequence[str]) -> tuple[str, ...]:
        """Return the packages of ``--trust``, and of classes that are typed as ``--method``."""
        typed = (package for name in methods for package in package_of(name.strip()))
        return (*self.trust, *typed)

    def hardware(self) -> "Runtime":
        """Return device and precision.

        Raises:
            InputError: if the device cannot be used.
        """
        import torch

        from diffsight.training.loop import Runtime

        return Runtime(torch.device(device_of(self.device)), dtype_of(self.dtype))


def device_of(name: str | None) -> str:
    """Return the device that ``--device`` names.

    Raises:
        InputError: if there is none of this name.
    """
    from diffsight.inference.pipeline import default_device, usable_device

    return usable_device(name or default_device())


def dtype_of(name: Dtype) -> "torch.dtype | None":
    """Return the type of mixed precision that ``--dtype`` names; None for the weights' own."""
    import torch

    return None if name == "float32" else getattr(torch, name)


def require_writable(out: Path, *, is_file: bool = False) -> None:
    """Refuse what ``--out`` names if it cannot be written, before the model is loaded.

    Args:
        out: a folder, which is made; or a file, whose folder must be there.
        is_file: whether it is a file.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        if not is_file:
            out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent if is_file else out):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{out}: cannot be written ({reason}): choose another --out") from None


def require_png(out: Path) -> None:
    """Refuse an ``--out`` that is no name of a PNG, or cannot be written.

    Raises:
        InputError: if so.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: a PNG is written: give a name that ends in .png")
    require_writable(out, is_file=True)


def error_of(job: "Job", error: InputError) -> dict[str, Any]:
    """Return the record of an image that cannot be used; the message names the image."""
    message = str(error)
    named = message if str(job.image) in message else f"{job.image}: {message}"
    return {"image": str(job.image), "error": named}


def package_of(name: str) -> tuple[str, ...]:
    """Return the package of a class that is typed on the command line; none of a short name.

    Args:
        name: of the class; options of a method spec may follow it.
    """
    module = name.partition(":")[0].rpartition(".")[0]
    return (module.partition(".")[0],) if module else ()
