"""Base classes of data sets and transforms, their samples, and the collate function."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from diffsight.config import Configurable
from diffsight.errors import InputError
from diffsight.rig import MapSource, Rig
from diffsight.types import Boxes, Camera, Inputs, People, Target


@dataclass(frozen=True)
class Sample:
    """One image with its labels.

    Attributes:
        id: name of the sample, unique in its data set and the same on every machine.
        image: RGB image.
        labels: label tensors by key; a key ends in the unit if there is one (``depth_m``,
            ``normals``, ``semantic`` ...). A label is ``c h w`` of float32, ``h w`` of int64 class
            ids, or ``m j 3`` for m people with j joints (see ``People.keypoints``). Label maps have
            the size of the image, except the maps of rigs, and labels for evaluation at another
            size (see ``Taskonomy``).
        valid: validity masks by the same keys, False where a pixel has no label.
        prompt: text about this sample (for depth the scene type, or a sentence), or None.
        camera: intrinsics for this image size, or None.
        sentences: descriptions of the labelled object. ``RandomSentence`` selects one of them as
            the prompt. Evaluation predicts once for each.
        boxes: boxes around objects whose outlines are not labelled, for labels that are class ids;
            or None.
        people: labelled people, or None.
        detections: people that a detector found; their joints are predicted in its boxes. None uses
            the boxes of ``people``.
        rig: images and poses of several cameras of a vehicle, as a batch of one, or None. With a
            rig, ``image`` shows the camera images side by side, and the label is a map around the
            vehicle.
        map_source: source that draws this map again after augmentation has changed the coordinate
            frame of the vehicle, or None.
    """

    id: str
    image: UInt8[Tensor, "3 h w"]
    labels: Mapping[str, Tensor]
    valid: Mapping[str, Bool[Tensor, "_ _"]]
    prompt: str | None = None
    camera: Camera | None = None
    sentences: tuple[str, ...] = ()
    boxes: Boxes | None = None
    people: People | None = None
    detections: People | None = None
    rig: Rig | None = None
    map_source: MapSource | None = None

    @property
    def numel(self) -> int:
        """Number of values in the image, or in all camera images of the rig."""
        return (self.image if self.rig is None else self.rig.images).numel()

    def queries(self) -> People | None:
        """Return the people whose joints a model must predict.

        These are the detections or, without a detector, the people with labelled joints. None means
        that the sample has neither.
        """
        if self.detections is not None or self.people is None:
            return self.detections
        return self.people.labelled()

    def split_by_sentence(self) -> tuple["Sample", ...]:
        """Return one sample per sentence, or this sample alone if it has no sentences."""
        if not self.sentences:
            return (self,)
        return tuple(
            replace(self, id=f"{self.id}-{sentence}", prompt=sentence, sentences=(sentence,))
            for sentence in self.sentences
        )


class AbstractDataset(Configurable, abc.ABC):
    """A finite, ordered collection of samples. Reading a sample is deterministic.

    Attributes:
        name: short name for tables and model cards.
        class_names: class names in the order of the class ids, by label name.
        map_cells: for maps around a vehicle, the number of cells along each axis and the length of
            a cell in metres; None for other data sets.
        prompt_source: source of the prompts, in the words of evaluation protocols: ``caption``, or
            ``oracle-scene`` for labelled scene types. Evaluation refuses prompts of another source
            than the model should get. None: not known, and not checked.
    """

    name: str
    class_names: Mapping[str, tuple[str, ...]] = {}
    map_cells: tuple[int, float] | None = None
    prompt_source: str | None = None

    def describe_like(self, dataset: "AbstractDataset") -> None:
        """Copy everything but the name that a data set says about its samples.

        Data sets that change or choose samples of another one call it.
        """
        self.class_names, self.map_cells = dataset.class_names, dataset.map_cells
        self.prompt_source = dataset.prompt_source

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``.

        Raises:
            InputError: if a file cannot be used; the message names the file, the problem and the
                remedy.
        """


class AbstractTransform(Configurable, abc.ABC):
    """A random transform of a sample that changes the image and its labels consistently.

    Attributes:
        accepts_rigs: whether it can transform samples with a rig, which has several cameras.
    """

    accepts_rigs: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Return the transformed sample. All random numbers are drawn from ``generator``."""


@dataclass(frozen=True)
class Batch:
    """Samples stacked for a model.

    Attributes:
        inputs: images with their prompts, and with people or rigs if the samples have them.
        target: labels with their validity masks.
        ids: sample ids, one per image.
    """

    inputs: Inputs
    target: Target
    ids: tuple[str, ...] = field(default=())

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with its tensors on ``device``."""
        return Batch(self.inputs.to(device), self.target.to(device), self.ids)


def collate(samples: Sequence[Sample], label: str) -> Batch:
    """Stack samples into a batch.

    Images become float32 in [0, 1].

    Args:
        samples: samples whose images have the same size.
        label: key of ``Sample.labels`` that becomes the target.

    Raises:
        InputError: if a sample has no such label, or the image sizes differ.
    """
    for sample in samples:
        if label not in sample.labels:
            existing = ", ".join(sorted(sample.labels)) or "none"
            raise InputError(f"sample {sample.id} has no label {label!r} (it has: {existing})")
    sizes = {tuple(sample.image.shape[-2:]) for sample in samples}
    if len(sizes) > 1:
        raise InputError(
            f"images of one batch have different sizes {sorted(sizes)}: add a RandomCrop, Resize "
            "or Pad, or set the batch size to 1"
        )
    image = torch.stack([sample.image for sample in samples]).float() / 255
    target = Target(
        label=torch.stack([sample.labels[label] for sample in samples]),
        valid=torch.stack([sample.valid[label] for sample in samples]),
        boxes=_collect([s.boxes for s in samples]),
        people=_collect([s.people for s in samples]),
    )
    prompts = tuple(sample.prompt for sample in samples)
    rig = Rig.of_samples([s.rig for s in samples])
    inputs = Inputs(image, prompts, people=_collect([s.queries() for s in samples]), rig=rig)
    return Batch(inputs, target, tuple(sample.id for sample in samples))


def _collect(values: Sequence[Any]) -> Any:
    """Return the values as a tuple, or None if all of them are None."""
    return None if all(one is None for one in values) else tuple(values)
