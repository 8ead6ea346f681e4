"""The methods of the few-shot benchmark.

Every method is trained on the same few images and then predicts an image: values in the unit of
the task, or probabilities of classes.
"""

import abc
import functools
import hashlib
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from diffsight.adaptation.candidates import Candidate, backbone_sources, candidates, parse_spec
from diffsight.adaptation.selection import select
from diffsight.backbones import BackboneSource
from diffsight.benchmark.measures import map_output
from diffsight.benchmark.options import UnitOptions
from diffsight.benchmark.source import BenchmarkTask
from diffsight.codecs import ScalarBins
from diffsight.datasets.base import Sample
from diffsight.datasets.labelled_folder import sample_values
from diffsight.datasets.pairs import content_hash
from diffsight.errors import InputError
from diffsight.inference.shared_latents import SharedLatents
from diffsight.methods.base import learned_parameters
from diffsight.model import DenseModel
from diffsight.ops.precision import float32_products
from diffsight.ops.resize import resized_image, working_hw
from diffsight.outputs import Output
from diffsight.tasks.base import AbstractTask
from diffsight.training.loop import CPU, Runtime
from diffsight.training.rng import restore_rng, rng_state
from diffsight.types import Draws, Inputs, Latents

# test images of one size that are predicted together, by the type of the device; on two cores eight
# together took as long as one by one (1.02 of the processor's time). Halves are tried where memory
# does not hold them
BATCH_SIZES = {"cuda": 8}
MAX_LATENT_BYTES = 2**28  # of 4,000 images of 512 x 512 pixels

Predict = Callable[[Sequence[Sample]], Sequence[Output]]


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
        repeat: number of the draw of training images.
        settings: of the benchmark.
        score: returns the measure of a method over the test images.
    """

    spec: BenchmarkTask
    samples: tuple[Sample, ...]
    task: AbstractTask
    source: BackboneSource
    short_side: int
    seed: int
    repeat: int
    settings: Settings
    score: "Callable[[FittedMethod], float]"


@dataclass
class FittedMethod:
    """A trained method.

    Attributes:
        predict: from images of one size to the output for each, at any size, on the CPU.
        batch_size: images that are predicted together, at most.
        facts: steps, parameters and the like, for the record.
        curve: steps of the training, and scores on the test images after them.
        curve_seconds: that recording the curve took.
    """

    predict: Predict
    batch_size: int = 1
    facts: dict[str, Any] = field(default_factory=dict)
    curve: Sequence[tuple[int, float]] = ()
    curve_seconds: float = 0.0


class BenchmarkMethod(abc.ABC):
    """One row of the table.

    Attributes:
        is_trained: False for what takes no time.
    """

    is_trained: ClassVar[bool] = True

    @abc.abstractmethod
    def fit(self, episode: Episode) -> FittedMethod:
        """Return the method, trained on the images of an episode."""

    def untrained(self, episode: Episode) -> FittedMethod | None:
        """Return the method before its training, to measure its speed; None if that is no matter.

        Raises:
            InputError: if the training images cannot be learned from.
        """
        return None

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
        specs: of the methods; several are compared on folds of the training images.
        options: of ``from_backbone``, for methods that take them and whose spec does not have them.
        backbone: another pretrained model than that of the benchmark.
        trusted: packages besides diffsight whose classes may be named.
        reads_clip: whether a method is one of the CLIP vision model, whatever the backbone.
    """

    specs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str | None = None
    trusted: tuple[str, ...] = ()
    reads_clip: bool = False

    def fit(self, episode: Episode) -> FittedMethod:
        """Train on the images of the episode alone."""
        return self._fit(episode, partial(episode.spec.fitted, episode.samples))

    def untrained(self, episode: Episode) -> FittedMethod:
        """Return the method that is compared last, which is the slowest, with random weights."""
        pairs, _ = self._candidates(episode, partial(episode.spec.fitted, episode.samples))
        model = DenseModel(task=pairs[-1].task, method=pairs[-1].builder)
        model.info["short_side"] = pairs[-1].short_side
        return fitted_method(model.to(episode.settings.runtime.device), episode)

    def _candidates(
        self, episode: Episode, fit_task: Callable[..., AbstractTask]
    ) -> tuple[list[Candidate], dict[str, Any]]:
        """Return the methods on their backbones, and the options of all of them."""
        sources = backbone_sources(self.backbone) if self.backbone else [episode.source]
        options = dict(self.options)
        if episode.settings.clip is not None and self._takes("clip"):
            options["clip"] = episode.settings.clip
        given = {"short_side": episode.short_side, "options": options, "trusted": self.trusted}
        return candidates(self.specs, sources, fit_task, **given), options

    def _fit(self, episode: Episode, fit_task: Callable[..., AbstractTask]) -> FittedMethod:
        settings = episode.settings
        pairs, options = self._candidates(episode, fit_task)
        curve = Curve(episode)
        model = select(
            episode.samples,
            episode.task,
            pairs,
            minutes=settings.minutes,
            steps=settings.steps,
            seed=episode.seed,
            compare=len(pairs) > 1,
            runtime=settings.runtime,
            inspect=curve.record if settings.curve_every else None,
        )
        if model.info["interrupted"]:  # half a training is a model for adapt, no result for a table
            raise KeyboardInterrupt
        info = {name: model.info[name] for name in ("steps", "chosen", "held_out")}
        used = options | {k: v for c in pairs for k, v in c.spec.options.items()}
        facts = {"parameters": learned_parameters(model.method), **info, "options": used}
        made = fitted_method(model, episode)
        return replace(made, facts=facts, curve=curve.points, curve_seconds=curve.seconds)

    def dependency_hash(
        self, spec: BenchmarkTask, source: BackboneSource, clip: str | Path | None
    ) -> str:
        """Return the hash of the other pretrained model, or of a CLIP model that may be used."""
        if self.backbone is not None:
            sources = backbone_sources(self.backbone)
            return " ".join(files_hash(path) for source in sources for path in source.files)
        if reason := self._clip_use(spec):
            return files_hash(required_clip(reason, source, clip))
        if not self._takes("clip"):
            return ""
        folder = source.clip_folder(clip)
        return "" if folder is None else files_hash(folder)

    def _clip_use(self, spec: BenchmarkTask) -> str:
        """Return what cannot do without a CLIP model; empty if nothing."""
        if self.reads_clip:
            return "a linear probe"
        parsed = [parse_spec(text, trusted=self.trusted) for text in self.specs]
        tables = max({**self.options, **one.options}.get("codebook") or 0 for one in parsed)
        return f"a codebook of {tables} tables" if tables > 1 and spec.has_values else ""

    def _takes(self, option: str) -> bool:
        classes = (parse_spec(text, trusted=self.trusted).method for text in self.specs)
        return any(option in inspect.signature(c.from_backbone).parameters for c in classes)


