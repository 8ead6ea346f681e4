"""``BackboneSource``: a pretrained backbone, chosen by name and loaded once for all methods."""

import difflib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffsight import assets
from diffsight.backbones import architectures
from diffsight.backbones.clip import ClipVision, tower_folder
from diffsight.backbones.efficientnet import EfficientNetLite0
from diffsight.backbones.stable_diffusion import Part, StableDiffusion
from diffsight.backbones.vision import VisionBackbone
from diffsight.errors import InputError
from diffsight.formats.sizes import MIN_SIDE_PX
from diffsight.weights import locate

CLIP = "openai/clip-vit-large-patch14"
"""CLIP model of few_shot's paper, for models without a vision tower, such as Stable Diffusion."""
PARTS = ("unet", "vae", "tokenizer", "text_encoder", "image_encoder")


HUB_NAMES: Mapping[str, str] = {  # Apache-2.0 licences
    "dinov2-small": "facebook/dinov2-small",
    "dinov2-base": "facebook/dinov2-base",
    "convnext-tiny": "facebook/convnext-tiny-224",
    "swin-tiny": "microsoft/swin-tiny-patch4-window7-224",
}
"""Short names of models on the hub."""
TRAINING_IMAGES: Mapping[str, str] = {
    "tiny": "rendered rooms",
    **dict.fromkeys((assets.LITE, *HUB_NAMES.values()), "photographs"),
}
"""Kind of images that backbones were trained on, by the backbone's full name."""


class BackboneSource:
    """A pretrained backbone: its weights, and the size of its input images.

    Args:
        name: ``tiny``, ``efficientnet-lite0``, a short name of ``HUB_NAMES``, a diffusers folder or
            hub id, one original file of Stable Diffusion 1.x or 2.x, or the folder or hub id of a
            vision backbone of transformers. ``NAME@256`` resizes images to a shorter side of 256
            pixels. Several names joined by ``+`` form one backbone with the features of all.
        revision: branch, tag or commit of a hub id.

    Attributes:
        name: the name without the size; for a folder or file its absolute path.
        parts: sources of the joined backbones; empty for a single backbone.
        folder: folder with the files, or the single file.
        side_px: shorter side that was given with the name (``@256``), or None.
        is_local: whether the name is the path of a folder or file.
        is_diffusion: whether it is Stable Diffusion.
        is_embedded: whether it comes with the package.

    Raises:
        InputError: if there is no such model.
    """

    def __init__(self, name: str | Path, *, revision: str | None = None) -> None:
        text, self.side_px = _split_side(name)
        names = [text] if _is_path(text) else text.split("+")
        self.parts = tuple(map(BackboneSource, names)) if len(names) > 1 else ()
        if self.parts and self.side_px:
            # the size belongs to the last part
            self.parts = (*self.parts[:-1], BackboneSource(f"{names[-1]}@{self.side_px}"))
            self.side_px = None
        self._clip: dict[str, ClipVision] = {}
        if self.parts:
            self.name, self.revision, self.folder = text, None, Path()
            self.is_local = any(part.is_local for part in self.parts)
            self.is_embedded = self.is_diffusion = False
            return
        _require_name(text, name)
        text = HUB_NAMES.get(text, text)
        self.folder = locate(text, PARTS, revision=revision)
        self.is_local = _is_path(text)
        self.name = str(self.folder.resolve() if self.is_local else text)
        self.is_embedded = text in assets.NAMES
        self.revision = revision or _commit(self.folder)
        is_file = self.folder.is_file() and text != assets.LITE
        self.is_diffusion = is_file or (self.folder / "unet").is_dir()

    def __str__(self) -> str:
        """Return a short name (of a folder without its parents), with the size if given."""
        if self.parts:
            return "+".join(map(str, self.parts))
        # the parent folders mean nothing on other machines
        name = Path(self.name).name if self.is_local else self.name
        return name if self.side_px is None else f"{name}@{self.side_px}"

    @property
    def training_images(self) -> str:
        """Kind of its training images: ``photographs`` or ``rendered rooms``; empty if unknown."""
        kinds = [TRAINING_IMAGES.get(part.name, "") for part in self.parts or (self,)]
        return " and ".join(dict.fromkeys(kinds)) if all(kinds) else ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Folder or single file with the weights, of each part."""
        return tuple(part.folder for part in self.parts or (self,))

    @functools.cached_property
    def diffusion(self) -> StableDiffusion:
        """The frozen diffusion model, with the latent scale that its UNet was trained with.

        Raises:
            InputError: if the backbone is not a diffusion model.
        """
        return self.fresh_diffusion(trainable=()).eval()

    def fresh_diffusion(self, *, trainable: tuple[Part, ...], **options: Any) -> StableDiffusion:
        """Load another copy of the diffusion model, for a method that trains it.

        Args:
            trainable: parts that are trained.
            options: further arguments of ``StableDiffusion``.

        Raises:
            InputError: if the backbone is not a diffusion model.
        """
        self._require_diffusion()
        architecture, scale = architectures.from_weights(self.folder)
        return StableDiffusion(
            architecture,
            weights=self.name,
            revision=self.revision,
            trainable=trainable,
            **{"latent_scale": scale, **options},
        )

    @functools.cached_property
    def vision(self) -> EfficientNetLite0 | VisionBackbone:
        """The frozen vision backbone.

        Raises:
            InputError: if it cannot be loaded.
        """
        if self.name == assets.LITE:
            return EfficientNetLite0(self.name).requires_grad_(False)
        return VisionBackbone(self.name, revision=self.revision, trainable=False).eval()

    def clip(self, source: str | Path | None = None) -> ClipVision:
        """Return a frozen CLIP vision tower.

        Args:
            source: weights, as for ``ClipVision``; default: ``default_clip``.

        Raises:
            InputError: if there is no such tower.
        """
        name = str(source or self.default_clip or self.name)
        if name not in self._clip:
            is_own = name == self.name
            revision = self.revision if is_own else _commit(tower_folder(name))
            self._clip[name] = ClipVision(name, revision=revision)
        return self._clip[name]

    @functools.cached_property
    def default_clip(self) -> str | None:
        """Source of the default CLIP vision tower, or None.

        It is the model's own tower if it has one. For a Stable Diffusion without a tower it is CLIP
        ViT-L/14, unless that cannot be downloaded. Other backbones have no default.
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
        """Whether the model's folder has a CLIP vision tower (``image_encoder``)."""
        return (self.folder / "image_encoder").is_dir()

    @property
    def short_side_px(self) -> int:
        """Shorter side of input images in pixels: the given one, or that of its training images."""
        if self.side_px is not None:
            return self.side_px
        if self.parts:
            return max(part.short_side_px for part in self.parts)
        if not self.is_diffusion:
            return self.vision.trained_side_px
        config: Any = self.diffusion.unet.config
        return (config.sample_size or 64) * self.diffusion.vae.stride

    def _require_diffusion(self) -> None:
        if not self.is_diffusion:
            raise InputError(
                f"{self.name}: no diffusion model (it has no unet folder): give the folder or hub "
                "id of a Stable Diffusion, or tiny, or choose a method for vision backbones "
                "(feature_head, linear_probe)"
            )


