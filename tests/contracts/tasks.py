"""Contract tests of tasks."""

import abc
import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from diffsight.codecs.heatmaps import encode
from diffsight.outputs import Classes, Distribution, Heatmaps, Masks, Output, OutputSpec, Values
from diffsight.tasks import AbstractTask
from diffsight.tasks.base import resize_map
from diffsight.types import Target
from tests.support import images, noise

BEST = {True: 100.0, False: 0.0}  # the best score by ``higher_is_better``


class TaskContract(abc.ABC):
    """Tests of a task: losses, metric, mirroring, predictions and saved state.

    Attributes:
        size: height and width of the images; not square.
        is_map: whether the label has one value or vector per pixel of the image.
    """

    size: ClassVar[tuple[int, int]] = (6, 9)
    is_map: ClassVar[bool] = True

    @abc.abstractmethod
    def build(self) -> AbstractTask:
        """Return the task, with fitted bins if it needs them."""

    @abc.abstractmethod
    def target(self) -> Target:
        """Return labels of two images of ``size`` with some invalid pixels."""

    def test_a_perfect_output_of_every_kind_has_a_smaller_loss_than_a_wrong_one(self) -> None:
        task, target = self.build(), self.target()
        for spec in task.outputs:
            good, bad = (
                perfect_output(task, spec, target),
                wrong_output(perfect_output(task, spec, target)),
            )
            losses = task.loss(good, target)
            assert losses["loss"] < task.loss(bad, target)["loss"]
            for name, part in losses.items():
                assert part.shape == (), name
                assert part.requires_grad is False
            soft = task.encode_label(fill_invalid(target).label)
            assert task.loss(good, target, soft)["loss"] == losses["loss"]

    def test_without_valid_pixels_loss_and_gradient_are_zero(self) -> None:
        task, target = self.build(), self.target()
        nothing = Target(target.label, torch.zeros_like(target.valid))
        for spec in task.outputs:
            output = wrong_output(perfect_output(task, spec, target))
            stack = output.stack.requires_grad_()
            loss = task.loss(output.with_stack(stack), nothing)["loss"]
            loss.backward()
            assert float(loss.detach()) == 0
            assert stack.grad is not None
            assert not stack.grad.any()

    def test_invalid_labels_are_never_read(self) -> None:
        task, target = self.build(), self.target()
        for spec in task.outputs:
            output = wrong_output(perfect_output(task, spec, target))
            loss, cleaned = task.loss(output, target), task.loss(output, fill_invalid(target))
            assert torch.equal(loss["loss"], cleaned["loss"])
            label = task.to_label(output)
            sums = task.measure(label, target)
            assert torch.equal(sums, task.measure(label, fill_invalid(target)))

    def test_the_truth_has_the_best_score(self) -> None:
        task, target = self.build(), self.target()
        best = BEST[task.higher_is_better]
        assert task.score(task.measure(fill_invalid(target).label, target)) == pytest.approx(
            best, abs=1e-3
        )
        for spec in task.outputs:
            output = perfect_output(task, spec, target)
            score = task.score(task.measure(task.to_label(output), target))
            worse = task.score(task.measure(task.to_label(wrong_output(output)), target))
            assert score == pytest.approx(best, abs=1e-3)
            assert (worse < score) == task.higher_is_better
            assert worse != score

    def test_the_score_of_several_batches_is_that_of_all_images(self) -> None:
        task, target = self.build(), self.target()
        label = task.to_label(wrong_output(perfect_output(task, task.outputs[0], target)))
        whole = task.measure(label, target)
        rows = [
            task.measure(label[i : i + 1], Target(target.label[i : i + 1], target.valid[i : i + 1]))
            for i in range(2)
        ]
        torch.testing.assert_close(rows[0] + rows[1], whole)
        metric = task.metric()
        for i in range(2):
            metric.update(
                label[i : i + 1], Target(target.label[i : i + 1], target.valid[i : i + 1])
            )
        figures = {name: float(value) for name, value in metric.compute().items()}
        assert next(iter(figures)) == task.metric_name
        assert figures == pytest.approx(dict(task.figures(whole)))
        assert figures[task.metric_name] == pytest.approx(task.score(whole))

    def test_mirroring_twice_is_the_identity(self) -> None:
        task, target = self.build(), self.target()
        for output in self.outputs(task, target):
            once = task.mirror_output(output)
            twice = task.mirror_output(once)
            # a mirrored distribution may have been reduced to its moments
            expected = output if type(twice) is type(output) else output.reduced()
            torch.testing.assert_close(twice.stack, expected.stack, rtol=1e-5, atol=1e-5)
            assert not torch.equal(once.stack, expected.stack)
        label = fill_invalid(target).label
        twice_label = task.mirror_label(task.mirror_label(label))
        torch.testing.assert_close(twice_label, label, rtol=0, atol=0 if self.is_map else 1e-5)

    def test_a_mirrored_perfect_output_has_the_best_score_on_mirrored_labels(self) -> None:
        task, target = self.build(), self.target()
        mirrored = Target(task.mirror_label(fill_invalid(target).label), target.valid.flip(-1))
        for spec in task.outputs:
            output = task.mirror_output(perfect_output(task, spec, target))
            score = task.score(task.measure(task.to_label(output), mirrored))
            assert score == pytest.approx(BEST[task.higher_is_better], abs=1e-3)

    def test_predictions_have_metadata_arrays_and_pictures(self) -> None:
        task, target = self.build(), self.target()
        height, width = self.size
        image = images(1, height, width)[0]
        truths = task.truth(target)
        for output in self.outputs(task, target):
            predictions = task.decode(output)
            assert len(predictions) == len(truths) == len(target.valid)
            for row, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
                assert type(truth) is type(prediction)
                assert prediction.hw == truth.hw == self.size
                json.dumps(prediction.metadata(), allow_nan=False)
                arrays = prediction.arrays()
                assert arrays
                for array in arrays.values():
                    assert array.values.shape[:2] == self.size or not self.is_map
                    small = array.values.dtype in (np.uint8, np.uint16)
                    assert array.suffix == (".png" if small else ".npy")
                for picture in (prediction.draw(), prediction.draw(image)):
                    assert picture.dtype == torch.uint8
                    assert picture.shape == (3, height, width)
                panel = task.panel(image, truth, prediction)
                assert panel.dtype == torch.uint8
                assert panel.shape == (3, height, 4 * width)
                label = task.to_label(output)[row].to(torch.float64)
                if type(output) is not Values:  # predicted directions are normalised
                    assert prediction.to_label().shape == label.shape

    def test_a_correct_prediction_is_drawn_like_its_label(self) -> None:
        task, target = self.build(), self.target()
        image = images(1, *self.size)[0]
        truth = task.truth(target)[0]
        first, second, error = truth.draw_with(truth, image)
        assert torch.equal(first, second)
        assert int(error[:, target.valid[0]].min()) > 200

    def test_constant_and_baselines_are_worse_than_the_truth(self) -> None:
        task, target = self.build(), self.target()
        best = BEST[task.higher_is_better]
        constant = task.constant(fill_invalid(target).label, target.valid)
        shape = target.label.shape
        label = constant[None, :, None, None] if constant.ndim else constant
        worse = task.score(task.measure(label.expand(shape), target))
        assert worse != pytest.approx(best, abs=1e-3)
        for name, one in task.baselines(zip(target.label, target.valid, strict=True)).items():
            label = resize_map(one, self.size).expand(shape)
            assert task.score(task.measure(label, target)) != pytest.approx(best, abs=1e-3), name

    def test_a_task_is_restored_from_its_arguments_and_state(self) -> None:
        task, target = self.build(), self.target()
        assert not task.needs_fitting
        again = type(task)(**task._arguments)
        again.load_state_dict(task.state_dict())
        assert not again.needs_fitting
        assert len(again.outputs) == len(task.outputs)
        for spec, other in zip(task.outputs, again.outputs, strict=True):
            assert (spec.kind, spec.channels, spec.bounds) == (
                other.kind,
                other.channels,
                other.bounds,
            )
            output = wrong_output(perfect_output(task, spec, target))
            assert torch.equal(
                task.loss(output, target)["loss"], again.loss(output, target)["loss"]
            )

    def outputs(self, task: AbstractTask, target: Target) -> list[Output]:
        """Return an output of every kind, and the reduced output where there is one."""
        whole = [wrong_output(perfect_output(task, spec, target)) for spec in task.outputs]
        reduced = [output.reduced() for output in whole]
        return [*whole, *(output for output in reduced if output is not whole)]


