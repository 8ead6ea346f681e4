"""Single units of the benchmark: training images, scores and result files."""

import json
import math
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.support_benchmark import squares

from diffsight.adaptation.selection import MIN_STEPS
from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.benchmark.measures import ValueMeasure
from diffsight.benchmark.registry import benchmark_methods
from diffsight.benchmark.trivial_baselines import Constant, MeanMap
from diffsight.benchmark.units import Settings, Unit, draw, read_finished, run, save
from diffsight.errors import InputError

FAST = Settings(shots=3, steps=1)
ALL = ("feature_head", "few_shot", "few_shot:codebook=1", "few_shot:codebook=0")
ALL += ("few_shot:maps.self_attention=false:timestep=100", "vpd", "linear_probe", "clip-linear")


def training_ids(source, name: str, shots: int, repeat: int = 0) -> list[str]:
    """Return the ids of the training images of a repeat."""
    samples = draw(source, source.tasks[name], shots, seed=0, repeat=repeat)
    return [sample.id for sample in samples]


def test_training_images_depend_on_the_repeat_and_not_on_the_task() -> None:
    source = squares()
    first = training_ids(source, "size", 4)
    assert first == training_ids(source, "classes", 4)
    assert first != training_ids(source, "size", 4, repeat=1)
    assert len(set(first)) == 4
    broken = squares(broken=first[0])
    assert training_ids(broken, "size", 4)[:3] == first[1:]
    assert broken.skipped == [f"{first[0]}: truncated"]
    with pytest.raises(InputError, match=r"7 usable images of size for 8 shots"):
        training_ids(broken, "size", 8)


def test_prompts_are_dropped_unless_the_task_requires_them() -> None:
    source = squares()
    (sample,) = draw(source, source.tasks["size"], 1, seed=0, repeat=0)
    assert source.tasks["size"].train[0].prompt == "a bright square"
    assert sample.prompt is None


def test_baselines_have_the_scores_of_a_direct_computation(pretrained) -> None:
    source = squares()
    spec = source.tasks["size"]
    samples = draw(source, spec, 3, seed=0, repeat=0)
    maps = [sample.labels["values"][0] for sample in samples]
    valid = samples[0].valid["values"]
    mean = torch.cat([values[valid] for values in maps]).mean()
    result = run(Unit("size", "constant", 0), Constant(), source, pretrained, FAST)
    truths = [sample.labels["values"][0][valid] for sample in spec.test]
    count = sum(len(truth) for truth in truths)
    squared = sum((truth - mean).square().sum() for truth in truths)
    assert result["score"] == pytest.approx(math.sqrt(float(squared) / count), rel=1e-5)
    assert result["training_images"] == [sample.id for sample in samples]
    result = run(Unit("size", "mean-map", 0), MeanMap(), source, pretrained, FAST)
    mean_map = torch.stack(maps).mean(dim=0)[valid]
    squared = sum((truth - mean_map).square().sum() for truth in truths)
    assert result["score"] == pytest.approx(math.sqrt(float(squared) / count), rel=1e-5)


def test_the_constant_baseline_of_classes_is_the_most_frequent_class(pretrained) -> None:
    source = squares()
    result = run(Unit("classes", "constant", 0), Constant(), source, pretrained, FAST)
    ground = [
        float((sample.labels["semantic"][2:] == 0).float().mean())
        for sample in source.tasks["classes"].test
    ]
    assert result["score"] == pytest.approx(sum(ground) / 3 / 2, rel=1e-6)
    assert result["higher_is_better"]


@pytest.mark.parametrize("task", ["size", "classes", "normals", "foreground"])
def test_every_method_is_trained_on_every_kind_of_label(task, pretrained) -> None:
    source = squares()
    for name, method in benchmark_methods(ALL).items():
        if task != "size" and name not in ("feature_head", "few_shot", "vpd"):
            continue
        result = run(Unit(task, name, 0), method, source, pretrained, FAST)
        assert math.isfinite(result["score"])
        assert result["facts"]["parameters"] > 0
        assert len(result["per_image"]) == 3
        json.dumps(result)