def _require_name(text: str, name: str | Path) -> None:
    """Refuse an empty or mistyped name.

    Args:
        text: the name without its size.
        name: the whole name, for the message.

    Raises:
        InputError: if the name is empty, or similar to a known name that the message suggests.
    """
    if not text.strip():
        raise InputError(
            f"{str(name)!r}: the name of a backbone is missing: give one, or remove a comma or +"
        )
    names = (*assets.NAMES, *HUB_NAMES)
    close = difflib.get_close_matches(text, names, n=1, cutoff=0.8)
    if close and text not in names and "/" not in text and not _is_path(text):
        raise InputError(
            f"{text}: no such file or folder, and no backbone of that name: did you mean "
            f"{close[0]!r}?"
        )


def _is_path(name: str) -> bool:
    return Path(name).exists() and name not in assets.NAMES


def _split_side(name: str | Path) -> tuple[str, int | None]:
    """Return a name without its size, and the size after ``@`` or None.

    Raises:
        InputError: for a size that is too small.
    """
    text, at, side = str(name).rpartition("@")
    if not at or not side.isdecimal() or _is_path(str(name)):
        return str(name), None
    if not MIN_SIDE_PX <= int(side) < 2**31:
        raise InputError(f"{name}: a short side of {side} px: give {MIN_SIDE_PX} or more")
    return text, int(side)


def _commit(folder: Path) -> str | None:
    """Return the commit of a folder in the hub's cache; None for other folders."""
    return folder.name if folder.parent.name == "snapshots" else None
