"""The contract of methods: one paper wires backbone, prompts, neck and head as it does."""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        learning_rates: by the beginning of a parameter's name in the method; the longest one wins,
            and ``""`` is that of all others.
        batch_size: images per step.
        max_steps: more would only overfit.
        constant_fraction: of the steps, before the learning rate falls to 0 (a half cosine).
        weight_decay: of AdamW, on all parameters.
        clip_norms: largest norm of the gradient, by the beginning of the parameters' names.
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
                raise InputError(f"{name} of a training is out of range: give another number")


@dataclass(frozen=True)
class Explanation:
    """What a method computes on the way to its output, for one image.

    Attributes:
        output: of the method.
        maps: further maps by name, such as the cross-attention of a token.
        values: of the classes in this image, in the unit of the labels; None where they have none.
        tables: of a learned codebook.
        weights: of the tables in this image, if there are several; they sum to 1.
        steps: the output of every step, of a method that refines it step by step; it may be smaller
            than the image.
    """

    output: Output
    maps: Mapping[str, Float[Tensor, "h w"]] = field(default_factory=dict)
    values: Float[Tensor, "n d"] | None = None
    tables: Float[Tensor, "k n d"] | None = None
    weights: Float[Tensor, " k"] | None = None
    steps: tuple[Output, ...] = ()


Variant = Mapping[str, Any]
"""Constructor arguments that are chosen on held-out images after training."""


class AbstractMethod(nn.Module, Configurable, abc.ABC):
    """Images in [0, 1] of any size in, an output of the same size out.

    Attributes:
        output_kinds: kinds of output that the method can give.
        accepts_prompt: whether ``Inputs.prompts`` play a part.
        requires_prompt: whether every image needs a sentence.
        accepts_steps: whether ``Inputs.steps`` play a part.
        size_multiple: images are padded to a multiple of this many pixels.
    """

    unrecorded = frozenset({"output"})  # argument that the task gives
    output_kinds: ClassVar[tuple[Kind, ...]]
    accepts_prompt: bool = False
    requires_prompt: bool = False
    accepts_steps: bool = False
    size_multiple: int = 1

    def encode(self, inputs: Inputs) -> Encoded:
        """Return what is frozen and free of noise, computed once per image; default: nothing."""
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
            encoded: what ``encode`` gives for them; None computes it.
            target: labels, for methods that diffuse them.
            draws: random numbers of this pass.
        """

    def trained_pixels(self, draws: Draws | None, target: Target | None) -> PixelGrid | None:
        """Return the pixels that ``forward`` gives an output for in a training step; None: all.

        Args:
            draws: those of ``forward``.
            target: that of ``forward``.
        """
        return None

    def frozen(self) -> Mapping[str, PretrainedPart]:
        """Return the parts that never learn, by the path of attributes to them.

        A saved model holds them by reference where they came from the package or a hub id. The path
        is that of the constructor arguments too.
        """
        return {}

    def fit_statistics(
        self, encoded: Sequence[Any], class_frequencies: Float[Tensor, " n"] | None
    ) -> None:
        """Take statistics of the training images before the first step; default: nothing.

        Args:
            encoded: of training images, as ``encode`` gives them.
            class_frequencies: of the labelled pixels, by class; None for outputs without classes.
        """

    def variants(self) -> Sequence[Variant]:
        """Return the settings of which one is chosen on held-out images; default: the present."""
        return ({},)

    def forward_variants(self, inputs: Inputs, encoded: Any = None) -> list[Output]:
        """Return the output of every variant, from one pass with the noise of seed 0."""
        return [self(inputs, encoded, draws=Draws((0,) * len(inputs.image)))]

    def use(self, variant: Variant) -> None:
        """Use one of ``variants`` from now on."""
        assert not variant

    def explain(self, inputs: Inputs, encoded: Any = None) -> Explanation:
        """Return how one image comes to its output, with the noise of seed 0."""
        return Explanation(self(inputs, encoded, draws=Draws((0,))))

    def check_prompt(self, text: str | None) -> None:
        """Refuse a prompt that the method cannot use.

        Raises:
            InputError: if it is missing where one is required, superfluous, or too long.
        """
        if text is not None and not self.accepts_prompt:
            raise InputError(f"{type(self).__name__} takes no prompt: leave it out")
        if self.requires_prompt and not (text or "").strip():
            raise InputError("the model reads a sentence about the image: give one as prompt")

    def example_text(self) -> Tensor | None:
        """Return what stands for ``Inputs.text`` of one image when a pass is only counted."""
        return None

    def check_rig(self, rig: Rig) -> None:
        """Refuse cameras that the method cannot read, before they are run; default: nothing.

        Raises:
            InputError: if there is such a reason.
        """

    def example_rig(self, hw: tuple[int, int]) -> Rig | None:
        """Return what stands for ``Inputs.rig`` when a pass is only counted; None: one image."""
        return None

    @classmethod
    def from_backbone(cls, source: BackboneSource, **options: Any) -> "MethodBuilder":
        """Return a builder of the method with its default parts on a pretrained model.

        Raises:
            InputError: if the method cannot stand on it, or an option is unknown.
        """
        raise InputError(
            f"{cls.__name__} has no default parts for few labelled images: write from_backbone, or "
            "train it with `diffsight fit`"
        )

    @classmethod
    def supports(cls, source: BackboneSource) -> bool:
        """Return whether ``from_backbone`` can build the method on a backbone; default: any."""
        return True

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        """Return how the method is trained on a few labelled images."""
        return FitSettings({"": 5e-4}, batch_size=8, max_steps=2000, weight_decay=0.01)

    @classmethod
    def few_shot_settings(cls, source: BackboneSource, output: OutputSpec) -> FitSettings:
        """Return the same for a backbone and an output; default: ``few_shot_defaults``."""
        return cls.few_shot_defaults()


@runtime_checkable
class MethodBuilder(Protocol):
    """Makes a method for a task; always called with keywords."""

    def __call__(self, *, output: OutputSpec) -> AbstractMethod:
        """Make a method that gives this output."""
        ...


def builder_of(cls: type[AbstractMethod], make: Callable[[OutputSpec], AbstractMethod]) -> Any:
    """Return a builder whose class is known before it is called."""

    class Builder:
        func = cls

        def __call__(self, *, output: OutputSpec) -> AbstractMethod:
            return make(output)

    return Builder()


def learned_parameters(module: nn.Module) -> int:
    """Return how many numbers learn."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def mean_frequencies(rows: Iterable[tuple[Tensor, Tensor, Tensor]], classes: int) -> Tensor:
    """Return the fraction of the labelled pixels that is of each class; equal ones without any.

    Args:
        rows: ids and weights ``b s h w`` of soft labels, and valid pixels ``b h w``.
        classes: their number.
    """
    total = torch.zeros(classes, dtype=torch.float64)
    for ids, weights, valid in rows:
        counted = (weights * valid[:, None]).flatten().double().cpu()
        total.index_add_(0, ids.flatten().long().cpu(), counted)
    if total.sum() == 0:  # boxes may leave every pixel open
        total += 1
    return (total / total.sum()).float()
