"""The model follows the labels: new classes, undone strokes, scalars, a score, and an export."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_studio import opened, stroke, wait_for, write_photographs

import diffsight
from diffsight.datasets.class_lists import read_class_list
from diffsight.datasets.labelled_folder import read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.errors import InputError
from diffsight.studio import live, trainer, validation
from diffsight.studio.export import export_project
from diffsight.studio.learner import Learner
from diffsight.studio.pictures import predict_at
from diffsight.studio.project import Project

BACKBONE = "efficientnet-lite0@64"
SIZE = (160, 120)


class Events(list[tuple[str, dict[str, Any]]]):
    def publish(self, name: str, data: Any) -> None:
        self.append((name, dict(data)))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [data for one, data in self if one == name]

    @property
    def is_ready(self) -> bool:
        return bool(self.of("status")) and not self.of("status")[-1]["busy"]


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (live, validation, trainer):
        monkeypatch.setattr(module, "STEPS", 12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photos", 4, SIZE)


@contextlib.contextmanager
def learning(project: Project) -> Iterator[tuple[Learner, Events]]:
    events = Events()
    project._publish = events.publish
    learner = Learner(project, events.publish, BACKBONE)
    learner.open(0)
    learner.start()
    try:
        yield learner, events
    finally:
        learner.close()
    assert not learner.is_alive


def paint(project: Project, number: int, top: float = 0, bottom: float = 1) -> None:
    """Paint the bright half and the dark half of an image."""
    for name, value, y in (("top", top, 25), ("bottom", bottom, 95)):
        points = [[5, y], [150, y]]
        project.add_stroke(number, stroke(f"{name}{number}", value, points=points, radius=15))


def after(events: Events, version: int, number: int = 0) -> Any:
    """Wait for a prediction of an image with another version of the model."""
    return wait_for(
        lambda: any(
            e["image"] == number and e["version"] > version for e in events.of("prediction")
        )
    )


def labels_of(learner: Learner, number: int = 0) -> torch.Tensor:
    predicted = learner.predicted(number)
    assert predicted is not None
    return predict_at(predicted.task, predicted.output, (SIZE[1], SIZE[0])).to_label()


def test_strokes_become_predictions_of_this_and_the_next_images(folder: Path) -> None:
    with opened(folder) as project, learning(project) as (learner, events):
        wait_for(lambda: events.is_ready)
        assert events.of("status")[-1]["text"] == "paint two classes to start the training"
        assert learner.predicted(0) is None
        paint(project, 0)
        wait_for(lambda: all(learner.predicted(i) for i in range(4)))
        wait_for(lambda: events.is_ready)
        ids = labels_of(learner)
        assert (ids[:40] == 0).float().mean() > 0.9
        assert (ids[80:] == 1).float().mean() > 0.9
        assert events.of("prediction")[0]["image"] == 0
        assert not events.of("failure")
        # undone strokes: no model is left
        project.undo(0, "tab")
        wait_for(lambda: learner.predicted(0) is None)
        assert learner.copy_model() is None


def test_a_new_class_keeps_what_was_trained(folder: Path) -> None:
    with opened(folder) as project, learning(project) as (learner, events):
        paint(project, 0)
        after(events, 0)
        wait_for(lambda: events.is_ready)
        before = learner.copy_model()
        assert before is not None
        project.add_class("lamp")
        project.change_class(0, "wall paper")
        wait_for(lambda: (t := learner._trainer) and t._key and len(t._key[1]) == 3)
        wait_for(lambda: events.is_ready)
        model = learner.copy_model()
        assert model is not None
        assert model.task.class_names == ("wall paper", "floor", "lamp")
        ids = labels_of(learner)
        assert (ids[:40] == 0).float().mean() > 0.9


def test_a_score_is_measured_from_three_labelled_images_on(folder: Path) -> None:
    with opened(folder) as project, learning(project) as (_, events):
        for number in range(3):
            paint(project, number)
        wait_for(lambda: events.of("score"))
        (score,) = project.scores
        assert (score.labelled_images, score.metric) == (3, "mIoU, %")
        assert score.higher_is_better
        assert 0 <= score.score <= 100
        wait_for(lambda: events.is_ready)
        assert len(project.scores) == 1  # not measured again without a change


def test_numbers_of_a_scalar_are_predicted(folder: Path) -> None:
    with opened(folder, ()) as project:
        project.set_kind("scalar", "K")
        with learning(project) as (learner, events):
            wait_for(lambda: events.is_ready)
            assert "two different values" in events.of("status")[-1]["text"]
            paint(project, 0, 290.0, 310.0)
            after(events, 0)
            wait_for(lambda: events.is_ready)
            values = labels_of(learner)[0]
            assert values[:40].mean() < 297
            assert values[80:].mean() > 303
            paint(project, 1, 290.0, 350.0)  # a wider range: other bins
            wait_for(lambda: float(labels_of(learner).max()) > 315)
            assert {} in events.of("project")


def test_an_image_that_cannot_be_read_is_reported_once(folder: Path) -> None:
    with opened(folder) as project:
        path = project.photograph(1).path
        path.write_bytes(path.read_bytes()[:200])
        with learning(project) as (learner, events):
            paint(project, 0)
            after(events, 0, 2)
            wait_for(lambda: events.is_ready)
            (failure,) = events.of("failure")
            assert "photo1.png: damaged or cut off" in failure["text"]
            assert learner.predicted(1) is None


def test_features_are_read_from_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(folder) as project, learning(project) as (_, events):
        wait_for(lambda: events.is_ready)
    files = list((folder / ".diffsight" / "features").iterdir())
    assert len(files) == 4
    files[0].write_bytes(b"damaged")
    decoded = []
    real = trainer.FeatureStore._compute

    def compute(self: Any, photograph: Any, mirror: bool) -> Any:
        decoded.append(photograph.id)
        return real(self, photograph, mirror)

    monkeypatch.setattr(trainer.FeatureStore, "_compute", compute)
    with opened(folder) as project, learning(project) as (learner, events):
        wait_for(lambda: events.is_ready)
        assert len(learner.shared.vectors) == 4
    assert len(decoded) == 1  # the damaged one


def test_an_export_is_read_by_adapt_and_predict(folder: Path) -> None:
    with opened(folder) as project, learning(project) as (learner, events):
        with pytest.raises(InputError, match="nothing to export"):
            export_project(project, None, BACKBONE)
        paint(project, 0)
        paint(project, 2)
        assert export_project(project, None, BACKBONE)["model"] is None
        after(events, 0)
        wait_for(lambda: events.is_ready)
        result = export_project(project, learner.copy_model(), BACKBONE)
        shown = labels_of(learner)
        labels = project.labels(0, (SIZE[1], SIZE[0]))
    out = Path(result["folder"])
    assert result["labels"] == 2
    assert (out / "images.txt").read_text() == "photo0.png\nphoto2.png\n"
    classes = read_class_list(out / "classes.txt")
    assert dict(classes.names) == {0: "wall", 1: "floor"}
    read = read_labelled_folder(
        folder, out / "labels", LabelFormat("segmentation"), classes=classes
    )
    assert read.names == ("wall", "floor")
    sample = read.samples[[one.name for one in read.images].index("photo0.png")]
    assert (sample.valid["semantic"].numpy() == labels.is_labelled).all()
    inside = labels.is_labelled
    assert (sample.labels["semantic"].numpy()[inside] == labels.values[inside]).all()
    with Image.open(out / "labels" / "photo0.png") as picture:
        assert picture.mode == "P"
    assert "--kind segmentation" in result["command"]
    assert str(out / "labels") in result["command"]
    model = diffsight.load(result["model"])
    assert model.info["short_side"] == 64
    assert model.info["steps"]["feature_head"] >= 12
    prediction = diffsight.pipeline(model, device="cpu")(folder / "photo0.png")
    # the page rounds features to 16 bits
    assert (prediction.to_label() == shown).float().mean() > 0.98


def test_images_whose_labels_were_erased_are_not_exported(folder: Path) -> None:
    with opened(folder) as project:
        for number in (0, 1):
            paint(project, number)
        erase = stroke("erase", tool="erase", points=[[0, 60], [160, 60]], radius=200)
        project.add_stroke(1, erase)
        result = export_project(project, None, BACKBONE)
        assert result["labels"] == 1
        out = Path(result["folder"])
        assert (out / "images.txt").read_text() == "photo0.png\n"
        project.add_stroke(0, {**erase, "id": "erase0"})
        with pytest.raises(InputError, match="nothing to export"):
            export_project(project, None, BACKBONE)
        assert [path.name for path in (out / "labels").iterdir()] == ["photo0.png"]


def test_an_image_that_is_replaced_is_trained_and_predicted_in_its_new_size(folder: Path) -> None:
    with opened(folder) as project, learning(project) as (learner, events):
        paint(project, 0)
        wait_for(lambda: events.is_ready and learner.predicted(0))
        (folder / "photo0.png").unlink()
        learner.open(0)  # fails, and is tried again when it is opened again
        write_photographs(folder / "new", 1, SIZE[::-1])
        (folder / "new" / "photo0.png").rename(folder / "photo0.png")
        assert project.photograph(0).size == SIZE[::-1]
        version = learner.predicted(0).version
        learner.open(0)
        project.add_stroke(0, stroke("new", 1, points=[[60, 150]], radius=5))
        after(events, version)
        wait_for(lambda: events.is_ready)
        assert learner.predicted(0).output.stack.shape[-2] > 64
        assert not [e for e in events.of("failure") if "training stopped" in e["text"]]


def test_a_scalar_is_exported_with_gaps(folder: Path) -> None:
    with opened(folder, ()) as project:
        project.set_kind("scalar", "K")
        paint(project, 0, 290.0, 310.0)
        result = export_project(project, None, BACKBONE)
    values = np.load(Path(result["folder"]) / "labels" / "photo0.npy")
    assert (values.dtype, values.shape) == (np.float32, (120, 160))
    assert np.isnan(values[60]).all()
    assert set(values[np.isfinite(values)]) == {290.0, 310.0}
    assert result["command"].endswith("--kind scalar --unit K --out model.safetensors")


def test_labels_of_photographs_that_were_renamed_are_reported_and_not_exported(
    folder: Path,
) -> None:
    with opened(folder) as project:
        paint(project, 0)
        (folder / "photo0.png").rename(folder / "new name.png")
        with pytest.raises(InputError, match="nothing to export: 1 labelled image"):
            export_project(project, None, BACKBONE)
        paint(project, 3)
        result = export_project(project, None, BACKBONE)
        assert result["labels"] == 1
        assert result["missing"].startswith("1 labelled image(s) are missing, such as photo0.png")
        classes = read_class_list(Path(result["folder"]) / "classes.txt")
        read_labelled_folder(
            folder,
            Path(result["folder"]) / "labels",
            LabelFormat("segmentation"),
            classes=classes,
        )
        (folder / "new name.png").rename(folder / "photo0.png")
        result = export_project(project, None, BACKBONE)
        assert (result["labels"], result["missing"]) == (2, "")


def test_no_labels_are_exported_while_two_images_would_have_one_name(folder: Path) -> None:
    with opened(folder) as project:
        paint(project, 3)
        (folder / "photo0.jpg").touch()  # not labelled; adapt refuses the folder
        with pytest.raises(InputError, match=r"photo0\.jpg and photo0\.png would have the same"):
            export_project(project, None, BACKBONE)
