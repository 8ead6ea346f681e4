"""What every method, head, neck, backbone, data set and task must keep: subclass and build.

    class TestDeconvHead(HeadContract):
        pyramids = (((12,), (8,)),)

        def build(self, in_channels, strides):
            return DeconvHead(in_channels=in_channels, strides=strides, num_outputs=2)

Models are to be tiny: a contract runs them a dozen times.
"""

import abc
import copy
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import diffsight
from diffsight.datasets.base import AbstractDataset
from diffsight.errors import InputError
from diffsight.model import DenseModel
from diffsight.types import Inputs, Pyramid, RawOutput, Target
from tests.support import (
    assert_same_sample,
    assert_sample,
    enliven,
    images,
    noise,
    pyramid_of,
    take_row,
    weighted_sum,
)

ROW_TOLERANCE = 1e-5


def assert_rows_independent(run: Callable[[int | None], Tensor], batch: int) -> None:
    """``run(None)`` is the batch's output, ``run(i)`` that of image ``i`` alone."""
    with torch.no_grad():
        together = run(None)
        for i in range(batch):
            alone = run(i)[0]
            worst = (together[i] - alone).abs().max() / alone.abs().max().clamp(min=1e-30)
            assert worst <= ROW_TOLERANCE, f"row {i} depends on its batch: {worst:.2e} relative"


def assert_gradients_reach(module: nn.Module, loss: Tensor, idle: Sequence[str] = ()) -> None:
    """Every parameter that learns gets a finite, non-zero gradient, but those with idle parts."""
    loss.backward()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen and has a gradient"
            continue
        if any(part in name for part in idle):
            continue
        assert parameter.grad is not None, f"{name} learns and no gradient reaches it"
        assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"
        assert parameter.grad.any(), f"{name} learns and its gradient is all zeros"


class MethodContract(abc.ABC):
    """A method inside its model.

    Attributes:
        sizes: images that it must take, multiples of 64 and others.
        frozen: prefixes of parameters that must not change in training.
        idle: parts of names of parameters that learn in principle but get no gradient in this
            set-up (the queries of an attention over one token).
        prompts: text names that the model knows, at least two, or None.
    """

    sizes: ClassVar[tuple[tuple[int, int], ...]] = ((64, 64), (64, 128), (37, 90))
    frozen: ClassVar[tuple[str, ...]] = ()
    idle: ClassVar[tuple[str, ...]] = ()
    prompts: ClassVar[tuple[str, ...] | None] = None

    @abc.abstractmethod
    def build(self) -> DenseModel:
        """A tiny model; its weights may be random."""

    def target(self, batch: int, height: int, width: int) -> Target:
        """Labels for a loss; override for tasks that are not depth-like."""
        valid = torch.ones(batch, height, width, dtype=torch.bool)
        return Target(noise(batch, 1, height, width, seed=5).abs() + 0.5, valid)

    def inputs(self, batch: int, height: int, width: int) -> Inputs:
        """A batch with a different prompt in each row, the last row without one."""
        prompts = None
        if self.prompts:
            prompts = (*(self.prompts[i % len(self.prompts)] for i in range(batch - 1)), None)
        return Inputs(images(batch, height, width), prompts)

    def test_any_size(self) -> None:
        model = self.build().eval()
        for height, width in self.sizes:
            with torch.no_grad():
                raw = model(self.inputs(1, height, width))
            assert raw.maps.shape == (1, model.task.num_outputs, height, width)
            assert raw.maps.isfinite().all()

    def test_row_does_not_depend_on_its_batch(self) -> None:
        model = enliven(self.build()).eval()
        height, width = self.sizes[-1]
        inputs = self.inputs(3, height, width)

        def run(i: int | None) -> Tensor:
            if i is None:
                return model(inputs).maps
            prompts = inputs.prompts and inputs.prompts[i : i + 1]
            return model(Inputs(inputs.image[i : i + 1], prompts)).maps

        assert_rows_independent(run, 3)

    def test_gradients_reach_what_learns_and_frozen_stays_frozen(self) -> None:
        model = self.build().train()
        # of two sizes the wide one: attention over a single position has no gradient
        inputs, target = self.inputs(2, *self.sizes[1]), self.target(2, *self.sizes[1])
        before = copy.deepcopy(model.state_dict())
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad != name.startswith(self.frozen), name
        assert_gradients_reach(model, model.losses(inputs, target)["loss"], self.idle)
        learning = [p for p in model.parameters() if p.requires_grad]
        torch.optim.SGD(learning, lr=0.1).step()
        for name, value in model.state_dict().items():
            if name.startswith(self.frozen):
                assert torch.equal(value, before[name]), f"{name} is frozen and has changed"

    def test_evaluation_repeats_itself(self) -> None:
        model = self.build().eval()
        inputs = self.inputs(1, *self.sizes[0])
        with torch.no_grad():
            assert torch.equal(model(inputs).maps, model(inputs).maps)

    def test_saved_and_loaded_it_is_the_same_model(self, tmp_path: Path) -> None:
        model = self.build().eval()
        diffsight.save(model, tmp_path / "model")
        loaded = diffsight.load(tmp_path / "model").eval()
        inputs = self.inputs(1, *self.sizes[0])
        with torch.no_grad():
            assert torch.equal(loaded(inputs).maps, model(inputs).maps)
        ours, theirs = model.state_dict(), loaded.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        learns = {name: p.requires_grad for name, p in model.named_parameters()}
        assert learns == {name: p.requires_grad for name, p in loaded.named_parameters()}


