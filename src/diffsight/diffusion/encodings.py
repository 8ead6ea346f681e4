"""Encodings of label maps as states of the diffusion, to which noise is added.

DDP section 3.2: labels are encoded at stride 4, mapped to [-1, 1] and multiplied by a small scale,
so that the decoder relies on the image more than on the noisy map.
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
LOWEST_FRACTION = 1e-4  # of the upper bound


class AbstractLabelEncoding(nn.Module, Configurable, abc.ABC):
    """Base class of encodings of labels as states of the diffusion.

    A state has ``channels`` channels and values in ``[-scale, scale]``.

    Attributes:
        channels: number of channels of a state.
        scale: largest absolute value of a state.
        low: smallest label, for labels that are numbers.
    """

    unrecorded = frozenset({"output"})  # the task supplies this argument
    channels: int
    scale: float
    low: float = 0.0

    @abc.abstractmethod
    def encode_target(self, target: Target, hw: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Return the encoded labels of a batch.

        Args:
            target: labels.
            hw: height and width of the state.
        """

    @abc.abstractmethod
    def encode_prediction(
        self, maps: Float[Tensor, "b k _ _"], hw: tuple[int, int]
    ) -> Float[Tensor, "b c h w"]:
        """Return an encoded prediction.

        Args:
            maps: predicted values, or logits, from which the predicted classes are encoded.
            hw: height and width of the state. It is the size of the maps, unless the output is on a
                grid of its own (``OutputSpec.grid``).
        """


@runtime_checkable
class EncodingBuilder(Protocol):
    """A function that builds an encoding for an output; always called with keywords."""

    def __call__(self, *, output: OutputSpec) -> AbstractLabelEncoding:
        """Return an encoding of labels for ``output``."""
        ...


class AbstractClassEncoding(AbstractLabelEncoding):
    """Base class of encodings with one vector (code) per class, and one for missing labels.

    Args:
        output: output of the method; must be classes.
        scale: largest absolute value of a state.

    Raises:
        InputError: if the output is not classes.
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
        """Return the codes of all classes, then the code of a missing label, in [-1, 1]."""

    def encode_ids(self, ids: Int[Tensor, "b h w"]) -> Float[Tensor, "b c h w"]:
        """Return the codes of class ids; the id ``classes`` stands for a missing label."""
        return self.scale * self.codes()[ids].movedim(-1, 1)

    def encode_target(self, target: Target, hw: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Return the codes of the labels after resizing to ``hw`` (nearest neighbour).

        Raises:
            InputError: if a valid label is not a class of the output.
        """
        wrong = target.valid & ((target.label < 0) | (target.label >= self.classes))
        if bool(wrong.any()):
            raise InputError(
                f"a label is class {int(target.label[wrong][0])}, the encoding has classes 0 to "
                f"{self.classes - 1}: give the task all classes of the labels"
            )
        ids = torch.where(target.valid, target.label, self.classes)[:, None]
        return self.encode_ids(functional.interpolate(ids.double(), hw)[:, 0].long())

    def encode_prediction(
        self, maps: Float[Tensor, "b k _ _"], hw: tuple[int, int]
    ) -> Float[Tensor, "b c h w"]:
        """Return the codes of the most probable classes."""
        return self.encode_ids(maps.argmax(dim=1))


class ClassEmbedding(AbstractClassEncoding):
    """A learned embedding for every class (the paper's default).

    Args:
        output: output of the method; must be classes.
        scale: largest absolute value of a state.
        width: number of channels of a state.
    """

    def __init__(self, *, output: OutputSpec, scale: float = 0.01, width: int = 256) -> None:
        super().__init__(output=output, scale=scale)
        self.table = nn.Embedding(self.classes + 1, width)
        self.channels = width

    def codes(self) -> Float[Tensor, "k c"]:
        """Return the embeddings, mapped to [-1, 1] by a sigmoid."""
        return self.table.weight.sigmoid() * 2 - 1


class AnalogBits(AbstractClassEncoding):
    """The binary digits of the class id (Chen et al. 2023; a row of DDP's table 5).

    Args:
        output: output of the method; must be classes.
        scale: largest absolute value of a state.
    """

    def __init__(self, *, output: OutputSpec, scale: float = 0.01) -> None:
        super().__init__(output=output, scale=scale)
        self.channels = max(1, math.ceil(math.log2(self.classes + 1)))
        numbers = torch.arange(self.classes + 1)[:, None]
        bits = (numbers >> torch.arange(self.channels)) & 1
        self.bits: Tensor
        self.register_buffer("bits", 2.0 * bits - 1, persistent=False)

    def codes(self) -> Float[Tensor, "k c"]:
        """Return the bits of every class id, the lowest first, as -1 (for 0) and 1."""
        return self.bits


class OneHot(AbstractClassEncoding):
    """One channel per class (a row of DDP's table 5).

    Args:
        output: output of the method; must be classes.
        scale: largest absolute value of a state.
    """

    def __init__(self, *, output: OutputSpec, scale: float = 0.01) -> None:
        super().__init__(output=output, scale=scale)
        self.channels = self.classes + 1
        self.rows: Tensor
        self.register_buffer("rows", 2 * torch.eye(self.channels) - 1, persistent=False)

    def codes(self) -> Float[Tensor, "k c"]:
        """Return codes that are 1 in the channel of the class and -1 in all other channels."""
        return self.rows


