"""``distil``: a student of a teacher that needs no training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support_adapt import assert_same_weights
from tests.support_distil import BrightnessMethod, brightness_teacher, write_unlabelled

import diffsight
from diffsight.adaptation.distil import STATE, Distillation, distil
from diffsight.adaptation.options import DistilOptions
from diffsight.datasets.files import read_image
from diffsight.errors import InputError
from diffsight.methods import SmallUNet
from diffsight.tasks import BEV, Depth, Normals, Pose, Referring, Segmentation, Values
from diffsight.types import Inputs

CLASSES = ("dark", "grey", "bright")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return write_unlabelled(tmp_path / "photos")


def small(teacher: Any, images: list[Path], **options: Any) -> diffsight.DenseModel:
    return distil(teacher, images, **{"steps": 2, "batch_size": 2, **options})


def pixels_of(path: Path) -> Inputs:
    return Inputs(read_image(path)[None, :, :32, :32].float() / 255)


def test_a_student_learns_values_and_uncertainty_of_its_teacher(images: list[Path]) -> None:
    teacher = brightness_teacher()
    student = distil(teacher, images, steps=120, batch_size=4)
    assert student.info["training"]["held-out images"] == 2
    untrained = diffsight.DenseModel(task=teacher.task, method=SmallUNet).eval()
    outputs = []
    with torch.no_grad():
        for model in (teacher, student, untrained):
            outputs.append(model.task.decode(model(pixels_of(images[0])))[0])
    theirs = outputs[0]
    # a constant has the standard deviation as its error
    assert student.info["teacher"]["agreement"]["RMSE, m"] < 0.6 * float(theirs.depth_m.std())
    gaps = [float((one.std - theirs.std).abs().mean()) for one in outputs]
    assert gaps[1] < 0.9 * gaps[2]


def test_a_student_learns_classes(images: list[Path]) -> None:
    teacher = brightness_teacher(Segmentation(CLASSES))
    student = distil(teacher, images, steps=120, batch_size=4)
    assert student.task.class_names == CLASSES
    assert student.info["teacher"]["agreement"]["pixel accuracy, %"] > 88  # a constant has 75
    with torch.no_grad():
        ours = student(pixels_of(images[0])).probabilities
        theirs = teacher(pixels_of(images[0])).probabilities
    constant = theirs.mean(dim=(2, 3), keepdim=True)
    assert float((ours - theirs).abs().mean()) < float((constant - theirs).abs().mean())


@pytest.mark.parametrize(
    "task",
    [
        Depth(),
        Values(channels=2, unit="m/s"),
        Normals(),
        Normals(bins=6).fitted(torch.nn.functional.normalize(torch.randn(200, 3), dim=1)),
    ],
    ids=["depth", "vectors", "normals", "normals with a codebook"],
)
def test_every_task_of_numbers_has_students(task: Any, images: list[Path]) -> None:
    teacher = brightness_teacher(task)
    student = small(teacher, images)
    assert student.output.kind == teacher.output.kind
    assert student.task._arguments == task._arguments
    assert task.metric_name in student.info["teacher"]["agreement"]


def test_a_student_says_whose_predictions_it_has_learned(
    images: list[Path], tmp_path: Path
) -> None:
    teacher = brightness_teacher()
    teacher.info |= {"mirror": False, "label_invalid": 0.0}
    path = diffsight.save(teacher, tmp_path / "teacher.safetensors")
    fingerprint = teacher.info["fingerprint"]
    student = small(teacher, images)
    assert student.info["mirror"] is False
    assert student.info["label_invalid"] == 0
    assert student.info["teacher"]["fingerprint"] == fingerprint
    assert student.info["teacher"]["method"] == "BrightnessMethod"
    assert student.info["license"] == student.info["teacher"]["license"] == "cc-by-4.0"
    assert (student.info["kind"], student.info["unit"]) == ("depth", "m")
    folder = diffsight.save(student, tmp_path / "student")
    card = (folder / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert f"* teacher: BrightnessMethod {fingerprint[:12]}" in card
    assert "* unlabelled images: 9" in card
    assert path.exists()


def test_a_student_names_the_pretrained_weights_of_its_teacher(images: list[Path]) -> None:
    teacher = brightness_teacher()
    teacher.info["base_weights"] = ["someone/model"]
    assert small(teacher, images).info["base_weights"] == ["someone/model"]


def test_a_student_with_many_classes_has_less_than_5_mb(tmp_path: Path) -> None:
    task = Segmentation([f"class {i}" for i in range(1000)])
    model = diffsight.DenseModel(task=task, method=SmallUNet)
    path = diffsight.save(model, tmp_path / "student.safetensors")
    assert 3_000_000 < path.stat().st_size < 5_000_000


def test_a_student_can_be_saved_evaluated_and_used_as_a_teacher(
    images: list[Path], tmp_path: Path
) -> None:
    student = small(brightness_teacher(), images, short_side=16)
    assert student.info["short_side"] == 16
    path = diffsight.save(student, tmp_path / "student.safetensors")
    loaded = diffsight.load(path)
    assert_same_weights(student, loaded)
    second = small(loaded, images)
    assert second.info["teacher"]["method"] == "SmallUNet"
    assert second.info["short_side"] == 16
    prediction = diffsight.pipeline(path)(images[1])
    assert prediction.hw == (48, 80)
    assert prediction.std.isfinite().all()


def test_a_resumed_training_equals_one_without_interruption(
    images: list[Path], tmp_path: Path
) -> None:
    options = {"steps": 4, "batch_size": 2, "seed": 5}
    whole = distil(brightness_teacher(), images, **options)

    def stop(step: int, losses: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        distil(brightness_teacher(), images, **options, state=state, advance=stop)
    steps: list[int] = []
    before = BrightnessMethod.passes
    resumed = distil(
        brightness_teacher(),
        images,
        **options,
        state=state,
        resume=True,
        advance=lambda step, losses: steps.append(step),
    )
    assert BrightnessMethod.passes == before  # the teacher is not run again
    assert steps == [3, 4]
    assert_same_weights(whole, resumed)
    assert whole.info == resumed.info


def test_an_interruption_of_the_teacher_keeps_its_outputs(
    images: list[Path], tmp_path: Path
) -> None:
    options = DistilOptions(steps=2, batch_size=2, state=tmp_path / "state")
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    first = Distillation(brightness_teacher(), images, options)
    with pytest.raises(KeyboardInterrupt):
        first.predict(stop)
    before = BrightnessMethod.passes
    resumed = DistilOptions(steps=2, batch_size=2, state=tmp_path / "state", resume=True)
    Distillation(brightness_teacher(), images, resumed).predict()
    assert BrightnessMethod.passes == before + len(images) - 3


def test_a_state_of_other_images_is_refused(images: list[Path], tmp_path: Path) -> None:
    state = tmp_path / "state"
    Distillation(brightness_teacher(), images, DistilOptions(steps=2, state=state))
    options = DistilOptions(steps=2, state=state, resume=True)
    with pytest.raises(InputError, match="belongs to another model, or to other images, labels"):
        Distillation(brightness_teacher(), images[1:], options)


def test_the_measured_forecast_does_not_change_the_training(
    images: list[Path], tmp_path: Path
) -> None:
    options = {"steps": 2, "batch_size": 2}
    one = Distillation(brightness_teacher(), images, DistilOptions(**options, state=tmp_path / "a"))
    one.predict()
    assert one.forecast() > 0
    assert_same_weights(one.train(), distil(brightness_teacher(), images, **options))
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert STATE in files
    assert len(files) == len(images) + 1
    one.remove_state()
    assert not (tmp_path / "a").exists()


def test_copies_and_unreadable_images_are_left_out(images: list[Path], tmp_path: Path) -> None:
    copy, broken = tmp_path / "copy.png", tmp_path / "broken.png"
    copy.write_bytes(images[0].read_bytes())
    broken.write_bytes(b"no image")
    options = DistilOptions(steps=2, batch_size=2, state=tmp_path / "state")
    run = Distillation(brightness_teacher(), [*images, copy, broken], options)
    run.predict()
    assert len(run.trained_on) == 9
    assert len(run.held_out) == 2
    assert not {*run.trained_on} & {*run.held_out}
    assert list(run.errors) == [broken]
    assert str(broken) in run.errors[broken]


def test_one_image_is_trained_on_and_nothing_held_out(images: list[Path]) -> None:
    student = small(brightness_teacher(), images[:1])
    assert student.info["training"]["held-out images"] == 0
    assert student.info["teacher"]["agreement"] == {}
    assert all(value.isfinite().all() for value in student.method.state_dict().values())


def test_other_files_in_the_folder_of_the_state_are_kept(tmp_path: Path) -> None:
    broken, notes = tmp_path / "broken.png", tmp_path / "work" / "notes.safetensors"
    broken.write_bytes(b"no image")
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(InputError, match=r"broken\.png: "):
        small(brightness_teacher(), [broken], state=notes.parent)
    assert [path.name for path in notes.parent.iterdir()] == [notes.name]


def test_images_that_python_leaves_out_are_logged(
    images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    small(brightness_teacher(), [*images, broken])
    assert str(broken) in caplog.text


def test_images_that_are_all_unreadable_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png: "):
        small(brightness_teacher(), [broken], state=tmp_path / "state")
    assert not (tmp_path / "state").exists()
    with pytest.raises(InputError, match="there is no image: give some"):
        small(brightness_teacher(), [])


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (Referring, "the model needs a sentence for every image, a student reads none"),
        (BEV, "BEV reads several cameras, a student one image"),
        (Pose, "Pose needs boxes of people, a student reads none"),
    ],
)
def test_models_without_maps_of_single_images_are_refused(
    task: Any, problem: str, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BrightnessMethod, "accepts_prompt", True)
    repair = "give a model for depth, classes, normals or other values"
    with pytest.raises(InputError) as raised:
        small(brightness_teacher(task()), images)
    assert str(raised.value) == f"{problem}: {repair}"


def test_unknown_and_impossible_options_are_refused(images: list[Path]) -> None:
    with pytest.raises(InputError, match="unknown option 'step': did you mean 'steps'"):
        small(brightness_teacher(), images, step=3)
    for name, value in (("steps", 0), ("batch_size", 1), ("short_side", 4), ("seed", -1)):
        with pytest.raises(InputError, match=f"{name.replace('_', ' ')} {value}: give a whole"):
            small(brightness_teacher(), images, **{name: value})
    with pytest.raises(InputError, match="choose bfloat16"):
        small(brightness_teacher(), images, dtype="float16")
    teacher = brightness_teacher()
    del teacher.info["short_side"]
    with pytest.raises(InputError, match=r"does not record .* give --short-side"):
        small(teacher, images)


def test_a_training_in_bfloat16_has_finite_weights(images: list[Path]) -> None:
    student = small(brightness_teacher(), images, dtype="bfloat16")
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in student.parameters())