class HeadContract(abc.ABC):
    """A head: any pyramid that it declares to take, one map at the padded image's size.

    Attributes:
        pyramids: channels and strides to build it for.
        num_outputs: what ``build`` asks for.
        size: of the image; not square, a multiple of the strides.
    """

    pyramids: ClassVar[tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]]
    num_outputs: ClassVar[int] = 2
    size: ClassVar[tuple[int, int]] = (64, 128)

    @abc.abstractmethod
    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> nn.Module:
        """A tiny head with ``num_outputs`` outputs."""

    def test_one_map_per_output_at_the_size_of_the_image(self) -> None:
        for channels, strides in self.pyramids:
            raw = self.build(channels, strides)(pyramid_of(channels, strides, 2, *self.size))
            assert isinstance(raw, RawOutput)
            assert raw.maps.shape == (2, self.num_outputs, *self.size)
            assert raw.maps.isfinite().all()

    def test_row_does_not_depend_on_its_batch(self) -> None:
        channels, strides = self.pyramids[0]
        head = enliven(self.build(channels, strides)).eval()
        pyramid = pyramid_of(channels, strides, 3, *self.size)
        assert_rows_independent(
            lambda i: head(pyramid if i is None else take_row(pyramid, i)).maps, 3
        )

    def test_gradients_reach_every_weight(self) -> None:
        for channels, strides in self.pyramids:
            head = self.build(channels, strides).train()
            maps = head(pyramid_of(channels, strides, 2, *self.size)).maps
            assert_gradients_reach(head, weighted_sum(maps))


class NeckContract(abc.ABC):
    """A neck: what it declares about its output is so. Attributes as in ``HeadContract``."""

    pyramids: ClassVar[tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]]
    size: ClassVar[tuple[int, int]] = (64, 128)

    @abc.abstractmethod
    def build(self, in_channels: tuple[int, ...], strides: tuple[int, ...]) -> Any:
        """A tiny neck."""

    def test_declared_channels_and_strides_are_the_real_ones(self) -> None:
        for channels, strides in self.pyramids:
            neck = self.build(channels, strides)
            assert_declared(
                neck(pyramid_of(channels, strides, 2, *self.size)),
                neck.out_channels,
                neck.out_strides,
                self.size,
            )

    def test_row_does_not_depend_on_its_batch(self) -> None:
        channels, strides = self.pyramids[0]
        neck = enliven(self.build(channels, strides)).eval()
        pyramid = pyramid_of(channels, strides, 3, *self.size)
        for level in range(len(neck.out_channels)):
            assert_rows_independent(
                lambda i, level=level: neck(
                    pyramid if i is None else take_row(pyramid, i)
                ).features[level],
                3,
            )

    def test_gradients_reach_every_weight(self) -> None:
        for channels, strides in self.pyramids:
            neck = self.build(channels, strides).train()
            out = neck(pyramid_of(channels, strides, 2, *self.size))
            assert_gradients_reach(neck, weighted_sum(*out.features))


