"""A bird's-eye-view map from LiDAR points: voxels and sparse convolutions (BEVFusion)."""

import itertools
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from diffsight.backbones.bev.geometry import Axis, Range
from diffsight.backbones.bev.voxels import Points, Voxels, voxelise
from diffsight.config import Configurable
from diffsight.errors import InputError
from diffsight.ops.sparse import (
    Cells,
    Rules,
    Sites,
    SparseConv3d,
    strided_rules,
    strided_shape,
    submanifold_rules,
    to_dense,
)
from diffsight.rig import POINT_CHANNELS

Features = Float[Tensor, "_ _"]
BLOCKS = 2  # residual blocks per resolution
KERNEL: Cells = (3, 3, 3)
STRIDE: Cells = (2, 2, 2)
PADDINGS: tuple[Cells, ...] = ((1, 1, 1), (1, 1, 1), (1, 1, 0))  # of the strided convolutions
# the last convolution reduces only the height
LAST_KERNEL, LAST_STRIDE, LAST_PADDING = (1, 1, 3), (1, 1, 2), (0, 0, 0)


class LidarMap(nn.Module, Configurable):
    """A network that turns LiDAR points into a bird's-eye-view feature map.

    The map's first axis is x of the vehicle's frame, the second y. A cell of the map is as long as
    eight voxels.

    Args:
        x: begin, end and length of the voxels along x in metres.
        y: the same along y.
        z: the same along z.
        max_points: largest number of points that are kept in a voxel.
        max_voxels: largest number of voxels per row of the batch, in training and in evaluation.
        widths: channels at the four resolutions.
        width: channels of each height layer of the map.

    Attributes:
        channels: channels of the map: ``width`` times the number of its height layers.
        map_shape: number of cells of the map along x and y.

    Raises:
        InputError: if there are too few voxels for one cell of the map, or not four widths.
    """

    def __init__(
        self,
        *,
        x: Range = (-51.2, 51.2, 0.1),
        y: Range = (-51.2, 51.2, 0.1),
        z: Range = (-5.0, 3.0, 0.2),
        max_points: int = 10,
        max_voxels: tuple[int, int] = (90_000, 120_000),
        widths: Sequence[int] = (16, 32, 64, 128),
        width: int = 128,
    ) -> None:
        super().__init__()
        if len(widths) != len(PADDINGS) + 1:
            raise InputError(
                f"widths {list(widths)}: give those of {len(PADDINGS) + 1} resolutions"
            )
        self.axes = (Axis(*x), Axis(*y), Axis(*z))
        self.max_points, self.max_voxels = max_points, max_voxels
        self.encoder = SparseEncoder(widths, width)
        map_x, map_y, heights = self.encoder.map_shape(self.shape)
        if min(map_x, map_y, heights) < 1:
            raise InputError(
                "{} x {} x {} voxels leave no map of a LiDAR: give a larger range, or smaller "
                "voxels".format(*self.shape)
            )
        self.map_shape = (map_x, map_y)
        self.channels = width * heights

    @property
    def shape(self) -> Cells:
        """Number of voxels along x, y and z; z has one more than its range, as in BEVFusion."""
        x, y, z = (axis.cells for axis in self.axes)
        return (x, y, z + 1)

    def voxels(self, points: Sequence[Points]) -> Voxels:
        """Return the occupied voxels.

        Args:
            points: points of every row of the batch.

        Raises:
            InputError: if a coordinate or feature of a point is not finite.
        """
        limit = self.max_voxels[0] if self.training else self.max_voxels[1]
        return voxelise(points, self.axes, max_points=self.max_points, max_voxels=limit)

    def forward(self, points: Sequence[Points]) -> Float[Tensor, "b c x y"]:
        """Return the features of the map.

        Args:
            points: points of every row of the batch.

        Raises:
            InputError: if a coordinate or feature of a point is not finite.
        """
        if points[0].is_meta:  # a pass is counted without points
            weight = self.encoder.last.conv.weight
            return weight.new_zeros(len(points), self.channels, *self.map_shape)
        voxels = self.voxels(points)
        return self.encoder(voxels.features, Sites(voxels.coordinates, self.shape, len(points)))


class ConvNorm(nn.Module):
    """A sparse convolution and batch normalisation.

    Args:
        channels: channels of the input.
        width: channels of the output.
        kernel: size of the kernel along x, y and z in cells.
    """

    def __init__(self, channels: int, width: int, kernel: Cells = KERNEL) -> None:
        super().__init__()
        self.conv = SparseConv3d(channels, width, kernel)
        self.norm = nn.BatchNorm1d(width, eps=1e-3, momentum=0.01)

    def forward(self, x: Features, rules: Rules) -> Features:
        """Return the features of the output cells.

        Args:
            x: features of the input cells.
            rules: pairs of input and output cells.
        """
        return self.norm(self.conv(x, rules))


class SparseBlock(nn.Module):
    """Two submanifold convolutions (outputs only in the input's cells) and a shortcut.

    Args:
        width: channels of input and output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvNorm(width, width)
        self.second = ConvNorm(width, width)

    def forward(self, x: Features, rules: Rules) -> Features:
        """Return the features of the same cells."""
        return (self.second(self.first(x, rules).relu(), rules) + x).relu()


class SparseEncoder(nn.Module):
    """Sparse convolutions at four resolutions, with two residual blocks each.

    A last convolution reduces the height. Its remaining layers become channels of a dense map.

    Args:
        widths: channels at each resolution.
        width: channels of each height layer of the map.
    """

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.first = ConvNorm(POINT_CHANNELS, widths[0])
        self.blocks = nn.ModuleList(
            SparseBlock(channels) for channels in widths for _ in range(BLOCKS)
        )
        pairs = itertools.pairwise(widths)
        self.smaller = nn.ModuleList(ConvNorm(fine, coarse) for fine, coarse in pairs)
        self.last = ConvNorm(widths[-1], width, LAST_KERNEL)

    def map_shape(self, shape: Cells) -> Cells:
        """Return the number of cells along x and y and of height layers of the map.

        Args:
            shape: number of voxels along x, y and z.
        """
        for padding in PADDINGS:
            shape = strided_shape(shape, KERNEL, STRIDE, padding)
        return strided_shape(shape, LAST_KERNEL, LAST_STRIDE, LAST_PADDING)

    def forward(self, x: Float[Tensor, "m 5"], sites: Sites) -> Float[Tensor, "b c x y"]:
        """Return the dense map; channels of its height layers are interleaved, as in BEVFusion.

        Args:
            x: features of the occupied voxels.
            sites: positions of the occupied voxels.
        """
        rules = submanifold_rules(sites)
        x = self.first(x, rules).relu()
        for index, block in enumerate(self.blocks):
            level, is_later = divmod(index, BLOCKS)
            if level and not is_later:
                rules = strided_rules(rules.sites, KERNEL, STRIDE, PADDINGS[level - 1])
                x = self.smaller[level - 1](x, rules).relu()
                rules = submanifold_rules(rules.sites)
            x = block(x, rules)
        rules = strided_rules(rules.sites, LAST_KERNEL, LAST_STRIDE, LAST_PADDING)
        x = self.last(x, rules).relu()
        return to_dense(x, rules.sites).permute(0, 1, 4, 2, 3).flatten(1, 2)
