"""The base class of methods, which connect a backbone, prompts, a neck and a head."""

import abc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.backbones import BackboneSource, PretrainedPart
from diffsight.config import Configurable
from diffsight.errors import InputError
from diffsight.outputs import Kind, Output, OutputSpec
from diffsight.rig import Rig
from diffsight.types import Draws, Encoded, Inputs, PixelGrid, Target


@dataclass(frozen=True)
class FitSettings:
    """Training settings of a method for a few labelled images.

    Attributes:
        learning_rates: learning rates by the prefix of a parameter's name in the method. The
            longest matching prefix wins; ``""`` matches all other parameters.
        batch_size: images per step.
        max_steps: largest number of steps; more steps would overfit.
        constant_fraction: fraction of the steps with the full learning rate, in [0, 1]. In the
            other steps it falls to 0 (half a cosine period).
        weight_decay: weight decay of AdamW, for all parameters.
        clip_norms: largest norm of the gradient, by the prefix of the parameters' names.

    Raises:
        InputError: if a number is out of range.
    """

    learning_rates: Mapping[str, float]
    batch_size: int
    max_steps: int
    constant_fraction: float = 0.0
    weight_decay: float = 0.0
    clip_norms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse numbers that are out of range."""
        rates = {f"learning_rates {k!r}": v > 0 for k, v in self.learning_rates.items()}
        norms = {f"clip_norms {k!r}": v > 0 for k, v in self.clip_norms.items()}
        rules = {
            "batch_size": self.batch_size >= 1,
            "max_steps": self.max_steps >= 1,
            "constant_fraction": 0 <= self.constant_fraction <= 1,
            "weight_decay": self.weight_decay >= 0,
        }
        for name, is_sound in {**rules, **rates, **norms}.items():
            if not is_sound:
                raise InputError(
                    f"{name} is out of range: give a constant_fraction in [0, 1], a weight_decay "
                    "of 0 or more, and other settings above 0"
                )


@dataclass(frozen=True)
class Explanation:
    """The output of a method for one image, with its intermediate results.

    Attributes:
        output: output of the method.
        maps: further maps by name, such as the cross-attention of a token.
        rearranged: product of the features with each prompt by name, scaled to the range from 0 to
            1 (Meta Prompts); empty for other methods.
        values: value of each class in this image, in the unit of the labels; None if the classes
            have no values.
        tables: ``k`` tables of class values of a trained label codebook, in the unit of the labels.
        weights: weights of these tables in this image, if there are several; they sum to 1.
        steps: output after every step, if the method refines its output step by step. It may be
            smaller than the image.
    """

    output: Output
    maps: Mapping[str, Float[Tensor, "h w"]] = field(default_factory=dict)
    values: Float[Tensor, "n d"] | None = None
    tables: Float[Tensor, "k n d"] | None = None
    weights: Float[Tensor, " k"] | None = None
    steps: tuple[Output, ...] = ()
    rearranged: Mapping[str, Float[Tensor, "h w"]] = field(default_factory=dict)


Variant = Mapping[str, Any]
"""Values of constructor arguments that are chosen on held-out images after training."""


class AbstractMethod(nn.Module, Configurable, abc.ABC):
    """Base class of methods: networks that map images of any size to an output of the same size.

    Attributes:
        output_kinds: kinds of output that the method supports.
        accepts_prompt: whether the method reads ``Inputs.prompts``.
        ignores_text: whether the prompts that it accepts do not change the output, because the
            condition is the same for all images.
        requires_prompt: whether every image needs a sentence as prompt.
        accepts_steps: whether the method reads ``Inputs.steps``.
        uses_noise: whether predictions depend on the seeds of ``draws``, so that the passes of an
            ensemble differ.
        size_multiple: images are padded to a multiple of this many pixels.
    """

    unrecorded = frozenset({"output"})  # the task sets this argument
    output_kinds: ClassVar[tuple[Kind, ...]]
    accepts_prompt: bool = False
    ignores_text: bool = False
    requires_prompt: bool = False
    accepts_steps: bool = False
    uses_noise: bool = False
    size_multiple: int = 1

    def encode(self, inputs: Inputs) -> Encoded:
        """Return the outputs of the frozen networks, which are computed once per image.

        They do not depend on random noise. By default there are none.
        """
        return Encoded()

    @abc.abstractmethod
    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        """Return the output at the size of the image.

        Args:
            inputs: images and prompts.
            encoded: result of ``encode`` for these inputs; None computes it.
            target: labels, for methods that add noise to them in training.
            draws: random numbers of this pass; None: the method chooses its own.
        """

    def trained_pixels(self, draws: Draws | None, target: Target | None) -> PixelGrid | None:
        """Return the pixels for which ``forward`` computes an output in training; None: all pixels.

        Args:
            draws: random numbers, as passed to ``forward``.
            target: labels, as passed to ``forward``.
        """
        return None

    def frozen(self) -> Mapping[str, PretrainedPart]:
        """Return the pretrained networks that are never trained, by their attribute path.

        The attribute path is also the path of the constructor arguments. For networks from the
        package or a hub id, a saved model stores a reference instead of the weights.
        """
        return {}

    def fit_statistics(
        self, encoded: Sequence[Any], class_frequencies: Float[Tensor, " n"] | None
    ) -> None:
        """Compute statistics of the training images before the first step; default: do nothing.

        Args:
            encoded: results of ``encode`` for the training images.
            class_frequencies: fraction of the labelled pixels in each class; None for outputs
                without classes.
        """

    def variants(self) -> Sequence[Variant]:
        """Return the argument values that are compared on held-out images after training.

        By default there is one variant: the current values.
        """
        return ({},)

    def forward_variants(self, inputs: Inputs, encoded: Any = None) -> list[Output]:
        """Return the output of every variant, from one pass with the noise of seed 0."""
        return [self(inputs, encoded, draws=Draws((0,) * len(inputs.image)))]

    def use(self, variant: Variant) -> None:
        """Set the argument values of one of ``variants``."""
        assert not variant

    def explain(self, inputs: Inputs, encoded: Any = None) -> Explanation:
        """Return the output and intermediate results of one image, with the noise of seed 0."""
        return Explanation(self(inputs, encoded, draws=Draws((0,))))

    def check_prompt(self, text: str | None) -> None:
        """Refuse a prompt that the method cannot use.

        Raises:
            InputError: if a required prompt is missing, or a prompt is not supported or too long.
        """
        if text is not None and not self.accepts_prompt:
            raise InputError(f"{type(self).__name__} takes no prompt: leave it out")
        if self.requires_prompt and not (text or "").strip():
            raise InputError("the model reads a sentence about the image: give one as prompt")

    def example_text(self) -> Tensor | None:
        """Return a placeholder for ``Inputs.text`` of one image, to count the operations of a pass.

        It is on the meta device; None if the method reads no encoded text.
        """
        return None

    def check_rig(self, rig: Rig) -> None:
        """Refuse a camera rig that the method cannot process; default: accept every rig.

        Raises:
            InputError: if the rig is refused.
        """

    def example_rig(self, hw: tuple[int, int]) -> Rig | None:
        """Return a placeholder for ``Inputs.rig``, to count the operations of a pass.

        Args:
            hw: height and width of a camera image in pixels.

        Returns:
            The rig; None if the method reads one image.
        """
        return None

    @classmethod
    def from_backbone(cls, source: BackboneSource, **options: Any) -> "MethodBuilder":
        """Return a builder of the method on a pretrained backbone, with default neck and head.

        Args:
            source: the backbone.
            options: arguments of the constructor, which replace the defaults.

        Raises:
            InputError: if the method does not support the backbone, or an option is unknown.
        """
        raise InputError(
            f"{cls.__name__} has no default parts for few labelled images: implement "
            "from_backbone, or train it with `diffsight fit`"
        )

    @classmethod
    def infer_arguments(cls, names: Collection[str]) -> Mapping[str, int | None]:
        """Return constructor arguments inferred from stored weights, for messages; default: none.

        Args:
            names: names of the stored tensors of the method.

        Returns:
            Values by argument; a value is None if these names do not determine it.
        """
        return {}

    @classmethod
    def supports(cls, source: BackboneSource) -> bool:
        """Return whether ``from_backbone`` supports the backbone; default: True."""
        return True

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return the training settings for a few labelled images."""
        return FitSettings({"": 5e-4}, batch_size=8, max_steps=2000, weight_decay=0.01)

    @classmethod
    def few_shot_settings(cls, source: BackboneSource, output: OutputSpec) -> FitSettings:
        """Return the training settings for a few labelled images, a backbone and an output.

        By default they are ``few_shot_defaults``.

        Raises:
            InputError: if ``few_shot_defaults`` returns an object of another type.
        """
        settings: Any = cls.few_shot_defaults()
        if not isinstance(settings, FitSettings):
            raise InputError(f"{cls.__name__}: few_shot_defaults must return FitSettings")
        return settings


