"""The samples that every data set yields, and how they become a batch."""

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
        id: name of the sample, unique in its data set, the same on every machine.
        image: RGB.
        labels: by name with unit (``depth_m``, ``normals``, ``semantic`` ...): ``c h w`` of
            float32, or ``h w`` of int64 class ids; of the size of the image, but for test images
            that are scored at another size (see ``Taskonomy``); joints are ``m j 3``, as those of
            ``people``.
        valid: by the same names; False where the label means nothing.
        prompt: the sample's own text name (for depth the scene type) or sentence, or None.
        camera: intrinsics for this image size, or None.
        sentences: descriptions of the labelled thing; ``RandomSentence`` makes one of them the
            prompt, evaluation uses each.
        boxes: of objects whose pixels are not known, for class ids.
        people: what is labelled of people.
        detections: boxes in which people are looked for; None: those of ``people``.
        rig: of several cameras, a batch of one; then ``image`` shows them side by side, and the
            label is a map around the vehicle.
        map_source: draws that label again for a changed frame of the vehicle, for augmentation.
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
        """Number of values of the image, or of those of several cameras."""
        return (self.image if self.rig is None else self.rig.images).numel()

    def queries(self) -> People | None:
        """Return the people whose joints are to be found; None where there are no people."""
        if self.detections is not None or self.people is None:
            return self.detections
        return self.people.labelled()

    def per_sentence(self) -> tuple["Sample", ...]:
        """Return a sample for each sentence, as evaluation uses them; this one without any."""
        if not self.sentences:
            return (self,)
        return tuple(
            replace(self, id=f"{self.id}-{sentence}", prompt=sentence, sentences=(sentence,))
            for sentence in self.sentences
        )


class AbstractDataset(Configurable, abc.ABC):
    """A finite, ordered collection of samples. Reading a sample draws no random number.

    Attributes:
        name: short name for tables and cards.
        class_names: by label name, for labels that are class ids.
        map_cells: of maps around a vehicle, along each axis, and their length in metres.
    """

    name: str
    class_names: Mapping[str, tuple[str, ...]] = {}
    map_cells: tuple[int, float] | None = None

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``.

        Raises:
            InputError: naming the file, what is wrong with it and the repair.
        """


class AbstractTransform(Configurable, abc.ABC):
    """A random change of a sample; image and labels move together.

    Attributes:
        accepts_rigs: whether it changes samples of several cameras.
    """

    accepts_rigs: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, sample: Sample, generator: torch.Generator) -> Sample:
        """Return the changed sample. Every random number comes from ``generator``."""


@dataclass(frozen=True)
class Batch:
    """Samples stacked for a model, with their ids."""

    inputs: Inputs
    target: Target
    ids: tuple[str, ...] = field(default=())

    def to(self, device: torch.device | str) -> "Batch":
        """Copy the tensors to ``device``."""
        return Batch(self.inputs.to(device), self.target.to(device), self.ids)


def collate(samples: Sequence[Sample], label: str) -> Batch:
    """Return samples of one size as a batch; ``label`` is the task's key of ``Sample.labels``.

    Raises:
        InputError: if the label is missing or the sizes differ.
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
        boxes=_rows([s.boxes for s in samples]),
        people=_rows([s.people for s in samples]),
    )
    prompts = tuple(sample.prompt for sample in samples)
    rig = Rig.of_samples([s.rig for s in samples])
    inputs = Inputs(image, prompts, people=_rows([s.queries() for s in samples]), rig=rig)
    return Batch(inputs, target, tuple(sample.id for sample in samples))


def _rows(values: Sequence[Any]) -> Any:
    """Return what the images have, or None if none of them has any."""
    return None if all(one is None for one in values) else tuple(values)
