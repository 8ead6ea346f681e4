"""The loss of the UNet: the error of v, and the distance of its features to a teacher's."""

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
class Noisy(Record):
    """What a denoising step needs.

    Attributes:
        latent: of the picture, unit variance.
        text: the text tower's output for its caption, or for the empty one.
        steps: of the noise schedule.
        noise: standard normal.
        teacher: features of the picture without noise that a frozen network sees in it; None for
            held-out pictures.
    """

    latent: Latent
    text: Float[Tensor, "b n c"]
    steps: Int[Tensor, " b"]
    noise: Latent
    teacher: Float[Tensor, "b d gh gw"] | None = None

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.latent)


class Aligned(nn.Module):
    """The UNet, and a layer for each of its taps that is compared with a teacher's features.

    Args:
        unet: predicts v.
        levels: of the pyramid, whose taps are compared.
        width: channels of the teacher's features.
    """

    def __init__(self, unet: UNet2DConditionModel, levels: Sequence[int], width: int) -> None:
        super().__init__()
        self.unet = unet
        channels = unet.config["block_out_channels"]
        # linear: what dense heads read is then in the taps themselves
        self.project = nn.ModuleList(nn.Conv2d(channels[i], width, 1) for i in levels)
        self._taps: dict[int, Tensor] = {}
        self.levels = tuple(levels)
        for level in self.levels:
            _tap(unet, level).register_forward_hook(partial(self._note, level))

    def _note(self, level: int, module: nn.Module, inputs: Any, output: Any) -> None:
        self._taps[level] = output[0] if isinstance(output, tuple) else output

    def forward(
        self, latent: Latent, steps: Int[Tensor, " b"], text: Float[Tensor, "b n c"]
    ) -> tuple[Latent, list[Float[Tensor, "b d _ _"]]]:
        """Return predicted v, and the projected taps."""
        v = self.unet(latent, steps, text).sample
        pairs = zip(self.project, self.levels, strict=True)
        return v, [project(self._taps.pop(level)) for project, level in pairs]


def _tap(unet: Any, level: int) -> nn.Module:
    """Return the layer whose output is the tap of a level, as ``StableDiffusion`` has it."""
    block = unet.up_blocks[-1 - level]
    layers = dict(block.named_children()).get("attentions") or block.resnets
    return layers[-1 if level == 0 else -2]


class Denoising(AbstractObjective):
    """Mean squared error of v, and features that agree with a teacher's.

    v-prediction: Salimans and Ho 2022, Stable Diffusion 2. Alignment of hidden features with those
    of a network that sees the picture without noise: Yu et al. 2024 (REPA), here of the taps that
    dense heads read.

    Args:
        unet: what learns.
        levels: taps that are aligned.
        teacher_channels: of the teacher's features.
        align_weight: of one minus the cosine between features, mean over the taps.
        ema_decay: of the running mean of the weights, which is what is scored and shipped.
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
        for module in unet.modules():  # a fifth faster on a CPU
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean = copy.deepcopy(unet).requires_grad_(False)
        self.net = Aligned(unet, levels, teacher_channels)
        self.align_weight = align_weight
        self.ema_decay = ema_decay
        self.schedule: Any = DDIMScheduler.from_config(NOISE_SCHEDULE)
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.error = MeanMetric()
        self.train()  # nothing here has dropout, and Lightning warns of parts in evaluation mode

    @property
    def trained(self) -> Aligned:
        """UNet and projections."""
        return self.net

    def losses(self, batch: Noisy) -> dict[str, Tensor]:
        """Return ``loss`` and its parts."""
        assert batch.teacher is not None
        v, taps = self.net(self._noised(batch), batch.steps, batch.text)
        error = functional.mse_loss(v, self._target(batch))
        align = torch.stack([_disagreement(tap, batch.teacher) for tap in taps]).mean()
        return {"loss": error + self.align_weight * align, "v": error, "align": align}

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the running mean, quickly at first."""
        self.updates += 1
        decay = min(self.ema_decay, (1 + int(self.updates)) / (10 + int(self.updates)))
        torch._foreach_lerp_(
            list(self.mean.parameters()), list(self.net.unet.parameters()), 1 - decay
        )

    def score(self, batch: Noisy) -> Sequence[Any]:
        """Add the error of v of the running mean."""
        v = self.mean(self._noised(batch), batch.steps, batch.text).sample
        self.error.update(functional.mse_loss(v, self._target(batch)), len(batch))
        return []

    def scores(self) -> Mapping[str, Tensor]:
        """Return ``loss``: the mean squared error of v."""
        error = self.error.compute()
        self.error.reset()
        return {"loss": error}

    def _noised(self, batch: Noisy) -> Tensor:
        noised = self.schedule.add_noise(batch.latent, batch.noise, batch.steps)
        return noised.contiguous(memory_format=torch.channels_last)

    def _target(self, batch: Noisy) -> Tensor:
        return self.schedule.get_velocity(batch.latent, batch.noise, batch.steps)


def _disagreement(
    tap: Float[Tensor, "b d h w"], teacher: Float[Tensor, "b d gh gw"]
) -> Float[Tensor, ""]:
    """Return one minus the mean cosine, on the coarser of the two grids."""
    side = min(tap.shape[-1], teacher.shape[-1])
    tap, teacher = (functional.adaptive_avg_pool2d(x, side) for x in (tap, teacher))
    return 1 - functional.cosine_similarity(tap, teacher, dim=1).mean()
