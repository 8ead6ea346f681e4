"""How an adaptation shares out its time and its images."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.adaptation.test_adapt import pictures, run

import diffsight
from diffsight.adaptation.adapt import _check_options, adapt
from diffsight.adaptation.selection import (
    LEAST_STEPS,
    METHODS,
    SHARE_NAMES,
    SHARES,
    Adaptation,
    Progress,
    shared_out,
)
from diffsight.backbones import ConceptRequest
from diffsight.cli.show import describe
from diffsight.codecs import Codes
from diffsight.datasets.labelled_folder import read_support
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError
from diffsight.hub.task_file import Base, load_task
from diffsight.methods import FewShot
from diffsight.training.loop import Encoded, class_shares, encode, folds_of, measure
from diffsight.types import Inputs, Target


def test_time_that_a_method_cannot_use_is_the_others() -> None:
    took = {"features": 0.001, "concepts": 0.1}  # features would need 1.5 s a training
    plan = shared_out(211.5, took, folds=3, final=True)
    assert plan == {"features": 1500, "concepts": 517}  # (211.5 - 3 x 1.5) / 4 / 0.1
    alike = dict.fromkeys(took, 0.1)
    assert shared_out(70.0, alike, folds=3, final=True) == dict.fromkeys(took, 100)
    assert shared_out(7.0, alike, folds=3, final=True) == dict.fromkeys(took, LEAST_STEPS)
    assert shared_out(60.0, alike, folds=1, final=False) == dict.fromkeys(took, 300)
    assert shared_out(10.0, {"concepts": 0.1}, folds=0, final=True) == {"concepts": 100}


def test_what_will_be_done_is_told_before_it_is(pipeline_folder, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    seen: list[Progress] = []
    encoded: list[bool] = []

    def announce(support, task, base) -> None:
        seen.clear()
        assert not encoded

    options = {"announce": announce, "advance": seen.append}
    base = Base.load(pipeline_folder)
    base.backbone.vae.register_forward_hook(lambda *_: encoded.append(True))
    run(pictures(tmp_path), base, steps=3, **options)
    assert "7 trainings: features 3 steps each, concepts 3 steps each" in caplog.messages
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(1 / 21)
    assert shares[-1] == pytest.approx(1)
    encoded.clear()
    run(tmp_path, base, method="features", minutes=0.01, **options)
    assert any(m.startswith("2 trainings, about ") for m in caplog.messages)
    assert seen[-1].share == pytest.approx(1)


@pytest.mark.parametrize("cheaper", [1e-4, 1.0])
def test_the_last_share_is_all(cheaper, pipeline_folder, tmp_path, monkeypatch, caplog) -> None:
    """Whichever method is chosen; and with one image no method but the first is planned."""
    caplog.set_level("INFO")
    monkeypatch.setattr(
        "diffsight.adaptation.selection.seconds_per_step",
        lambda method, *_: 1.0 if isinstance(method, FewShot) else cheaper,
    )
    monkeypatch.setattr("diffsight.adaptation.selection.MOST_STEPS", dict.fromkeys(METHODS, 2))
    monkeypatch.setattr("diffsight.adaptation.selection.LEAST_STEPS", 2)
    seen: list[Progress] = []
    run(pictures(tmp_path), Base.load(pipeline_folder), advance=seen.append)
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    run(tmp_path, Base.load(pipeline_folder), shots=1, advance=seen.append)
    assert seen[-1].share == pytest.approx(1)
    assert caplog.messages[-1].startswith("1 training, about ")
    assert "concepts" not in caplog.messages[-1]


@pytest.mark.parametrize("fits", [64, None])
def test_too_little_memory_names_the_size_that_fits(
    fits, pipeline_folder, tmp_path, monkeypatch
) -> None:
    real, tried = Adaptation.encode, []

    def encode(job, name) -> None:
        tried.append(job.about["short_side"])
        if fits is None or tried[-1] > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(job, name)

    monkeypatch.setattr(Adaptation, "encode", encode)
    advice = "--short-side 64 fits" if fits else "it takes a machine with more"
    with pytest.raises(InputError, match=rf"cpu has not enough memory .* 128 px: {advice}$"):
        run(pictures(tmp_path), Base.load(pipeline_folder), method="features", short_side=128)
    assert tried == ([128, 64] if fits else [128, 64, 32])


def test_several_tables_want_what_mixes_them(pipeline_folder, tmp_path, caplog) -> None:
    shutil.copytree(pipeline_folder, tmp_path / "blind")
    shutil.rmtree(tmp_path / "blind" / "image_encoder")
    base, folder = Base.load(tmp_path / "blind"), pictures(tmp_path)
    with pytest.raises(InputError, match=r"codebook of 10 tables .*--clip"):
        run(folder, base, method="concepts", steps=1, codebook=10)
    caplog.set_level("INFO")
    assert run(folder, base, method="features", steps=1)
    assert "1 table" not in caplog.text
    task = run(folder, base, method="concepts", steps=1)
    assert "a codebook of 1 table is learned" in caplog.text
    assert task.about["options"]["codebook"] == 1


def test_one_picture_under_two_names_is_in_one_fold() -> None:
    folds = list(folds_of(["a", "a", "b", "c", "c", "d"], 3))
    assert [asked for _, asked in folds] == [[0, 1, 5], [2], [3, 4]]
    assert all(sorted(known + asked) == list(range(6)) for known, asked in folds)


def test_what_is_learned_from_is_not_held_out(pipeline_folder, tmp_path) -> None:
    known, asked = (pictures(tmp_path / "ab"[i], seed=i) for i in range(2))
    for part in ("images", "labels"):
        for i in range(2):
            shutil.copy(known / part / f"{i}.png", asked / part / f"again{i}.png")
    with pytest.raises(InputError) as error:
        adapt(
            known / "images",
            known / "labels",
            kind="scalar",
            backbone=Base.load(pipeline_folder),
            steps=1,
            validation=(asked / "images", asked / "labels"),
        )
    assert str(error.value) == (
        f"{asked / 'images'}: 2 of the 8 validation images are among those learned from: take "
        "them out of one folder"
    )


@pytest.mark.parametrize(
    ("asked_slope", "chosen"), [(4.0, "place_share"), (-4.0, "constant_share")]
)
def test_shares_are_the_best_of_the_held_out_images(
    pipeline_folder, tmp_path, asked_slope, chosen
) -> None:
    """Pictures of noise: a head that looks is misled; a slope that turns misleads the place."""
    rng = np.random.default_rng(0)
    base, folders = Base.load(pipeline_folder), (tmp_path / "known", tmp_path / "asked")
    for folder, slope in zip(folders, (4.0, asked_slope), strict=True):
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True)
        for i, offset in enumerate((-0.6, 0.6, -0.2, 0.2)):
            image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / "images" / f"{i}.png")
            label = np.tile(np.linspace(-slope / 2, slope / 2, 64), (64, 1)) + offset
            np.save(folder / "labels" / f"{i}.npy", label.astype(np.float32))
    known, asked = ((folder / "images", folder / "labels") for folder in folders)
    options = {"kind": "scalar", "method": "features", "steps": 100, "mirror": False}
    task = adapt(*known, backbone=base, validation=asked, **options)
    method, dense = task.model.method, task.model.task
    shares, scores = method.shares, {}
    images = read_support(*asked, LabelFormat("scalar")).examples
    encoded = [encode(method, dense, image, 64, mirror=False) for image in images]
    for method.shares in SHARES:
        scores[method.shares] = dense.score(measure(method, dense, encoded))
    method.shares = shares
    assert shares == min(scores, key=scores.get)
    assert dict(zip(SHARE_NAMES, shares, strict=True)) == task.about["options"]
    assert task.about["options"][chosen] > 0
    assert task.about["report"]["held_out"]["features"] == pytest.approx(scores[shares], rel=1e-6)
    path = task.save(tmp_path / "mine.task")
    again = load_task(path, base).model.method
    assert again.shares == shares
    assert torch.equal(again.prior, method.prior)
    assert float(again.prior.std()) > 0
    told = f"{task.about['options'][chosen]:.0%} of every answer"
    assert told in describe(task.about, path)


def test_shares_of_the_classes_are_those_of_labelled_pixels() -> None:
    image = Inputs(torch.zeros(1, 3, 1, 4))
    valid = torch.tensor([[[True, True, True, False]]])
    target = Target(torch.zeros(1, 1, 1, 4), valid)
    ids = torch.tensor([[[[0, 0, 1, 3]], [[1, 2, 2, 3]]]])  # two of every pixel
    weights = torch.tensor([0.75, 0.25]).reshape(1, 2, 1, 1).expand(1, 2, 1, 4)
    one = Encoded((image,), (target,), (Codes(ids, weights),))
    shares = class_shares([one, one], 4)
    torch.testing.assert_close(shares, torch.tensor([1.5, 1.0, 0.5, 0.0]) / 3)


def test_maps_that_there_are_not(pipeline_folder, tmp_path) -> None:
    folder, base = pictures(tmp_path), Base.load(pipeline_folder)
    with pytest.raises(InputError, match=r"maps have no option transpose: see ConceptRequest"):
        adapt(
            folder / "images",
            folder / "labels",
            kind="scalar",
            backbone=base,
            maps={"transpose": 1},
        )
    with pytest.raises(InputError, match=r"combine 'Slime' .*: give per_layer or slime"):
        ConceptRequest.__post_init__(SimpleNamespace(combine="Slime"))  # types are checked in tests


def test_a_task_predicts_at_its_size_without_a_file(pipeline_folder, tmp_path) -> None:
    folder, base = pictures(tmp_path, sizes=((64, 64),)), Base.load(pipeline_folder)
    options = {"kind": "scalar", "method": "features", "steps": 1, "short_side": 32}
    task = adapt(folder / "images", folder / "labels", backbone=base, **options)
    path = task.save(tmp_path / "mine.task")
    photo = folder / "images" / "0.png"
    found, filed = (diffsight.pipeline(one, device="cpu")(photo) for one in (task, path))
    torch.testing.assert_close(found.values, filed.values)
    own = diffsight.pipeline(task, device="cpu", short_side="own")(photo)
    assert not torch.allclose(found.values, own.values)


def test_a_task_asks_the_hub_for_the_revision_that_it_was_learned_on(
    pipeline_folder, tmp_path, monkeypatch
) -> None:
    snapshot, asked = tmp_path / "hub" / "snapshots" / "0a1b2c", []
    shutil.copytree(pipeline_folder, snapshot)

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        return str(snapshot)

    monkeypatch.setattr("diffsight.backbones.sources.snapshot_download", download)
    folder = pictures(tmp_path)
    options = {"kind": "scalar", "method": "features", "steps": 1}
    task = adapt(folder / "images", folder / "labels", backbone="owner/name", **options)
    assert task.about["base"]["revision"] == "0a1b2c"
    assert set(asked) == {("owner/name", None)}
    load_task(task.save(tmp_path / "mine.task"))
    assert asked[-1] == ("owner/name", "0a1b2c")


@pytest.mark.parametrize(
    ("kind", "spacing", "message"),
    [
        ("normals", "log", r"kind normals have no bins: leave their spacing out"),
        ("scalar", "cubic", r"unknown spacing 'cubic': choose log, log1p, linear, quantile"),
    ],
)
def test_spacing_that_there_is_not(kind, spacing, message) -> None:
    with pytest.raises(InputError, match=message):
        _check_options(kind, "auto", (), None, spacing, 1.0)


def test_spacing_of_the_bins(pipeline_folder, tmp_path) -> None:
    folder, base = pictures(tmp_path), Base.load(pipeline_folder)
    options = {"kind": "depth", "method": "features", "steps": 1, "bins": 4, "backbone": base}
    edges = {
        spacing: adapt(
            folder / "images", folder / "labels", spacing=spacing, **options
        ).model.task.codec.edges
        for spacing in (None, "log", "linear")
    }
    assert torch.equal(edges[None], edges["log"])
    steps = edges["linear"].diff()
    torch.testing.assert_close(steps, steps[:1].expand(4))
    ratios = edges["log"].log().diff()
    torch.testing.assert_close(ratios, ratios[:1].expand(4), rtol=1e-4, atol=1e-4)