@dataclass(frozen=True)
class FewShotRegression(Adapted):
    """One concept that says how large the value is, learned by the squared error alone (Figure 3).

    Differs from the paper, which does not say how it bounds the map: two concepts of the extreme
    values, whose softmax is a sigmoid. For one number per pixel.
    """

    def supports(self, spec: BenchmarkTask) -> bool:
        """Return whether a label is one number per pixel."""
        return spec.is_one_number

    def fit(self, episode: Episode) -> FittedMethod:
        """Train between the least and the largest label of the training images."""
        values = sample_values(episode.samples, episode.task.label)
        low, high = float(values.min()), float(values.max())
        edges = torch.tensor([low, (low + high) / 2, high])
        codec = ScalarBins.of(edges, torch.tensor([low, high])).with_statistics(values)
        task = episode.task.with_codec(codec, bins=2, alpha=math.inf)
        return self._fit(episode, lambda **options: task)


class Curve:
    """The score on the test images during a training.

    Args:
        episode: whose settings say how often it is recorded.

    Attributes:
        points: steps and scores.
        seconds: that the recording took.
    """

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.points: list[tuple[int, float]] = []
        self.seconds = 0.0

    def record(self, step: int, steps: int, model: DenseModel) -> None:
        """Score the model every so many steps, and at the last; training goes on unchanged."""
        every = self.episode.settings.curve_every
        if not every or (step % every and step != steps):
            return
        begin, state = time.monotonic(), rng_state()
        self.points.append((step, self.episode.score(fitted_method(model, self.episode))))
        model.train()
        restore_rng(state)
        self.seconds += time.monotonic() - begin


def fitted_method(model: DenseModel, episode: Episode) -> FittedMethod:
    """Return a model, which is put into evaluation mode, as a method that predicts images."""
    batch_size = BATCH_SIZES.get(episode.settings.runtime.device.type, 1)
    return FittedMethod(partial(predict_samples, model.eval(), episode), batch_size)


@torch.no_grad()
def predict_samples(model: DenseModel, episode: Episode, samples: Sequence[Sample]) -> list[Output]:
    """Return the outputs for images of one size, at the size at which methods work.

    Numbers are as the task decodes them (directions have length 1), classes are probabilities. An
    output does not depend on the other images.
    """
    runtime = episode.settings.runtime
    image = torch.stack([sample.image for sample in samples]).to(runtime.device).float() / 255
    image = resized_image(image, working_hw(*image.shape[-2:], short_side=model.info["short_side"]))
    prompts = tuple(sample.prompt for sample in samples)
    texts = None if all(prompt is None for prompt in prompts) else prompts
    # what only this model has, such as a UNet that was trained, must not be kept
    source, frozen = episode.source, model.method.frozen().values()
    shares = source.is_diffusion and any(part is source.diffusion for part in frozen)
    latents = episode.settings.latents if shares else None
    with float32_products(tf32=False), runtime.mixed():
        inputs, draws = Inputs(image, texts, latents=latents), Draws((0,) * len(samples))
        output = model(inputs, draws=draws)
    if any(spec.kind == "values" for spec in model.task.outputs):
        labels = [one.to_label().cpu() for one in model.task.decode(output)]
        return [map_output(model.task, label) for label in labels]
    rows = [output.row(index) for index in range(len(samples))]
    return [row.normalised().reduced().to("cpu") for row in rows]


def required_clip(reason: str, source: BackboneSource, clip: str | Path | None) -> Path:
    """Return the folder of a CLIP vision model: ``clip``, or that of the pretrained model.

    Raises:
        InputError: if there is none.
    """
    folder = source.clip_folder(clip)
    if folder is None:
        raise InputError(
            f"{source.name} has no CLIP vision model, which {reason} needs, and that of the paper "
            "cannot be fetched: go online, give --clip DIR, or leave it out"
        )
    return folder


def files_hash(folder: str | Path, pattern: str = "*") -> str:
    """Return a hash of the files of a folder, by name and content."""
    digest = hashlib.sha256()
    paths = [Path(folder)] if Path(folder).is_file() else Path(folder).glob(pattern)
    for path in sorted(path for path in paths if path.is_file()):
        status = path.stat()
        digest.update(
            f"{path.name} {_hash_of(path, status.st_mtime_ns, status.st_size)}\n".encode()
        )
    return digest.hexdigest()


@functools.cache
def _hash_of(path: Path, *_: int) -> str:
    return content_hash(path)
