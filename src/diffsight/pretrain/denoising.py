"""The losses of the UNet: the error of v-prediction, and the alignment with a teacher."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric

from diffsight.backbones.base import TIMESTEPS
from diffsight.training.objective import AbstractObjective
from diffsight.types import Record

Latent = Float[Tensor, "b k h w"]
"""Latents of a batch of pictures, with k channels."""

# Stable Diffusion's noise schedule; v-prediction as in its second version
NOISE_SCHEDULE = {
    "num_train_timesteps": TIMESTEPS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@dataclass(frozen=True)
class NoisyBatch(Record):
    """A batch of latents for one denoising step.

    Attributes:
        latent: latents of the pictures, with unit variance.
        text: output of the text tower for the captions, or for the empty caption.
        steps: timestep of each picture in the noise schedule.
        noise: standard normal noise.
        teacher: features of the teacher for the pictures without noise; None for held-out pictures.
    """

    latent: Latent
    text: Float[Tensor, "b n c"]
    steps: Int[Tensor, " b"]
    noise: Latent
    teacher: Float[Tensor, "b d gh gw"] | None = None

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.latent)


class AlignedUNet(nn.Module):
    """A UNet with a linear projection of each aligned level to the teacher's channels.

    Args:
        unet: UNet that predicts the velocity v.
        levels: levels of the feature pyramid that are aligned, 0 is the finest.
        width: channels of the teacher's features.
    """

    def __init__(self, unet: UNet2DConditionModel, levels: Sequence[int], width: int) -> None:
        super().__init__()
        self.unet = unet
        channels = unet.config["block_out_channels"]
        # linear, so that the alignment acts on the features themselves, which dense heads read
        self.project = nn.ModuleList(nn.Conv2d(channels[i], width, 1) for i in levels)
        self._taps: dict[int, Tensor] = {}
        self.levels = tuple(levels)
        for level in self.levels:
            _find_tap(unet, level).register_forward_hook(partial(self._store_tap, level))

    def _store_tap(self, level: int, module: nn.Module, inputs: Any, output: Any) -> None:
        self._taps[level] = output[0] if isinstance(output, tuple) else output

    def forward(
        self, latent: Latent, steps: Int[Tensor, " b"], text: Float[Tensor, "b n c"]
    ) -> tuple[Latent, list[Float[Tensor, "b d _ _"]]]:
        """Return the predicted v, and the projected features of each aligned level."""
        v = self.unet(latent, steps, text).sample
        pairs = zip(self.project, self.levels, strict=True)
        return v, [project(self._taps.pop(level)) for project, level in pairs]


def _find_tap(unet: Any, level: int) -> nn.Module:
    """Return the layer whose output ``StableDiffusion`` uses as the features of a level."""
    block = unet.up_blocks[-1 - level]
    layers = dict(block.named_children()).get("attentions") or block.resnets
    return layers[-1 if level == 0 else -2]


class Denoising(AbstractObjective):
    """The losses of the UNet: squared error of v, and misalignment of features with a teacher.

    v-prediction is from Salimans and Ho 2022, as in Stable Diffusion 2. The alignment is that of
    REPA (Yu et al. 2024): hidden features are compared with those of a frozen network that sees the
    picture without noise. Here it applies to the features that dense heads read.

    Args:
        unet: the UNet to train.
        levels: levels of the feature pyramid that are aligned.
        teacher_channels: channels of the teacher's features.
        align_weight: weight of one minus the cosine similarity, averaged over the levels.
        ema_decay: decay of the exponential moving average of the weights. The averaged weights are
            scored and exported.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        *,
        levels: Sequence[int],
        teacher_channels: int,
        align_weight: float,
        ema_decay: float,
    ) -> None:
        super().__init__()
        for module in unet.modules():  # this layout is a fifth faster on a CPU
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean = copy.deepcopy(unet).requires_grad_(False)
        self.net = AlignedUNet(unet, levels, teacher_channels)
        self.align_weight = align_weight
        self.ema_decay = ema_decay
        self.schedule: Any = DDIMScheduler.from_config(NOISE_SCHEDULE)
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.error = MeanMetric()
        self.train()  # Lightning warns about modules in evaluation mode; none here has dropout

    @property
    def trained(self) -> AlignedUNet:
        """The UNet and its projections."""
        return self.net

    def losses(self, batch: NoisyBatch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms ``v`` and ``align``, without the weight of ``align``."""
        assert batch.teacher is not None
        v, taps = self.net(self._add_noise(batch), batch.steps, batch.text)
        error = functional.mse_loss(v, self._compute_velocity(batch))
        align = torch.stack([_compute_misalignment(tap, batch.teacher) for tap in taps]).mean()
        return {"loss": error + self.align_weight * align, "v": error, "align": align}

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the moving average of the weights, with a smaller decay in the first steps."""
        self.updates += 1
        decay = min(self.ema_decay, (1 + int(self.updates)) / (10 + int(self.updates)))
        torch._foreach_lerp_(
            list(self.mean.parameters()), list(self.net.unet.parameters()), 1 - decay
        )

    def score(self, batch: NoisyBatch) -> Sequence[Any]:
        """Add the error of v with the averaged weights; return no predictions."""
        v = self.mean(self._add_noise(batch), batch.steps, batch.text).sample
        self.error.update(functional.mse_loss(v, self._compute_velocity(batch)), len(batch))
        return []

    def scores(self) -> Mapping[str, Tensor]:
        """Return the mean squared error of v as ``loss``."""
        error = self.error.compute()
        self.error.reset()
        return {"loss": error}

    def _add_noise(self, batch: NoisyBatch) -> Tensor:
        noised = self.schedule.add_noise(batch.latent, batch.noise, batch.steps)
        return noised.contiguous(memory_format=torch.channels_last)

    def _compute_velocity(self, batch: NoisyBatch) -> Tensor:
        return self.schedule.get_velocity(batch.latent, batch.noise, batch.steps)


def _compute_misalignment(
    tap: Float[Tensor, "b d h w"], teacher: Float[Tensor, "b d gh gw"]
) -> Float[Tensor, ""]:
    """Return one minus the mean cosine similarity, on the coarser of the two grids."""
    side = min(tap.shape[-1], teacher.shape[-1])
    tap, teacher = (functional.adaptive_avg_pool2d(x, side) for x in (tap, teacher))
    return 1 - functional.cosine_similarity(tap, teacher, dim=1).mean()
