"""``adapt`` on folders of images and labels, with a backbone of random weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_adapt import COUNT, assert_same_weights, first_image, run, write_pictures

import diffsight
from diffsight.adaptation.selection import Progress
from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.errors import InputError
from diffsight.hub import load, read_config, save
from diffsight.tasks import Values
from diffsight.types import Draws, Inputs


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("segmentation", "feature_head"),
        ("segmentation", "few_shot"),
        ("depth", "feature_head"),
        ("scalar", "few_shot"),
        ("normals", "feature_head"),
        ("normals", "few_shot"),
    ],
)
def test_a_model_of_every_kind_is_trained_saved_and_loaded(
    kind: str, method: str, backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, kind)
    steps = 5 if method == "feature_head" else 1
    model = run(folder, backbone, kind, method=method, steps=steps, mirror=False)
    info = model.info
    assert info["chosen"] == method
    assert set(info["held_out"]) == {method, "constant", "mean map"}
    assert info["metric"] == model.task.metric_name
    assert info["steps"] == {method: steps}
    assert info["short_side"] == 64
    assert len(info["samples"]) == COUNT
    assert json.loads(json.dumps(info)) == info
    path = save(model, tmp_path / "mine.safetensors", embed=False)
    assert path.stat().st_size < 300_000
    again = load(path)
    with torch.no_grad():
        ours, theirs = (
            one(Inputs(first_image()), draws=Draws((0,))).stack for one in (model, again)
        )
    assert torch.equal(ours, theirs)
    assert again.info == model.info | {"base_weights": ["tiny"]}
    if kind == "segmentation":
        assert model.task.ids == (2, 7)
        assert again.predict(Inputs(first_image()))[0].names == {2: "class 2", 7: "class 7"}


def test_the_feature_head_scores_better_than_the_constant_baseline(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, sizes=((32, 32),))
    options = {"method": "feature_head", "steps": 100, "short_side": 32}
    held_out = run(folder, backbone, **options).info["held_out"]
    assert held_out["feature_head"] < 0.9 * held_out["constant"]


def test_auto_chooses_the_better_method(backbone: BackboneSource, tmp_path: Path) -> None:
    seen: list[Progress] = []
    folder = write_pictures(tmp_path, count=3)
    info = run(folder, backbone, steps=1, mirror=False, advance=seen.append).info
    methods = ("feature_head", "few_shot")
    better = min(methods, key=info["held_out"].__getitem__)
    assert info["chosen"] == better
    assert list(dict.fromkeys(p.run for p in seen)) == [
        *(f"{name}, fold {i} of 3" for name in methods for i in (1, 2, 3)),
        f"{better}, all images",
    ]


def test_the_result_does_not_depend_on_names_and_order_of_files(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path / "a", count=4)
    other = tmp_path / "b"
    for part in ("images", "labels"):
        (other / part).mkdir(parents=True)
        for i in range(4):
            shutil.copy(folder / part / f"{i}.png", other / part / f"{'zyxwvu'[i]}.png")
    ours, theirs = (
        run(path, backbone, method="few_shot", steps=2, mirror=False) for path in (folder, other)
    )
    assert_same_weights(ours, theirs)
    assert ours.info == theirs.info
    assert ours.info["seed"] == 0


def test_a_separate_validation_set_is_scored(backbone: BackboneSource, tmp_path: Path) -> None:
    folder, other = write_pictures(tmp_path / "a"), write_pictures(tmp_path / "b", seed=1)
    seen: list[Progress] = []
    model = run(
        folder,
        backbone,
        method="feature_head",
        steps=30,
        validation=(other / "images", other / "labels"),
        advance=seen.append,
    )
    assert {p.run for p in seen} == {"feature_head, all images"}
    assert set(model.info["held_out"]) == {"feature_head", "constant", "mean map"}
    assert model.info["variant"] == {"position_weight": 0, "prior_weight": 0}


def test_a_validation_set_has_the_classes_of_the_training_set(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    """The training set has the ids 2 and 7; a validation image may contain only one of them."""
    folder, other = (write_pictures(tmp_path / "ab"[i], "segmentation", seed=i) for i in range(2))
    label = other / "labels" / "0.png"
    Image.fromarray(np.full_like(np.array(Image.open(label)), 7)).save(label)
    options: dict[str, Any] = {"kind": "segmentation", "method": "feature_head", "steps": 1}
    options |= {"validation": (other / "images", other / "labels"), "mirror": False}
    model = run(folder, backbone, **options)
    assert model.task.ids == (2, 7)
    for path in (other / "labels").iterdir():
        Image.fromarray(np.full_like(np.array(Image.open(path)), 7)).save(path)
    run(folder, backbone, **options)
    Image.fromarray(np.full_like(np.array(Image.open(label)), 3)).save(label)
    with pytest.raises(InputError, match=r"0\.png: .*class 3.*2, 7"):
        run(folder, backbone, **options)


def test_an_image_of_the_training_set_is_not_held_out(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    folder, other = (write_pictures(tmp_path / "ab"[i], seed=i) for i in range(2))
    for part in ("images", "labels"):
        for i in range(2):
            shutil.copy(folder / part / f"{i}.png", other / part / f"again{i}.png")
    with pytest.raises(InputError) as error:
        run(folder, backbone, steps=1, validation=(other / "images", other / "labels"))
    assert str(error.value) == (
        f"{other / 'images'}: 2 of the 8 validation images are also among the training images: "
        "take them out of one folder"
    )


def test_an_interruption_returns_the_model_trained_so_far(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    options = {"method": "feature_head", "steps": 30, "mirror": False}

    def stop(progress: Progress) -> None:
        if progress.run == "feature_head, all images" and progress.step == 5:
            raise KeyboardInterrupt

    folder = write_pictures(tmp_path)
    model = run(folder, backbone, **options, advance=stop)
    assert model.info["interrupted"]
    assert model.info["held_out"]["feature_head"] > 0

    def stop_at_once(progress: Progress) -> None:
        if progress.run == "feature_head, all images":
            raise KeyboardInterrupt

    # both return the model of the finished fold: the held-out score is the score of that model
    assert_same_weights(run(folder, backbone, **options, advance=stop_at_once), model)

    def stop_before(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, backbone, **options, announce=stop_before)


@pytest.mark.parametrize(
    "place", ["feature_head, fold 1 of 1", "feature_head, all images", "few_shot, all images"]
)
def test_a_resumed_adaptation_ends_the_same(
    place: str, backbone: BackboneSource, tmp_path: Path
) -> None:
    folder, state = write_pictures(tmp_path, sizes=((64, 64),), count=3), tmp_path / "state"
    options = {"method": place.partition(",")[0], "steps": 4, "state": state, "mirror": False}
    whole = run(folder, backbone, **options)

    def stop(progress: Progress) -> None:
        if progress.run == place and progress.step == 3:
            raise KeyboardInterrupt

    run(folder, backbone, **options, advance=stop)
    seen: list[Progress] = []
    again = run(folder, backbone, **options, resume=True, advance=seen.append)
    assert seen[0].run == place
    assert seen[0].step == 4, "three steps were done"
    assert again.info == whole.info
    assert_same_weights(again, whole)


def test_resuming_with_changed_images_or_options_is_refused(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    folder, state = write_pictures(tmp_path), tmp_path / "state"
    options: dict[str, Any] = {"method": "feature_head", "state": state, "steps": 3}
    with pytest.raises(InputError, match="nothing to resume"):
        run(folder, backbone, resume=True, **options)
    run(folder, backbone, advance=stop, **options)
    label = folder / "labels" / "3.png"
    kept = label.read_bytes()
    Image.fromarray(np.array(Image.open(label))[::-1].copy()).save(label)
    with pytest.raises(InputError, match="to other images, labels"):
        run(folder, backbone, resume=True, **options)
    label.write_bytes(kept)
    for other in ({"steps": 4}, {"bins": 15}, {"mirror": False}, {"dtype": torch.bfloat16}):
        with pytest.raises(InputError, match="to other images"):
            run(folder, backbone, resume=True, **(options | other))
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(InputError, match="state: damaged"):
        run(folder, backbone, resume=True, **options)


@pytest.mark.parametrize(
    ("kind", "mirror", "passes"),
    [("normals", None, 2), ("vector", None, 1), ("vector", True, 2), ("normals", False, 1)],
)
def test_vectors_are_trained_without_mirrored_images_by_default(
    kind: str,
    mirror: bool | None,
    passes: int,
    backbone: BackboneSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, seen = write_pictures(tmp_path, "normals", count=2), []
    encode = StableDiffusion.encode

    def counted(self: StableDiffusion, image: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(image)
        return encode(self, image, **options)

    monkeypatch.setattr(StableDiffusion, "encode", counted)
    run(folder, backbone, kind, mirror=mirror, method="feature_head", steps=1)
    assert len(seen) == passes * 2


def test_nothing_is_held_out_if_all_images_are_copies_of_one(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path)
    for part in ("images", "labels"):
        for i in range(1, COUNT):
            shutil.copy(folder / part / "0.png", folder / part / f"{i}.png")
    model = run(folder, backbone, method="feature_head", steps=1)
    assert model.info["held_out"] == {}
    assert model.info["chosen"] == "feature_head"


def test_trainable_parameters_are_counted(backbone: BackboneSource, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, count=1)
    model = run(folder, backbone, method="few_shot", steps=1)
    assert model.info["learned_parameters"] == 20 * 16 + 10 * 20 + 12 * 10
    assert isinstance(model.task, Values)
    fixed = run(folder, backbone, method="few_shot", steps=1, codebook=0)
    assert fixed.info["learned_parameters"] == 20 * 16
    head = run(folder, backbone, method="feature_head", steps=1)
    assert head.info["learned_parameters"] <= 70_000


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"shots": 7}, r"6 labelled image\(s\), but 7 shots .* --shots 6"),
        ("no image", {}, r"1 of 6 label\(s\) .* have no image .*4\.png"),
        ("size", {}, r"labels/2\.png: a label of 30 x 20 pixels for an image .* 64 x 64"),
        ("constant", {}, r"labels: every label is 5"),
        (
            None,
            {"kind": "segmentation", "classes": ["a", "b"]},
            "class names, but the labels contain class ids without a name: .* px",
        ),
        (None, {"bins": 100_000}, "100000 bins, but the labels have only"),
        (None, {"codebook": 2}, "codebook is not an option of feature_head: leave it out"),
        (None, {"codebook": -1, "method": "few_shot"}, "a codebook of -1 tables"),
        (None, {"backbone": "nowhere/there"}, "nowhere/there"),
        (None, {"backbone": "./nowhere"}, "^./nowhere: no such file or folder, and not a hub id"),
        (None, {"backbone": "/nowhere"}, "^/nowhere: no such file or folder, and not a hub id"),
        (None, {"kind": "normals"}, "one channel, but normals"),
        (None, {"kind": "normals", "spacing": "log"}, "kind normals have no bins: leave"),
        (None, {"method": "few_shott"}, "unknown method 'few_shott': did you mean 'few_shot'"),
        (None, {"method": "os.path"}, "--trust os"),
        (None, {"steps": 0}, "steps 0: give a whole number from 1 on"),
        (None, {"maps": {"transpose": 1}, "method": "few_shot"}, "maps have no option transpose"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    change: str | None,
    options: dict[str, Any],
    message: str,
    backbone: BackboneSource,
    tmp_path: Path,
) -> None:
    folder = write_pictures(tmp_path)
    if change == "no image":
        (folder / "images" / "4.png").unlink()
    elif change == "size":
        Image.new("I;16", (30, 20), 7).save(folder / "labels" / "2.png")
    elif change == "constant":
        for path in (folder / "labels").iterdir():
            array = np.array(Image.open(path))
            Image.fromarray(np.full_like(array, 5)).save(path)
    with pytest.raises(InputError, match=message) as error:
        run(folder, **({"backbone": backbone, "steps": 2, "method": "feature_head"} | options))
    assert "\n" not in str(error.value)


def test_a_single_labelled_pixel_is_kept_when_the_label_is_resized(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, "segmentation", sizes=((256, 256),))
    for number in range(COUNT):
        sparse = np.full((256, 256), 255, np.uint8)
        sparse[1, 1 + number], sparse[200, 77] = 7, 2
        Image.fromarray(sparse).save(folder / "labels" / f"{number}.png")
    options = {"method": "feature_head", "steps": 1, "short_side": 32}
    model = run(folder, backbone, "segmentation", **options)
    assert model.task.ids == (2, 7)
    assert 0 <= model.info["held_out"]["feature_head"] <= 100


@pytest.mark.parametrize("method", ["feature_head", "few_shot"])
def test_mixed_precision_gives_nearly_the_same_model(
    method: str, backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, count=3)
    options = {"method": method, "steps": 2, "mirror": False}
    plain = run(folder, backbone, **options)
    mixed = run(folder, backbone, **options, dtype=torch.bfloat16)
    assert mixed.info["held_out"] == pytest.approx(plain.info["held_out"], rel=0.05)
    state = mixed.method.state_dict()
    assert all(x.dtype == torch.float32 for x in state.values() if x.is_floating_point())


def test_a_codebook_of_several_tables_requires_a_clip_model(
    pipeline_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(pipeline_folder, tmp_path / "no_clip")
    shutil.rmtree(tmp_path / "no_clip" / "image_encoder")
    source, folder = BackboneSource(tmp_path / "no_clip"), write_pictures(tmp_path, count=2)
    with pytest.raises(InputError, match=r"codebook of 10 tables .*--clip"):
        run(folder, source, method="few_shot", steps=1, codebook=10)
    caplog.set_level("INFO")
    assert run(folder, source, method="feature_head", steps=1)
    assert "1 table" not in caplog.text
    model = run(folder, source, method="few_shot", steps=1)
    assert "a codebook of 1 table is trained" in caplog.text
    assert model.method.vision is None


def test_a_model_predicts_at_its_working_size_without_a_file(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path, sizes=((64, 64),), count=2)
    model = run(folder, backbone, method="feature_head", steps=1, short_side=32)
    path = save(model, tmp_path / "mine.safetensors", embed=False)
    photo = folder / "images" / "0.png"
    ours, filed = (diffsight.pipeline(one, device="cpu")(photo) for one in (model, path))
    torch.testing.assert_close(ours.values, filed.values)
    own = diffsight.pipeline(model, device="cpu", short_side="own")(photo)
    assert not torch.allclose(ours.values, own.values)


def test_a_saved_model_contains_no_path_of_this_machine(
    backbone: BackboneSource, tmp_path: Path
) -> None:
    model = run(write_pictures(tmp_path, count=2), backbone, method="feature_head", steps=1)
    config = read_config(save(model, tmp_path / "mine"))
    assert str(Path(backbone.name).parent) not in json.dumps(config)
    assert config["info"]["backbone"] == Path(backbone.name).name