def test_few_shot_regression_trains_two_concepts_for_scalar_tasks_only(pretrained) -> None:
    source = squares()
    (method,) = benchmark_methods(("few_shot-regression",)).values()
    result = run(Unit("size", "few_shot-regression", 0), method, source, pretrained, FAST)
    assert result["facts"]["parameters"] == 2 * pretrained.diffusion.context_dim
    assert method.supports(source.tasks["size"])
    for name in ("classes", "normals", "pair"):
        assert not method.supports(source.tasks[name])
    with_codebook = replace(source.tasks["size"], codebook=lambda values, bins: None)
    assert not method.supports(with_codebook)  # not for tasks with a fixed codebook


@pytest.mark.parametrize("task", ["size", "pair"])
def test_images_are_encoded_once_for_any_number_of_steps(task, pretrained, monkeypatch) -> None:
    """Training images are encoded twice, once of them mirrored, and test images once."""
    encode, passes = StableDiffusion.encode, 0

    def counted(self, image, *rest, **options):
        nonlocal passes
        passes += len(image)
        return encode(self, image, *rest, **options)

    monkeypatch.setattr(StableDiffusion, "encode", counted)
    for name, method in benchmark_methods(("few_shot", "vpd")).items():
        passes = 0
        run(Unit(task, name, 0), method, squares(), pretrained, Settings(shots=3, steps=4))
        assert passes == 2 * 3 + 3, name


def test_a_short_time_budget_still_gives_the_minimum_number_of_steps(pretrained) -> None:
    short = Settings(shots=3, minutes=1e-6)
    for name, method in benchmark_methods(("feature_head", "vpd")).items():
        result = run(Unit("size", name, 0), method, squares(), pretrained, short)
        assert result["facts"]["steps"] == {name: MIN_STEPS}


def test_method_auto_compares_few_shot_with_the_feature_head(pretrained) -> None:
    (method,) = benchmark_methods(("auto",)).values()
    facts = run(Unit("classes", "auto", 0), method, squares(), pretrained, FAST)["facts"]
    assert facts["held_out"].keys() == {"feature_head", "few_shot", "constant", "mean map"}
    assert facts["chosen"] in facts["steps"]


def test_unknown_methods_and_options_are_refused() -> None:
    with pytest.raises(InputError, match="unknown method 'ours': choose from auto, few_shot"):
        benchmark_methods(("ours",))
    with pytest.raises(InputError, match="alpha is fixed for few_shot-regression: leave it out"):
        benchmark_methods(("few_shot-regression:max_steps=5:alpha=2",))
    with pytest.raises(InputError, match="--dino"):
        benchmark_methods(("dinov2-linear",))


def test_a_method_can_be_named_by_its_class_path(pretrained) -> None:
    path = "diffsight.methods.FeatureHead"
    (method,) = benchmark_methods((path,)).values()
    result = run(Unit("classes", path, 0), method, squares(), pretrained, FAST)
    (plain,) = benchmark_methods(("feature_head",)).values()
    same = run(Unit("classes", "feature_head", 0), plain, squares(), pretrained, FAST)
    assert result["score"] == same["score"]
    with pytest.raises(InputError, match="--trust someones_package"):
        benchmark_methods(("someones_package.Method",))


def test_a_finished_unit_is_reused_only_with_the_same_options(pretrained, tmp_path) -> None:
    unit, method = Unit("size", "constant", 2), Constant()
    key = unit.key(method, squares(), pretrained, FAST)
    assert key == unit.key(Constant(), squares(), pretrained, Settings(shots=3, steps=1))
    assert key != unit.key(method, squares(), pretrained, Settings(shots=3, steps=2))
    assert key != unit.key(MeanMap(), squares(), pretrained, FAST)
    path = unit.path(tmp_path, 3)
    assert path == tmp_path / "size/constant/shots3/rep002.json"
    assert read_finished(path, key) is None
    result = run(unit, method, squares(), pretrained, FAST)
    save(path, key, result)
    again = read_finished(path, key)
    assert again is not None
    assert again["score"] == result["score"]
    with pytest.raises(InputError, match="made with other options"):
        read_finished(path, "another")
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match=r"rep002.json: damaged"):
        read_finished(path, key)
    with pytest.raises(InputError, match="score is nan"):
        save(path, key, result | {"measures": {"score": math.nan}})


