"""The methods of the few-shot benchmark.

Every method is trained on the same few images. Then it predicts test images: values in the unit of
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
from diffsight.methods.base import count_trainable_parameters
from diffsight.model import DenseModel
from diffsight.ops.precision import float32_products
from diffsight.ops.resize import resize_image, working_hw
from diffsight.outputs import Output
from diffsight.tasks.base import AbstractTask
from diffsight.training.loop import CPU, Runtime
from diffsight.training.rng import restore_rng, rng_state
from diffsight.types import Draws, Inputs, Latents

# Test images of one size that are predicted in one batch, by device type; 1 for other devices. On
# two CPU cores a batch of eight took 1.02 times as long as eight single images. A batch that does
# not fit into memory is halved.
BATCH_SIZES = {"cuda": 8}
MAX_LATENT_BYTES = 2**28  # latents of about 4,000 images of 512 x 512 pixels

Predict = Callable[[Sequence[Sample]], Sequence[Output]]
"""A function from images of one size to an output for each."""


@dataclass(frozen=True, kw_only=True)
class Settings(UnitOptions):
    """Settings that all units of a benchmark share.

    Args:
        runtime: device and precision of training and prediction.
        latents: cache of the test images' latents, which all methods and repeats share.
    """

    runtime: Runtime = CPU
    latents: Latents = field(
        default_factory=functools.partial(SharedLatents, MAX_LATENT_BYTES),
        compare=False,
        repr=False,
    )


@dataclass(frozen=True)
class Episode:
    """Data and settings of one training run.

    Attributes:
        spec: the benchmark's definition of the task.
        samples: training images.
        task: the task to train; its bins or codebook are fitted to the training images.
        source: pretrained model.
        short_side: length in pixels to which the short side of images is resized.
        seed: seed of all random numbers.
        repeat: index of the repeat; each repeat has other training images.
        settings: settings of the benchmark.
        score: function that returns a method's score over the test images.
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
        predict: function from images of one size to an output for each, of any size, on the CPU.
        batch_size: largest number of images in a batch.
        facts: plain data about the training for the unit's file, such as steps and parameters.
        curve: numbers of training steps, and the scores on the test images after them.
        curve_seconds: seconds spent on the curve.
    """

    predict: Predict
    batch_size: int = 1
    facts: dict[str, Any] = field(default_factory=dict)
    curve: Sequence[tuple[int, float]] = ()
    curve_seconds: float = 0.0


class BenchmarkMethod(abc.ABC):
    """A method of the benchmark: one row of its table.

    Attributes:
        is_trained: whether the method is trained for the given time or number of steps.
    """

    is_trained: ClassVar[bool] = True

    @abc.abstractmethod
    def fit(self, episode: Episode) -> FittedMethod:
        """Return the method, trained on the images of an episode."""

    def untrained(self, episode: Episode) -> FittedMethod | None:
        """Return the method with random weights, to measure its speed; None if it is negligible.

        Raises:
            InputError: if the method cannot be trained on the training images.
        """
        return None

    def supports(self, spec: BenchmarkTask) -> bool:
        """Return whether the method can be trained on a task."""
        return True

    def dependency_hash(
        self, spec: BenchmarkTask, source: BackboneSource, clip: str | Path | None
    ) -> str:
        """Return a hash of the files that the method reads besides images and pretrained model.

        Args:
            spec: task of the benchmark.
            source: pretrained model.
            clip: folder or hub id of a CLIP vision model; None: that of the pretrained model.

        Raises:
            InputError: if a file that the method needs for the task is missing.
        """
        return ""


@dataclass(frozen=True)
class Adapted(BenchmarkMethod):
    """One method, or the best of several, trained and compared as by ``diffsight adapt``.

    Attributes:
        specs: specifications of the methods; several are compared on folds of the training images.
        options: default options of ``from_backbone``, for methods that have them.
        backbone: pretrained model to use in place of the benchmark's.
        trusted: packages besides diffsight whose classes may be named.
        reads_clip: whether the method uses the CLIP vision model and not the backbone.
    """

    specs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str | None = None
    trusted: tuple[str, ...] = ()
    reads_clip: bool = False

    def fit(self, episode: Episode) -> FittedMethod:
        """Return the method, trained on the images of the episode; the best one of several."""
        return self._fit(episode, partial(episode.spec.fitted, episode.samples))

    def untrained(self, episode: Episode) -> FittedMethod:
        """Return the last of the methods, which is the slowest, with random weights."""
        pairs, _ = self._candidates(episode, partial(episode.spec.fitted, episode.samples))
        model = DenseModel(task=pairs[-1].task, method=pairs[-1].builder)
        model.info["short_side"] = pairs[-1].short_side
        return fitted_method(model.to(episode.settings.runtime.device), episode)

    def _candidates(
        self, episode: Episode, fit_task: Callable[..., AbstractTask]
    ) -> tuple[list[Candidate], dict[str, Any]]:
        """Return the candidates, methods with their backbones, and the options of all of them."""
        sources = backbone_sources(self.backbone) if self.backbone else [episode.source]
        options = dict(self.options)
        if episode.settings.clip is not None and self._takes("clip"):
            options["clip"] = episode.settings.clip
        common = {"short_side": episode.short_side, "options": options, "trusted": self.trusted}
        return candidates(self.specs, sources, fit_task, **common), options

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
        if model.info["interrupted"]:  # adapt saves such a model, but its score would be too low
            raise KeyboardInterrupt
        info = {name: model.info[name] for name in ("steps", "chosen", "held_out")}
        used = options | {k: v for c in pairs for k, v in c.spec.options.items()}
        facts = {"parameters": count_trainable_parameters(model.method), **info, "options": used}
        fitted = fitted_method(model, episode)
        return replace(fitted, facts=facts, curve=curve.points, curve_seconds=curve.seconds)

    def dependency_hash(
        self, spec: BenchmarkTask, source: BackboneSource, clip: str | Path | None
    ) -> str:
        """Return a hash of the other pretrained model, and of a CLIP model that may be used."""
        if self.backbone is not None:
            sources = backbone_sources(self.backbone)
            paths = [path for one in sources for path in one.files]
            if clip is not None and self._takes("clip"):
                paths += filter(None, [source.clip_folder(clip)])
            return " ".join(map(files_hash, paths))
        if reason := self._clip_use(spec):
            return files_hash(required_clip(reason, source, clip))
        if not self._takes("clip"):
            return ""
        folder = source.clip_folder(clip)
        return "" if folder is None else files_hash(folder)

    def _clip_use(self, spec: BenchmarkTask) -> str:
        """Return a description of what needs a CLIP model, for a message; empty if nothing does."""
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
    """FewShot as a regression with the squared error alone (Figure 3); for one value per pixel.

    Differs from the paper: it uses one concept and does not say how its map is bounded. Here there
    are two concepts, for the smallest and the largest label, whose softmax is a sigmoid.
    """

    def supports(self, spec: BenchmarkTask) -> bool:
        """Return whether a label has one value per pixel."""
        return spec.is_one_number

    def fit(self, episode: Episode) -> FittedMethod:
        """Return the method, trained with the range of the training images' labels."""
        values = sample_values(episode.samples, episode.task.label)
        low, high = float(values.min()), float(values.max())
        edges = torch.tensor([low, (low + high) / 2, high])
        codec = ScalarBins.of(edges, torch.tensor([low, high])).with_statistics(values)
        task = episode.task.with_codec(codec, bins=2, alpha=math.inf)
        return self._fit(episode, lambda **options: task)


