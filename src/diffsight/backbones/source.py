"""A pretrained model by its name: loaded once, for any number of methods that stand on it."""

import functools
from pathlib import Path
from typing import Any

from diffsight import assets
from diffsight.backbones import architectures
from diffsight.backbones.clip import ClipVision, tower_folder
from diffsight.backbones.stable_diffusion import Part, StableDiffusion
from diffsight.backbones.vision import VisionBackbone
from diffsight.errors import InputError
from diffsight.weights import locate

CLIP = "openai/clip-vit-large-patch14"
"""Vision tower that few_shot's paper mixes its tables with; Stable Diffusion has none itself."""
PARTS = ("unet", "vae", "tokenizer", "text_encoder", "image_encoder")


class BackboneSource:
    """Where a backbone comes from.

    Args:
        name: ``tiny``, a diffusers folder or hub id, one original file of Stable Diffusion 1.x or
            2.x, or folder or hub id of a vision backbone of transformers.
        revision: branch, tag or commit of a hub id.

    Attributes:
        name: as given; of a folder or file the whole path.
        folder: where its files are, or the one file.
        is_diffusion: whether it is Stable Diffusion.
        is_embedded: whether it comes with the package.

    Raises:
        InputError: if there is no such model.
    """

    def __init__(self, name: str | Path, *, revision: str | None = None) -> None:
        self.folder = locate(name, PARTS, revision=revision)
        local = Path(name).exists() and name not in assets.NAMES
        self.name = str(self.folder.resolve() if local else name)
        self.is_local = local
        self.is_embedded = str(name) in assets.NAMES
        self.revision = revision or _commit(self.folder)
        self.is_diffusion = self.folder.is_file() or (self.folder / "unet").is_dir()
        self._clip: dict[str, ClipVision] = {}

    @functools.cached_property
    def diffusion(self) -> StableDiffusion:
        """The diffusion model, frozen, its latent scaled as the UNet was trained."""
        return self.fresh_diffusion(trainable=()).eval()

    def fresh_diffusion(self, *, trainable: tuple[Part, ...], **options: Any) -> StableDiffusion:
        """Load the diffusion model once more, for a method that trains it.

        Raises:
            InputError: if it is no diffusion model.
        """
        self._require_diffusion()
        architecture, scale = architectures.of_weights(self.folder)
        return StableDiffusion(
            architecture,
            weights=self.name,
            revision=self.revision,
            trainable=trainable,
            **{"latent_scale": scale, **options},
        )

    @functools.cached_property
    def vision(self) -> VisionBackbone:
        """The vision backbone of transformers, frozen."""
        return VisionBackbone(self.name, revision=self.revision, trainable=False).eval()

    def clip(self, source: str | Path | None = None) -> ClipVision:
        """Return a frozen CLIP vision tower.

        Args:
            source: as for ``ClipVision``; default: ``default_clip``.

        Raises:
            InputError: if there is none.
        """
        name = str(source or self.default_clip or self.name)
        if name not in self._clip:
            is_own = name == self.name
            revision = self.revision if is_own else _commit(tower_folder(name))
            self._clip[name] = ClipVision(name, revision=revision)
        return self._clip[name]

    @functools.cached_property
    def default_clip(self) -> str | None:
        """Name of the model's own CLIP vision tower, for Stable Diffusion else of CLIP ViT-L/14.

        None if there is none: the model is no diffusion model, or ViT-L/14 cannot be fetched.
        """
        if self.has_clip:
            return self.name
        try:
            return CLIP if self.is_diffusion and tower_folder(CLIP) else None
        except InputError:
            return None

    def clip_folder(self, source: str | Path | None = None) -> Path | None:
        """Return the folder of the tower that ``clip`` loads, or None if there is none."""
        if source is None and self.has_clip:
            return tower_folder(self.folder)
        name = source or self.default_clip
        return None if name is None else tower_folder(name)

    @property
    def has_clip(self) -> bool:
        """Whether the model has a CLIP vision tower of its own."""
        return (self.folder / "image_encoder").is_dir()

    @property
    def short_side_px(self) -> int:
        """Side of the pictures that the model was trained on."""
        if not self.is_diffusion:
            return self.vision.trained_side_px
        config: Any = self.diffusion.unet.config
        return (config.sample_size or 64) * self.diffusion.vae.stride

    def _require_diffusion(self) -> None:
        if not self.is_diffusion:
            raise InputError(
                f"{self.name}: no diffusion model (no unet folder in it): give a Stable Diffusion "
                "folder, a hub id of one, or tiny, or choose a method for vision backbones "
                "(feature_head, linear_probe)"
            )


def _commit(folder: Path) -> str | None:
    """Return the commit of a folder in the hub's cache."""
    return folder.name if folder.parent.name == "snapshots" else None
