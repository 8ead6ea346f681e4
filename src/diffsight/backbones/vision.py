"""Vision backbones of transformers (DINOv2, Swin, ConvNeXt ...), and CLIP's patch tokens."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from diffsight.backbones.base import AbstractBackbone, PretrainedPart
from diffsight.backbones.clip import ClipVision, SquareInput, read_normalisation
from diffsight.errors import InputError
from diffsight.formats.sizes import check_sizes
from diffsight.ops.padding import require_multiples
from diffsight.types import Latents, Pyramid
from diffsight.weights import load_tower, locate, read_config, read_folder, report_errors

PROBE_PX = 448  # side of the image by which strides are measured; a multiple of 14, 16 and 32
KIND, REPAIR = "vision backbone", "give the folder of one"
TABLE = "relative_position_bias_table"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VisionBackbone(AbstractBackbone, PretrainedPart):
    """Any network that transformers' ``AutoBackbone`` can build.

    Args:
        weights: folder or hub id; None: random, for weights that are loaded later.
        revision: branch, tag or commit of a hub id.
        architecture: transformers' configuration with ``model_type``, ``image_mean`` and
            ``image_std``; default: that of the weights.
        stages: names of the feature maps to return, as in transformers; default: all stages of a
            hierarchical network, the last one of a plain transformer.
        trainable: False freezes the network.

    Attributes:
        trained_side_px: side of its training images in pixels.

    Raises:
        InputError: if there is no such network, or the stages are unknown.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        revision: str | None = None,
        architecture: dict[str, Any] | None = None,
        stages: tuple[str, ...] | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        from transformers import AutoBackbone, AutoConfig  # half a second

        if architecture is None:
            if weights is None:
                raise InputError("VisionBackbone: give weights or an architecture")
            architecture = _architecture(locate(weights, (), revision=revision), weights)
        config = {**architecture}
        check_sizes("architecture of the vision backbone", config)
        with report_errors(f"{weights or architecture.get('model_type')}: no {KIND}"):
            normalised = {"mean": config.pop("image_mean"), "std": config.pop("image_std")}
            for name, values in normalised.items():
                value = torch.tensor(values)[:, None, None]
                self.register_buffer(name, value, persistent=False)
            built = AutoConfig.for_model(**config)
            # all levels of a hierarchical network; the last one of a plain transformer
            hierarchical = getattr(built, "depths", None) is not None
            names = tuple(getattr(built, "stage_names", ()))[1:]
            chosen = stages or (names if hierarchical else names[-1:])
            built.out_features = list(chosen)
            # initial values that are overwritten must not advance the random number generator
            with torch.random.fork_rng(devices=[], enabled=weights is not None):
                self.network: Any = AutoBackbone.from_config(built).float().eval()
            self.trained_side_px = int(getattr(built, "image_size", 224) or 224)
            self.channels = tuple(self.network.channels)
            self.strides = self._strides()
        self._restate({"architecture": architecture, "stages": list(chosen)})
        self.network.requires_grad_(trainable)
        self.size_multiple = max(self.strides)
        self.has_fixed_graph = "window_size" in built.to_dict()  # Swin pads and shifts its windows
        self.mean: Tensor
        self.std: Tensor
        if weights is not None:
            self.load_weights(weights, revision=revision)

    def load_weights(self, source: str | Path, *, revision: str | None = None) -> None:
        """Load the weights from a folder or hub id."""
        _, state = read_folder(locate(source, (), revision=revision))
        with report_errors(f"{source}: its weights fit no {KIND}"):
            state = dict(_fit_position_tables(state, self.network.state_dict()))
        loaded = load_tower(type(self.network), self.network.config, state, source, KIND)
        self.network.load_state_dict(loaded.state_dict())
        self.source, self.revision = str(source), revision

    def forward(
        self, image: Float[Tensor, "b 3 h w"], *, latents: Latents | None = None
    ) -> Pyramid:
        """Return the feature maps of the chosen stages."""
        height, width = image.shape[-2:]
        require_multiples(height, width, self.size_multiple)
        return Pyramid(self.levels(image), self.strides, (height, width))

    def levels(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b _ _ _"], ...]:
        """Return the feature maps of an image of any size; the network pads where it must."""
        return tuple(self.network(pixel_values=(image - self.mean) / self.std).feature_maps)

    @contextlib.contextmanager
    def exporting(self) -> Iterator[None]:
        """Return a context of plain attention in Swin; ONNX cannot express its fused attention."""
        if not self.has_fixed_graph:
            yield
            return
        before = self.network.config._attn_implementation
        self.network.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.network.set_attn_implementation(before)

    @torch.no_grad()
    def _strides(self) -> tuple[int, ...]:
        image = torch.zeros(1, 3, PROBE_PX, PROBE_PX, device=next(self.network.parameters()).device)
        maps = self.network(pixel_values=image).feature_maps
        return tuple(PROBE_PX // one.shape[-1] for one in maps)


class ClipTokens(AbstractBackbone):
    """A backbone that returns CLIP's patch tokens as one feature map of the image.

    The image is resized to a square.

    Args:
        clip: frozen tower.
        side: side of the square in pixels, a multiple of the patch size. The position embedding is
            interpolated to it. Default: the side that the tower was trained with.

    Raises:
        InputError: if the side is not a multiple of the patch size.
    """

    size_multiple = 1

    def __init__(self, clip: ClipVision, *, side: int | None = None) -> None:
        super().__init__()
        self.clip = clip
        config = clip.tower.config
        self.side: int = side or config.image_size
        if self.side % config.patch_size:
            raise InputError(
                f"side {self.side}: CLIP's tower takes multiples of {config.patch_size} pixels"
            )
        self.channels = (config.hidden_size,)
        self.strides = (config.patch_size,)
        mean, std = (
            values.flatten().tolist() for values in (clip.preprocess.mean, clip.preprocess.std)
        )
        self.preprocess = SquareInput(self.side, mean, std)

    @torch.no_grad()
    def forward(
        self, image: Float[Tensor, "b 3 h w"], *, latents: Latents | None = None
    ) -> Pyramid:
        """Return one feature vector per patch of the resized image.

        Args:
            image: RGB in [0, 1], of any size.
            latents: not used.
        """
        height, width = image.shape[-2:]
        pixels = self.preprocess(image)
        tokens = self.clip.tower(pixel_values=pixels, interpolate_pos_encoding=True)
        grid = self.side // self.strides[0]
        features = tokens.last_hidden_state[:, 1:].mT.unflatten(2, (grid, grid))
        return Pyramid((features,), self.strides, (height, width), (height, width))


def _architecture(folder: Path, source: str | Path) -> dict[str, Any]:
    """Return the ``architecture`` of ``VisionBackbone`` for the vision network in a folder."""
    from transformers import AutoConfig

    config = read_config(AutoConfig, folder, f"{source}: no {KIND} there", REPAIR)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if (folder / "preprocessor_config.json").is_file():
        mean, std = read_normalisation(folder)
    kept = {k: v for k, v in config.to_diff_dict().items() if k not in _UNUSED_OPTIONS}
    return {
        **kept,
        "model_type": config.model_type,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def _fit_position_tables(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield weights of Swin, with position tables resized to the network's windows (bicubic).

    Args:
        state: weights of the checkpoint, whose windows may have another size.
        own: weights of the network.
    """
    sizes = {_block(name): len(table) for name, table in own.items() if name.endswith(TABLE)}
    changed = {
        name
        for name, table in state.items()
        if name.endswith(TABLE) and sizes.get(_block(name), len(table)) != len(table)
    }
    for name, value in state.items():
        if name in changed:
            old, new = (round(n**0.5) for n in (len(value), sizes[_block(name)]))
            grid = value.float().mT.reshape(1, -1, old, old)
            grid = functional.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
            yield name, grid[0].flatten(1).mT.contiguous()
        elif not (changed and name.endswith("relative_position_index")):  # a constant
            yield name, value


def _block(name: str) -> tuple[str, ...]:
    """Return the stage and block numbers in the name of a weight.

    The rest of the name differs between versions of transformers.
    """
    return tuple(re.findall(r"(?:layers|blocks)\.(\d+)\.", name))


_UNUSED_OPTIONS = ("transformers_version", "architectures", "dtype", "torch_dtype", "out_features")
