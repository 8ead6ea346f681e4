"""AdamW with parameter groups, each with its own learning rate and weight decay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from rich.table import Table
from torch import nn

from diffsight.config import Configurable
from diffsight.errors import InputError, suggest


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with the same learning rate and weight decay.

    Attributes:
        name: prefix or pattern of the parameters' names.
        parameters: parameters by name.
        lr_scale: factor on the scheduled learning rate.
        weight_decay: AdamW's weight decay.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    lr_scale: float
    weight_decay: float

    @property
    def numel(self) -> int:
        """Total number of values in the parameters."""
        return sum(p.numel() for p in self.parameters.values())


class Rule(Configurable):
    """Learning rate and weight decay of parameters whose names match a pattern.

    Args:
        pattern: pattern of a parameter's whole name in the model; ``*`` matches any characters.
        lr_scale: factor on the learning rate.
        decays: whether weight decay applies.
    """

    def __init__(self, pattern: str, *, lr_scale: float = 1.0, decays: bool = True) -> None:
        self.pattern = pattern
        self.lr_scale = lr_scale
        self.decays = decays


class AdamW(Configurable):
    """Settings of ``torch.optim.AdamW`` that build its parameter groups for a model.

    Frozen parameters are in no group.

    Args:
        lr: base learning rate of the schedule.
        weight_decay: decoupled weight decay.
        betas: decay rates of the two moments.
        eps: added to the square root of the second moment.
        lr_scale: factor on the learning rate by prefix of the parameter names in the model; the
            longest prefix wins.
        no_decay: parameters without weight decay: ``vectors`` (tensors of at most one axis, and
            everything named ``bias``) or ``none``.
        rules: exceptions to ``lr_scale`` and ``no_decay``; the first matching rule wins.
    """

    def __init__(
        self,
        *,
        lr: float,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        lr_scale: dict[str, float] | None = None,
        no_decay: Literal["vectors", "none"] = "vectors",
        rules: Sequence[Rule] = (),
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.betas = betas
        self.eps = eps
        self.lr_scale = dict(lr_scale or {})
        self.no_decay = no_decay
        self.rules = tuple(rules)

    def groups(self, model: nn.Module) -> tuple[ParameterGroup, ...]:
        """Return the parameter groups of a model: those of ``rules``, then those of ``lr_scale``.

        Each prefix of ``lr_scale`` has a group with weight decay and one without; empty groups are
        left out. Parameters with no such prefix follow at the end.

        Raises:
            InputError: if a rule or prefix matches no trainable parameter, or nothing is trainable.
        """
        decay = {True: self.weight_decay, False: 0.0}
        ruled = [ParameterGroup(r.pattern, {}, r.lr_scale, decay[r.decays]) for r in self.rules]
        everything = "everything else" if self.lr_scale else "everything"
        rest = {
            (prefix, decays): ParameterGroup(
                (prefix or everything) + ("" if decays else ", vectors"),
                {},
                self.lr_scale.get(prefix, 1.0),
                decay[decays],
            )
            for prefix in (*self.lr_scale, "")
            for decays in (True, False)
        }
        names = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name, parameter in names.items():
            group = next((group for group in ruled if fnmatchcase(name, group.name)), None)
            if group is None:
                is_vector = parameter.ndim <= 1 or name.endswith("bias")
                group = rest[self._prefix(name), self.no_decay == "none" or not is_vector]
            group.parameters[name] = parameter
        self._refuse_unused({prefix for (prefix, _), g in rest.items() if g.parameters}, names)
        for group in ruled:
            if not group.parameters:
                raise InputError(
                    f"rule {group.name!r}: no trainable parameter has such a name: correct the "
                    "pattern, or leave the rule out"
                )
        return (*ruled, *(group for group in rest.values() if group.parameters))

    def build(
        self, groups: tuple[ParameterGroup, ...], *, fused: bool = False
    ) -> torch.optim.AdamW:
        """Return the optimiser; before every step ``TrainingStep.set_rates`` sets its rates.

        Args:
            groups: parameter groups.
            fused: update all tensors in one kernel; False lets torch choose.
        """
        return torch.optim.AdamW(
            [
                {
                    "params": list(group.parameters.values()),
                    "lr": self.lr * group.lr_scale,
                    "weight_decay": group.weight_decay,
                }
                for group in groups
            ],
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            fused=fused or None,  # None lets torch choose
        )

    def _prefix(self, name: str) -> str:
        """Return the longest prefix in ``lr_scale`` that a name has; empty if it has none."""
        fitting = (p for p in self.lr_scale if name == p or name.startswith(f"{p}."))
        return max(fitting, key=len, default="")

    def _refuse_unused(self, used: set[str], names: Mapping[str, nn.Parameter]) -> None:
        if not names:
            raise InputError("the model has no trainable parameter: unfreeze a part of it")
        for prefix in self.lr_scale:
            if prefix not in used:
                prefixes = {
                    name.rsplit(".", i)[0] for name in names for i in range(1, name.count(".") + 1)
                }
                raise InputError(
                    f"lr_scale: no trainable parameter is called {prefix}.*: "
                    f"{suggest(prefix, prefixes)}"
                )


def table(groups: tuple[ParameterGroup, ...], lr: float) -> Table:
    """Return a table of parameter groups with their learning rates and weight decays.

    Args:
        groups: parameter groups.
        lr: base learning rate of the schedule.
    """
    result = Table("parameters", title="What is trained", title_justify="left")
    for column in ("tensors", "numbers", "learning rate", "weight decay"):
        result.add_column(column, justify="right")
    for group in groups:
        result.add_row(
            group.name,
            f"{len(group.parameters):,}",
            f"{group.numel:,}",
            f"{lr * group.lr_scale:.3g}",
            f"{group.weight_decay:g}",
        )
    return result
