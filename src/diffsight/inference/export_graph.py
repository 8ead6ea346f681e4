"""The graph of a model: its forward pass from one image tensor to maps, traced by ``torch.export``.

Noise is the difficulty: a graph cannot draw PyTorch's random numbers for images of any size. The
predictor gives every image the noise of seed 0, and PyTorch draws numbers in blocks of 16: those of
a small map are the first numbers of a large one. The graph therefore stores the numbers for the
largest image, and cuts off as many as it needs.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jaxtyping
import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.backbones.base import AbstractBackbone, AbstractDiffusionBackbone
from diffsight.errors import InputError
from diffsight.model import DenseModel
from diffsight.ops.memory import is_out_of_memory
from diffsight.types import Draws, Images, Inputs

MAX_BATCH = 63  # diffusers copies a tensor for larger batches, which would be another graph
BLOCK = 16  # normal numbers that PyTorch draws at once
FEWEST_CELLS = 2  # sides of one cell would become constants of the graph


@dataclass(frozen=True)
class Traced:
    """A traced model.

    Attributes:
        program: graph from the images to the maps.
        outputs: names of the maps in their order.
        hw: height and width of the traced images in pixels.
        multiple: sides of the images are multiples of this many pixels.
        is_dynamic: whether images may have other sizes than the traced one.
        max_pixels: largest number of pixels of an image; None: no limit.
    """

    program: torch.export.ExportedProgram
    outputs: tuple[str, ...]
    hw: tuple[int, int]
    multiple: int
    is_dynamic: bool
    max_pixels: int | None = None


@dataclass(frozen=True)
class _RecordedDraws(Draws):
    """Draws that record which streams are used, and the shape of their numbers."""

    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def normal(self, stream: int, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        self.shapes[stream] = shape
        return super().normal(stream, shape)


@dataclass(frozen=True)
class _StoredDraws(Draws):
    """Draws of seed 0 for every image, cut from stored numbers.

    Attributes:
        batch: number of images.
        numbers: numbers of each stream.
    """

    batch: int = 1
    numbers: Mapping[int, Tensor] = field(default_factory=dict)

    def normal(self, stream: int, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        rows = self.numbers[stream][: math.prod(shape)].reshape(1, *shape)
        return rows.expand(self.batch, *shape)


class Graph(nn.Module):
    """The forward pass of a model from images to a tuple of maps, with the noise of seed 0.

    Args:
        model: model in evaluation mode, on the CPU.
        image: images on which the model is run once, to find its outputs and its noise.
        max_pixels: number of pixels of the largest image for which noise is stored.

    Attributes:
        outputs: names of the maps in their order.
        counts: how many random numbers the model draws for one of the images, by stream.
    """

    def __init__(self, model: DenseModel, image: Images, max_pixels: int) -> None:
        super().__init__()
        self.model = model
        draws = _RecordedDraws((0,) * len(image))
        with torch.inference_mode():
            self.outputs = tuple(run(model, image, draws))
        self.counts = {stream: math.prod(shape) for stream, shape in draws.shapes.items()}
        self.pixels = image.shape[-2] * image.shape[-1]
        for stream, count in self.counts.items():
            stored = -(-count * max_pixels // self.pixels)
            if max_pixels > self.pixels:
                stored += -stored % BLOCK  # the last numbers of an incomplete block are others
            self.register_buffer(f"noise{stream}", Draws((0,)).normal(stream, (stored,))[0])

    def forward(self, image: Images) -> tuple[Tensor, ...]:
        """Return the maps of the images."""
        numbers = {stream: self.get_buffer(f"noise{stream}") for stream in self.counts}
        draws = _StoredDraws((), image.shape[0], numbers)
        return tuple(run(self.model, image, draws).values())

    def has_whole_blocks(self, multiple: int) -> bool:
        """Return whether the noise of smaller images is the beginning of that of larger ones.

        Args:
            multiple: sides of the images are multiples of this many pixels.
        """
        squares = (count * multiple**2 // self.pixels for count in self.counts.values())
        return all(count % BLOCK == 0 for count in squares)


def run(model: DenseModel, image: Images, draws: Draws) -> Mapping[str, Tensor]:
    """Return the maps of images by name, from one pass as the default plan runs it."""
    return model.task.maps_by_name(model(Inputs(image), draws=draws).reduced())


@torch.inference_mode()
def predict_maps(model: DenseModel, image: Images) -> Mapping[str, Tensor]:
    """Return the maps that the predictor computes for images, by name."""
    return run(model, image, Draws((0,) * len(image)))


def require_exportable(model: DenseModel, source: str) -> None:
    """Refuse a model that reads more than an image.

    Args:
        model: the model.
        source: name of the model, for the message.

    Raises:
        InputError: if it reads sentences or the cameras of a rig.
    """
    if model.requires_prompt:
        raise InputError(
            f"{source}: reads a sentence with every image, and a text encoder with its tokenizer "
            "is no part of an exported graph: use diffsight predict"
        )
    if model.reads_rig:
        raise InputError(
            f"{source}: reads the cameras and points of a rig, not one image, and cannot be "
            "exported: use diffsight predict"
        )


def working_size(model: DenseModel, source: str, hw: tuple[int, int] | None) -> tuple[int, int]:
    """Return the height and width in pixels at which a model is traced.

    Args:
        model: the model.
        source: name of the model, for messages.
        hw: chosen size; None: that of its training images.

    Raises:
        InputError: if the size is not one that the model can read.
    """
    multiple = _multiple(model)
    if model.task.has_regions:  # the model sees crops of one size
        region, _ = next(model.task.regions(torch.zeros(3, multiple, multiple), None))
        only = region.shape[-2], region.shape[-1]
        if hw not in (None, only):
            raise InputError(
                f"{source}: reads crops of {only[1]} x {only[0]} px (width x height): leave --size "
                "out"
            )
        return only
    if hw is None:
        side = model.info.get("short_side") or 512
        side = max(FEWEST_CELLS, -(-side // multiple)) * multiple
        return side, side
    if hw[0] % multiple or hw[1] % multiple or min(hw) < 1:
        raise InputError(
            f"--size {hw[0]} {hw[1]}: {source} reads images whose sides are multiples of "
            f"{multiple} px: give such numbers, for example {8 * multiple}"
        )
    return hw


def _multiple(model: DenseModel) -> int:
    """Return the multiple of pixels of the images' sides, at which all levels have whole sides."""
    diffusion = (one for one in model.modules() if isinstance(one, AbstractDiffusionBackbone))
    return math.lcm(model.method.size_multiple, *(one.strides[-1] for one in diffusion))