class Curve:
    """A recorder of the score on the test images during a training.

    Args:
        episode: training whose settings have the number of steps between two scores.

    Attributes:
        points: numbers of steps, and the scores after them.
        seconds: seconds spent on scoring.
    """

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.points: list[tuple[int, float]] = []
        self.seconds = 0.0

    def record(self, step: int, steps: int, model: DenseModel) -> None:
        """Score the model every ``curve_every`` steps and at the last step.

        The training is not affected.

        Args:
            step: number of finished steps.
            steps: number of all steps.
            model: model in training.
        """
        every = self.episode.settings.curve_every
        if not every or (step % every and step != steps):
            return
        begin, state = time.monotonic(), rng_state()
        self.points.append((step, self.episode.score(fitted_method(model, self.episode))))
        model.train()
        restore_rng(state)
        self.seconds += time.monotonic() - begin


def fitted_method(model: DenseModel, episode: Episode) -> FittedMethod:
    """Return a model as a fitted method; the model is put into evaluation mode."""
    batch_size = BATCH_SIZES.get(episode.settings.runtime.device.type, 1)
    return FittedMethod(partial(predict_samples, model.eval(), episode), batch_size)


@torch.no_grad()
def predict_samples(model: DenseModel, episode: Episode, samples: Sequence[Sample]) -> list[Output]:
    """Return the outputs for images of one size, at the model's working size.

    Values are decoded by the task (directions have length 1), classes are probabilities. An output
    does not depend on the other images in the batch.
    """
    runtime = episode.settings.runtime
    image = torch.stack([sample.image for sample in samples]).to(runtime.device).float() / 255
    image = resize_image(image, working_hw(*image.shape[-2:], short_side=model.info["short_side"]))
    prompts = tuple(sample.prompt for sample in samples)
    texts = None if all(prompt is None for prompt in prompts) else prompts
    # latents of an encoder that belongs to this model alone, such as a trained one, are not cached
    source, frozen = episode.source, model.method.frozen().values()
    is_shared = source.is_diffusion and any(part is source.diffusion for part in frozen)
    latents = episode.settings.latents if is_shared else None
    with float32_products(tf32=False), runtime.mixed():
        inputs, draws = Inputs(image, texts, latents=latents), Draws((0,) * len(samples))
        output = model(inputs, draws=draws)
    if any(spec.kind == "values" for spec in model.task.outputs):
        labels = [prediction.to_label().cpu() for prediction in model.task.decode(output)]
        return [map_output(model.task, label) for label in labels]
    rows = [output.row(index) for index in range(len(samples))]
    return [row.normalised().reduced().to("cpu") for row in rows]


def required_clip(reason: str, source: BackboneSource, clip: str | Path | None) -> Path:
    """Return the folder of a CLIP vision model: ``clip``, or that of the pretrained model.

    Args:
        reason: what needs the CLIP model, for the message.
        source: pretrained model.
        clip: folder or hub id of a CLIP vision model.

    Raises:
        InputError: if there is no CLIP vision model.
    """
    folder = source.clip_folder(clip)
    if folder is None:
        raise InputError(
            f"{source.name} has no CLIP vision model, which {reason} needs, and that of the paper "
            "cannot be downloaded: go online, give --clip DIR, or leave the method out"
        )
    return folder


def files_hash(folder: str | Path, pattern: str = "*") -> str:
    """Return a hash of the names and contents of a folder's files, or of a single file."""
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
