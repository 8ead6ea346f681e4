"""From a folder of images and labels to a task file and back, with a model of random weights."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffsight.adaptation.adapt import adapt
from diffsight.adaptation.selection import Adaptation, Progress
from diffsight.backbones import StableDiffusion
from diffsight.codecs import VectorWords
from diffsight.errors import InputError
from diffsight.heads import Codebook
from diffsight.hub.task_file import Base, Task, load_task, read_task
from diffsight.methods import FeatureHead, FewShot
from diffsight.model import DenseModel
from diffsight.tasks import Directions, Scalars
from diffsight.types import Draws, Inputs

COUNT = 6


def pictures(folder: Path, kind: str = "scalar", sizes=((64, 64), (48, 80)), seed=0) -> Path:
    """A bright square on a dark ground; the label says where it is."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for i in range(COUNT):
        height, width = sizes[i % len(sizes)]
        image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        where = np.zeros((height, width), bool)
        where[top : top + height // 2, left : left + width // 2] = True
        image[where] = rng.integers(200, 250)
        if kind == "segmentation":
            label = np.where(where, 7, 2).astype(np.uint8)
            label[:3] = 255
        elif kind == "normals":
            vectors = rng.normal(size=(height, width, 3)) + np.where(where[..., None], 3, -3)
            label = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
        else:
            label = np.where(where, 2000 + i, rng.integers(1, 200, (height, width)))
            label = label.astype(np.uint16)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        if label.dtype.kind == "f":
            np.save(folder / "labels" / f"{i}.npy", label)
        else:
            Image.fromarray(label).save(folder / "labels" / f"{i}.png")
    return folder


def run(folder: Path, model: Path, kind: str = "scalar", **options):
    base = options.pop("base", model)
    return adapt(folder / "images", folder / "labels", kind=kind, backbone=base, **options)


@pytest.fixture(scope="module")
def base(pipeline_folder: Path) -> Base:
    return Base.load(pipeline_folder)


def first_image() -> torch.Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("segmentation", "features"),
        ("segmentation", "concepts"),
        ("depth", "features"),
        ("scalar", "concepts"),
        ("normals", "features"),
        ("normals", "concepts"),
    ],
)
def test_every_kind_learns_saves_and_loads(kind, method, base, tmp_path) -> None:
    folder = pictures(tmp_path, kind)
    steps = 5 if method == "features" else 1
    task = run(folder, base, kind, method=method, steps=steps)
    report = task.about["report"]
    assert report["chosen"] == method
    assert set(report["held_out"]) == {method, "constant"}
    path = task.save(tmp_path / "mine.task")
    again = load_task(path, base)
    with torch.no_grad():
        ours = task.model(Inputs(first_image()), draws=Draws((0,)))
        theirs = again.model(Inputs(first_image()), draws=Draws((0,)))
    assert torch.equal(ours.maps, theirs.maps)
    assert json.loads(json.dumps(task.about)) == again.about
    assert path.stat().st_size < 300_000
    assert len(again.about["support"]) == COUNT
    if kind == "segmentation":
        assert task.model.task.ids == (2, 7)
        assert again.model.predict(Inputs(first_image()))[0].names == {2: "class 2", 7: "class 7"}


def test_features_beat_the_constant_on_held_out_images(base, tmp_path) -> None:
    folder = pictures(tmp_path, sizes=((64, 64),))
    task = run(folder, base, method="features", steps=120)
    found = task.about["report"]["held_out"]
    assert found["features"] < 0.9 * found["constant"]


def test_auto_takes_the_better_one(base, tmp_path) -> None:
    seen: list[Progress] = []
    task = run(pictures(tmp_path), base, steps=1, advance=seen.append)
    report = task.about["report"]
    better = min(("features", "concepts"), key=report["held_out"].__getitem__)
    assert report["chosen"] == task.about["method"] == better
    runs = list(dict.fromkeys(p.run for p in seen))
    assert runs == [
        *(f"{name}, fold {i} of 3" for name in ("features", "concepts") for i in (1, 2, 3)),
        f"{better}, all images",
    ]


def test_names_and_order_change_nothing(base, tmp_path) -> None:
    folder = pictures(tmp_path / "a")
    other = tmp_path / "b"
    for part in ("images", "labels"):
        (other / part).mkdir(parents=True)
        for i in range(COUNT):
            shutil.copy(folder / part / f"{i}.png", other / part / f"{'zyxwvu'[i]}.png")
    paths = [
        run(where, base, method="concepts", steps=2).save(where / "task")
        for where in (folder, other)
    ]
    (about, first), (_, second) = (read_task(path) for path in paths)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert about["seed"] == 0


def test_a_validation_set_of_ones_own(base, tmp_path) -> None:
    folder, other = pictures(tmp_path / "a"), pictures(tmp_path / "b", seed=1)
    seen: list[Progress] = []
    task = run(
        folder,
        base,
        method="features",
        steps=30,
        validation=(other / "images", other / "labels"),
        advance=seen.append,
    )
    assert {p.run for p in seen} == {"features, all images"}
    assert set(task.about["report"]["held_out"]) == {"features", "constant"}
    assert task.model.method.shares == (0, 0)