def lowest_value(output: OutputSpec) -> float:
    """Return the smallest value that DDP predicts: the lower bound of an output of values.

    If the bound is 0, it is a ten-thousandth of the upper bound: 1 mm for depths up to 10 m, as in
    the authors' code. A logarithmic loss has no gradient at 0, where values of a ReLU would stay.
    An output without bounds has 0.
    """
    low, high = output.bounds or (0.0, 0.0)
    return low or high * LOWEST_FRACTION


class ScalarMap(AbstractLabelEncoding):
    """Bounded values, such as depth, mapped linearly to ``[-scale, scale]``.

    Args:
        output: output of the method; must be values with bounds.
        scale: largest absolute value of a state.
        low: value that is mapped to ``-scale``; smaller predictions are raised to it. None: see
            ``lowest_value``.
        missing: how pixels without a label are filled before the labels are resized. ``released``:
            with zeros, which are interpolated with the labels as in the authors' code. ``masked``:
            with the mean of the labels in the same cell of the state, or the middle of the range if
            the cell has no label. ``nearest``: with the nearest label.

    Raises:
        InputError: if the output is not values with bounds.
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
        self.low = lowest_value(output) if low is None else low
        self.high = output.bounds[1]
        self.channels = output.channels
        self.scale = scale
        self.missing: Missing = missing

    def encode_target(self, target: Target, hw: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Return the encoded labels, resized to ``hw`` (bilinear, or by area with ``masked``)."""
        valid = target.valid[:, None]
        label = torch.where(valid, target.label, 0)
        if self.missing == "nearest":
            pairs = zip(label, target.valid, strict=True)
            label = torch.stack([_fill_missing(*pair) for pair in pairs])
        small = functional.interpolate(label, hw, mode="bilinear")
        if self.missing == "masked":
            weight = functional.interpolate(valid.to(label), hw, mode="area")
            sums = functional.interpolate(label, hw, mode="area")
            middle = (self.low + self.high) / 2
            small = torch.where(weight > 0, sums / weight.clamp(min=1e-6), middle)
        return self._encode(small)

    def encode_prediction(
        self, maps: Float[Tensor, "b k _ _"], hw: tuple[int, int]
    ) -> Float[Tensor, "b c h w"]:
        """Return the encoded values, clamped to ``[-scale, scale]``."""
        return self._encode(maps).clamp(-self.scale, self.scale)

    def _encode(self, values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return (2 * (values - self.low) / (self.high - self.low) - 1) * self.scale


class MaskEmbedding(AbstractLabelEncoding):
    """Learned embeddings of masks, for bird's-eye-view maps with DDP.

    Every class has an embedding for pixels of the class; all classes share one embedding for pixels
    outside the class. The state is the mean over the classes, mapped to [-1, 1] by a sigmoid and
    scaled.

    Args:
        output: output of the method; must be masks.
        scale: largest absolute value of a state.
        width: number of channels of a state.
        covers: fraction of each side of the state that the labels cover, in (0, 1]. 1 is the
            authors' code, which stretches labels of 100 m over a state of 102.4 m. 0.9765625 keeps
            labels at their true positions.

    Raises:
        InputError: if the output is not masks, or ``covers`` is out of range.
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

    def encode_target(self, target: Target, hw: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Return the encoded labels, resized to ``hw`` (nearest neighbour)."""
        return self._encode_masks(target.label > 0.5, hw)

    def encode_prediction(
        self, maps: Float[Tensor, "b k _ _"], hw: tuple[int, int]
    ) -> Float[Tensor, "b c h w"]:
        """Return the encoded masks of the classes whose probability is above 0.5."""
        return self._encode_masks(maps.sigmoid() > 0.5, hw)

    def _encode_masks(self, masks: Bool[Tensor, "b k _ _"], hw: tuple[int, int]) -> Tensor:
        """Return the state ``b c h w`` of masks after resizing to ``hw``."""
        small = masks.float()
        if self.covers == 1:
            small = functional.interpolate(small, hw)
        else:
            y, x = (
                (2 * torch.arange(n, device=small.device) + 1 - n) / (n * self.covers) for n in hw
            )
            grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
            rows = grid.expand(len(small), -1, -1, -1)
            small = functional.grid_sample(small, rows, mode="nearest", align_corners=False)
        absent, present = self.table.weight[0], self.table.weight[1:]
        mean = torch.einsum("bkhw,kc->bchw", small, (present - absent) / len(present))
        return self.scale * ((mean + absent[:, None, None]).sigmoid() * 2 - 1)


def _fill_missing(label: Float[Tensor, "c h w"], valid: Tensor) -> Float[Tensor, "c h w"]:
    """Return the label map with invalid pixels set to the label of the nearest valid pixel.

    A map without a valid pixel is returned unchanged.
    """
    if not bool(valid.any()):
        return label
    from scipy import ndimage  # slow to import, and needed in training only

    is_missing = (~valid).cpu().numpy()
    nearest: Any = ndimage.distance_transform_edt(
        is_missing, return_distances=False, return_indices=True
    )
    rows, columns = nearest
    return label[:, torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]
