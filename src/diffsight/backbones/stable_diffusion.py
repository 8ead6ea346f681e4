"""Stable Diffusion as a backbone: VAE encoder, UNet, four feature levels, cross-attention maps.

VPD, section 3.2, with the layers and conventions of its released code. The blocks of diffusers'
UNet run one by one, so that features can be read between them; its output head does not run.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffsight import assets
from diffsight.backbones import architectures, diffusion_weights
from diffsight.backbones.attention_maps import (
    AbstractRecorder,
    Record,
    SDPAProcessor,
    SilentRecorder,
    UNetPart,
)
from diffsight.backbones.base import TIMESTEPS, AbstractDiffusionBackbone, PretrainedPart
from diffsight.errors import InputError
from diffsight.ops.padding import require_multiples
from diffsight.types import Draws
from diffsight.weights import locate, report_errors

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

Part = Literal["unet", "vae"]


class VAEEncoder(nn.Module):
    """The encoder of Stable Diffusion's autoencoder, without the decoder.

    Args:
        config: ``latent_channels``, ``block_out_channels``, ``layers_per_block`` and
            ``norm_num_groups``, as in diffusers' configuration of the autoencoder.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        from diffusers.models.autoencoders.vae import Encoder  # takes seconds

        super().__init__()
        widths, latents = tuple(config["block_out_channels"]), config["latent_channels"]
        self.stride = 2 ** (len(widths) - 1)
        self.encoder = Encoder(
            in_channels=3,
            out_channels=latents,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            block_out_channels=widths,
            layers_per_block=config["layers_per_block"],
            norm_num_groups=config["norm_num_groups"],
            double_z=True,
        )
        self.quant_conv = nn.Conv2d(2 * latents, 2 * latents, 1)

    def forward(
        self, image: Float[Tensor, "b 3 h w"], noise: Float[Tensor, "b c lh lw"] | None = None
    ) -> Float[Tensor, "b c lh lw"]:
        """Return the unscaled mode of the posterior, or a sample of it if ``noise`` is given.

        Args:
            image: RGB in [-1, 1].
            noise: standard normal numbers, one per latent value.
        """
        mean, log_variance = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        if noise is None:
            return mean
        return mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise


