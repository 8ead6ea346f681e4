"""A bird's-eye-view map from cameras and a LiDAR (BEVFusion).

The map of the cameras and that of the LiDAR are joined, and encoded as in SECOND (Yan et al.,
2018): stages of plain convolutions, whose outputs are enlarged to the size of the first one.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from diffsight.backbones.bev.cameras import AbstractRigMap, Map, check_stages, run_stages
from diffsight.backbones.bev.geometry import Axis, Range
from diffsight.backbones.bev.lidar import LidarMap
from diffsight.backbones.vision import VisionBackbone
from diffsight.errors import InputError
from diffsight.ops.layers import conv_block
from diffsight.ops.precision import without_autocast
from diffsight.rig import POINT_CHANNELS, Rig

MORE_LAYERS = 5  # layers of a stage after its first one


class CameraLidarMap(AbstractRigMap):
    """A backbone that turns camera images and LiDAR points into a bird's-eye-view feature map.

    The map's first axis is x of the vehicle's frame, the second y.

    Args:
        images: encoder of the images, with three levels from stride 8 on.
        lidar: encoder of the points.
        width: channels of the image features, of the joined maps, and of every level.
        context: channels of the image features that are lifted into the map.
        depths: bins of the depth along a camera's ray: begin, end and step in metres.
        x: begin, end and step of the cameras' map along x in metres; the output has half as many
            cells.
        y: the same along y.
        z: the same along z (height).
        stages: channels and stride of each stage of the network on the map.
        image_hw: height and width at which the encoder sees the images; None: those of the rig.
        scaled_width: width in pixels of images of another size, before they are cropped.
        cameras: number of cameras; None: any number.

    Raises:
        InputError: if the encoder has another number of levels, or the two maps differ in size.
    """

    def __init__(
        self,
        images: VisionBackbone,
        lidar: LidarMap,
        *,
        width: int = 256,
        context: int = 80,
        depths: Range = (1.0, 60.0, 0.5),
        x: Range = (-51.2, 51.2, 0.4),
        y: Range = (-51.2, 51.2, 0.4),
        z: Range = (-10.0, 10.0, 20.0),
        stages: Sequence[tuple[int, int]] = ((128, 1), (256, 2)),
        image_hw: tuple[int, int] | None = None,
        scaled_width: int = 768,
        cameras: int | None = None,
    ) -> None:
        super().__init__(
            images,
            width=width,
            context=context,
            depths=Axis(*depths),
            axes=(Axis(*x), Axis(*y), Axis(*z)),
            image_hw=image_hw,
            scaled_width=scaled_width,
            cameras=cameras,
        )
        if self.lift.map_shape != lidar.map_shape:
            raise InputError(
                "the maps differ in size, {} x {} cells of the cameras and {} x {} of the LiDAR: "
                "set x and y of both to the same range, with a step a quarter as long for the "
                "LiDAR".format(*self.lift.map_shape, *lidar.map_shape)
            )
        self.lidar = lidar
        self.fuse = conv_block(context + lidar.channels, width)
        check_stages(stages)
        self.encoder = PlainStages(width, stages)
        self.join = SameSize(stages, width)
        self.channels, self.strides = (width * len(stages),), (1,)

    def check_rig(self, rig: Rig) -> None:
        """Refuse the same rigs as ``AbstractRigMap``, and rigs without a LiDAR.

        Raises:
            InputError: if the rig is refused.
        """
        super().check_rig(rig)
        if rig.points is None:
            raise InputError(
                "the model reads cameras and a LiDAR, but the rig has no points: give a rig with "
                "points (`lidar: true` of a data set)"
            )

    def features(self, rig: Rig) -> Map:
        """Return the features of the bird's-eye-view map.

        Raises:
            InputError: if a coordinate or feature of a point is not finite.
        """
        with without_autocast(rig.intrinsics):  # 16 bits would move points by a voxel
            points = rig.moved_points()
        assert points is not None
        both = torch.cat([self.camera_features(rig), self.lidar(points)], dim=1)
        return self.join(self.encoder(self.fuse(both)))

    def example_rig(self, hw: tuple[int, int]) -> Rig:
        """Return a placeholder rig on the meta device, to count the operations of a pass.

        It has no points. The cost of the LiDAR depends on their number, and is not counted.
        """
        nothing = torch.empty(0, POINT_CHANNELS, device="meta")
        return replace(super().example_rig(hw), points=(nothing,))


class PlainStages(nn.Module):
    """Stages of plain convolutions (six 3x3 convolutions each) on a map.

    Args:
        channels: channels of the map.
        stages: channels and stride of each stage.
    """

    def __init__(self, channels: int, stages: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for width, stride in stages:
            first = _layer(nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False))
            convs = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(MORE_LAYERS))
            self.stages.append(nn.Sequential(first, *map(_layer, convs)))
            channels = width

    def forward(self, x: Map) -> list[Map]:
        """Return the map after each stage."""
        return run_stages(self.stages, x)


class SameSize(nn.Module):
    """Enlarges all levels to the size of the map, and concatenates them.

    Args:
        stages: channels and stride of each level.
        width: output channels of each level.
    """

    def __init__(self, stages: Sequence[tuple[int, int]], width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for level, (channels, _) in enumerate(stages):
            factor = math.prod(stride for _, stride in stages[: level + 1])
            if factor == 1:
                conv = nn.Conv2d(channels, width, 1, bias=False)
            else:
                conv = nn.ConvTranspose2d(channels, width, factor, stride=factor, bias=False)
            self.levels.append(_layer(conv))

    def forward(self, levels: Sequence[Map]) -> Map:
        """Return the levels at the size of the map, concatenated along the channels."""
        pairs = zip(self.levels, levels, strict=True)
        return torch.cat([layer(level) for layer, level in pairs], dim=1)


def _layer(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    norm = nn.BatchNorm2d(conv.out_channels, eps=1e-3, momentum=0.01)
    return nn.Sequential(conv, norm, nn.ReLU(inplace=True))
