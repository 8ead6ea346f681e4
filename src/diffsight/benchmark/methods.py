"""The methods of the few-shot benchmark.

Every method is trained on the same few images and then predicts an image: values in the unit of
the task, or probabilities of classes.
"""

import abc
import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from diffsight.adaptation.candidates import candidates, method_class
from diffsight.adaptation.selection import select
from diffsight.backbones import BackboneSource
from diffsight.backbones.clip import tower_folder
from diffsight.benchmark.measures import map_output
from diffsight.benchmark.options import UnitOptions
from diffsight.benchmark.source import BenchmarkTask
from diffsight.codecs import ScalarBins
from diffsight.datasets.base import Sample
from diffsight.datasets.labelled_folder import sample_values
from diffsight.datasets.pairs import content_hash
from diffsight.errors import InputError
from diffsight.inference.predictor import SharedLatents
from diffsight.methods.base import learned_parameters
from diffsight.model import DenseModel
from diffsight.ops.precision import float32_products
from diffsight.ops.resize import resized_image, working_hw
from diffsight.outputs import Output
from diffsight.tasks.base import AbstractTask
from diffsight.training.loop import CPU, Runtime
from diffsight.types import Draws, Inputs, Latents

MAX_LATENT_BYTES = 2**28  # of 4,000 images of 512 x 512 pixels


@dataclass(frozen=True, kw_only=True)
class Settings(UnitOptions):
    """What is the same for all units of a benchmark.

    Args:
        runtime: device and precision.
        latents: of test images, encoded once for all methods and repeats as far as they fit.
    """

    runtime: Runtime = CPU
    latents: Latents = field(
        default_factory=functools.partial(SharedLatents, MAX_LATENT_BYTES),
        compare=False,
        repr=False,
    )


@dataclass(frozen=True)
class Episode:
    """One training of a method.

    Attributes:
        spec: the task, as the benchmark has it.
        samples: training images.
        task: fitted to them.
        source: the pretrained model.
        short_side: pixels at which methods work.
        seed: of everything random.
        settings: of the benchmark.
    """

    spec: BenchmarkTask
    samples: tuple[Sample, ...]
    task: AbstractTask
    source: BackboneSource
    short_side: int
    seed: int
    settings: Settings


@dataclass
class FittedMethod:
    """A trained method.

    Attributes:
        predict: from an image to the output for it, at any size, on the CPU.
        facts: steps, parameters and the like, for the record.
    """

    predict: Callable[[Sample], Output]
    facts: dict[str, Any] = field(default_factory=dict)


class BenchmarkMethod(abc.ABC):
    """One row of the table.

    Attributes:
        is_trained: False for what takes no time.
    """

    is_trained: ClassVar[bool] = True

    @abc.abstractmethod
    def fit(self, episode: Episode) -> FittedMethod:
        """Return the method, trained on the images of an episode."""

    def supports(self, spec: BenchmarkTask) -> bool:
        """Return whether the method can learn a task."""
        return True

    def dependency_hash(
        self, spec: BenchmarkTask, source: BackboneSource, clip: str | Path | None
    ) -> str:
        """Return a hash of the files that the method reads besides images and pretrained model.

        Raises:
            InputError: if the method lacks what it needs for a task.
        """
        return ""


@dataclass(frozen=True)
class Adapted(BenchmarkMethod):
    """One or several methods, as ``diffsight adapt`` trains and compares them.

    Attributes:
        names: short names or full paths of classes; several are compared on folds of the training
            images.
        options: of the methods.
        backbone: another pretrained model than that of the benchmark.
        trusted: packages besides diffsight whose classes may be named.
    """

    names: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str | None = None
    trusted: tuple[str, ...] = ()

    def fit(self, episode: Episode) -> FittedMethod:
        """Train on the images of the episode alone."""
        return self._fit(episode, episode.task)

    def _fit(self, episode: Episode, task: AbstractTask) -> FittedMethod:
        source = BackboneSource(self.backbone) if self.backbone else episode.source
        options = self.options_for(episode.spec)
        settings = episode.settings
        if settings.clip is not None and self._takes_clip:
            options["clip"] = settings.clip
        model = select(
            episode.samples,
            task,
            candidates(self.names, source, options=options, trusted=self.trusted),
            short_side=episode.short_side,
            minutes=settings.minutes,
            steps=settings.steps,
            seed=episode.seed,
            compare=len(self.names) > 1,
            runtime=settings.runtime,
        )
        if model.info["interrupted"]:  # half a training is a model for adapt, no result for a table
            raise KeyboardInterrupt
        info = {name: model.info[name] for name in ("steps", "chosen", "held_out")}
        facts = {"parameters": learned_parameters(model.method), **info, "options": options}
        predict = functools.partial(predict_sample, model.eval(), episode)
        return FittedMethod(predict, facts)

    def dependency_hash(
        self, spec: BenchmarkTask, source: BackboneSource, clip: str | Path | None
    ) -> str:
        """Return the hash of the other pretrained model, or of a CLIP model that may be used."""
        if self.backbone is not None:
            return files_hash(BackboneSource(self.backbone).folder)
        if reason := self.clip_use(spec):
            return files_hash(required_clip(reason, source, clip))
        if not self._takes_clip:
            return ""
        folder = tower_folder(clip or source.folder)
        return "" if folder == source.folder else files_hash(folder)

    def options_for(self, spec: BenchmarkTask) -> dict[str, Any]:
        """Return the options of the methods for a task."""
        return dict(self.options)

    def clip_use(self, spec: BenchmarkTask) -> str:
        """Return what cannot do without a CLIP model; empty if nothing."""
        return ""

    @property
    def _takes_clip(self) -> bool:
        classes = (method_class(name, trusted=self.trusted) for name in self.names)
        return any("clip" in inspect.signature(c.from_backbone).parameters for c in classes)