class StableDiffusion(AbstractDiffusionBackbone, PretrainedPart):
    """The denoising UNet of Stable Diffusion 1.x or 2.x, run on the latent of an image.

    Args:
        architecture: ``sd15``, ``sd21``, ``tiny`` (the model that comes with the package), or a
            mapping of diffusers' names (see ``architectures.resolve``).
        weights: ``tiny``, a diffusers folder, a hub id, or one original ``.safetensors`` or
            ``.ckpt`` file. ``auto`` loads the weights of the package for ``tiny``, and none for
            other architectures. None keeps the random initialisation.
        revision: branch, tag or commit of a hub id.
        latent: ``mode`` of the VAE's posterior, or a ``sample`` of it, which needs ``draws``.
        latent_scale: factor of the latent, or one factor for each of its channels. Differs from the
            paper: VPD's authors do not apply Stable Diffusion's 0.18215, and their checkpoints need
            1.0. EVP's code divides by one standard deviation of the data set; its paper states one
            for each channel.
        trainable: parts that are trained; the others are frozen. A frozen VAE runs without
            gradients.
        conv_out: keep the UNet's output head (normalisation and last convolution), for ``sample``.
        time_embedding: keep the network that embeds timesteps; without it, ``features`` needs an
            ``embedding``.
        resize_skips: take latents of any size, and resize skip connections to the decoder's size
            where it differs (Meta Prompts); images need multiples of the autoencoder's stride.
        gradient_checkpointing: recompute the UNet's blocks in the backward pass to save memory.
        betas: first and last beta of the noise schedule's 1,000 steps. The square roots between
            them are evenly spaced (``scaled_linear`` of Stable Diffusion's scheduler).

    Raises:
        InputError: for an unknown architecture, weights that do not fit it, or another number of
            latent scales than channels.
    """

    def __init__(
        self,
        architecture: str | dict[str, Any] = "sd15",
        *,
        weights: str | Path | None = "auto",
        revision: str | None = None,
        latent: Literal["mode", "sample"] = "mode",
        latent_scale: float | tuple[float, ...] = 1.0,
        trainable: tuple[Part, ...] = ("unet",),
        conv_out: bool = False,
        time_embedding: bool = True,
        resize_skips: bool = False,
        gradient_checkpointing: bool = False,
        betas: tuple[float, float] = (0.00085, 0.012),
    ) -> None:
        super().__init__()
        config = architectures.resolve(architecture)
        embedded = str(architecture) if architecture in assets.NAMES else None
        if weights == "auto":
            weights = embedded
        # a later release may embed a model of other widths under the same name
        self._restate({"architecture": config if embedded else architecture, "weights": weights})
        with (
            report_errors(f"{weights or 'architecture'}: no UNet and VAE of its configuration"),
            torch.device("meta") if weights is not None else torch.get_default_device(),
        ):
            self.unet = _build_unet(config["unet"], conv_out, time_embedding)
            self.vae = VAEEncoder(config["vae"])
        if weights is not None:
            self.load_weights(weights, revision=revision)
        self._signal = _signal_variance(betas)
        self.latent: Literal["mode", "sample"] = latent
        _require_scales(latent_scale, self.vae.quant_conv.out_channels // 2)
        self.latent_scale = latent_scale
        self.gradient_checkpointing = gradient_checkpointing
        widths = tuple(config["unet"]["block_out_channels"])
        self.context_dim: int = config["unet"]["cross_attention_dim"]
        # features are read before the upsampler of up-block i: they have the width of down-block
        # n - 1 - i
        self.channels = widths
        self.strides = tuple(self.vae.stride * 2**level for level in range(len(widths)))
        self.has_output_head = conv_out
        self.has_time_embedding = time_embedding
        self.resize_skips = resize_skips
        self.size_multiple = self.vae.stride if resize_skips else self.strides[-1]
        self.embedding_dim: int = 4 * widths[0]  # of a timestep
        self.unet.requires_grad_("unet" in trainable)
        self.vae.requires_grad_("vae" in trainable)
        self._trains_vae = "vae" in trainable

    def load_weights(self, source: str | Path, *, revision: str | None = None) -> None:
        """Load UNet and VAE from a diffusers folder, a hub id, ``tiny`` or an original file."""
        path = locate(source, revision=revision)
        is_trained = {name: p.requires_grad for name, p in self.named_parameters()}
        diffusion_weights.load_part(self.unet, "unet", path)
        diffusion_weights.load_part(self.vae, "vae", path)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_trained[name])
        self.source, self.revision = str(source), revision

    @property
    def latent_is_fixed(self) -> bool:
        """Whether an image always has the same latent: the mode, from a frozen VAE."""
        return self.latent == "mode" and not self._trains_vae

    def map_levels(self, unet_parts: Collection[UNetPart]) -> tuple[int, ...]:
        """Return the feature levels (0 is the finest) with cross-attention in these UNet parts."""
        unet: Any = self.unet
        last = len(self.channels) - 1
        blocks: dict[UNetPart, dict[int, nn.Module]] = {
            "down": dict(enumerate(unet.down_blocks)),
            "mid": {last: unet.mid_block},
            "up": {last - i: block for i, block in enumerate(unet.up_blocks)},
        }
        levels = {
            level
            for unet_part in unet_parts
            for level, block in blocks[unet_part].items()
            if "attentions" in dict(block.named_children())
        }
        return tuple(sorted(levels))

    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, draws: Draws | None = None
    ) -> Float[Tensor, "b c lh lw"]:
        """Return the scaled latent of images in [0, 1].

        Args:
            image: RGB in [0, 1].
            draws: random numbers, needed if the latent is sampled.

        Raises:
            InputError: if a side is not a multiple of ``size_multiple``, or if the latent is
                sampled and ``draws`` is None.
        """
        require_multiples(image.shape[-2], image.shape[-1], self.size_multiple)
        noise = None
        if self.latent == "sample":
            if draws is None:
                raise InputError("latent='sample' needs draws: pass Draws with one seed per image")
            size = (side // self.vae.stride for side in image.shape[-2:])
            noise = draws.normal(0, (self.vae.quant_conv.out_channels // 2, *size)).to(image)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._trains_vae):
            latent = self.vae(image * 2 - 1, noise)
            if isinstance(self.latent_scale, float | int):
                return latent * self.latent_scale
            return latent * torch.tensor(self.latent_scale).to(latent)[:, None, None]

    def features(
        self,
        latent: Float[Tensor, "b c h w"],
        condition: Float[Tensor, "b n e"],
        timesteps: Int[Tensor, " b"],
        recorder: AbstractRecorder | None = None,
        *,
        embedding: Float[Tensor, "b e2"] | None = None,
    ) -> tuple[Float[Tensor, "b _ _ _"], ...]:
        """Return the feature levels of the UNet's decoder, finest first.

        See ``AbstractDiffusionBackbone.features``.

        Args:
            latent: scaled latents, with or without noise.
            condition: one vector per token.
            timesteps: timestep of each row.
            recorder: records attention layers and may stop the pass.
            embedding: used instead of the embedding of the timesteps.

        Raises:
            InputError: if the sides of the images are not multiples of ``size_multiple``.
        """
        height, width = (side * self.vae.stride for side in latent.shape[-2:])
        require_multiples(height, width, self.size_multiple)
        recorder = recorder or SilentRecorder()
        levels = []
        if embedding is None:
            embedding = self._embed(timesteps, latent.dtype)
        for level in self._run_layers(latent, condition, embedding, recorder):
            if level is not None:
                levels.append(level)
            if recorder.is_satisfied:
                break
        return tuple(reversed(levels))

    def _embed(self, timesteps: Int[Tensor, " b"], dtype: torch.dtype) -> Float[Tensor, "b e"]:
        unet: Any = self.unet
        return unet.time_embedding(unet.time_proj(timesteps).to(dtype))

    def sample(self, finest: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b c h w"]:
        """Return the UNet's output (predicted noise or velocity) from its finest features.

        The backbone needs ``conv_out=True``.
        """
        unet: Any = self.unet
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(finest)))

    def add_noise(
        self,
        latent: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
    ) -> Float[Tensor, "b c h w"]:
        """Return noised latents, as the noise schedule of ``betas`` defines them.

        With Stable Diffusion's betas the signal has 0.754 of the variance at step 200.

        Args:
            latent: scaled latents without noise.
            noise: standard normal numbers.
            timesteps: timestep of each row, from 0 to 999.
        """
        signal = self._signal.to(latent.device)[timesteps][:, None, None, None]
        # square roots in 64 bits: in 16 bits the noise of step 5 would be an eighth too weak
        scale, deviation = (part.sqrt().to(latent.dtype) for part in (signal, 1 - signal))
        return scale * latent + deviation * noise

    def _run_layers(
        self, latent: Tensor, context: Tensor, embedding: Tensor, recorder: AbstractRecorder
    ) -> Iterator[Tensor | None]:
        """Run the UNet; yield after every layer its output if it is a feature level, else None."""
        unet: Any = self.unet

        def run(
            resnet: nn.Module,
            transformer: nn.Module | None,
            x: Tensor,
            level: int,
            unet_part: UNetPart,
        ) -> Tensor:
            record = None
            if transformer is not None:
                record = recorder.begin_layer(level, unet_part, (x.shape[-2], x.shape[-1]))
            return self._run_pair(resnet, transformer, x, embedding, context, record)

        x = unet.conv_in(latent)
        skips = [x]
        last = len(unet.down_blocks) - 1
        for level, block in enumerate(unet.down_blocks):
            for resnet, transformer in _pairs(block):
                x = run(resnet, transformer, x, level, "down")
                skips.append(x)
                yield None
            if level < last:
                x = block.downsamplers[0](x)
                skips.append(x)
        first, second = unet.mid_block.resnets
        x = run(first, unet.mid_block.attentions[0], x, last, "mid")
        yield None
        x = second(x, embedding)
        for i, block in enumerate(unet.up_blocks):
            pairs = _pairs(block)
            feature_layer = len(pairs) - 1 if i == last else len(pairs) - 2
            for j, (resnet, transformer) in enumerate(pairs):
                skip = skips.pop()
                if self.resize_skips and skip.shape[-2:] != x.shape[-2:]:
                    hw = (x.shape[-2], x.shape[-1])
                    skip = functional.interpolate(skip, hw, mode="bilinear")
                x = run(resnet, transformer, torch.cat([x, skip], dim=1), last - i, "up")
                yield x if j == feature_layer else None
            if i < last:
                x = block.upsamplers[0](x)

    def _run_pair(
        self,
        resnet: nn.Module,
        transformer: nn.Module | None,
        x: Tensor,
        embedding: Tensor,
        context: Tensor,
        record: Record | None,
    ) -> Tensor:
        """Run a residual block and the transformer after it, with or without checkpointing."""

        def compute(x: Tensor, embedding: Tensor, context: Tensor) -> Tensor:
            x = resnet(x, embedding)
            if transformer is None:
                return x
            options = None if record is None else {"record": record}
            return transformer(
                x,
                encoder_hidden_states=context,
                cross_attention_kwargs=options,
                return_dict=False,
            )[0]

        if self.gradient_checkpointing and torch.is_grad_enabled():
            result = checkpoint(compute, x, embedding, context, use_reentrant=False)
            assert isinstance(result, Tensor)
            return result
        return compute(x, embedding, context)


def _build_unet(
    config: Mapping[str, Any], conv_out: bool, time_embedding: bool
) -> "UNet2DConditionModel":
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # takes seconds

    unet = UNet2DConditionModel(**config)
    if not conv_out:
        del unet.conv_norm_out, unet.conv_act, unet.conv_out
    if not time_embedding:
        del unet.time_proj, unet.time_embedding
    unet.set_attn_processor(SDPAProcessor())  # type: ignore[arg-type]
    return unet


def _signal_variance(betas: tuple[float, float]) -> Float64[Tensor, " t"]:
    """Return the fraction of the variance that is signal at every timestep."""
    first, last = (beta**0.5 for beta in betas)
    roots = torch.linspace(first, last, TIMESTEPS, dtype=torch.float64, device="cpu")
    return (1 - roots.square()).cumprod(0)


def _require_scales(scale: float | tuple[float, ...], channels: int) -> None:
    """Refuse a number of scales that is not the number of latent channels.

    Raises:
        InputError: if the numbers differ.
    """
    if not isinstance(scale, float | int) and len(scale) != channels:
        raise InputError(
            f"latent_scale has {len(scale)} numbers, the latent has {channels} channels: give one "
            "number per channel, or a single number"
        )


def _pairs(block: Any) -> list[tuple[nn.Module, nn.Module | None]]:
    """Return the residual blocks of a UNet block, each with the transformer after it or None."""
    children = dict(block.named_children())
    transformers = children.get("attentions") or [None] * len(block.resnets)
    return list(zip(block.resnets, transformers, strict=True))
