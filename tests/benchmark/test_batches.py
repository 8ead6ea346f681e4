"""Test images are predicted in batches, and the time of scoring is known before the first unit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.benchmark.conftest import Squares, squares

from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.benchmark import methods as module
from diffsight.benchmark import run as run_module
from diffsight.benchmark.registry import benchmark_methods
from diffsight.benchmark.run import Forecast, benchmark
from diffsight.benchmark.units import Settings, Unit, run, scoring_seconds
from diffsight.datasets.base import Sample

FAST = Settings(shots=3, steps=1)
ROWS = [("few_shot", "size"), ("feature_head", "where"), ("vpd", "where"), ("linear_probe", "way")]


class TwoSizes(Squares):
    """Squares of which the second is cut to another size."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        if index != 1:
            return sample
        labels = {name: label[..., :48, :] for name, label in sample.labels.items()}
        valid = {name: mask[:48] for name, mask in sample.valid.items()}
        return replace(sample, image=sample.image[:, :48], labels=labels, valid=valid)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of every batch that is predicted."""
    seen: list[int] = []
    predict = module.predict_samples

    def counted(model, episode, samples):
        seen.append(len(samples))
        return predict(model, episode, samples)

    monkeypatch.setattr(module, "predict_samples", counted)
    return seen


@pytest.mark.parametrize(("name", "task"), ROWS)
def test_a_batch_scores_as_its_images_alone(
    name: str,
    task: str,
    pretrained: BackboneSource,
    monkeypatch: pytest.MonkeyPatch,
    sizes: list[int],
) -> None:
    source = squares()
    (method,) = benchmark_methods((name,)).values()
    unit, scores = Unit(task, name, 0), []
    for batch_sizes in ({}, {"cpu": 8}):
        monkeypatch.setattr(module, "BATCH_SIZES", batch_sizes)
        # with latents of its own: those of single images would be used again
        settings = Settings(shots=3, steps=1)
        scores.append(run(unit, method, source, pretrained, settings)["per_image"])
    assert sizes == [1, 1, 1, 3]
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)


def test_images_of_another_size_have_a_batch_of_their_own(
    pretrained: BackboneSource, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    monkeypatch.setattr(module, "BATCH_SIZES", {"cpu": 3})
    source = squares()
    spec = source.tasks["size"]
    source.tasks = {"size": replace(spec, test=TwoSizes("test", spec.task.label, 4))}
    (method,) = benchmark_methods(("feature_head",)).values()
    result = run(Unit("size", "feature_head", 0), method, source, pretrained, FAST)
    assert sizes == [1, 1, 2]
    assert list(result["per_image"]) == [f"test/{i}" for i in range(4)]


def test_a_batch_that_memory_does_not_hold_is_halved(
    pretrained: BackboneSource, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    predict = module.predict_samples

    def limited(model, episode, samples):
        outputs = predict(model, episode, samples)
        if len(samples) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return outputs

    (method,) = benchmark_methods(("feature_head",)).values()
    unit = Unit("size", "feature_head", 0)
    alone = run(unit, method, squares(), pretrained, FAST)["per_image"]
    monkeypatch.setattr(module, "BATCH_SIZES", {"cpu": 8})
    monkeypatch.setattr(module, "predict_samples", limited)
    sizes.clear()
    assert run(unit, method, squares(), pretrained, FAST)["per_image"] == alone
    assert sizes == [3, 1, 2, 1, 1]


def test_images_are_encoded_once_whatever_their_batches_are(
    pretrained: BackboneSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = 0
    encode = StableDiffusion.encode

    def counted(self, image, *, draws=None):
        nonlocal encoded
        encoded += len(image)
        return encode(self, image, draws=draws)

    monkeypatch.setattr(StableDiffusion, "encode", counted)
    (method,) = benchmark_methods(("feature_head",)).values()
    source, settings, counts = squares(), Settings(shots=3, steps=1), []
    for batch_size in (2, 8):
        monkeypatch.setattr(module, "BATCH_SIZES", {"cpu": batch_size})
        encoded = 0
        run(Unit("size", "feature_head", 0), method, source, pretrained, settings)
        counts.append(encoded)
    assert counts == [2 * 3 + 3, 2 * 3]  # training images are encoded for every unit


def test_the_first_line_counts_scoring(
    pretrained: BackboneSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second for each of three images of two tasks, three times in a unit, with two methods."""
    seen: list[Forecast] = []
    measured: list[str] = []

    def seconds(unit: Unit, *rest: object) -> float:
        measured.append(unit.method)
        return 1.0

    monkeypatch.setattr(run_module, "scoring_seconds", seconds)
    methods = benchmark_methods(("feature_head", "linear_probe", "constant"))
    options = {"tasks": ("size", "where"), "methods": methods, "pretrained": pretrained}
    for settings in (Settings(steps=3, shots=3, curve_every=2), Settings(minutes=2.0, shots=3)):
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "run", stop)
            with pytest.raises(KeyboardInterrupt):
                benchmark(
                    squares(),
                    out=tmp_path,
                    repeats=1,
                    settings=settings,
                    announce=seen.append,
                    **options,
                )
    assert measured == ["feature_head", "linear_probe"] * 2
    assert seen[0] == Forecast(6, 0, None, 2 * 2 * 3 * 3.0)
    assert seen[1] == Forecast(6, 0, 4 * 120.0, 2 * 2 * 3.0)


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_measuring_the_speed_changes_no_random_number(pretrained: BackboneSource) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    (method,) = benchmark_methods(("few_shot",)).values()
    unit = Unit("size", "few_shot", 0)
    assert scoring_seconds(unit, method, squares(), pretrained, FAST) > 0
    assert torch.equal(torch.rand(2), expected)