def fill_invalid(target: Target) -> Target:
    """Replace the labels of invalid pixels by a valid value; labels of joints are unchanged."""
    if target.label.shape[-2:] != target.valid.shape[-2:]:
        return target
    valid = target.valid if target.label.ndim == 3 else target.valid[:, None]
    fill = target.label[valid.expand_as(target.label)][0]
    return Target(torch.where(valid, target.label, fill), target.valid)


def perfect_output(task: AbstractTask, spec: OutputSpec, target: Target) -> Output:
    """Return the output of a method that predicts the labels exactly."""
    label = fill_invalid(target).label
    match spec.kind:
        case "values":
            return Values(label)
        case "classes":
            ids = torch.nn.functional.one_hot(label.long(), spec.channels)
            return Classes(30.0 * ids.movedim(-1, 1))
        case "masks":
            return Masks(60.0 * label.float() - 30)
        case "distribution":
            soft = task.encode_label(label)
            assert soft is not None
            assert spec.codec is not None
            return Distribution(soft.distribution(spec.channels), label, spec.codec.centres)
        case "heatmaps":
            hw = [-(-side // spec.stride) for side in target.valid.shape[-2:]]
            ends = [(a - 1) / (b - 1) for a, b in zip(hw, target.valid.shape[-2:], strict=True)]
            points = label[:, 0, :, :2] * torch.tensor([ends[1], ends[0]])
            return Heatmaps(encode(points, (hw[0], hw[1]), task.sigma_px)[0], spec.stride)


def wrong_output(output: Output) -> Output:
    """Return an output of the same kind with large errors everywhere."""
    random = noise(*output.stack.shape, seed=1)
    if isinstance(output, Distribution):
        count = len(output.centres)
        probability = (2 * random[:, :count]).softmax(dim=1)
        value = output.value * (1 + 0.5 * random[:, count:]) + 0.1 * random[:, count:]
        return output.with_stack(torch.cat([probability, value], dim=1))
    if isinstance(output, Values):
        return output.with_stack(scale_randomly(output.stack, random))
    return output.with_stack(random)


def scale_randomly(values: Tensor, random: Tensor) -> Tensor:
    """Multiply values by random positive factors."""
    return values * (0.5 * random).exp()
