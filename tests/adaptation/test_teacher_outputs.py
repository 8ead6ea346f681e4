"""Outputs of a teacher in files, and batches of them."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from tests.support import images
from tests.support_distil import brightness_teacher
from torch import Tensor

from diffsight.adaptation.teacher_outputs import (
    PIXEL_STEP,
    read_whole,
    training_batches,
    write_output,
)
from diffsight.errors import InputError
from diffsight.methods import SmallUNet
from diffsight.model import DenseModel, choose_output
from diffsight.tasks import AbstractTask, Normals, Segmentation, Values
from diffsight.types import Inputs

UNITS = torch.nn.functional.normalize(torch.randn(200, 3), dim=1)


def write(
    teacher: DenseModel, path: Path, *, seed: int = 0, hw: tuple[int, int] = (32, 40)
) -> Path:
    image = (images(1, *hw, seed=seed)[0] * 255).to(torch.uint8)
    spec = choose_output(teacher.task, SmallUNet)
    write_output(teacher, spec, image, path, teacher_side=32, student_side=32, seed=seed)
    return path


def test_a_whole_image_has_the_outputs_of_the_teacher(tmp_path: Path) -> None:
    teacher = brightness_teacher()
    batch = read_whole(write(teacher, tmp_path / "a.safetensors"))
    with torch.no_grad():
        output = teacher(batch.inputs)
    ((row, column),) = batch.first
    assert 0 <= row < PIXEL_STEP > column >= 0
    at = (..., slice(row, None, PIXEL_STEP), slice(column, None, PIXEL_STEP))
    torch.testing.assert_close(batch.target.label, output.value[at])
    assert batch.soft_labels is not None
    weights = batch.soft_labels.distribution(teacher.output.channels)
    torch.testing.assert_close(weights, output.probability[at], atol=1e-3, rtol=0)
    assert batch.target.valid.all()


@pytest.mark.parametrize("task", [None, Segmentation(("dark", "bright"))], ids=["depth", "classes"])
def test_batches_have_windows_and_mirror_images_with_their_outputs(
    task: AbstractTask | None, tmp_path: Path
) -> None:
    """The outputs of this teacher depend on the pixel alone, so they can be computed again."""
    teacher = brightness_teacher(task)
    paths = [write(teacher, tmp_path / f"{i}.safetensors", seed=i) for i in range(3)]
    differences = []
    for batch in islice(training_batches(paths, (16, 24), 2, 0), 6):
        assert batch.inputs.image.shape == (2, 3, 16, 24)
        with torch.no_grad():
            output = teacher(batch.inputs).class_probabilities()
        assert batch.soft_labels is not None
        for i, (row, column) in enumerate(batch.first):
            ours = output[i, :, row::PIXEL_STEP, column::PIXEL_STEP]
            stored = batch.soft_labels.weights[i]
            assert ours.shape == stored.shape
            positions = [brightness_of(one) for one in (ours, stored)]
            assert float(torch.corrcoef(torch.stack(positions))[0, 1]) > 0.7
            differences.append(float((ours - stored).abs().mean()))
    assert max(differences) > 1e-3  # the colours differ


def brightness_of(probability: Tensor) -> Tensor:
    """Return the expected number of the class of every pixel; classes go from dark to bright."""
    numbers = torch.arange(len(probability)).float()[:, None, None]
    return (probability * numbers).sum(dim=0).flatten()


def test_batches_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    teacher = brightness_teacher()
    paths = [write(teacher, tmp_path / f"{i}.safetensors", seed=i) for i in range(3)]
    first = list(islice(training_batches(paths, (16, 16), 2, 7), 3))
    (later,) = islice(training_batches(paths, (16, 16), 2, 7, start=2), 1)
    (other,) = islice(training_batches(paths, (16, 16), 2, 8, start=2), 1)
    assert torch.equal(first[2].inputs.image, later.inputs.image)
    assert torch.equal(first[2].target.label, later.target.label)
    assert not torch.equal(first[1].inputs.image, later.inputs.image)
    assert not torch.equal(other.inputs.image, later.inputs.image)


def test_mirrored_normals_have_the_codebook_vectors_of_the_mirrored_value(tmp_path: Path) -> None:
    task = Normals(bins=6).fitted(UNITS)
    path = write(brightness_teacher(task), tmp_path / "a.safetensors")
    for batch in islice(training_batches([path], (32, 40), 1, 0), 8):
        x = batch.target.label[0, 0]
        assert batch.soft_labels is not None
        sums = batch.soft_labels.weights.sum(dim=1)
        torch.testing.assert_close(sums, torch.ones_like(sums))
        if (x < 0).any() == (x > 0).any():
            continue
        value = task.codec.centres.T @ batch.soft_labels.weights[0].flatten(1)
        assert (value[0] * x.flatten()).mean() > 0  # both point to the same side


@pytest.mark.parametrize(("channels", "info"), [(2, {}), (1, {"mirror": False})])
def test_vectors_and_images_of_a_teacher_without_mirroring_are_not_mirrored(
    channels: int, info: dict[str, bool], tmp_path: Path
) -> None:
    teacher = brightness_teacher(Values(channels=channels))
    teacher.info |= info
    path = write(teacher, tmp_path / "a.safetensors")
    whole = read_whole(path).target.label
    for batch in islice(training_batches([path], (32, 40), 1, 0), 4):
        assert batch.soft_labels is None
        for label in batch.target.label:
            assert torch.equal(label, whole[0])


def test_uncertain_values_count_less(tmp_path: Path) -> None:
    teacher = brightness_teacher(Values(channels=1), has_moments=True)
    path = write(teacher, tmp_path / "a.safetensors")
    assert read_whole(path).target.valid.all()
    left, right = 0.0, 0.0
    for batch in islice(training_batches([path], (32, 40), 1, 0), 40):
        columns = batch.target.valid[0].float().mean(dim=0)
        left, right = left + float(columns[0]), right + float(columns[-1])
    assert (left, right) != (40.0, 40.0)
    assert abs(left - right) < 8  # half of the batches are mirrored
    middle = [
        b.target.valid[0, :, 4].float().mean()
        for b in islice(training_batches([path], (32, 40), 1, 0), 40)
    ]
    assert 10 < float(sum(middle)) < 35


def test_a_student_runs_at_the_pixels_of_a_batch(tmp_path: Path) -> None:
    teacher = brightness_teacher()
    paths = [write(teacher, tmp_path / f"{i}.safetensors", seed=i) for i in range(2)]
    (batch,) = islice(training_batches(paths, (16, 16), 2, 0), 1)
    network = SmallUNet(output=teacher.output, widths=(4, 8)).eval()
    with torch.no_grad():
        output = batch.run(network)
        whole = network(Inputs(batch.inputs.image)).stack
    for i, (row, column) in enumerate(batch.first):
        expected = whole[i, :, row::PIXEL_STEP, column::PIXEL_STEP]
        torch.testing.assert_close(output.stack[i], expected, rtol=1e-4, atol=1e-5)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"a\.safetensors: damaged .*: delete it"):
        read_whole(path)
