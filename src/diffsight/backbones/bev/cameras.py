"""A bird's-eye-view map from several cameras: lift, splat, encode (BEVFusion).

The parts are those of DDP's configuration: Swin, a generalised feature pyramid, the view transform
(lift, splat), a residual network on the map, and a feature pyramid of two levels.
"""

import abc
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diffsight.backbones.base import AbstractBackbone
from diffsight.backbones.bev.geometry import Axis, Range, lift, make_frustum, pool
from diffsight.backbones.vision import VisionBackbone
from diffsight.errors import InputError
from diffsight.ops.camera_crop import CameraCrop
from diffsight.ops.layers import conv_block
from diffsight.ops.precision import without_autocast
from diffsight.types import Inputs, Latents, Pyramid, Rig

Map = Float[Tensor, "b _ _ _"]
ONE_IMAGE = (
    "the model reads several cameras: give a rig, not one image (a data set such as NuScenes, or a "
    "JSON file)"
)
EXAMPLE_CAMERAS = 6  # of a placeholder rig, as in nuScenes


class AbstractRigMap(AbstractBackbone, abc.ABC):
    """Base class of backbones that turn a camera rig into a bird's-eye-view feature map.

    The map's first axis is x of the vehicle's frame, the second y.

    Args:
        images: encoder of the images, with three levels from stride 8 on.
        width: channels of the image features.
        context: channels of the image features that are lifted into the map.
        depths: bins of the depth.
        axes: axes of the cameras' map: x, y and z.
        image_hw: height and width at which the encoder sees the images; None: those of the rig.
            Images of another size are scaled, and cropped at the middle of their lower edge.
        scaled_width: width of such images in pixels before the crop.
        cameras: number of cameras; None: any number.

    Raises:
        InputError: if the encoder has another number of levels, or a number is not positive.
    """

    size_multiple = 1

    def __init__(
        self,
        images: VisionBackbone,
        *,
        width: int,
        context: int,
        depths: Axis,
        axes: tuple[Axis, Axis, Axis],
        image_hw: tuple[int, int] | None,
        scaled_width: int,
        cameras: int | None,
    ) -> None:
        super().__init__()
        if min(width, context, 1 if cameras is None else cameras) < 1:
            raise InputError("width, context and cameras must be at least 1")
        if depths.low_m <= 0:
            raise InputError(f"depths begin at {depths.low_m:g} m: give a positive number")
        self.cameras = cameras
        self.image_hw = None if image_hw is None else (image_hw[0], image_hw[1])
        self.scaled_width = scaled_width
        if len(images.channels) != 3:
            raise InputError(
                f"{type(self).__name__} reads three levels of the images, the encoder gives "
                f"{len(images.channels)}: choose its stages"
            )
        self.images = images
        self.pyramid = ImagePyramid(images.channels, width)
        self.lift = LiftSplat(width, context, depths, axes)

    def forward_inputs(self, inputs: Inputs) -> Pyramid:
        """Return the features of the bird's-eye-view map as a pyramid of one level.

        Raises:
            InputError: if the inputs have no rig, or one that ``check_rig`` refuses.
        """
        if inputs.rig is None:
            raise InputError(ONE_IMAGE)
        self.check_rig(inputs.rig)
        features = self.features(inputs.rig)
        hw = (features.shape[-2], features.shape[-1])
        return Pyramid((features,), self.strides, hw)

    def check_rig(self, rig: Rig) -> None:
        """Refuse rigs with another number of cameras, or with images that are too small.

        Raises:
            InputError: if the rig is refused.
        """
        _, count, _, height, width = rig.images.shape
        if self.cameras not in (None, count):
            raise InputError(
                f"the model reads {self.cameras} cameras, the rig has {count}: give all of them"
            )
        least = self.images.size_multiple
        if min(self.image_hw or (height, width)) < least:
            raise InputError(
                f"images of {width} x {height} px: the model needs at least {least} px on each side"
            )

    def forward(self, image: Tensor, *, latents: Latents | None = None) -> Pyramid:
        """Refuse a single image.

        Raises:
            InputError: always.
        """
        raise InputError(ONE_IMAGE)

    @abc.abstractmethod
    def features(self, rig: Rig) -> Map:
        """Return the features of each cell of the bird's-eye-view map, ``b c x y``.

        Args:
            rig: a batch of rigs that ``check_rig`` accepts.
        """

    def camera_features(self, rig: Rig) -> Map:
        """Return the map of the camera features, at half the resolution of ``axes``."""
        rig = self.fit_images(rig)
        count, views = rig.images.shape[:2]
        levels = self.images.levels(rig.images.flatten(0, 1))
        return self.lift(self.pyramid(levels).unflatten(0, (count, views)), rig)

    def fit_images(self, rig: Rig) -> Rig:
        """Return the rig with images of the size that the encoder reads, scaled and cropped."""
        hw = (rig.images.shape[-2], rig.images.shape[-1])
        if self.image_hw is None or hw == self.image_hw:
            return rig
        return CameraCrop.lower_middle(hw, self.image_hw, self.scaled_width / hw[1]).rig(rig)

    def example_rig(self, hw: tuple[int, int]) -> Rig:
        """Return a placeholder rig on the meta device, to count the operations of a pass.

        It has six cameras if the backbone reads any number.
        """
        shape = (1, self.cameras or EXAMPLE_CAMERAS)
        pose = torch.eye(4, device="meta").expand(*shape, 4, 4)
        images = torch.empty(*shape, 3, *(self.image_hw or hw), device="meta")
        return Rig(images, pose, pose, pose)


