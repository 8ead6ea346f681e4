"""Whole benchmarks of several units; a unit is one task, method and repeat."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.support_benchmark import squares

from diffsight.benchmark import report
from diffsight.benchmark import run as module
from diffsight.benchmark.measures import AngleMeasure
from diffsight.benchmark.registry import benchmark_methods
from diffsight.benchmark.report import write_report
from diffsight.benchmark.run import benchmark, seconds_left
from diffsight.benchmark.trivial_baselines import Constant, MeanMap, Stored
from diffsight.benchmark.units import Settings, Unit, conditions
from diffsight.errors import InputError
from diffsight.inference.evaluate import FirstSamples
from diffsight.tasks import Normals
from diffsight.training import resumable
from diffsight.training.loop import Runtime

METHODS = {"constant": Constant(), "mean-map": MeanMap()}


def run_benchmark(out, pretrained, **options):
    """Run a short benchmark on squares, and return the progress after each unit."""
    progress = []
    benchmark(
        squares(),
        tasks=options.pop("tasks", ("size",)),
        methods=options.pop("methods", METHODS),
        pretrained=pretrained,
        out=out,
        settings=Settings(shots=3, steps=1),
        advance=progress.append,
        **options,
    )
    return progress


def test_finished_units_are_not_run_again(pretrained, tmp_path, monkeypatch) -> None:
    calls, run = [], module.run

    def counted(unit, *rest):
        calls.append(unit)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(unit, *rest)

    monkeypatch.setattr(module, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(tmp_path, pretrained, repeats=2)
    assert len(list(tmp_path.rglob("rep*.json"))) == 2
    progress = run_benchmark(tmp_path, pretrained, repeats=2)
    assert [one.done for one in progress] == [3, 4]
    assert not run_benchmark(tmp_path, pretrained, repeats=2)
    assert len(calls) == 5


def test_an_interrupted_training_writes_no_unit(pretrained, tmp_path, monkeypatch) -> None:
    """``adapt`` returns a partly trained model at Ctrl-C, which must not be scored."""
    train = resumable.train

    def interrupted(*rest, advance, **options):
        def stop(step, losses):
            advance(step, losses)
            raise KeyboardInterrupt

        train(*rest, advance=stop, **options)

    monkeypatch.setattr(resumable, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(tmp_path, pretrained, repeats=1, methods=benchmark_methods(("feature_head",)))
    assert not list(tmp_path.rglob("rep*.json"))


def test_recording_a_curve_does_not_change_the_scores(pretrained, tmp_path) -> None:
    methods = benchmark_methods(("feature_head", "few_shot:codebook=1", "constant"))
    runs = {}
    for name, every in (("with", 2), ("without", None)):
        benchmark(
            squares(),
            tasks=("size",),
            methods=methods,
            pretrained=pretrained,
            out=tmp_path / name,
            repeats=2,
            settings=Settings(shots=3, steps=5, curve_every=every),
        )
        paths = sorted((tmp_path / name).rglob("rep*.json"))
        runs[name] = [json.loads(path.read_text()) for path in paths]
    for unit, plain in zip(runs["with"], runs["without"], strict=True):
        assert (unit["method"], unit["per_image"]) == (plain["method"], plain["per_image"])
        assert "curve" not in plain
        if unit["method"] != "constant":
            assert [step for step, _ in unit["curve"]] == [2, 4, 5]
            assert unit["curve"][-1][1] == unit["score"]
    page = write_report(tmp_path / "with")
    assert "| mean after steps | 2 | 4 | 5 |" in page
    entries = json.loads((tmp_path / "with" / "report.json").read_text())["size, 3 shots"]
    curves = {entry["method"]: entry.get("curve") for entry in entries}
    assert curves["constant"] is None
    rows = [unit["curve"] for unit in runs["with"] if unit["method"] == "feature_head"]
    assert curves["feature_head"]["4"] == pytest.approx((rows[0][1][1] + rows[1][1][1]) / 2)


def test_the_report_has_a_table_by_number_of_shots(pretrained, tmp_path) -> None:
    for shots in (2, 3):
        benchmark(
            squares(),
            tasks=("size",),
            methods=METHODS,
            pretrained=pretrained,
            out=tmp_path,
            repeats=1,
            settings=Settings(shots=shots, steps=1),
        )
    page = write_report(tmp_path)
    assert "### size: mean by number of labelled images" in page
    assert "| method | 2 | 3 |" in page


def test_the_papers_score_is_shown_only_for_its_measure_shots_and_classes() -> None:
    def title(measure: str, shots: int = 10, **unit: Any) -> str:
        unit |= {"measure": measure, "higher_is_better": False}
        task = "segment_semantic/*" if "classes" in unit else "depth_euclidean"
        return report._title(task, shots, {"auto": {0: unit}})

    assert "the paper's FewShot: 0.0776" in title("vtm_mae")
    assert "paper" not in title("rmse")  # RMSE in metres
    assert "paper" not in title("vtm_mae", 20)
    assert "the paper's FewShot: 0.4178" in title("iou", classes=12)
    assert "paper" not in title("iou", classes=11)
    assert ("nyu_normal", AngleMeasure(Normals()).name) in report.TARGETS


def test_shards_divide_the_units_of_every_method(pretrained, tmp_path) -> None:
    halves = [run_benchmark(tmp_path, pretrained, repeats=3, shard=(i, 2)) for i in (0, 1)]
    assert [len(half) for half in halves] == [3, 3]
    assert len(list(tmp_path.rglob("rep*.json"))) == 6
    methods = [[progress.unit.method for progress in half] for half in halves]
    assert max(half.count("constant") for half in methods) == 2
    with pytest.raises(InputError, match="shard 2 of 2"):
        run_benchmark(tmp_path, pretrained, shard=(2, 2))


def test_the_report_pairs_methods_by_training_images(pretrained, tmp_path) -> None:
    run_benchmark(tmp_path, pretrained, repeats=3, tasks=("size", "classes"))
    page = write_report(tmp_path, reference="constant")
    assert "### size: rmse_valid, 3 shots (lower is better)" in page
    assert "### classes: miou, 3 shots (higher is better)" in page
    data = json.loads((tmp_path / "report.json").read_text())
    entries = {entry["method"]: entry for entry in data["size, 3 shots"]}
    rows = [
        [
            json.loads(p.read_text())["score"]
            for p in sorted((tmp_path / "size" / name).rglob("*.json"))
        ]
        for name in ("mean-map", "constant")
    ]
    gaps = [a - b for a, b in zip(*rows, strict=True)]
    assert entries["mean-map"]["difference"]["mean"] == pytest.approx(sum(gaps) / 3)
    assert entries["constant"]["mean"] == pytest.approx(sum(rows[1]) / 3)
    assert "difference" not in entries["constant"]
    assert (tmp_path / "report.md").read_text() == page
    with pytest.raises(InputError, match="no unit of 'ours'"):
        write_report(tmp_path, reference="ours")


def test_the_report_refuses_units_that_cannot_be_compared(pretrained, tmp_path) -> None:
    run_benchmark(tmp_path, pretrained, repeats=1, methods={"constant": Constant()})
    path = tmp_path / "size" / "constant" / "shots3" / "rep000.json"
    unit = json.loads(path.read_text())
    other = tmp_path / "size" / "theirs" / "shots3" / "rep000.json"
    other.parent.mkdir(parents=True)
    fewer = dict(list(unit["per_image"].items())[:-1])
    for change in (
        {"conditions": "others"},
        {"training_images": ["train/7"]},
        {"per_image": fewer},
    ):
        other.write_text(json.dumps(unit | {"method": "theirs"} | change))
        with pytest.raises(
            InputError, match=r"theirs.*made with another backbone.*than .*constant"
        ):
            write_report(tmp_path)
    scored = {id: score + 1 for id, score in unit["per_image"].items()}
    other.write_text(json.dumps(unit | {"method": "theirs", "per_image": scored}))
    assert "| theirs |" in write_report(tmp_path)


def test_the_report_has_the_mean_over_the_single_class_tasks(pretrained, tmp_path) -> None:
    """As in table 2 of the paper, which has twelve classes; methods must have all of them."""
    run_benchmark(tmp_path, pretrained, repeats=2, tasks=("foreground", "classes"), methods=METHODS)
    (tmp_path / "classes").rename(tmp_path / "segment_semantic")
    for path in (tmp_path / "segment_semantic").rglob("rep*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"task": "segment_semantic"}))

    def write(name: str, score: float) -> None:
        for path in (tmp_path / "foreground").rglob("rep*.json"):
            unit = json.loads(path.read_text())
            if (name, unit["method"]) == ("b", "mean-map"):
                continue
            copy = tmp_path / "segment_semantic" / name / unit["method"] / "shots3" / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            measures = {"iou": score, "iou_vtm": score / 2}
            change = {"task": f"segment_semantic/{name}", "score": score, "measures": measures}
            change["curve"] = [[1, score]]
            copy.write_text(json.dumps(unit | change))

    write("a", 0.2)
    write("b", 0.6)
    page = write_report(tmp_path)
    assert "### segment_semantic/*: mean iou of 2, 3 shots (higher is better)\n" in page
    data = json.loads((tmp_path / "report.json").read_text())
    # the task with all classes is not counted in the mean
    assert len(data["segment_semantic, 3 shots"]) == 2
    (entry,) = data["segment_semantic/*, 3 shots"]
    assert (entry["method"], entry["repeats"]) == ("constant", 2)
    assert entry["measures"] == pytest.approx({"iou": 0.4, "iou_vtm": 0.2})
    assert "curve" not in entry  # each class has one
    for name in "cdefghijkl":
        write(name, 0.4)
    assert "mean iou of 12, 3 shots (higher is better)\n" in write_report(tmp_path)


def test_units_of_different_versions_of_diffsight_have_different_keys(
    pretrained, monkeypatch
) -> None:
    unit, settings = Unit("size", "constant", 0), Settings()

    def hashes() -> tuple[str, str]:
        key = unit.key(Constant(), squares(), pretrained, settings)
        return key, conditions("squares", pretrained, settings)

    before = hashes()
    assert hashes() == before
    monkeypatch.setattr("diffsight.__version__", "9.9")
    assert not set(hashes()) & set(before)


def test_units_of_different_devices_can_be_compared(pretrained) -> None:
    devices = [
        Settings(runtime=Runtime(torch.device(name), dtype))
        for name in ("cpu", "cuda", "cuda:1")
        for dtype in (None, torch.bfloat16)
    ]
    assert len({conditions("squares", pretrained, one) for one in devices}) == 1
    others = (Settings(seed=1), Settings(minutes=2.0), Settings(steps=5), Settings(short_side=32))
    assert len({conditions("squares", pretrained, one) for one in (devices[0], *others)}) == 5
    unit = Unit("size", "constant", 0)
    keys = [unit.key(Constant(), squares(), pretrained, one) for one in devices]
    assert keys[2] == keys[4]  # the index of the GPU is not part of the key
    assert len(set(keys)) == 4


def test_a_folder_without_units_has_no_report(tmp_path) -> None:
    with pytest.raises(InputError, match="has no finished unit"):
        write_report(tmp_path)


def test_stored_predictions_are_scored(pretrained, tmp_path) -> None:
    import numpy as np

    for sample in squares().tasks["size"].test:
        path = tmp_path / "maps" / "size" / f"{sample.id.replace('/', '__')}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, sample.labels["values"].numpy() + 0.25)
    methods = {"theirs": Stored(tmp_path / "maps")}
    progress = run_benchmark(tmp_path / "out", pretrained, repeats=1, methods=methods)
    assert progress[0].score == pytest.approx(0.25, abs=1e-6)
    np.save(path, sample.labels["values"].numpy())
    with pytest.raises(InputError, match="made with other options"):
        run_benchmark(tmp_path / "out", pretrained, repeats=1, methods=methods)
    path.unlink()
    with pytest.raises(InputError, match=r"test__2.npy: no such file"):
        run_benchmark(tmp_path / "again", pretrained, repeats=1, methods=methods)
    (tmp_path / "maps" / "size").rename(tmp_path / "maps" / "other")
    with pytest.raises(InputError, match=r"maps: no folder size with predictions: add it"):
        run_benchmark(tmp_path / "again", pretrained, repeats=1, methods=methods)


def test_a_task_without_test_images_is_refused_before_the_first_training(
    pretrained, tmp_path
) -> None:
    source = squares()
    spec = replace(source.tasks["size"], test=FirstSamples(source.tasks["size"].test, 0))
    with pytest.raises(InputError, match="no test images of size: leave this task out"):
        benchmark(
            replace(source, tasks={"size": spec}),
            tasks=("size",),
            methods=METHODS,
            pretrained=pretrained,
            out=tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_stored_predictions_may_differ_between_repeats(pretrained, tmp_path) -> None:
    import numpy as np

    for folder, error in ((tmp_path, 0.5), (tmp_path / "rep001", 0.25)):
        for sample in squares().tasks["size"].test:
            path = folder / "size" / f"{sample.id.replace('/', '__')}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, sample.labels["values"].numpy() + error)
    methods = {"theirs": Stored(tmp_path)}
    progress = run_benchmark(tmp_path / "out", pretrained, repeats=2, methods=methods)
    assert [one.score for one in progress] == pytest.approx([0.5, 0.25], abs=1e-6)
    np.save(path, sample.labels["values"].numpy())
    with pytest.raises(InputError, match="made with other options"):
        run_benchmark(tmp_path / "out", pretrained, repeats=2, methods=methods)


def test_regression_methods_are_skipped_for_segmentation(pretrained, tmp_path) -> None:
    methods = benchmark_methods(("few_shot-regression",))
    assert not run_benchmark(tmp_path, pretrained, repeats=1, tasks=("classes",), methods=methods)


def test_the_message_about_an_unknown_task_lists_the_tasks(pretrained, tmp_path) -> None:
    with pytest.raises(InputError, match="squares has no task 'depth': choose from size, classes"):
        run_benchmark(tmp_path, pretrained, tasks=("depth",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": 3}, "task is no str"),
        ({"repeat": 0.5}, "repeat is no int"),
        ({"higher_is_better": 1}, "higher_is_better is no bool"),
        ({"score": "low"}, "score is no float"),
        ({"score": math.nan}, "score is no finite number"),
        ({"measures": {"rmse": math.inf}}, "rmse is no finite number"),
        ({"measures": {"rmse": None}}, "NoneType"),
        ({"measures": {}}, "no measure 'rmse'"),
        ({"per_image": []}, "per_image is no dict"),
        ({"training_images": None}, "training_images is no list"),
    ],
)
def test_damaged_units_are_refused_in_one_line(tmp_path, change, message) -> None:
    texts = {name: "x" for name in ("task", "method", "source", "conditions")}
    unit = {**texts, "measure": "rmse", "repeat": 0, "shots": 3, "higher_is_better": False}
    unit |= {"score": 0.5, "fit_seconds": 1, "measures": {"rmse": 0.5}, "per_image": {}}
    unit |= {"training_images": []}
    path = tmp_path / "x" / "shots3" / "rep000.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(unit))
    assert "| x | 0.5 |" in write_report(tmp_path)
    path.write_text(json.dumps(unit | change))
    with pytest.raises(InputError, match=rf"rep000\.json: damaged \(.*{message}.*\): delete it"):
        write_report(tmp_path)
    path.write_text("[" * 10_000)
    with pytest.raises(InputError, match=r"damaged \(nested too deeply\)"):
        write_report(tmp_path)


def test_the_time_left_is_estimated_from_units_of_the_same_methods() -> None:
    spent = {"constant": [1.0], "auto": [100.0, 300.0]}
    assert seconds_left(["constant", "auto"], spent) == 201
    assert seconds_left(["few_shot"], spent) == pytest.approx(401 / 3)
    assert seconds_left([], spent) == 0
