"""Predict the samples of a data set in order, in this process or on a cluster."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.errors import InputError
from diffsight.inference.predictor import Predictor
from diffsight.inference.ray_engine import ATTEMPTS, Cluster, map_groups
from diffsight.model import DenseModel
from diffsight.protocols import AbstractProtocol
from diffsight.tasks import Prediction

GROUP_SAMPLES = 4  # that run together, and that a worker gets at a time
PredictSamples = Callable[
    [Predictor, AbstractDataset, bool, Callable[[], None]], Iterator[tuple[Sample, Prediction]]
]
"""``predict_samples`` without its last argument, or a ``ClusterPredictor``."""


def predict_samples(
    predictor: Predictor,
    dataset: AbstractDataset,
    uses_prompt: bool,
    advance: Callable[[], None] = lambda: None,
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[Sample, Prediction]]:
    """Yield every sample with its prediction; a sample with several sentences once for each.

    Args:
        predictor: predictor with the model and its plan.
        dataset: samples with labels of the model's task. Only a few are in memory at a time.
        uses_prompt: whether the model gets the prompt of the sample.
        advance: function that is called after each sample is read.
        indices: indices of the samples; None: all.

    Raises:
        InputError: if a sample has no label, or no prompt although one is needed.
    """
    label = predictor.model.task.label

    def read(part: Sequence[int]) -> Iterator[Sample]:
        for index in part:
            for one in dataset[index].split_by_sentence():
                validate_sample(one, label, uses_prompt)
                yield one
            advance()

    size = group_size(predictor)
    chosen = range(len(dataset)) if indices is None else indices
    for i in range(0, len(chosen), size):
        yield from _predict_group(predictor, read(chosen[i : i + size]), uses_prompt)


def group_size(predictor: Predictor) -> int:
    """Return how many samples run together, a multiple of the batch size.

    Numbers depend on the batch in their last digits. No batch has samples of two groups, so that
    they do not depend on which process predicts a group.
    """
    batch_size = predictor.plan.batch_size
    return batch_size * math.ceil(GROUP_SAMPLES / batch_size)


def _predict_group(
    predictor: Predictor, samples: Iterator[Sample], uses_prompt: bool
) -> Iterator[tuple[Sample, Prediction]]:
    pending: deque[Sample] = deque()

    def read() -> Iterator[Sample]:
        for one in samples:
            pending.append(one)
            yield one

    for_image, for_prompt, for_people, for_rig = itertools.tee(read(), 4)
    images = (sample.image for sample in for_image)
    prompts = (sample.prompt if uses_prompt else None for sample in for_prompt)
    people = (sample.queries() for sample in for_people)
    rigs = (sample.rig for sample in for_rig)
    for prediction in predictor(images, prompts, people, rigs):
        yield pending.popleft(), prediction


@dataclass(frozen=True)
class SampleWork:
    """The work of one worker: a model in memory, which predicts groups of samples.

    Attributes:
        predictor: predictor with the model and its plan.
        dataset: samples with labels.
    """

    predictor: Predictor
    dataset: AbstractDataset

    def __call__(self, group: tuple[Sequence[int], bool]) -> list[tuple[Sample, Prediction]]:
        """Return samples, without most of their image, and predictions.

        Args:
            group: indices of the samples, and whether the model gets their prompts.
        """
        indices, uses_prompt = group
        pairs = predict_samples(self.predictor, self.dataset, uses_prompt, indices=indices)
        return [(replace(one, image=one.image[:, :1, :1].clone()), p) for one, p in pairs]


@dataclass(frozen=True)
class ClusterPredictor:
    """Predicts the samples of a data set on a cluster.

    Attributes:
        make: function that returns the work of a worker, in its process. It opens the same model
            and data set as the driver.
        cluster: where the workers run.
    """

    make: Callable[[], SampleWork]
    cluster: Cluster

    def __call__(
        self,
        predictor: Predictor,
        dataset: AbstractDataset,
        uses_prompt: bool,
        advance: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[Sample, Prediction]]:
        """Yield every sample with its prediction, as ``predict_samples`` does.

        Raises:
            InputError: if the workers cannot start, or one cannot use the model or a sample.
        """
        size, count = group_size(predictor), len(dataset)
        parts = [range(i, min(count, i + size)) for i in range(0, count, size)]
        groups = [(part, uses_prompt) for part in parts]
        expected = 0
        for index, pairs in map_groups(groups, self.make, self.cluster):
            if index != expected:
                break
            expected += 1
            yield from pairs
            for _ in parts[index]:
                advance()
        if expected < len(parts):
            raise InputError(
                f"samples {parts[expected][0] + 1} to {parts[expected][-1] + 1} of {dataset.name}: "
                f"their worker ended {ATTEMPTS} times, perhaps for lack of memory: give a smaller "
                "--short-side, or fewer --workers"
            )


def check_prompt_source(
    model: DenseModel, dataset: AbstractDataset, protocol: AbstractProtocol
) -> None:
    """Check that the prompts of a data set have the source that the evaluation states.

    Otherwise a model would read true scene types as captions, and the report would not say so.
    Prompts of an unknown source are not checked.

    Args:
        model: model to evaluate.
        dataset: data set of the evaluation.
        protocol: evaluation protocol. If it names no source, a model that requires a prompt gets
            captions, except for tasks whose samples have sentences.

    Raises:
        InputError: if the source is another one.
    """
    expected = protocol.prompt_source
    if expected is None and model.requires_prompt and not model.task.requires_prompt:
        expected = "caption"
    source = dataset.prompt_source
    if expected and source and source != expected:
        is_caption = expected == "caption"
        repair = "wrap it in Captioned" if is_caption else "leave --oracle-scene out"
        raise InputError(
            f"data set {dataset.name!r}: the source of its prompts is {source!r}, not "
            f"{expected!r}: {repair}"
        )


def validate_sample(sample: Sample, label: str, uses_prompt: bool) -> None:
    """Check that a sample has a label and, if it is used, a prompt.

    Raises:
        InputError: if one is missing.
    """
    if label not in sample.labels:
        labels = ", ".join(sorted(sample.labels)) or "none"
        raise InputError(
            f"sample {sample.id} has no label {label!r} (it has: {labels}): choose a model or a "
            "data set that fits"
        )
    if uses_prompt and sample.prompt is None:
        raise InputError(
            f"sample {sample.id} has no scene type or sentence, which the evaluation needs: add "
            "one, or choose another protocol"
        )
