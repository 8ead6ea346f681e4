"""The base class of VPD and EVP: one pass of the UNet with a text condition, without noise."""

from torch import Tensor

from diffsight.backbones import StableDiffusion
from diffsight.backbones.attention_maps import MapRequest, UNetPart
from diffsight.methods.base import AbstractMethod, Explanation
from diffsight.methods.parts import (
    AttentionMaps,
    EncodedLatent,
    append_maps,
    encode_latent,
    map_levels,
    pad,
    require_fitting_text,
    run_prompted_unet,
    widths_with_maps,
)
from diffsight.ops.resize import resize_image
from diffsight.prompts import AbstractPrompt
from diffsight.types import Draws, Inputs, Maps, Pyramid

MAX_EXPLAINED_TOKENS = 50  # tokens whose attention maps ``explain`` returns


class AbstractPromptedMethod(AbstractMethod):
    """Base class of methods that use the UNet's features and its cross-attention maps.

    Args:
        backbone: Stable Diffusion.
        prompts: text condition.
        attention_maps: levels to which averaged cross-attention maps are appended, see ``VPD``.
        attention_places: parts of the UNet whose layers are averaged, see ``VPD``.
        detach_attention_maps: False lets gradients pass through the appended maps.
        timestep: timestep whose embedding conditions the UNet.

    Raises:
        InputError: if prompts and UNet differ in width, or there are no maps to append.
    """

    output_kinds = ("values", "classes")
    accepts_prompt = True

    def __init__(
        self,
        backbone: StableDiffusion,
        prompts: AbstractPrompt,
        attention_maps: AttentionMaps,
        attention_places: tuple[UNetPart, ...],
        detach_attention_maps: bool,
        timestep: int,
    ) -> None:
        super().__init__()
        require_fitting_text(prompts, backbone)
        levels = map_levels(attention_maps, attention_places, backbone)
        self.maps = MapRequest(levels, attention_places, detach_attention_maps)
        self.timestep = timestep
        self.backbone = backbone
        self.prompts = prompts
        self.size_multiple = backbone.strides[-1]
        self.uses_noise = backbone.latent == "sample"
        self.requires_prompt = prompts.requires_text
        self.ignores_text = not (prompts.reads_text or prompts.requires_text)
        self.pyramid_channels = widths_with_maps(backbone.channels, levels, prompts.num_tokens)

    def encode(self, inputs: Inputs) -> EncodedLatent:
        """Return the latent; it is None if it is sampled in every pass or the VAE is trained."""
        return EncodedLatent(self._latent(inputs) if self.backbone.latent_is_fixed else None)

    def pyramid(
        self, inputs: Inputs, encoded: EncodedLatent | None, draws: Draws | None
    ) -> Pyramid:
        """Return the features of the padded images from one pass, with attention maps appended.

        Args:
            inputs: images and prompts.
            encoded: result of ``encode``; None computes it.
            draws: random numbers, for a backbone that samples its latents.
        """
        latent = encoded.latent if encoded is not None else None
        if latent is None:
            latent = self._latent(inputs, draws)
        return append_maps(self._pass(inputs, latent, self.maps))

    def _latent(self, inputs: Inputs, draws: Draws | None = None) -> Maps:
        image = pad(inputs.image, self.size_multiple)
        return encode_latent(self.backbone, image, inputs.latents, draws)

    def _pass(self, inputs: Inputs, latent: Maps, maps: MapRequest) -> Pyramid:
        height, width = inputs.image.shape[-2:]
        return run_prompted_unet(
            self.backbone,
            latent,
            self.prompts(inputs),
            timestep=self.timestep,
            maps=maps,
            valid_hw=(height, width),
        )

    def check_prompt(self, text: str | None) -> None:
        """Refuse a missing sentence if the prompts need one, and a sentence that is too long."""
        super().check_prompt(text)
        if text is not None:
            self.prompts.check(text)

    def example_text(self) -> Tensor | None:
        """Return the placeholder of ``prompts``, see ``AbstractMethod.example_text``."""
        return self.prompts.placeholder()

    def explain(self, inputs: Inputs, encoded: EncodedLatent | None = None) -> Explanation:
        """Return the output of one image, and the mean attention maps of its first 50 tokens."""
        draws = Draws((0,))
        output = self(inputs, encoded, draws=draws)
        maps = MapRequest(self.backbone.map_levels(self.maps.unet_parts), self.maps.unet_parts)
        attention = self._pass(inputs, self._latent(inputs, draws), maps).attention.values()
        if not attention:
            return Explanation(output)
        height, width = inputs.image.shape[-2:]
        padded = pad(inputs.image, self.size_multiple).shape
        resized = [resize_image(one.float(), (padded[-2], padded[-1])) for one in attention]
        mean = sum(resized[1:], start=resized[0])[0, :, :height, :width] / len(resized)
        shown = mean[:MAX_EXPLAINED_TOKENS]
        return Explanation(output, {f"token {i + 1}": one for i, one in enumerate(shown)})