@runtime_checkable
class MethodBuilder(Protocol):
    """A function that builds a method for an output; its argument is given by keyword."""

    def __call__(self, *, output: OutputSpec) -> AbstractMethod:
        """Return a method with this output."""
        ...


def make_builder(cls: type[AbstractMethod], make: Callable[[OutputSpec], AbstractMethod]) -> Any:
    """Return a builder that exposes the class of its method before the method is built.

    Args:
        cls: class of the method.
        make: function that builds the method.
    """

    class Builder:
        func = cls

        def __call__(self, *, output: OutputSpec) -> AbstractMethod:
            return make(output)

    return Builder()


def count_trainable_parameters(module: nn.Module) -> int:
    """Return the number of trainable values in a module."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def mean_frequencies(rows: Iterable[tuple[Tensor, Tensor, Tensor]], classes: int) -> Tensor:
    """Return the fraction of labelled pixels in each class; equal fractions without labels.

    Args:
        rows: batches of soft labels: class ids ``b s h w``, weights ``b s h w``, and valid pixels
            ``b h w``.
        classes: number of classes.
    """
    total = torch.zeros(classes, dtype=torch.float64)
    for ids, weights, valid in rows:
        counted = (weights * valid[:, None]).flatten().double().cpu()
        total.index_add_(0, ids.flatten().long().cpu(), counted)
    if total.sum() == 0:  # with boxes, every pixel may be unlabelled
        total += 1
    return (total / total.sum()).float()