def trace(model: DenseModel, hw: tuple[int, int], max_side: int, source: str) -> Traced:
    """Return the graph of a model, for images of any size if that is possible.

    Args:
        model: model in evaluation mode, on the CPU.
        hw: height and width of the traced images in pixels.
        max_side: for a model that adds noise, the side in pixels of the largest square image.
        source: name of the model, for messages.

    Raises:
        InputError: if the model cannot be traced.
    """
    image = torch.rand(2, 3, *hw, generator=torch.Generator().manual_seed(0))
    multiple, pixels = _multiple(model), math.prod(hw)
    # the stored noise must suffice for the sizes of the certificate too
    most = max(max_side**2, (hw[0] + multiple) * (hw[1] + 2 * multiple))
    graph = Graph(model, image, most)
    backbones = [one for one in model.modules() if isinstance(one, AbstractBackbone)]
    is_fixed = model.task.has_regions or any(one.has_fixed_graph for one in backbones)
    if graph.has_whole_blocks(multiple) and not is_fixed:
        with contextlib.suppress(InputError):
            program = _export(graph, image, multiple, source)
            _require_other_size(program, hw, multiple, source)
            limit = most if graph.counts else None
            return Traced(program, graph.outputs, hw, multiple, True, limit)
    program = _export(Graph(model, image, pixels), image, None, source)
    return Traced(program, graph.outputs, hw, multiple, False)


def _export(
    graph: Graph, image: Images, multiple: int | None, source: str
) -> torch.export.ExportedProgram:
    """Return the traced graph.

    Args:
        graph: the graph.
        image: traced images.
        multiple: sides of the images are any multiple of this; None: those of ``image``.
        source: name of the model, for messages.

    Raises:
        InputError: if the model cannot be traced.
    """
    axes: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}
    if multiple is not None:
        rows, columns = torch.export.Dim("rows", min=1), torch.export.Dim("columns", min=1)
        axes |= {2: multiple * rows, 3: multiple * columns}
    with contextlib.ExitStack() as contexts:
        for module in graph.model.modules():
            if isinstance(module, AbstractBackbone):
                contexts.enter_context(module.exporting())
        contexts.enter_context(_without_shape_checks())
        contexts.enter_context(torch.no_grad())
        try:
            return torch.export.export(graph, (image,), dynamic_shapes=(axes,), strict=False)
        except Exception as error:  # torch.export raises many types
            if is_out_of_memory(error):
                raise
            method = type(graph.model.method).__name__
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{source}: {method} cannot be exported ({reason})") from error


@torch.inference_mode()
def _require_other_size(
    program: torch.export.ExportedProgram, hw: tuple[int, int], multiple: int, source: str
) -> None:
    """Refuse a graph that only accepts the traced size, which ``torch.export`` does not report.

    Raises:
        InputError: if it does.
    """
    try:
        program.module()(torch.zeros(1, 3, hw[0] + multiple, hw[1] + 2 * multiple))
    except (AssertionError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"{source}: its graph accepts one size only") from error


@contextlib.contextmanager
def _without_shape_checks() -> Iterator[None]:
    """Return a context without jaxtyping's checks, which do not accept sizes that are symbols."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
