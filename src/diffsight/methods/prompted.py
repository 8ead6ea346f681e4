"""What VPD and EVP have in common: a UNet under a text condition, in one pass without noise."""

from torch import Tensor

from diffsight.backbones import StableDiffusion
from diffsight.backbones.attention_maps import MapRequest, Place
from diffsight.methods.base import AbstractMethod, Explanation
from diffsight.methods.parts import (
    AttentionMaps,
    EncodedLatent,
    append_maps,
    encode_latent,
    map_levels,
    pad,
    prompted_pyramid,
    require_fitting_text,
    widths_with_maps,
)
from diffsight.ops.resize import resized_image
from diffsight.prompts import AbstractPrompt
from diffsight.types import Draws, Inputs, Maps, Pyramid

SHOWN = 50  # tokens of an explanation, at most


class AbstractPrompted(AbstractMethod):
    """A method on the pyramid of the UNet's features and the attention maps of its text.

    Args:
        backbone: Stable Diffusion.
        prompts: text condition.
        attention_maps: levels that get the averaged maps, see ``VPD``.
        attention_places: layers that are averaged, see ``VPD``.
        detach_attention_maps: False lets gradients pass through the appended maps.
        timestep: step whose embedding conditions the UNet.

    Raises:
        InputError: if text and UNet do not fit together, or there are no maps to append.
    """

    output_kinds = ("values", "classes")
    accepts_prompt = True

    def __init__(
        self,
        backbone: StableDiffusion,
        prompts: AbstractPrompt,
        attention_maps: AttentionMaps,
        attention_places: tuple[Place, ...],
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
        self.size_multiple = backbone.size_multiple
        self.requires_prompt = prompts.requires_text
        self.pyramid_channels = widths_with_maps(backbone.channels, levels, prompts.num_tokens)

    def encode(self, inputs: Inputs) -> EncodedLatent:
        """Return the latent, unless it is drawn anew in every pass or its encoder learns."""
        return EncodedLatent(self._latent(inputs) if self.backbone.latent_is_fixed else None)

    def pyramid(
        self, inputs: Inputs, encoded: EncodedLatent | None, draws: Draws | None
    ) -> Pyramid:
        """Return features and maps of the padded image after one pass."""
        latent = encoded.latent if encoded is not None else None
        if latent is None:
            latent = self._latent(inputs, draws)
        return append_maps(self._pass(inputs, latent, self.maps))

    def _latent(self, inputs: Inputs, draws: Draws | None = None) -> Maps:
        image = pad(inputs.image, self.backbone.size_multiple)
        return encode_latent(self.backbone, image, inputs.latents, draws)

    def _pass(self, inputs: Inputs, latent: Maps, maps: MapRequest) -> Pyramid:
        height, width = inputs.image.shape[-2:]
        return prompted_pyramid(
            self.backbone,
            latent,
            self.prompts(inputs),
            timestep=self.timestep,
            maps=maps,
            valid_hw=(height, width),
        )

    def check_prompt(self, text: str | None) -> None:
        """Refuse a sentence that is missing where one is read, or longer than is read."""
        super().check_prompt(text)
        if text is not None:
            self.prompts.check(text)

    def example_text(self) -> Tensor | None:
        """Return the placeholder of the prompts."""
        return self.prompts.placeholder()

    def explain(self, inputs: Inputs, encoded: EncodedLatent | None = None) -> Explanation:
        """Return the output of one image and the mean attention map of every token, up to 50."""
        draws = Draws((0,))
        output = self(inputs, encoded, draws=draws)
        maps = MapRequest(self.backbone.map_levels(self.maps.places), self.maps.places)
        attention = self._pass(inputs, self._latent(inputs, draws), maps).attention.values()
        if not attention:
            return Explanation(output)
        height, width = inputs.image.shape[-2:]
        padded = pad(inputs.image, self.backbone.size_multiple).shape
        whole = [resized_image(one.float(), (padded[-2], padded[-1])) for one in attention]
        mean = sum(whole[1:], start=whole[0])[0, :, :height, :width] / len(whole)
        return Explanation(output, {f"token {i + 1}": one for i, one in enumerate(mean[:SHOWN])})
