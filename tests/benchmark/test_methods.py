"""Methods predict test images in batches; the forecast includes the time of scoring."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support_benchmark import Squares, squares

from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.benchmark import methods as module
from diffsight.benchmark import run as run_module
from diffsight.benchmark.methods import files_hash
from diffsight.benchmark.registry import benchmark_methods
from diffsight.benchmark.run import Forecast, benchmark
from diffsight.benchmark.units import Settings, Unit, run, scoring_seconds
from diffsight.datasets.base import Sample

FAST = Settings(shots=3, steps=1)
ROWS = [
    ("few_shot", "size"),
    ("feature_head", "classes"),
    ("vpd", "classes"),
    ("linear_probe", "normals"),
]


class TwoSizes(Squares):
    """Squares whose second image is cropped to another size."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        if index != 1:
            return sample
        labels = {name: label[..., :48, :] for name, label in sample.labels.items()}
        valid = {name: mask[:48] for name, mask in sample.valid.items()}
        return replace(sample, image=sample.image[:, :48], labels=labels, valid=valid)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the number of images of each predicted batch."""
    sizes: list[int] = []
    predict = module.predict_samples

    def counted(model, episode, samples):
        sizes.append(len(samples))
        return predict(model, episode, samples)

    monkeypatch.setattr(module, "predict_samples", counted)
    return sizes


@pytest.mark.parametrize(("name", "task"), ROWS)
def test_an_image_has_the_same_score_in_a_batch_and_alone(
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
        # other settings, so that latents of the previous run are not reused
        settings = Settings(shots=3, steps=1)
        scores.append(run(unit, method, source, pretrained, settings)["per_image"])
    assert sizes == [1, 1, 1, 3]
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)


def test_a_batch_contains_only_images_of_one_size(
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


def test_a_batch_that_does_not_fit_into_memory_is_halved(
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


def test_test_images_are_encoded_once_for_all_batch_sizes(
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


def test_the_forecast_includes_the_time_of_scoring(
    pretrained: BackboneSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scoring takes 2 methods x 2 tasks x 3 images x 1 s, and three times that with a curve."""
    forecasts: list[Forecast] = []
    measured: list[str] = []

    def seconds(unit: Unit, *rest: object) -> float:
        measured.append(unit.method)
        return 1.0

    monkeypatch.setattr(run_module, "scoring_seconds", seconds)
    methods = benchmark_methods(("feature_head", "linear_probe", "constant"))
    options = {"tasks": ("size", "classes"), "methods": methods, "pretrained": pretrained}
    for settings in (Settings(steps=3, shots=3, curve_every=2), Settings(minutes=2.0, shots=3)):
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "run", stop)
            with pytest.raises(KeyboardInterrupt):
                benchmark(
                    squares(),
                    out=tmp_path,
                    repeats=1,
                    settings=settings,
                    announce=forecasts.append,
                    **options,
                )
    assert measured == ["feature_head", "linear_probe"] * 2
    assert forecasts[0] == Forecast(6, 0, None, 2 * 2 * 3 * 3.0)
    assert forecasts[1] == Forecast(6, 0, 4 * 120.0, 2 * 2 * 3.0)


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_measuring_the_speed_leaves_the_random_state_unchanged(pretrained: BackboneSource) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    (method,) = benchmark_methods(("few_shot",)).values()
    unit = Unit("size", "few_shot", 0)
    assert scoring_seconds(unit, method, squares(), pretrained, FAST) > 0
    assert torch.equal(torch.rand(2), expected)


def test_a_clip_model_is_part_of_the_hash_of_a_method_on_its_own_backbone(
    pretrained: BackboneSource, pipeline_folder: Path, tmp_path: Path
) -> None:
    (spec,) = (one for name, one in squares().tasks.items() if name == "size")
    few_shot, head = benchmark_methods(
        (f"few_shot:codebook=2 on {pipeline_folder}", f"feature_head on {pipeline_folder}")
    ).values()
    without = few_shot.dependency_hash(spec, pretrained, None)
    assert without == files_hash(pipeline_folder), "finished units without --clip stay finished"
    tower = shutil.copytree(pipeline_folder / "image_encoder", tmp_path / "tower")
    first = few_shot.dependency_hash(spec, pretrained, str(tower))
    config = tower / "config.json"
    config.write_text(config.read_text() + " ")
    assert len({without, first, few_shot.dependency_hash(spec, pretrained, str(tower))}) == 3
    assert head.dependency_hash(spec, pretrained, str(tower)) == without


def test_a_method_of_the_users_package_leaves_finished_units_of_others_valid() -> None:
    names = ("few_shot", "diffsight.methods.VPD")
    trusting = benchmark_methods(names, trusted=("diffsight.methods",))
    assert repr(trusting["few_shot"]) == repr(benchmark_methods(("few_shot",))["few_shot"])
    assert trusting["diffsight.methods.VPD"].trusted == ("diffsight.methods",)


def test_few_shot_on_another_backbone_has_ten_tables_with_or_without_a_clip_model() -> None:
    (method,) = benchmark_methods(("few_shot on tiny",)).values()
    assert method.options == {"codebook": 10}