def assert_declared(
    pyramid: Pyramid, channels: Sequence[int], strides: Sequence[int], size: tuple[int, int]
) -> None:
    """The pyramid has these channels and strides, finest first, for a padded image of this size."""
    assert tuple(pyramid.strides) == tuple(strides) == tuple(sorted(strides))
    assert tuple(f.shape[1] for f in pyramid.features) == tuple(channels)
    expected = [(size[0] // stride, size[1] // stride) for stride in strides]
    assert [tuple(f.shape[-2:]) for f in pyramid.features] == expected
    assert pyramid.valid_hw == size


class BackboneContract(abc.ABC):
    """A backbone: declared channels and strides are the real ones.

    Attributes:
        idle: as in ``MethodContract``.
    """

    idle: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def build(self) -> Any:
        """A tiny backbone."""

    def run(self, backbone: Any, image: Tensor) -> Pyramid:
        """One pass; override where a condition is needed."""
        return backbone(image)

    def size(self, backbone: Any) -> tuple[int, int]:
        """The smallest image that is not square."""
        return backbone.size_multiple, 2 * backbone.size_multiple

    def test_declared_channels_and_strides_are_the_real_ones(self) -> None:
        backbone = self.build()
        size = self.size(backbone)
        pyramid = self.run(backbone, images(2, *size))
        assert_declared(pyramid, backbone.channels, backbone.strides, size)

    def test_row_does_not_depend_on_its_batch(self) -> None:
        backbone = enliven(self.build()).eval()
        batch = images(3, *self.size(backbone))
        for level in range(len(backbone.channels)):
            assert_rows_independent(
                lambda i, level=level: self.run(
                    backbone, batch if i is None else batch[i : i + 1]
                ).features[level],
                3,
            )

    def test_gradients_reach_what_learns(self) -> None:
        backbone = self.build().train()
        pyramid = self.run(backbone, images(2, *self.size(backbone)))
        assert_gradients_reach(backbone, weighted_sum(*pyramid.features), self.idle)

    def test_a_side_that_is_no_multiple_is_refused_with_the_repair(self) -> None:
        backbone = self.build()
        height, width = self.size(backbone)
        with pytest.raises(InputError, match=str(backbone.size_multiple)):
            self.run(backbone, images(1, height, width + 1))


class DatasetContract(abc.ABC):
    """A data set: reading is a function of the index, and a sample is what ``Sample`` says.

    Attributes:
        checked: how many samples are read.
    """

    checked: ClassVar[int] = 4

    @abc.abstractmethod
    def build(self, folder: Path) -> AbstractDataset:
        """A data set of a few samples, with its files in ``folder``; called again, the same one."""

    def indices(self, dataset: AbstractDataset) -> range:
        """Samples that are looked at."""
        return range(min(self.checked, len(dataset)))

    def test_samples_are_what_they_should_be(self, tmp_path: Path) -> None:
        dataset = self.build(tmp_path)
        assert len(dataset) > 0
        assert dataset.name
        for i in self.indices(dataset):
            assert_sample(dataset[i], dataset)

    def test_ids_are_unique(self, tmp_path: Path) -> None:
        dataset = self.build(tmp_path)
        ids = [dataset[i].id for i in self.indices(dataset)]
        assert len(set(ids)) == len(ids)

    def test_a_sample_is_a_function_of_its_index(self, tmp_path: Path) -> None:
        first, second = self.build(tmp_path), self.build(tmp_path)
        forwards = {i: first[i] for i in self.indices(first)}
        for i in reversed(self.indices(second)):
            assert_same_sample(forwards[i], second[i])

    def test_reading_draws_no_random_number(self, tmp_path: Path) -> None:
        dataset = self.build(tmp_path)
        state = torch.random.get_rng_state()
        for i in self.indices(dataset):
            dataset[i]
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_worker_processes_can_have_it(self, tmp_path: Path) -> None:
        dataset = self.build(tmp_path)
        assert_same_sample(pickle.loads(pickle.dumps(dataset))[0], dataset[0])

    def test_it_ends(self, tmp_path: Path) -> None:
        dataset = self.build(tmp_path)
        with pytest.raises(IndexError):
            dataset[len(dataset)]


class TaskContract(abc.ABC):
    """A task: perfect output scores perfect, a double flip is nothing, predictions can be drawn."""

    size: ClassVar[tuple[int, int]] = (6, 9)

    @abc.abstractmethod
    def build(self) -> Any:
        """The task."""

    @abc.abstractmethod
    def target(self) -> Target:
        """Labels of two images of ``size``, some pixels invalid."""

    @abc.abstractmethod
    def perfect(self, target: Target) -> RawOutput:
        """What a method that knows the labels would give."""

    @abc.abstractmethod
    def spoil(self, raw: RawOutput) -> RawOutput:
        """The same output, made worse everywhere."""

    @abc.abstractmethod
    def scores(self, raw: RawOutput, target: Target) -> tuple[dict[str, float], dict[str, float]]:
        """Metrics of an output, and what they are for a perfect one."""

    def test_perfect_output_scores_perfect(self) -> None:
        target = self.target()
        got, best = self.scores(self.perfect(target), target)
        assert got == pytest.approx(best, abs=1e-6)

    def test_worse_output_has_a_larger_loss(self) -> None:
        task, target = self.build(), self.target()
        perfect = self.perfect(target)
        assert task.loss(perfect, target)["loss"] < task.loss(self.spoil(perfect), target)["loss"]

    def test_invalid_labels_are_never_read(self) -> None:
        task, target = self.build(), self.target()
        raw = self.spoil(self.perfect(target))
        keep = target.valid if target.label.ndim == 3 else target.valid[:, None]
        changed = Target(torch.where(keep, target.label, 0), target.valid)
        assert torch.equal(task.loss(raw, target)["loss"], task.loss(raw, changed)["loss"])

    def test_double_flip_is_the_identity(self) -> None:
        task = self.build()
        raw = self.spoil(self.perfect(self.target()))
        assert torch.equal(task.hflip(task.hflip(raw)).maps, raw.maps)
        assert not torch.equal(task.hflip(raw).maps, raw.maps)

    def test_every_prediction_can_be_drawn(self) -> None:
        task, target = self.build(), self.target()
        height, width = self.size
        predictions, truths = task.decode(self.perfect(target)), task.truth(target)
        assert len(predictions) == len(truths) == len(target.valid)
        for truth, prediction in zip(truths, predictions, strict=True):
            assert task.draw(prediction).shape == task.draw(truth).shape == (3, height, width)
            panel = task.panel(images(1, height, width)[0], truth, prediction)
            assert panel.dtype == torch.uint8
            assert panel.shape == (3, height, 4 * width)
