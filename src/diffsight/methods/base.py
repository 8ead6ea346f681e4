"""The interface of a method, which connects a backbone, prompts, a neck and a head."""

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
    """How a method is trained on a few labelled images.

    Attributes:
        learning_rates: learning rates by the prefix of a parameter's name in the method. The
            longest matching prefix wins; ``""`` matches all other parameters.
        batch_size: images per step.
        max_steps: largest number of steps; more steps would overfit.
        constant_fraction: fraction of the steps at the full learning rate, in [0, 1]. After them it
            falls to 0 (half a cosine period).
        weight_decay: weight decay of AdamW, for all parameters.
        clip_norms: largest norm of the gradient, by the prefix of the parameters' names.
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
                raise InputError(f"{name} is out of range: give another number")


@dataclass(frozen=True)
class Explanation:
    """The output of a method for one image, with its intermediate results.

    Attributes:
        output: output of the method.
        maps: further maps by name, such as the cross-attention of a token.
        rearranged: products of the features with each prompt by name, each scaled to the range from
            0 to 1, if the method multiplies them.
        values: label values of the classes in this image, in the unit of the labels; None if the
            classes have no values.
        tables: tables of a trained codebook, in the unit of the labels.
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
"""Constructor arguments that are chosen on held-out images after training."""


class AbstractMethod(nn.Module, Configurable, abc.ABC):
    """A network that maps images in [0, 1] of any size to an output of the same size.

    Attributes:
        output_kinds: kinds of output that the method supports.
        accepts_prompt: whether the method reads ``Inputs.prompts``.
        requires_prompt: whether every image needs a sentence as prompt.
        accepts_steps: whether the method reads ``Inputs.steps``.
        size_multiple: images are padded to a multiple of this many pixels.
    """

    unrecorded = frozenset({"output"})  # the task sets this argument
    output_kinds: ClassVar[tuple[Kind, ...]]
    accepts_prompt: bool = False
    requires_prompt: bool = False
    accepts_steps: bool = False
    size_multiple: int = 1

    def encode(self, inputs: Inputs) -> Encoded:
        """Return the frozen, noise-free features, computed once per image; default: none."""
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
            draws: random numbers of this pass.
        """

    def trained_pixels(self, draws: Draws | None, target: Target | None) -> PixelGrid | None:
        """Return the pixels for which ``forward`` computes an output in training; None: all.

        Args:
            draws: as passed to ``forward``.
            target: as passed to ``forward``.
        """
        return None

    def frozen(self) -> Mapping[str, PretrainedPart]:
        """Return the parts that are never trained, by their attribute path.

        For parts from the package or a hub id, a saved model stores a reference instead of the
        weights. The attribute path is also the path of the constructor arguments.
        """
        return {}

    def fit_statistics(
        self, encoded: Sequence[Any], class_frequencies: Float[Tensor, " n"] | None
    ) -> None:
        """Compute statistics of the training images before the first step; default: none.

        Args:
            encoded: results of ``encode`` for the training images.
            class_frequencies: fraction of the labelled pixels in each class; None for outputs
                without classes.
        """

    def variants(self) -> Sequence[Variant]:
        """Return the settings that are compared on held-out images; default: the current ones."""
        return ({},)

    def forward_variants(self, inputs: Inputs, encoded: Any = None) -> list[Output]:
        """Return the output of every variant, from one pass with the noise of seed 0."""
        return [self(inputs, encoded, draws=Draws((0,) * len(inputs.image)))]

    def use(self, variant: Variant) -> None:
        """Set the arguments of one of ``variants``."""
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
        """Return a placeholder for ``Inputs.text`` of one image, to count the cost of a pass."""
        return None

    def check_rig(self, rig: Rig) -> None:
        """Refuse a camera rig that the method cannot process; default: accept every rig.

        Raises:
            InputError: if the rig is refused.
        """

    def example_rig(self, hw: tuple[int, int]) -> Rig | None:
        """Return a placeholder for ``Inputs.rig``, to count a pass; None: it reads one image."""
        return None

    @classmethod
    def from_backbone(cls, source: BackboneSource, **options: Any) -> "MethodBuilder":
        """Return a builder of the method with its default parts on a pretrained backbone.

        Args:
            source: the backbone.
            options: arguments of the constructor that replace the defaults.

        Raises:
            InputError: if the method does not support the backbone, or an option is unknown.
        """
        raise InputError(
            f"{cls.__name__} has no default parts for few labelled images: implement "
            "from_backbone, or train it with `diffsight fit`"
        )

    @classmethod
    def infer_arguments(cls, names: Collection[str]) -> Mapping[str, int | None]:
        """Return the constructor's arguments that stored weights show, for messages; default: none.

        Args:
            names: names of the tensors in the method.

        Returns:
            Values by argument; None if these names do not show the value.
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
        """Return the settings for a backbone and an output; default: ``few_shot_defaults``."""
        return cls.few_shot_defaults()


@runtime_checkable
class MethodBuilder(Protocol):
    """A function that builds a method for an output; called with keyword arguments only."""

    def __call__(self, *, output: OutputSpec) -> AbstractMethod:
        """Return a method with this output."""
        ...


def make_builder(cls: type[AbstractMethod], make: Callable[[OutputSpec], AbstractMethod]) -> Any:
    """Return a builder that exposes the class of its methods before it is called.

    Args:
        cls: class of the methods.
        make: function that builds one.
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
        rows: class ids and weights ``b s h w`` of soft labels, and valid pixels ``b h w``.
        classes: number of classes.
    """
    total = torch.zeros(classes, dtype=torch.float64)
    for ids, weights, valid in rows:
        counted = (weights * valid[:, None]).flatten().double().cpu()
        total.index_add_(0, ids.flatten().long().cpu(), counted)
    if total.sum() == 0:  # with boxes, every pixel may be unlabelled
        total += 1
    return (total / total.sum()).float()
