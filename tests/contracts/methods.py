"""Contract tests of methods."""

import abc
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import diffsight
from diffsight.backbones import PretrainedPart
from diffsight.errors import InputError
from diffsight.methods import AbstractMethod
from diffsight.methods.base import FitSettings
from diffsight.model import DenseModel
from diffsight.types import Draws, Encoded, Inputs, Target
from tests.contracts.checks import (
    assert_gradients_reach,
    assert_in_32_bit,
    assert_rows_independent,
)
from tests.support import images, random_target, randomise_weights


class MethodContract(abc.ABC):
    """Tests of a method inside its model.

    Attributes:
        subject: class of the method.
        sizes: heights and widths of images, multiples of 64 and others.
        frozen: prefixes of the names of frozen parameters.
        without_gradient: trainable parameters may have no gradient if their name contains one of
            these (such as the queries of an attention over one token).
        prompts: two or more prompts that the model supports, or None.
        row_dtype: dtype in which the rows of a batch are compared with single images.
    """

    subject: ClassVar[type[AbstractMethod]]
    sizes: ClassVar[tuple[tuple[int, int], ...]] = ((64, 64), (64, 128), (37, 90))
    frozen: ClassVar[tuple[str, ...]] = ()
    without_gradient: ClassVar[tuple[str, ...]] = ()
    prompts: ClassVar[tuple[str, ...] | None] = None
    row_dtype: ClassVar[torch.dtype] = torch.float32

    @abc.abstractmethod
    def build(self) -> DenseModel:
        """Return a tiny model; its weights may be random."""

    def inputs(self, batch: int, height: int, width: int) -> Inputs:
        """Return a batch of images; prompts differ, and the last image has none."""
        prompts = None
        if self.prompts:
            prompts = (*(self.prompts[i % len(self.prompts)] for i in range(batch - 1)), None)
        return Inputs(images(batch, height, width), prompts)

    def test_the_output_has_the_size_of_the_image(self) -> None:
        model = self.build().eval()
        assert isinstance(model.method, self.subject)
        kinds = [spec.kind for spec in model.task.outputs]
        assert set(kinds) & set(self.subject.output_kinds)
        for height, width in self.sizes:
            with torch.no_grad():
                output = model(self.inputs(1, height, width))
            stride = model.output.stride
            assert output.hw == (-(-height // stride), -(-width // stride))
            assert output.stack.isfinite().all()
            assert len(model.task.decode(output)) == 1

    def test_row_does_not_depend_on_its_batch(self) -> None:
        model = randomise_weights(self.build()).eval().to(self.row_dtype)
        inputs = self.inputs(3, *self.sizes[-1])
        inputs = replace(inputs, image=inputs.image.to(self.row_dtype))
        assert_rows_independent(
            lambda i: model(inputs if i is None else row_of(inputs, i)).stack, 3
        )

    def test_a_pass_on_encoded_images_equals_a_full_pass(self) -> None:
        model = randomise_weights(self.build()).eval()
        inputs = self.inputs(3, *self.sizes[-1])
        draws = Draws((1, 2, 3))
        with torch.no_grad():
            encoded = model.encode(inputs)
            whole = model(inputs, draws=draws).stack
            assert torch.equal(model(inputs, encoded, draws=draws).stack, whole)
            # encoding reads only the image
            again = model.encode(replace(inputs, prompts=None))
        assert_same_encoded(encoded, again)

    def test_encoded_batches_can_be_indexed_and_concatenated(self) -> None:
        model = randomise_weights(self.build()).eval()
        inputs = self.inputs(3, *self.sizes[-1])
        draws = Draws((1, 2, 3))
        with torch.no_grad():
            encoded = model.encode(inputs)
        assert_same_encoded(encoded.rows([2, 0]).rows([1, 0]), encoded.rows([0, 2]))
        parts = [encoded.rows(slice(i, i + 1)) for i in range(3)]
        assert_same_encoded(type(encoded).concatenate(parts), encoded)

        def run(i: int | None) -> Tensor:
            if i is None:
                return model(inputs, encoded, draws=draws).stack
            return model(row_of(inputs, i), parts[i], draws=Draws((i + 1,))).stack

        assert_rows_independent(run, 3)

    def test_gradients_reach_trainable_parameters_and_frozen_ones_do_not_change(self) -> None:
        model = self.build().train()
        # not the smallest size, where attention over a single position has no gradient
        inputs, target = self.inputs(2, *self.sizes[1]), self.target(model, 2, *self.sizes[1])
        before = copy.deepcopy(model.state_dict())
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad != name.startswith(self.frozen), name
        assert_gradients_reach(model, model.losses(inputs, target)["loss"], self.without_gradient)
        trainable = [p for p in model.parameters() if p.requires_grad]
        torch.optim.SGD(trainable, lr=0.1).step()
        for name, value in model.state_dict().items():
            if name.startswith(self.frozen):
                assert torch.equal(value, before[name]), f"{name} is frozen and has changed"

    def test_frozen_parts_are_not_trainable(self) -> None:
        model = self.build()
        for path, part in model.method.frozen().items():
            assert isinstance(part, PretrainedPart)
            assert model.method.get_submodule(path) is part
            assert f"method.{path}.".startswith(self.frozen)
            assert not any(p.requires_grad for p in part.parameters())

    def test_evaluation_is_deterministic(self) -> None:
        model = self.build().eval()
        inputs = self.inputs(1, *self.sizes[0])
        with torch.no_grad():
            assert torch.equal(model(inputs).stack, model(inputs).stack)

    def test_forward_variants_equals_a_forward_pass_for_each_variant(self) -> None:
        model = randomise_weights(self.build()).eval()
        method, inputs = model.method, self.inputs(2, *self.sizes[0])
        variants = method.variants()
        with torch.no_grad():
            outputs = method.forward_variants(inputs, method.encode(inputs))
            assert len(outputs) == len(variants) > 0
            for variant, output in zip(variants, outputs, strict=True):
                method.use(variant)
                expected = method(inputs, draws=Draws((0, 0))).stack
                torch.testing.assert_close(expected, output.stack)
                assert all(method._arguments[name] == value for name, value in variant.items())

    def test_an_explanation_has_the_output_and_maps_of_the_image(self) -> None:
        model = randomise_weights(self.build()).eval()
        inputs = self.inputs(1, *self.sizes[-1])
        with torch.no_grad():
            explanation = model.method.explain(inputs, model.encode(inputs))
            expected = model(inputs, draws=Draws((0,)))
        torch.testing.assert_close(explanation.output.stack, expected.stack)
        for maps in explanation.maps.values():
            assert maps.shape == self.sizes[-1]
        if explanation.weights is not None:
            torch.testing.assert_close(explanation.weights.sum(), torch.ones(()))

    def test_outputs_have_32_bits_in_mixed_precision(self) -> None:
        model = randomise_weights(self.build()).eval()
        inputs = self.inputs(1, *self.sizes[1])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert_in_32_bit(model(inputs, draws=Draws((0,))))

    def test_a_pass_runs_on_the_meta_device(self) -> None:
        model = self.build().to("meta").eval()
        height, width = self.sizes[0]
        image = torch.empty(1, 3, height, width, device="meta")
        with torch.no_grad():
            output = model(Inputs(image, text=model.method.example_text()), draws=Draws((0,)))
        assert output.stack.is_meta
        stride = model.output.stride
        assert output.hw == (height // stride, width // stride)

    def test_few_shot_learning_rates_cover_all_parameters(self) -> None:
        model, settings = self.build(), self.subject.few_shot_defaults()
        assert isinstance(settings, FitSettings)
        trainable = [n for n, p in model.method.named_parameters() if p.requires_grad]
        for name in trainable:
            assert any(name.startswith(prefix) for prefix in settings.learning_rates), name

    def test_a_prompt_is_refused_if_it_is_not_supported(self) -> None:
        method = self.build().method
        if method.accepts_prompt:
            return
        with pytest.raises(InputError, match="takes no prompt"):
            method.check_prompt("a chair")

    def test_a_loaded_model_equals_the_saved_one(self, tmp_path: Path) -> None:
        model = self.build().eval()
        diffsight.save(model, tmp_path / "model")
        loaded = diffsight.load(tmp_path / "model").eval()
        inputs = self.inputs(1, *self.sizes[0])
        with torch.no_grad():
            assert torch.equal(loaded(inputs).stack, model(inputs).stack)
        ours, theirs = model.state_dict(), loaded.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        is_trainable = {name: p.requires_grad for name, p in model.named_parameters()}
        assert is_trainable == {name: p.requires_grad for name, p in loaded.named_parameters()}

    def target(self, model: DenseModel, batch: int, height: int, width: int) -> Target:
        """Return random labels of the model's task."""
        return random_target(model.task, batch, height, width)


def row_of(inputs: Inputs, i: int) -> Inputs:
    """Return the inputs of image ``i`` alone."""
    prompts = inputs.prompts and inputs.prompts[i : i + 1]
    text = None if inputs.text is None else inputs.text[i : i + 1]
    return Inputs(inputs.image[i : i + 1], prompts, text)


def assert_same_encoded(a: Encoded, b: Encoded) -> None:
    """Check that all tensors are equal."""
    assert type(a) is type(b)
    torch.testing.assert_close(tensors_of(a), tensors_of(b), rtol=0, atol=0)


def tensors_of(encoded: Any) -> list[Tensor]:
    """Return all tensors of an encoded batch."""
    values = encoded if isinstance(encoded, tuple) else vars(encoded).values()
    tensors = []
    for value in values:
        if isinstance(value, tuple):
            tensors += tensors_of(value)
        elif value is not None:
            tensors.append(value)
    return tensors
