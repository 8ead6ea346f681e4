"""Evaluation: a model under a protocol, beside predictors that never look at the image."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

import diffsight
from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.hub.folder import BASELINES
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor
from diffsight.protocols import DepthProtocol
from diffsight.types import DepthPrediction, InputError

COUNTS = ("images", "skipped")


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and everything that it depends on.

    Attributes:
        protocol: which pixels counted, and how they were averaged.
        plan: how the images were run.
        data: name of the data set.
        images: how many counted.
        skipped: how many had no pixel that counts.
        seconds_per_image: of the model, reading included.
        scores: by predictor, then by measure; ``model`` comes first.
    """

    protocol: DepthProtocol
    plan: Plan
    data: str
    images: int
    skipped: int
    seconds_per_image: float
    scores: Mapping[str, Mapping[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a report, and for ``hub.record``."""
        return {
            "protocol": self.protocol.as_dict(),
            "plan": self.plan.describe(),
            "data": self.data,
            "images": self.images,
            "skipped": self.skipped,
            "seconds_per_image": round(self.seconds_per_image, 4),
            "metrics": dict(self.scores["model"]),
            "rivals": {name: dict(row) for name, row in self.scores.items() if name != "model"},
            "diffsight_version": diffsight.__version__,
        }


class First(AbstractDataset):
    """The first samples of a data set.

    Args:
        dataset: what to take them from.
        count: how many, at most.
    """

    def __init__(self, dataset: AbstractDataset, count: int) -> None:
        self.name = f"{dataset.name}, first {count}"
        self.class_names = dataset.class_names
        self._dataset = dataset
        self._count = count

    def __len__(self) -> int:
        """Number of samples."""
        return min(self._count, len(self._dataset))

    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index``."""
        return self._dataset[index]


def evaluate(
    predictor: Predictor,
    dataset: AbstractDataset,
    protocol: DepthProtocol,
    *,
    beside: Mapping[str, Float[Tensor, "_ _"]] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score a model, and maps that are the same for every image, on a data set.

    Samples are read one after another and may differ in size.

    Args:
        predictor: the model and its plan.
        dataset: samples with the label that the model's task learns.
        protocol: which pixels count; its prompt rule decides whether the model is told the sample's
            scene.
        beside: depth maps in metres by name, each resized to the image (1 x 1 is a constant).
        advance: called after every image.

    Raises:
        InputError: if a sample lacks its label, or its prompt where the protocol wants it.
    """
    beside = beside or {}
    metrics = {name: protocol.metric() for name in ("model", *beside)}
    waiting: deque[Sample] = deque()
    label = predictor.model.task.label

    def samples() -> Iterator[Sample]:
        for index in range(len(dataset)):
            sample = dataset[index]
            _check(sample, label, protocol)
            waiting.append(sample)
            yield sample

    for_image, for_prompt = itertools.tee(samples())
    told = protocol.prompt == "oracle-scene"
    prompts = (sample.prompt if told else None for sample in for_prompt)
    start = time.perf_counter()
    for prediction in predictor((sample.image for sample in for_image), prompts):
        if not isinstance(prediction, DepthPrediction):
            raise InputError(
                f"{protocol.name} scores metric depth, not {type(prediction).__name__}"
            )
        sample = waiting.popleft()
        target_m, valid = sample.labels[label][0][None], sample.valid[label][None]
        mask = protocol.mask(target_m, valid)
        maps = {name: _resized(rival, target_m) for name, rival in beside.items()}
        for name, depth_m in {"model": prediction.depth_m[None].cpu(), **maps}.items():
            metrics[name].update(protocol.prepare(depth_m), target_m, mask)
        advance()
    seconds = time.perf_counter() - start
    try:
        rows = {name: {k: float(v) for k, v in m.compute().items()} for name, m in metrics.items()}
    except ValueError as error:
        raise InputError(f"{dataset.name} under {protocol.name}: {error}") from None
    return Evaluation(
        protocol=protocol,
        plan=predictor.plan,
        data=dataset.name,
        images=int(rows["model"]["images"]),
        skipped=int(rows["model"]["skipped"]),
        seconds_per_image=seconds / len(dataset),
        scores={n: {k: v for k, v in r.items() if k not in COUNTS} for n, r in rows.items()},
    )


def read_rivals(folder: Path) -> dict[str, Float[Tensor, "_ _"]]:
    """The constant median and the mean map of the training labels, as ``fit`` left them.

    Returns:
        Maps in metres by name; empty if the folder has none.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / BASELINES
    if not path.is_file():
        return {}
    try:
        tensors = load_file(path)
        return rivals(tensors["mean_map"], tensors["median"].item())
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{path}: damaged ({error}): delete it, or copy the model again") from None


def rivals(
    mean_map: Float[Tensor, "_ _"], median: float, note: str = ""
) -> dict[str, Float[Tensor, "_ _"]]:
    """Predictors that never look at the image, as ``evaluate`` takes them; depth in metres."""
    constant = torch.full((1, 1), median)
    return {f"constant median{note}": constant, f"mean map{note}": mean_map}


def _check(sample: Sample, label: str, protocol: DepthProtocol) -> None:
    if label not in sample.labels:
        known = ", ".join(sorted(sample.labels)) or "none"
        raise InputError(f"sample {sample.id} has no label {label!r} (it has: {known})")
    if protocol.prompt == "oracle-scene" and sample.prompt is None:
        raise InputError(
            f"sample {sample.id} names no scene, which oracle-scene needs: evaluate without it"
        )


def _resized(rival: Tensor, target_m: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    size = target_m.shape[-2:]
    return functional.interpolate(rival[None, None], size, mode="bilinear", align_corners=False)[0]
