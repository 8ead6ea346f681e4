"""``DenseModel``: one task and one method, trained, saved, loaded and run as one module."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffsight.config import Configurable, class_of
from diffsight.errors import InputError
from diffsight.methods.base import AbstractMethod, MethodBuilder
from diffsight.outputs import Output, OutputSpec, SoftLabels
from diffsight.tasks.base import AbstractTask
from diffsight.tasks.prediction import Prediction
from diffsight.types import Draws, Inputs, Target


class DenseModel(nn.Module, Configurable):
    """A task and the method (architecture) that solves it.

    Args:
        task: meaning of the labels and predictions.
        method: builder of the architecture. It is called with the first output spec of the task
            that the method supports.

    Attributes:
        output: spec of the method's output.
        info: facts about the model as plain data: ``short_side`` of its training images,
            ``held_out`` scores, ``evaluations``, ``license`` ... Saved with the model.
        baselines: label maps of the training set by name, the same for every image
            (``AbstractTask.baselines``). ``save`` stores them, ``load`` reads them.

    Raises:
        InputError: if the method supports none of the task's outputs, or if it reads no sentences
            although the task needs them.
    """

    def __init__(self, *, task: AbstractTask, method: MethodBuilder) -> None:
        super().__init__()
        self.task = task
        self.output = choose_output(task, method)
        self.method = method(output=self.output)
        self._restate({"method": self.method})
        if task.requires_prompt and not self.method.accepts_prompt:
            raise InputError(
                f"{type(self.method).__name__} reads no sentences, but {type(task).__name__} needs "
                "them: choose VPD, EVP or MetaPrompts"
            )
        self.info: dict[str, Any] = {}
        self.baselines: Mapping[str, Tensor] = {}

    @property
    def requires_prompt(self) -> bool:
        """Whether every image needs a sentence (a referring expression or a caption)."""
        return self.task.requires_prompt or self.method.requires_prompt

    @property
    def reads_text(self) -> bool:
        """Whether the output depends on the text of an image."""
        return self.method.accepts_prompt and not self.method.ignores_text

    def check_prompt(self, text: str | None) -> None:
        """Refuse a prompt that the model cannot use.

        Raises:
            InputError: if a required prompt is missing, or a prompt is unknown, too long or not
                read.
        """
        if text is not None and self.method.ignores_text and not self.task.requires_prompt:
            raise InputError("the model reads no text: leave the prompt out")
        self.method.check_prompt(text)

    @property
    def reads_rig(self) -> bool:
        """Whether the model reads a rig of several cameras instead of one image."""
        return self.output.grid is not None

    def encode(self, inputs: Inputs) -> Any:
        """Return the frozen, noise-free features of the inputs, see ``AbstractMethod.encode``."""
        return self.method.encode(inputs)

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        """Return the method's output, see ``AbstractMethod.forward``."""
        return self.method(inputs, encoded, target, draws=draws)

    def losses(
        self,
        inputs: Inputs,
        target: Target,
        *,
        encoded: Any = None,
        soft_labels: SoftLabels | None = None,
        draws: Draws | None = None,
    ) -> dict[str, Tensor]:
        """Return scalar losses by name; training minimises the one called ``loss``.

        Args:
            inputs: images and prompts.
            target: labels.
            encoded: result of ``encode`` for the inputs; None computes it.
            soft_labels: result of the task's ``encode_label``; None computes it.
            draws: random numbers of the forward pass.
        """
        output = self(inputs, encoded, target, draws=draws)
        if pixels := self.method.trained_pixels(draws, target):
            target = target.at(pixels)
            soft_labels = soft_labels and soft_labels.at(pixels)
        return self.task.loss(output, target, soft_labels)

    @torch.no_grad()
    def predict(self, inputs: Inputs, *, draws: Draws | None = None) -> Sequence[Prediction]:
        """Return one prediction per image from one forward pass.

        Windows, flips and scales are in ``inference``.
        """
        return self.task.decode(self(inputs, draws=draws))


def choose_output(task: AbstractTask, method: MethodBuilder) -> OutputSpec:
    """Return the first output spec of the task that the method supports.

    For a builder whose class is not known, it is the first spec of the task.

    Raises:
        InputError: if the method supports none of them.
    """
    cls = class_of(method)
    if cls is None or not issubclass(cls, AbstractMethod):
        return task.outputs[0]
    for spec in task.outputs:
        if spec.kind in cls.output_kinds:
            return spec
    wanted = " or ".join(spec.describe() for spec in task.outputs)
    has_bins = "distribution" in cls.output_kinds and task.outputs[0].kind == "values"
    hint = "set the task's bins" if has_bins else "choose another method"
    raise InputError(
        f"{cls.__name__} predicts {' or '.join(cls.output_kinds)}, but {type(task).__name__} needs "
        f"{wanted}: {hint}"
    )