def test_the_constant_baseline_depends_on_the_measure(pretrained) -> None:
    """For absolute errors it is the median; for the IoU of the foreground, it is foreground."""
    source = squares()
    spec = replace(source.tasks["size"], measure=partial(ValueMeasure, name="vtm_mae"))
    source.tasks = {**source.tasks, "size": spec}
    result = run(Unit("size", "constant", 0), Constant(), source, pretrained, FAST)
    samples = draw(source, spec, 3, seed=0, repeat=0)
    median = torch.cat([s.labels["values"][0][s.valid["values"]] for s in samples]).median()
    errors = [
        float(((s.labels["values"][0] - median).abs() * s.valid["values"]).mean())
        for s in spec.test
    ]
    assert result["score"] == pytest.approx(sum(errors) / 3, rel=1e-5)
    foreground = run(Unit("foreground", "constant", 0), Constant(), source, pretrained, FAST)
    assert foreground["score"] > 0.2


def test_a_codebook_of_several_tables_requires_a_clip_model(
    pretrained, pipeline_folder, tmp_path
) -> None:
    shutil.copytree(pipeline_folder, tmp_path / "without")
    shutil.rmtree(tmp_path / "without" / "image_encoder")
    without = BackboneSource(tmp_path / "without")
    few_shot, probe = benchmark_methods(("few_shot", "clip-linear")).values()
    unit, source = Unit("size", "few_shot", 0), squares()
    with pytest.raises(InputError, match=r"no CLIP vision model.* of 10 tables.*--clip DIR"):
        unit.key(few_shot, source, without, FAST)
    with pytest.raises(InputError, match=r"no CLIP vision model.* a linear probe"):
        unit.key(probe, source, without, FAST)
    of_classes = Unit("classes", "few_shot", 0)
    assert of_classes.key(few_shot, source, without, FAST)
    assert run(of_classes, few_shot, source, without, FAST)["score"] > 0
    tower = pipeline_folder / "image_encoder"
    with_clip = replace(FAST, clip=str(tower))
    facts = run(unit, few_shot, source, without, with_clip)["facts"]
    assert facts["options"] == {"codebook": 10, "clip": str(tower)}
    assert run(Unit("size", "clip-linear", 0), probe, source, without, with_clip)["score"] > 0
    keys = [unit.key(few_shot, source, without, with_clip)]
    shutil.copytree(tower, tmp_path / "tower")
    other = replace(FAST, clip=str(tmp_path / "tower"))
    for _ in range(2):
        keys.append(unit.key(few_shot, source, without, other))
        config = tmp_path / "tower" / "config.json"
        config.write_text(config.read_text() + " ")  # other content at the same path
    assert keys[0] == keys[1] != keys[2]


def test_methods_run_on_a_vision_backbone_too(pretrained, tmp_path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(tmp_path / "dino")
    (method,) = benchmark_methods(("dinov2-linear",), dino=str(tmp_path / "dino")).values()
    unit = Unit("classes", "dinov2-linear", 0)
    assert run(unit, method, squares(), pretrained, FAST)["facts"]["parameters"] == 2 * (16 + 1)
    key = unit.key(method, squares(), pretrained, FAST)
    path = tmp_path / "dino" / "config.json"
    path.write_text(path.read_text() + " ")
    assert unit.key(method, squares(), pretrained, FAST) != key


def test_test_images_are_encoded_once_for_all_methods_and_repeats(
    pretrained: BackboneSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = StableDiffusion.encode

    def counted(self, image, *, draws=None):
        encoded.append(len(image))
        return encode(self, image, draws=draws)

    source, settings = squares(), Settings(shots=3, steps=1)
    methods = benchmark_methods(("few_shot:codebook=0", "feature_head"))
    alone = run(
        Unit("size", "few_shot:codebook=0", 0),
        methods["few_shot:codebook=0"],
        source,
        pretrained,
        FAST,
    )
    monkeypatch.setattr(StableDiffusion, "encode", counted)
    scores, counts = [], []
    for name in ("few_shot:codebook=0", "feature_head", "few_shot:codebook=0"):
        encoded.clear()
        unit = Unit("size", name, 0)
        scores.append(run(unit, methods[name], source, pretrained, settings)["per_image"])
        counts.append(len(encoded))
    tests = len(source.tasks["size"].test)
    assert counts[0] - tests == counts[1] == counts[2]  # later runs encode training images only
    assert scores[0] == scores[2] == alone["per_image"]
