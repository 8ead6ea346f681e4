"""A whole benchmark: finished units stay, shards divide the work, the report pairs units."""

import json
import math

import pytest
import torch
from tests.benchmark.conftest import squares

from diffsight.benchmark import report
from diffsight.benchmark import run as module
from diffsight.benchmark.measures import AngleMeasure
from diffsight.benchmark.registry import benchmark_methods
from diffsight.benchmark.report import write_report
from diffsight.benchmark.run import benchmark, seconds_left
from diffsight.benchmark.trivial_baselines import Constant, MeanMap, Stored
from diffsight.benchmark.units import Settings, Unit, conditions
from diffsight.errors import InputError
from diffsight.tasks import Normals
from diffsight.training import resumable
from diffsight.training.loop import Runtime

METHODS = {"constant": Constant(), "mean-map": MeanMap()}


def go(out, pretrained, **options):
    seen = []
    benchmark(
        squares(),
        tasks=options.pop("tasks", ("size",)),
        methods=options.pop("methods", METHODS),
        pretrained=pretrained,
        out=out,
        settings=Settings(shots=3, steps=1),
        advance=seen.append,
        **options,
    )
    return seen


def test_finished_units_are_not_run_again(pretrained, tmp_path, monkeypatch) -> None:
    calls, whole = [], module.run

    def counted(unit, *rest):
        calls.append(unit)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(unit, *rest)

    monkeypatch.setattr(module, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, pretrained, repeats=2)
    assert len(list(tmp_path.rglob("rep*.json"))) == 2
    seen = go(tmp_path, pretrained, repeats=2)
    assert [s.done for s in seen] == [3, 4]
    assert not go(tmp_path, pretrained, repeats=2)
    assert len(calls) == 5


def test_an_interrupted_training_leaves_no_unit(pretrained, tmp_path, monkeypatch) -> None:
    """``adapt`` keeps what is trained at Ctrl-C; a unit that was cut off is not finished."""
    real = resumable.train

    def cut(*rest, advance, **options):
        def stop(step, losses):
            advance(step, losses)
            raise KeyboardInterrupt

        real(*rest, advance=stop, **options)

    monkeypatch.setattr(resumable, "train", cut)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, pretrained, repeats=1, methods=benchmark_methods(("feature_head",)))
    assert not list(tmp_path.rglob("rep*.json"))


def test_a_curve_is_recorded_and_changes_nothing(pretrained, tmp_path) -> None:
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


def test_several_numbers_of_shots_have_a_table(pretrained, tmp_path) -> None:
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


def test_a_target_is_shown_with_its_own_measure_only() -> None:
    def title(measure: str) -> str:
        unit = {"measure": measure, "higher_is_better": False}
        return report._title("depth_euclidean", 10, {"auto": {0: unit}})

    assert "the paper's FewShot: 0.0776" in title("vtm_mae")
    assert "paper" not in title("rmse")  # metres
    assert ("nyu_normal", AngleMeasure(Normals()).name) in report.TARGETS


def test_shards_divide_the_units(pretrained, tmp_path) -> None:
    halves = [go(tmp_path, pretrained, repeats=3, shard=(i, 2)) for i in (0, 1)]
    assert [len(half) for half in halves] == [3, 3]
    assert len(list(tmp_path.rglob("rep*.json"))) == 6
    of = [[standing.unit.method for standing in half] for half in halves]
    assert max(half.count("constant") for half in of) == 2  # not all trainings on one machine
    with pytest.raises(InputError, match="shard 2 of 2"):
        go(tmp_path, pretrained, shard=(2, 2))


def test_the_report_pairs_training_images(pretrained, tmp_path) -> None:
    go(tmp_path, pretrained, repeats=3, tasks=("size", "where"))
    page = write_report(tmp_path, reference="constant")
    assert "### size: rmse_valid, 3 shots (lower is better)" in page
    assert "### where: miou, 3 shots (higher is better)" in page
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


def test_units_of_other_conditions_are_refused(pretrained, tmp_path) -> None:
    go(tmp_path, pretrained, repeats=1, methods={"constant": Constant()})
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
        with pytest.raises(InputError, match=r"theirs.*made with another base.*than .*constant"):
            write_report(tmp_path)
    scored = {id: score + 1 for id, score in unit["per_image"].items()}
    other.write_text(json.dumps(unit | {"method": "theirs", "per_image": scored}))
    assert "| theirs |" in write_report(tmp_path)


