"""Surface normals: angles computed by hand, mirrored directions, the codebook, pictures."""

import pytest
import torch
from tests.contracts import TaskContract
from tests.support import images, noise
from torch.nn import functional

from diffsight.outputs import Classes, Distribution, Values, expectation
from diffsight.tasks import Normals
from diffsight.types import Target


def with_codebook() -> Normals:
    return Normals(bins=20).fitted(functional.normalize(noise(2000, 3), dim=1))


class TestNormals(TaskContract):
    def build(self) -> Normals:
        return Normals()

    def target(self) -> Target:
        label = functional.normalize(noise(2, 3, *self.size, seed=4), dim=1)
        valid = images(2, *self.size, seed=3)[:, 0] > 0.3
        return Target(torch.where(valid[:, None], label, torch.nan), valid)


class TestNormalsWithCodebook(TestNormals):
    def build(self) -> Normals:
        return with_codebook()


def test_the_metric_is_the_mean_angle() -> None:
    value = torch.tensor([[0.0, 0, 2], [0, 3, 0]]).T.reshape(1, 3, 1, 2)
    truth = torch.tensor([[0.0, 0, 1], [0, 1, 1]]).T.reshape(1, 3, 1, 2)
    task, everywhere = Normals(), torch.ones(1, 1, 2, dtype=torch.bool)
    assert task.score(task.measure(value, Target(truth, everywhere))) == pytest.approx(22.5)


def test_predictions_have_length_1() -> None:
    (prediction,) = Normals().decode(Values(3 * noise(1, 3, 4, 4)))
    torch.testing.assert_close(prediction.values.norm(dim=0), torch.ones(4, 4))
    assert prediction.uncertainty is None
    output = Values(noise(1, 3, 4, 4)).with_std(torch.full((1, 3, 4, 4), 0.2))
    (prediction,) = Normals().decode(output)
    torch.testing.assert_close(prediction.uncertainty, torch.full((4, 4), 0.2))


def test_mirroring_normals_changes_the_sign_of_x() -> None:
    label = noise(3, 2, 5)
    mirrored = Normals().mirror_label(label)
    assert torch.equal(mirrored[0], -label[0].flip(-1))
    assert torch.equal(mirrored[1:], label[1:].flip(-1))


def test_mirroring_a_distribution_keeps_its_standard_deviation() -> None:
    """The codebook has no mirrored vectors, so the moments are mirrored."""
    task = with_codebook()
    assert task.codec is not None
    probability = noise(1, 20, 3, 4).softmax(dim=1)
    output = Distribution(
        probability, expectation(probability, task.codec.centres[None]), task.codec.centres
    )
    (straight,) = task.decode(output)
    (mirrored,) = task.decode(task.mirror_output(output))
    torch.testing.assert_close(mirrored.uncertainty, straight.uncertainty.flip(-1))
    torch.testing.assert_close(mirrored.values, task.mirror_label(straight.values))
    p, x = probability[0].double(), task.codec.centres.double()
    mean = torch.einsum("nhw,nd->dhw", p, x)
    square = torch.einsum("nhw,nd->dhw", p, x.square())
    expected = (square - mean.square()).mean(dim=0).sqrt()
    torch.testing.assert_close(straight.uncertainty.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_codebook_has_no_more_vectors_than_different_labels() -> None:
    axes = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, -1, 0]]).repeat(30, 1)
    task = Normals(bins="auto").fitted(axes)
    assert task.bins == 3
    assert task._arguments["simplices"] == 0
    soft = task.encode_label(axes.T[None, :, None])
    assert soft is not None
    assert soft.ids.shape[1] == 1


def test_logits_are_refused() -> None:
    with pytest.raises(TypeError, match="Normals has no loss for Classes"):
        Normals().mirror_output(Classes(noise(1, 3, 2, 2)))


def test_pictures_show_directions_as_colours() -> None:
    (prediction,) = Normals().decode(Values(torch.tensor([1.0, 0, -1])[None, :, None, None] * 2))
    assert prediction.draw()[:, 0, 0].tolist() == [218, 128, 37]