class CameraMap(AbstractRigMap):
    """A backbone that turns the images of several cameras into a bird's-eye-view feature map.

    The map's first axis is x of the vehicle's frame, the second y.

    Args:
        images: encoder of the images, with three levels from stride 8 on.
        width: channels of the image features, and of the map.
        context: channels of the image features that are lifted into the map.
        depths: bins of the depth along a camera's ray: begin, end and step in metres.
        x: begin, end and step of the map along x in metres.
        y: the same along y.
        z: the same along z (height).
        stages: channels and stride of each stage of the network on the map; a stage has two blocks.
        image_hw: height and width at which the encoder sees the images; None: those of the rig.
            Images of another size are scaled, and cropped at the middle of their lower edge.
        scaled_width: width of such images in pixels before the crop.
        cameras: number of cameras; None: any number.

    Raises:
        InputError: if the encoder has another number of levels, or a number is not positive.
    """

    def __init__(
        self,
        images: VisionBackbone,
        *,
        width: int = 256,
        context: int = 80,
        depths: Range = (1.0, 60.0, 0.5),
        x: Range = (-51.2, 51.2, 0.4),
        y: Range = (-51.2, 51.2, 0.4),
        z: Range = (-10.0, 10.0, 20.0),
        stages: Sequence[tuple[int, int]] = ((160, 2), (320, 2), (640, 1)),
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
        check_stages(stages)
        self.encoder = MapEncoder(context, stages)
        self.join = MapPyramid(stages[-1][0], stages[0][0], width)
        self.channels, self.strides = (width,), (1,)

    def features(self, rig: Rig) -> Map:
        """Return the features of each cell of the bird's-eye-view map, ``b c x y``."""
        return self.join(self.encoder(self.camera_features(rig)))


class ImagePyramid(nn.Module):
    """Joins three levels of image features from coarse to fine.

    Args:
        channels: channels of the three levels, finest first.
        width: channels of the output.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        above = (width, channels[2])
        self.lateral = nn.ModuleList(
            conv_block(own + coarser, width, 1)
            for own, coarser in zip(channels[:2], above, strict=True)
        )
        self.output = nn.ModuleList(conv_block(width, width) for _ in above)

    def forward(self, levels: Sequence[Tensor]) -> Float[Tensor, "n c h w"]:
        """Return the joined features at the finest level."""
        joined = levels[2]
        for fine in (1, 0):
            larger = functional.interpolate(
                joined, levels[fine].shape[-2:], mode="bilinear", align_corners=False
            )
            both = torch.cat([levels[fine], larger], dim=1)
            joined = self.output[fine](self.lateral[fine](both))
        return joined


class LiftSplat(nn.Module):
    """Lifts image features to every depth, weighted by its probability, and sums them on a map.

    Args:
        width: channels of the image features.
        context: channels that are lifted.
        depths: bins of the depth.
        axes: axes of the map: x, y and z.
    """

    def __init__(
        self, width: int, context: int, depths: Axis, axes: tuple[Axis, Axis, Axis]
    ) -> None:
        super().__init__()
        self.context = context
        self.depths = depths
        self.axes = axes
        self.depth = nn.Conv2d(width, depths.cells + context, 1)
        lifted_channels = context * axes[2].cells
        self.smooth = nn.Sequential(
            conv_block(lifted_channels, context),
            conv_block(context, context, stride=2),
            conv_block(context, context),
        )

    @property
    def map_shape(self) -> tuple[int, int]:
        """Number of cells of the returned map along x and y."""
        x, y, _ = ((axis.cells + 1) // 2 for axis in self.axes)
        return (x, y)

    def forward(self, features: Float[Tensor, "b v c h w"], rig: Rig) -> Float[Tensor, "b k x y"]:
        """Return the map, smoothed and reduced to half the resolution of ``axes``.

        Args:
            features: features of the images of ``v`` cameras.
            rig: cameras of these images.
        """
        return self.smooth(self.splat(features, rig).flatten(1, 2))

    def splat(self, features: Float[Tensor, "b v c h w"], rig: Rig) -> Float[Tensor, "b k z x y"]:
        """Return the sum of the lifted features in every cell."""
        maps = self.depth(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        weights = maps[:, :, : self.depths.cells].softmax(dim=2)
        points = self.points(rig, (features.shape[-2], features.shape[-1]))
        return pool(weights, maps[:, :, self.depths.cells :], points, self.axes)

    def points(self, rig: Rig, grid_hw: tuple[int, int]) -> Float[Tensor, "b v d h w 3"]:
        """Return the 3D points of the image cells at every depth, in the vehicle's frame."""
        hw = (rig.images.shape[-2], rig.images.shape[-1])
        frustum = make_frustum(hw, grid_hw, self.depths, rig.intrinsics.device)
        with without_autocast(frustum):  # 16 bits would move points by a cell
            return lift(frustum, rig)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut (He et al., 2016).

    Args:
        channels: channels of the input.
        width: channels of the output.
        stride: stride of the first convolution.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = conv_block(channels, width, stride=stride)
        self.second = conv_block(width, width)[:2]
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = conv_block(channels, width, 1, stride=stride)[:2]

    def forward(self, x: Map) -> Map:
        """Return the output of the block."""
        # not with channels last: the CPU gradient of a strided 1 x 1 convolution of fewer than 16
        # channels then writes past its buffer (oneDNN issue 6035)
        return (self.second(self.first(x)) + self.shortcut(x.contiguous())).relu()


class MapEncoder(nn.Module):
    """A residual network on a map, with two blocks per stage.

    Args:
        channels: channels of the map.
        stages: channels and stride of each stage.
    """

    def __init__(self, channels: int, stages: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for width, stride in stages:
            blocks = (ResidualBlock(channels, width, stride), ResidualBlock(width, width, 1))
            self.stages.append(nn.Sequential(*blocks))
            channels = width

    def forward(self, x: Map) -> list[Map]:
        """Return the map after each stage."""
        return run_stages(self.stages, x)


def check_stages(stages: Sequence[tuple[int, int]]) -> None:
    """Refuse stages from which no network can be built.

    Args:
        stages: channels and stride of each stage.

    Raises:
        InputError: if there is no stage, or a number is not positive.
    """
    if not stages or min(min(stage) for stage in stages) < 1:
        raise InputError(f"stages {list(stages)}: give channels and stride of one or more stages")


def run_stages(stages: nn.ModuleList, x: Map) -> list[Map]:
    """Return the map after each of the stages."""
    levels = []
    for stage in stages:
        x = stage(x)
        levels.append(x)
    return levels


class MapPyramid(nn.Module):
    """Joins the first and the last level of a map, and doubles the size.

    Args:
        coarse: channels of the last level.
        fine: channels of the first level.
        width: channels of the output.
    """

    def __init__(self, coarse: int, fine: int, width: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(conv_block(coarse + fine, width, 1), conv_block(width, width))
        self.enlarge = conv_block(width, width)

    def forward(self, levels: Sequence[Map]) -> Map:
        """Return the joined map at twice the size of the first level."""
        first, last = levels[0], levels[-1]
        last = functional.interpolate(last, first.shape[-2:], mode="bilinear", align_corners=True)
        joined = self.fuse(torch.cat([last, first], dim=1))
        height, width = joined.shape[-2:]
        larger = functional.interpolate(
            joined, (2 * height, 2 * width), mode="bilinear", align_corners=True
        )
        return self.enlarge(larger)
