"""Cross-attention maps of prompted methods, for explanations."""

from typing import Any

from diffsight.backbones.attention_maps import MapRequest
from diffsight.backbones.stable_diffusion import StableDiffusion
from diffsight.methods.base import Explanation
from diffsight.methods.parts import encode_latent, pad, prompted_pyramid
from diffsight.ops.resize import resized_image
from diffsight.types import Draws, Inputs

SHOWN = 50  # tokens, at most


def explain_attention(method: Any, inputs: Inputs, encoded: Any = None) -> Explanation:
    """Return the output of one image and the mean attention map of every token, up to 50.

    Args:
        method: VPD or EVP; its ``backbone``, ``prompts``, ``maps`` and ``timestep`` are read.
        inputs: one image.
        encoded: what the method's ``encode`` gives for it.
    """
    draws = Draws((0,))
    height, width = inputs.image.shape[-2:]
    output = method(inputs, encoded, draws=draws)
    backbone: StableDiffusion = method.backbone
    levels = backbone.map_levels(method.maps.places)
    image = pad(inputs.image, backbone.size_multiple)
    pyramid = prompted_pyramid(
        backbone,
        encode_latent(backbone, image, inputs.latents, draws),
        method.prompts(inputs),
        timestep=method.timestep,
        maps=MapRequest(levels, method.maps.places),
        valid_hw=(height, width),
    )
    padded = (image.shape[-2], image.shape[-1])
    whole = [resized_image(maps.float(), padded) for maps in pyramid.attention.values()]
    if not whole:
        return Explanation(output)
    mean = sum(whole[1:], start=whole[0])[0, :, :height, :width] / len(whole)
    return Explanation(output, {f"token {i + 1}": one for i, one in enumerate(mean[:SHOWN])})
