"""Predictions of samples by workers, which run in this process here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.support_models import tiny

from diffsight.errors import InputError
from diffsight.inference import Plan, Predictor, sample_predictions
from diffsight.inference.evaluate import evaluate
from diffsight.inference.ray_engine import Cluster
from diffsight.inference.sample_predictions import ClusterPredictor, SampleWork, predict_samples
from diffsight.model import DenseModel
from diffsight.rooms import Rooms
from diffsight.types import Inputs


def run_here(lost: frozenset[int]) -> Callable[..., Iterator[tuple[int, Any]]]:
    """Return a ``map_groups`` in this process; the lost groups have no result."""

    def map_groups(
        groups: Sequence[Any], make: Callable[[], SampleWork], cluster: Cluster
    ) -> Iterator[tuple[int, Any]]:
        work = make()
        for index, group in enumerate(groups):
            if index not in lost:
                yield index, work(group)

    return map_groups


def test_scores_of_workers_are_those_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_predictions, "map_groups", run_here(frozenset()))
    rooms = Rooms(split="val", count=5, size=32)
    predictor = Predictor(tiny(), Plan(flip=True, batch_size=3))
    predict = ClusterPredictor(lambda: SampleWork(predictor, rooms), Cluster())
    read: list[int] = []
    several = evaluate(
        predictor, rooms, uncertainty=True, predict=predict, advance=lambda: read.append(1)
    )
    one = evaluate(predictor, rooms, uncertainty=True)
    assert len(read) == 5
    assert several.scores == one.scores
    assert several.uncertainty == one.uncertainty
    assert several.images == one.images == 5


def test_batches_of_one_process_are_those_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Last digits depend on the batch; images of one size must not be joined across groups."""
    monkeypatch.setattr(sample_predictions, "map_groups", run_here(frozenset()))
    rooms = Rooms(split="val", count=11, size=32)
    read = rooms.__class__.__getitem__
    sizes = {index: 16 if index < 3 else 32 for index in range(11)}

    def cropped(self: Rooms, index: int) -> Any:
        one = read(self, index)
        labels = {name: label[..., : sizes[index], :] for name, label in one.labels.items()}
        return replace(one, image=one.image[..., : sizes[index], :], labels=labels)

    monkeypatch.setattr(Rooms, "__getitem__", cropped)
    batches: list[list[int]] = []
    forward = DenseModel.forward

    def counted(self: DenseModel, inputs: Inputs, *rest: Any, **options: Any) -> Any:
        batches[-1].append(len(inputs.image))
        return forward(self, inputs, *rest, **options)

    monkeypatch.setattr(DenseModel, "forward", counted)
    predictor = Predictor(tiny(), Plan(batch_size=5))
    predict = ClusterPredictor(lambda: SampleWork(predictor, rooms), Cluster())
    for runs in (predict_samples, predict):
        batches.append([])
        assert len(list(runs(predictor, rooms, False, lambda: None))) == 11
    assert batches == [[3, 2, 5, 1], [3, 2, 5, 1]]


def test_samples_whose_worker_ends_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_predictions, "map_groups", run_here(frozenset({1})))
    rooms = Rooms(split="val", count=6, size=32)
    predictor = Predictor(tiny())
    predict = ClusterPredictor(lambda: SampleWork(predictor, rooms), Cluster())
    with pytest.raises(InputError, match=r"^samples 5 to 6 of rooms-val: their worker ended"):
        evaluate(predictor, rooms, predict=predict)