@dataclass(frozen=True)
class FewShotTables(Adapted):
    """The paper's method with a fixed number of codebook tables.

    Attributes:
        tables: of the label codebook; several are mixed by CLIP features.
    """

    names: tuple[str, ...] = ("few_shot",)
    tables: int = 10

    def options_for(self, spec: BenchmarkTask) -> dict[str, Any]:
        """Return the options with the number of tables, where classes have values."""
        tables = {"codebook": self.tables} if spec.has_values else {}
        return {**self.options, **tables}

    def dependency_hash(
        self, spec: BenchmarkTask, source: BackboneSource, clip: str | Path | None
    ) -> str:
        """Return the hash of the CLIP model whose features mix the tables."""
        return super().dependency_hash(spec, source, clip) if self.clip_use(spec) else ""

    def clip_use(self, spec: BenchmarkTask) -> str:
        """Return the codebook, if it has several tables."""
        several = self.tables > 1 and spec.has_values
        return f"a codebook of {self.tables} tables" if several else ""


@dataclass(frozen=True)
class FewShotRegression(FewShotTables):
    """One concept that says how large the value is, learned by the squared error alone (Figure 3).

    Differs from the paper, which does not say how it bounds the map: two concepts of the extreme
    values, whose softmax is a sigmoid. For one number per pixel.
    """

    tables: int = 0

    def supports(self, spec: BenchmarkTask) -> bool:
        """Return whether a label is one number per pixel."""
        return spec.is_one_number

    def fit(self, episode: Episode) -> FittedMethod:
        """Train between the least and the largest label of the training images."""
        values = sample_values(episode.samples, episode.task.label)
        low, high = float(values.min()), float(values.max())
        edges = torch.tensor([low, (low + high) / 2, high])
        codec = ScalarBins.of(edges, torch.tensor([low, high])).with_statistics(values)
        return self._fit(episode, episode.task.with_codec(codec, bins=2, alpha=math.inf))


@dataclass(frozen=True)
class ClipProbe(Adapted):
    """A linear probe of a CLIP vision model."""

    names: tuple[str, ...] = ("linear_probe",)

    def clip_use(self, spec: BenchmarkTask) -> str:
        """Return the probe."""
        return "a linear probe"


@torch.no_grad()
def predict_sample(model: DenseModel, episode: Episode, sample: Sample) -> Output:
    """Return the output for a sample, at the size at which methods work.

    Numbers are as the task decodes them (directions have length 1), classes are probabilities.
    """
    runtime = episode.settings.runtime
    image = sample.image[None].to(runtime.device).float() / 255
    image = resized_image(image, working_hw(*image.shape[-2:], short_side=episode.short_side))
    prompts = None if sample.prompt is None else (sample.prompt,)
    # what only this model has, such as a UNet that was trained, must not be kept
    source, frozen = episode.source, model.method.frozen().values()
    shares = source.is_diffusion and any(part is source.diffusion for part in frozen)
    latents = episode.settings.latents if shares else None
    with float32_products(tf32=False), runtime.mixed():
        output = model(Inputs(image, prompts, latents=latents), draws=Draws((0,)))
    if any(spec.kind == "values" for spec in model.task.outputs):
        return map_output(model.task, model.task.decode(output)[0].to_label().cpu())
    return output.normalised().reduced().to("cpu")


def required_clip(reason: str, source: BackboneSource, clip: str | Path | None) -> Path:
    """Return the folder of a CLIP vision model: ``clip``, or that of the pretrained model.

    Raises:
        InputError: if there is none.
    """
    folder = tower_folder(clip or source.folder)
    if clip is None and folder == source.folder:
        raise InputError(
            f"{source.name} has no CLIP vision model, which {reason} needs: give --clip DIR, or "
            "leave it out"
        )
    return folder


def files_hash(folder: str | Path, pattern: str = "*") -> str:
    """Return a hash of the files of a folder, by name and content."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(folder).glob(pattern) if path.is_file()):
        status = path.stat()
        digest.update(
            f"{path.name} {_hash_of(path, status.st_mtime_ns, status.st_size)}\n".encode()
        )
    return digest.hexdigest()


@functools.cache
def _hash_of(path: Path, *_: int) -> str:
    return content_hash(path)
