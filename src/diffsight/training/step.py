"""The training step that the plain loop and the Lightning trainer share."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diffsight.errors import InputError
from diffsight.methods.base import FitSettings
from diffsight.training.optim import AdamW
from diffsight.training.schedules import AbstractSchedule, Clock, Constant, HalfCosine

Losses = Callable[[Any], dict[str, Tensor]]


@dataclass(eq=False)
class TrainingStep:
    """The parts of a training step: losses, learning rates, gradient clipping and optimiser.

    Args:
        trained: module whose parameters are trained.
        losses: function from a batch to scalar losses by name; ``loss`` is minimised.
        optim: AdamW and its parameter groups.
        steps: optimiser steps of the whole training.
        schedule: learning rate over the training; default: constant.
        steps_per_epoch: optimiser steps per epoch; may be a fraction.
        clip_norms: largest norm of the gradient, by prefix of the parameter names; ``""`` means all
            parameters together.

    Raises:
        InputError: if nothing is trainable, or a largest norm is not positive or has no parameter.
    """

    trained: nn.Module
    losses: Losses
    _: KW_ONLY
    optim: AdamW
    steps: int
    schedule: AbstractSchedule = field(default_factory=Constant)
    steps_per_epoch: float = 1.0
    clip_norms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Divide the parameters into groups."""
        self.groups = self.optim.groups(self.trained)
        for prefix, norm in self.clip_norms.items():
            if not norm > 0:  # this form of the condition also refuses NaN
                raise InputError(f"clip_norm {norm:g}: give a positive number, or null")
            if not self._clipped(prefix):
                raise InputError(
                    f"clip_norm: no trainable parameter is called {prefix}.*: correct the prefix, "
                    "or leave it out"
                )

    @classmethod
    def of_settings(
        cls, trained: nn.Module, losses: Losses, settings: FitSettings, steps: int
    ) -> "TrainingStep":
        """Return the step of a model that is trained on a few images.

        Args:
            trained: model to train.
            losses: function from a batch to scalar losses by name.
            settings: learning rates, weight decay and clipping of the model's method.
            steps: steps of the whole training.

        Raises:
            InputError: if nothing is trainable.
        """
        names = [name for name, p in trained.named_parameters() if p.requires_grad]

        def of_model(values: Mapping[str, float]) -> dict[str, float]:
            """Return the values of the prefixes that this variant of the method has."""
            named = {f"method.{prefix}": value for prefix, value in values.items() if prefix}
            return {
                prefix: value
                for prefix, value in named.items()
                if any(_has_prefix(name, prefix) for name in names)
            }

        rates, norms = of_model(settings.learning_rates), of_model(settings.clip_norms)
        if "" in settings.clip_norms:
            norms[""] = settings.clip_norms[""]
        base = settings.learning_rates.get("", 1.0)
        return cls(
            trained,
            losses,
            optim=AdamW(
                lr=base,
                weight_decay=settings.weight_decay,
                lr_scale={prefix: rate / base for prefix, rate in rates.items()},
                no_decay="none",
            ),
            steps=steps,
            schedule=HalfCosine(constant_fraction=settings.constant_fraction),
            clip_norms=norms,
        )

    def clock(self, step: int) -> Clock:
        """Return the progress of the training after ``step`` optimiser steps."""
        return Clock(step, self.steps, self.steps_per_epoch)

    def optimiser(self, *, fused: bool = False) -> torch.optim.Optimizer:
        """Return a new optimiser; call ``set_rates`` before each of its steps."""
        return self.optim.build(self.groups, fused=fused)

    def set_rates(self, optimiser: torch.optim.Optimizer, step: int) -> float:
        """Set learning rate and momentum of every parameter group for the next step.

        Args:
            optimiser: optimiser of this training.
            step: number of finished steps.

        Returns:
            The scheduled learning rate, before the factors of the groups.
        """
        clock = self.clock(step)
        rate = self.schedule.lr(self.optim.lr, clock)
        for group, ours in zip(optimiser.param_groups, self.groups, strict=True):
            group["lr"] = rate * ours.lr_scale
            momentum, second = optimiser.defaults["betas"]
            group["betas"] = (self.schedule.momentum(momentum, clock), second)
        return rate

    def clip(self) -> None:
        """Clip the gradients of each prefix in ``clip_norms`` to its largest norm."""
        for prefix, norm in self.clip_norms.items():
            nn.utils.clip_grad_norm_(self._clipped(prefix), norm)

    def _clipped(self, prefix: str) -> list[nn.Parameter]:
        """Return the trainable parameters whose names have a prefix."""
        named = self.trained.named_parameters()
        return [p for name, p in named if p.requires_grad and _has_prefix(name, prefix)]

    def require_finite(self, repair: str) -> None:
        """Check that the training has not diverged.

        Args:
            repair: end of the message.

        Raises:
            InputError: if a trainable parameter is NaN or infinite.
        """
        trainable = (p for p in self.trained.parameters() if p.requires_grad)
        if not all(bool(p.detach().isfinite().all()) for p in trainable):
            raise InputError(f"the training diverged, its weights are not finite: {repair}")


def _has_prefix(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}.")