def test_classes_that_are_a_task_each_have_a_mean(pretrained, tmp_path) -> None:
    """As the paper's Table 2 has it: over twelve, of methods that have all of them."""
    go(tmp_path, pretrained, repeats=2, tasks=("one", "where"), methods=METHODS)
    (tmp_path / "where").rename(tmp_path / "segment_semantic")
    for path in (tmp_path / "segment_semantic").rglob("rep*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"task": "segment_semantic"}))

    def write(name: str, score: float) -> None:
        for path in (tmp_path / "one").rglob("rep*.json"):
            unit = json.loads(path.read_text())
            if (name, unit["method"]) == ("b", "mean-map"):
                continue
            there = tmp_path / "segment_semantic" / name / unit["method"] / "shots3" / path.name
            there.parent.mkdir(parents=True, exist_ok=True)
            measures = {"iou": score, "iou_vtm": score / 2}
            change = {"task": f"segment_semantic/{name}", "score": score, "measures": measures}
            there.write_text(json.dumps(unit | change))

    write("a", 0.2)
    write("b", 0.6)
    page = write_report(tmp_path)
    assert "### segment_semantic/*: mean iou of 2, 3 shots (higher is better)\n" in page
    data = json.loads((tmp_path / "report.json").read_text())
    assert len(data["segment_semantic, 3 shots"]) == 2  # the task of all classes stays
    (entry,) = data["segment_semantic/*, 3 shots"]
    assert (entry["method"], entry["repeats"]) == ("constant", 2)
    assert entry["measures"] == pytest.approx({"iou": 0.4, "iou_vtm": 0.2})
    for name in "cdefghijkl":
        write(name, 0.4)
    title = "mean iou of 12, 3 shots (higher is better); the paper's FewShot: 0.4178\n"
    assert title in write_report(tmp_path)


def test_another_version_changes_the_keys(pretrained, monkeypatch) -> None:
    unit, settings = Unit("size", "constant", 0), Settings()

    def hashes() -> tuple[str, str]:
        key = unit.key(Constant(), squares(), pretrained, settings)
        return key, conditions("squares", pretrained, settings)

    before = hashes()
    assert hashes() == before
    monkeypatch.setattr("diffsight.__version__", "9.9")
    assert not set(hashes()) & set(before)


def test_units_of_several_devices_can_be_compared(pretrained) -> None:
    some = [
        Settings(runtime=Runtime(torch.device(name), dtype))
        for name in ("cpu", "cuda", "cuda:1")
        for dtype in (None, torch.bfloat16)
    ]
    assert len({conditions("squares", pretrained, one) for one in some}) == 1
    others = (Settings(seed=1), Settings(minutes=2.0), Settings(steps=5), Settings(short_side=32))
    assert len({conditions("squares", pretrained, one) for one in (some[0], *others)}) == 5
    unit = Unit("size", "constant", 0)
    keys = [unit.key(Constant(), squares(), pretrained, one) for one in some]
    assert keys[2] == keys[4]  # any GPU
    assert len(set(keys)) == 4


def test_a_folder_without_units_has_no_report(tmp_path) -> None:
    with pytest.raises(InputError, match="holds no finished unit"):
        write_report(tmp_path)


def test_stored_predictions_are_scored(pretrained, tmp_path) -> None:
    import numpy as np

    for sample in squares().tasks["size"].test:
        path = tmp_path / "maps" / "size" / f"{sample.id.replace('/', '__')}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, sample.labels["values"].numpy() + 0.25)
    methods = {"theirs": Stored(tmp_path / "maps")}
    seen = go(tmp_path / "out", pretrained, repeats=1, methods=methods)
    assert seen[0].score == pytest.approx(0.25, abs=1e-6)
    np.save(path, sample.labels["values"].numpy())
    with pytest.raises(InputError, match="made with other options"):
        go(tmp_path / "out", pretrained, repeats=1, methods=methods)
    path.unlink()
    with pytest.raises(InputError, match=r"test__2.npy: no prediction there"):
        go(tmp_path / "again", pretrained, repeats=1, methods=methods)


def test_stored_predictions_may_be_those_of_a_repeat(pretrained, tmp_path) -> None:
    import numpy as np

    for folder, error in ((tmp_path, 0.5), (tmp_path / "rep001", 0.25)):
        for sample in squares().tasks["size"].test:
            path = folder / "size" / f"{sample.id.replace('/', '__')}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, sample.labels["values"].numpy() + error)
    methods = {"theirs": Stored(tmp_path)}
    seen = go(tmp_path / "out", pretrained, repeats=2, methods=methods)
    assert [one.score for one in seen] == pytest.approx([0.5, 0.25], abs=1e-6)
    np.save(path, sample.labels["values"].numpy())
    with pytest.raises(InputError, match="made with other options"):
        go(tmp_path / "out", pretrained, repeats=2, methods=methods)


def test_regression_is_left_out_where_it_has_no_meaning(pretrained, tmp_path) -> None:
    methods = benchmark_methods(("few_shot-regression",))
    assert not go(tmp_path, pretrained, repeats=1, tasks=("where",), methods=methods)


def test_an_unknown_task_names_the_others(pretrained, tmp_path) -> None:
    with pytest.raises(InputError, match="squares has no task 'depth': size, where"):
        go(tmp_path, pretrained, tasks=("depth",))


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
    whole = {**texts, "measure": "rmse", "repeat": 0, "shots": 3, "higher_is_better": False}
    whole |= {"score": 0.5, "fit_seconds": 1, "measures": {"rmse": 0.5}, "per_image": {}}
    whole |= {"training_images": []}
    path = tmp_path / "x" / "shots3" / "rep000.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(whole))
    assert "| x | 0.5 |" in write_report(tmp_path)
    path.write_text(json.dumps(whole | change))
    with pytest.raises(InputError, match=rf"rep000\.json: damaged \(.*{message}.*\): delete it"):
        write_report(tmp_path)
    path.write_text("[" * 10_000)
    with pytest.raises(InputError, match=r"damaged \(nested too deeply\)"):
        write_report(tmp_path)


def test_the_time_left_is_that_of_the_same_methods() -> None:
    spent = {"constant": [1.0], "auto": [100.0, 300.0]}
    assert seconds_left(["constant", "auto"], spent) == 201
    assert seconds_left(["few_shot"], spent) == pytest.approx(401 / 3)
    assert seconds_left([], spent) == 0