def test_a_validation_set_has_the_classes_of_the_support(base, tmp_path) -> None:
    """Ids 2 and 7, of which a validation image may hold one alone."""
    folder, other = (pictures(tmp_path / "ab"[i], "segmentation", seed=i) for i in range(2))
    label = other / "labels" / "0.png"
    Image.fromarray(np.full_like(np.array(Image.open(label)), 7)).save(label)
    options = {"kind": "segmentation", "method": "features", "steps": 1}
    task = run(folder, base, validation=(other / "images", other / "labels"), **options)
    assert task.about["classes"]["ids"] == [2, 7]
    for path in (other / "labels").iterdir():
        Image.fromarray(np.full_like(np.array(Image.open(path)), 7)).save(path)
    run(folder, base, validation=(other / "images", other / "labels"), **options)
    Image.fromarray(np.full_like(np.array(Image.open(label)), 3)).save(label)
    with pytest.raises(InputError, match=r"0\.png: holds class 3.*have 2, 7"):
        run(folder, base, validation=(other / "images", other / "labels"), **options)


def test_an_interruption_keeps_what_is_learned(base, tmp_path) -> None:
    def stop(progress: Progress) -> None:
        if progress.run == "features, all images" and progress.step == 5:
            raise KeyboardInterrupt

    folder = pictures(tmp_path)
    task = run(folder, base, method="features", steps=30, advance=stop)
    assert task.about["report"]["interrupted"]
    assert task.about["report"]["held_out"]["features"] > 0

    def stop_at_once(progress: Progress) -> None:
        if progress.run == "features, all images":
            raise KeyboardInterrupt

    # the finished fold, whose figure is told, and not the few steps that came after it
    again = run(folder, base, method="features", steps=30, advance=stop_at_once)
    with torch.no_grad():
        ours, theirs = (one.model(Inputs(first_image())) for one in (task, again))
    assert torch.equal(ours.maps, theirs.maps)
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path,
            base,
            method="features",
            steps=30,
            announce=lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )


@pytest.mark.parametrize(
    "place", ["features, fold 1 of 1", "features, all images", "concepts, all images"]
)
def test_a_resumed_adaptation_ends_the_same(place, base, tmp_path) -> None:
    folder, state = pictures(tmp_path, sizes=((64, 64),)), tmp_path / "state"
    options = {"method": place.partition(",")[0], "steps": 4, "state": state}
    whole = run(folder, base, **options)

    def stop(progress: Progress) -> None:
        if progress.run == place and progress.step == 3:
            raise KeyboardInterrupt

    run(folder, base, **options, advance=stop)
    seen: list[Progress] = []
    again = run(folder, base, **options, resume=True, advance=seen.append)
    assert seen[0].run == place
    assert seen[0].step == 4  # the third was done
    assert again.about == whole.about
    (_, ours), (_, theirs) = (
        read_task(task.save(tmp_path / name)) for name, task in (("a", whole), ("b", again))
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_cannot_be_resumed(base, tmp_path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    folder, state = pictures(tmp_path), tmp_path / "state"
    options = {"method": "features", "state": state}
    with pytest.raises(InputError, match="nothing to resume"):
        run(folder, base, steps=3, resume=True, **options)
    run(folder, base, steps=3, advance=stop, **options)
    label = folder / "labels" / "3.png"
    kept = label.read_bytes()
    Image.fromarray(np.array(Image.open(label))[::-1].copy()).save(label)
    with pytest.raises(InputError, match="belongs to other images, labels"):
        run(folder, base, steps=3, resume=True, **options)
    label.write_bytes(kept)
    for other in ({"steps": 4}, {"bins": 15}, {"mirror": False}, {"autocast": torch.bfloat16}):
        with pytest.raises(InputError, match="belongs to other images"):
            run(folder, base, resume=True, **({"steps": 3} | options | other))
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(InputError, match="state: damaged"):
        run(folder, base, steps=3, resume=True, **options)


def test_minutes_become_steps(base, tmp_path) -> None:
    report = run(pictures(tmp_path), base, method="features", minutes=0.02).about["report"]
    assert 20 <= report["steps"]["features"] <= 200


def test_a_figure_that_is_no_number_is_not_the_better_one(base, tmp_path, monkeypatch) -> None:
    def measured(self, method, held):
        bad = isinstance(method, FeatureHead)
        return torch.tensor([[math.nan if bad else 1.0, 1.0]], dtype=torch.float64)

    monkeypatch.setattr(Adaptation, "_measured", measured)
    report = run(pictures(tmp_path), base, steps=1).about["report"]
    assert math.isnan(report["held_out"]["features"])
    assert report["chosen"] == "concepts"


def test_mirrored_images_are_left_out_where_labels_tell_left_from_right(
    base, tmp_path, monkeypatch
) -> None:
    folder, seen = pictures(tmp_path, "normals"), []
    encode = StableDiffusion.encode

    def counted(self, image, **options):
        seen.append(image)
        return encode(self, image, **options)

    monkeypatch.setattr(StableDiffusion, "encode", counted)
    options = {"method": "features", "steps": 1}
    counts = {}
    for kind, mirror in (("normals", None), ("vector", None), ("vector", True), ("normals", False)):
        seen.clear()
        run(folder, base, kind, mirror=mirror, **options)
        counts[kind, mirror] = len(seen)
    assert counts == {
        ("normals", None): 2 * COUNT,
        ("vector", None): COUNT,
        ("vector", True): 2 * COUNT,
        ("normals", False): COUNT,
    }


def test_a_picture_under_many_names_is_not_held_out(base, tmp_path) -> None:
    folder = pictures(tmp_path)
    for part in ("images", "labels"):
        for i in range(1, COUNT):
            shutil.copy(folder / part / "0.png", folder / part / f"{i}.png")
    report = run(folder, base, method="features", steps=1).about["report"]
    assert report["held_out"] == {}


def test_numbers_that_learn(base, tmp_path) -> None:
    task = run(pictures(tmp_path), base, method="concepts", steps=1)
    assert task.about["parameters"] == 20 * 16 + 10 * 20 + 12 * 10
    assert isinstance(task.model.task, Scalars)
    fixed = run(tmp_path, base, method="concepts", steps=1, codebook=0)
    assert fixed.about["parameters"] == 20 * 16
    head = run(tmp_path, base, method="features", steps=1)
    assert head.about["parameters"] <= 70_000


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"shots": 7}, r"6 labelled image\(s\), but 7 shots .* --shots 6"),
        ("no label", {}, r"1 of 6 image\(s\) .* have no label .*4\.png"),
        ("size", {}, r"labels/2\.png: a label of 30 x 20 pixels for an image .* 64 x 64"),
        ("constant", {}, r"labels: every label is 5"),
        (None, {"kind": "segmentation", "classes": ["a", "b"]}, "class ids without one: .* px"),
        (None, {"bins": 100_000}, "100000 bins, but the labels have only"),
        (None, {"codebook": -1}, "a codebook of -1 tables"),
        (None, {"base": "nowhere/there"}, "nowhere/there"),
        (None, {"base": "./nowhere"}, "^./nowhere: no such file or folder, and not a hub id"),
        (None, {"base": "/nowhere"}, "^/nowhere: no such file or folder, and not a hub id"),
        (None, {"kind": "normals"}, "one channel, but normals"),
    ],
)
def test_bad_input_is_one_line(change, options, message, base, tmp_path) -> None:
    folder = pictures(tmp_path)
    if change == "no label":
        (folder / "labels" / "4.png").unlink()
    elif change == "size":
        Image.new("I;16", (30, 20), 7).save(folder / "labels" / "2.png")
    elif change == "constant":
        for path in (folder / "labels").iterdir():
            array = np.array(Image.open(path))
            Image.fromarray(np.full_like(array, 5)).save(path)
    with pytest.raises(InputError, match=message) as error:
        run(folder, base, **({"steps": 2, "method": "features"} | options))
    assert "\n" not in str(error.value)


def test_fifty_concepts_on_stable_diffusion_take_less_than_300_kb(base, tmp_path) -> None:
    """NYU's normals on version 2.1: the 60,380 numbers of spec 1.9, codec and report beside."""
    folder = pictures(tmp_path, "normals")
    about = run(folder, base, "normals", method="features", steps=1).about
    directions = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    codec = VectorWords.fit(directions, 50, spherical=True, soft=True)
    with torch.device("meta"):
        backbone = StableDiffusion("sd21")
    codebook = Codebook(codec.centres, torch.ones(3), features=768)
    vision = base.vision(base.source)
    method = FewShot(num_outputs=50, backbone=backbone, codebook=codebook, vision=vision)
    task = Directions(codec, spread=torch.ones(3))
    model = DenseModel(task=task, method=lambda num_outputs: method)
    path = Task(model, about).save(tmp_path / "nyu_normals.task")
    assert 60_380 * 4 < path.stat().st_size < 300_000


@pytest.mark.parametrize("method", ["features", "concepts"])
def test_mixed_precision_learns_nearly_the_same(method, base, tmp_path) -> None:
    folder = pictures(tmp_path)
    plain = run(folder, base, method=method, steps=2)
    mixed = run(folder, base, method=method, steps=2, autocast=torch.bfloat16)
    assert mixed.about["report"]["held_out"] == pytest.approx(
        plain.about["report"]["held_out"], rel=0.05
    )
    state = mixed.model.method.state_dict()
    assert all(x.dtype == torch.float32 for x in state.values() if x.is_floating_point())


def test_one_vision_tower_serves_all_folds(base) -> None:
    assert base.vision(base.source) is base.vision(base.source)
