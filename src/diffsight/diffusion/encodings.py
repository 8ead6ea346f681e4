"""Label maps as states of a diffusion: what noise is added to.

DDP section 3.2: labels are encoded at stride 4, brought to [-1, 1] and multiplied with a small
scale, so that the image, not the map, decides.
"""

import abc
import math
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from diffsight.config import Configurable
from diffsight.errors import InputError
from diffsight.outputs import OutputSpec
from diffsight.types import Target

Missing = Literal["released", "masked", "nearest"]


class AbstractLabelEncoding(nn.Module, Configurable, abc.ABC):
    """Labels as maps of ``channels`` numbers in ``[-scale, scale]``.

    Attributes:
        channels: of a state.
        scale: largest absolute value.
        low: smallest value of labels that are numbers.
    """

    unrecorded = frozenset({"output"})  # argument that the task gives
    channels: int
    scale: float
    low: float = 0.0

    @abc.abstractmethod
    def of_target(self, target: Target, hw: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Return the encoded labels of a batch at the size of the maps."""

    @abc.abstractmethod
    def of_prediction(
        self, maps: Float[Tensor, "b k _ _"], hw: tuple[int, int]
    ) -> Float[Tensor, "b c h w"]:
        """Return a prediction encoded as labels are, at the size of a state.

        Args:
            maps: logits, of which the most probable classes count, or values.
            hw: size of the state; that of the maps, unless they are on a grid of their own.
        """


@runtime_checkable
class EncodingBuilder(Protocol):
    """Makes an encoding for a form of output; always called with keywords."""

    def __call__(self, *, output: OutputSpec) -> AbstractLabelEncoding:
        """Make one."""
        ...


class AbstractClassEncoding(AbstractLabelEncoding):
    """Codes of classes; pixels without a label are a class of their own.

    Args:
        output: classes.
        scale: largest absolute value.
    """

    def __init__(self, *, output: OutputSpec, scale: float) -> None:
        super().__init__()
        if output.kind != "classes":
            raise InputError(
                f"{type(self).__name__} encodes classes, not {output.describe()}: choose ScalarMap"
            )
        self.classes = output.channels
        self.scale = scale

    @abc.abstractmethod
    def codes(self) -> Float[Tensor, "k c"]:
        """Return the code of every class, and of none, in [-1, 1]."""

    def of_ids(self, ids: Int[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
        """Return the codes of class numbers; ``classes`` stands for no label."""
        return self.scale * self.codes()[ids].movedim(-1, 1)

    def of_target(self, target: Target, hw: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Return the codes of the nearest labels.

        Raises:
            InputError: if a label is no class.
        """
        wrong = target.valid & ((target.label < 0) | (target.label >= self.classes))
        if bool(wrong.any()):
            raise InputError(
                f"a label is class {int(target.label[wrong][0])}, the encoding knows 0 to "
                f"{self.classes - 1}: give the task all classes of the labels"
            )
        ids = torch.where(target.valid, target.label, self.classes)[:, None]
        return self.of_ids(functional.interpolate(ids.double(), hw)[:, 0].long())

    def of_prediction(
        self, maps: Float[Tensor, "b k _ _"], hw: tuple[int, int]
    ) -> Float[Tensor, "b c h w"]:
        """Return the codes of the most probable classes."""
        return self.of_ids(maps.argmax(dim=1))


class ClassEmbedding(AbstractClassEncoding):
    """A learned code for every class (the paper's choice).

    Args:
        output: classes.
        scale: largest absolute value.
        width: numbers of a code.
    """

    def __init__(self, *, output: OutputSpec, scale: float = 0.01, width: int = 256) -> None:
        super().__init__(output=output, scale=scale)
        self.table = nn.Embedding(self.classes + 1, width)
        self.channels = width

    def codes(self) -> Float[Tensor, "k c"]:
        """Return the squashed rows of the table."""
        return self.table.weight.sigmoid() * 2 - 1


class AnalogBits(AbstractClassEncoding):
    """The bits of a class's number (Chen et al. 2023; a row of DDP's table 5).

    Args:
        output: classes.
        scale: largest absolute value.
    """

    def __init__(self, *, output: OutputSpec, scale: float = 0.01) -> None:
        super().__init__(output=output, scale=scale)
        self.channels = max(1, math.ceil(math.log2(self.classes + 1)))
        numbers = torch.arange(self.classes + 1)[:, None]
        bits = (numbers >> torch.arange(self.channels)) & 1
        self.bits: Tensor
        self.register_buffer("bits", 2.0 * bits - 1, persistent=False)

    def codes(self) -> Float[Tensor, "k c"]:
        """Return -1 and 1 for the bits 0 and 1, the lowest first."""
        return self.bits


class OneHot(AbstractClassEncoding):
    """A channel for each class (a row of DDP's table 5).

    Args:
        output: classes.
        scale: largest absolute value.
    """

    def __init__(self, *, output: OutputSpec, scale: float = 0.01) -> None:
        super().__init__(output=output, scale=scale)
        self.channels = self.classes + 1
        self.rows: Tensor
        self.register_buffer("rows", 2 * torch.eye(self.channels) - 1, persistent=False)

    def codes(self) -> Float[Tensor, "k c"]:
        """Return 1 in the channel of the class, -1 in all others."""
        return self.rows


class ScalarMap(AbstractLabelEncoding):
    """Bounded numbers, such as depth, mapped linearly to ``[-scale, scale]``.

    Args:
        output: values with bounds.
        scale: largest absolute value.
        low: smallest value, which predictions are never below; None: the lower bound of the output.
        missing: what stands where there is no label: ``released``, zeros that are interpolated with
            the rest as in the authors' code; ``masked``, the mean of the labels around, and the
            middle of the range where there is none; ``nearest``, the nearest label.
    """

    def __init__(
        self,
        *,
        output: OutputSpec,
        scale: float = 0.1,
        low: float | None = None,
        missing: Missing = "masked",
    ) -> None:
        super().__init__()
        if output.kind != "values" or output.bounds is None:
            raise InputError(
                f"ScalarMap encodes values with bounds, not {output.describe()}: set the range of "
                "the task, such as max_depth_m"
            )
        self.low, self.high = output.bounds
        self.low = self.low if low is None else low
        self.channels = output.channels
        self.scale = scale
        self.missing: Missing = missing

    def of_target(self, target: Target, hw: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Return the encoded labels, interpolated (bilinear)."""
        valid = target.valid[:, None]
        label = torch.where(valid, target.label, 0)
        if self.missing == "nearest":
            label = torch.stack([_filled(*pair) for pair in zip(label, target.valid, strict=True)])
        small = functional.interpolate(label, hw, mode="bilinear")
        if self.missing == "masked":
            weight = functional.interpolate(valid.to(label), hw, mode="area")
            sums = functional.interpolate(label, hw, mode="area")
            middle = (self.low + self.high) / 2
            small = torch.where(weight > 0, sums / weight.clamp(min=1e-6), middle)
        return self._encoded(small)

    def of_prediction(
        self, maps: Float[Tensor, "b k _ _"], hw: tuple[int, int]
    ) -> Float[Tensor, "b c h w"]:
        """Return the encoded values; beyond the bounds they are cut."""
        return self._encoded(maps).clamp(-self.scale, self.scale)

    def _encoded(self, values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return (2 * (values - self.low) / (self.high - self.low) - 1) * self.scale


class MaskEmbedding(AbstractLabelEncoding):
    """A learned code for every class that is there, and one for those that are not; their mean.

    DDP, maps seen from above.

    Args:
        output: masks.
        scale: largest absolute value.
        width: numbers of a code.
        covers: fraction of a side of the state that the labels cover. 1 is the authors' code, which
            stretches labels of 100 m over a state of 102.4 m; 0.9765625 keeps them in place.
    """

    def __init__(
        self,
        *,
        output: OutputSpec,
        scale: float = 0.01,
        width: int = 256,
        covers: float = 1.0,
    ) -> None:
        super().__init__()
        if output.kind != "masks":
            raise InputError(
                f"MaskEmbedding encodes masks, not {output.describe()}: choose ClassEmbedding"
            )
        if not 0 < covers <= 1:
            raise InputError(f"covers must be in (0, 1], got {covers:g}")
        self.table = nn.Embedding(output.channels + 1, width)
        self.channels = width
        self.scale = scale
        self.covers = covers

    def of_target(self, target: Target, hw: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Return the codes of the nearest labels."""
        return self._of_masks(target.label > 0.5, hw)

    def of_prediction(
        self, maps: Float[Tensor, "b k _ _"], hw: tuple[int, int]
    ) -> Float[Tensor, "b c h w"]:
        """Return the codes of the classes that are more probable than not."""
        return self._of_masks(maps.sigmoid() > 0.5, hw)

    def _of_masks(self, masks: Bool[Tensor, "b k _ _"], hw: tuple[int, int]) -> Tensor:
        there = masks.float()
        if self.covers == 1:
            there = functional.interpolate(there, hw)
        else:
            y, x = (
                (2 * torch.arange(n, device=there.device) + 1 - n) / (n * self.covers) for n in hw
            )
            grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
            rows = grid.expand(len(there), -1, -1, -1)
            there = functional.grid_sample(there, rows, mode="nearest", align_corners=False)
        absent, present = self.table.weight[0], self.table.weight[1:]
        mean = torch.einsum("bkhw,kc->bchw", there, (present - absent) / len(present))
        return self.scale * ((mean + absent[:, None, None]).sigmoid() * 2 - 1)


def _filled(label: Float[Tensor, "c h w"], valid: Tensor) -> Float[Tensor, "c h w"]:
    """Return a label whose missing pixels take that of the nearest one; without any, as it is."""
    if not bool(valid.any()):
        return label
    from scipy import ndimage  # of trainings alone

    holes = (~valid).cpu().numpy()
    nearest: Any = ndimage.distance_transform_edt(
        holes, return_distances=False, return_indices=True
    )
    rows, columns = nearest
    return label[:, torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]
