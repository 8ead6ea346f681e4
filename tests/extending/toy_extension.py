"""An example of a backbone, a method, a task and a data set outside the package."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffsight.backbones import AbstractBackbone, BackboneSource
from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.methods import AbstractMethod
from diffsight.methods.base import FitSettings, MethodBuilder, make_builder
from diffsight.methods.parts import pad
from diffsight.outputs import Classes, Distribution, Output, OutputSpec, Values, expectation
from diffsight.tasks import AbstractTask, Prediction, StoredArray
from diffsight.types import Draws, Inputs, Pyramid, Target


class Blur(AbstractBackbone):
    """A backbone whose features are the mean colours of squares of ``stride`` pixels."""

    def __init__(self, *, stride: int = 4) -> None:
        super().__init__()
        self.channels, self.strides, self.size_multiple = (3,), (stride,), stride

    def forward(self, image: Tensor, *, latents: Any = None) -> Pyramid:
        height, width = image.shape[-2:]
        stride = self.strides[0]
        return Pyramid((functional.avg_pool2d(image, stride),), (stride,), (height, width))


class PixelLinear(AbstractMethod):
    """A method with one linear layer on the finest level of a backbone."""

    output_kinds = ("values", "distribution", "classes")

    def __init__(self, *, output: OutputSpec, backbone: AbstractBackbone) -> None:
        super().__init__()
        self.spec = output
        self.backbone = backbone
        self.size_multiple = backbone.size_multiple
        self.out = nn.Conv2d(backbone.channels[0], output.channels, 1)

    def forward(
        self,
        inputs: Inputs,
        encoded: Any = None,
        target: Target | None = None,
        *,
        draws: Draws | None = None,
    ) -> Output:
        height, width = inputs.image.shape[-2:]
        image = pad(inputs.image, self.size_multiple)
        maps = self.out(self.backbone(image).features[0])
        maps = functional.interpolate(maps, image.shape[-2:], mode="bilinear")
        maps = maps[..., :height, :width]
        if self.spec.kind == "values":
            return Values(maps)
        if self.spec.codec is None:
            return Classes(maps)
        probability, centres = maps.softmax(dim=1), self.spec.codec.centres
        return Distribution(probability, expectation(probability, centres[None]), centres)

    @classmethod
    def from_backbone(cls, source: BackboneSource, **options: Any) -> MethodBuilder:
        return make_builder(cls, lambda output: cls(output=output, backbone=Blur(), **options))

    @classmethod
    def few_shot_defaults(cls) -> FitSettings:
        return FitSettings({"": 0.05}, batch_size=2, max_steps=50)


class Brightness(AbstractTask):
    """A task with one brightness value per pixel; its metric is the mean absolute error."""

    metric_name = "MAE"

    def __init__(self, *, label: str = "brightness") -> None:
        super().__init__()
        self.label = label

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        return (OutputSpec("values", 1),)

    def loss(self, output: Output, target: Target, soft_labels: Any = None) -> dict[str, Tensor]:
        gap = (self.to_label(output) - target.label).abs()[:, 0][target.valid]
        return {"loss": gap.mean()}

    def decode(self, output: Output) -> list["BrightnessPrediction"]:
        return [BrightnessPrediction(row[0]) for row in self.to_label(output)]

    def truth(self, target: Target) -> list["BrightnessPrediction"]:
        return [BrightnessPrediction(row[0]) for row in target.label]

    def to_label(self, output: Output) -> Tensor:
        return output.stack

    def measure(self, label: Tensor, target: Target) -> Tensor:
        gap = (label - target.label).abs()[:, 0][target.valid].double()
        return torch.stack([gap.sum(), torch.tensor(float(gap.numel())).double()])

    def score(self, sums: Tensor) -> float:
        return float(sums[0] / sums[1])

    def constant(self, label: Tensor, valid: Tensor) -> Tensor:
        return label.movedim(1, -1)[valid].median(dim=0).values

    def baselines(self, labels: Any) -> Mapping[str, Tensor]:
        return {"dark": torch.zeros(1, 1)}


@dataclass(frozen=True)
class BrightnessPrediction(Prediction):
    """The predicted brightness of one image."""

    values: Tensor

    @property
    def hw(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def to_label(self) -> Tensor:
        return self.values[None]

    def arrays(self) -> dict[str, StoredArray]:
        return {"brightness": StoredArray(self.values.cpu().numpy())}

    def metadata(self) -> dict[str, Any]:
        return {"size": list(self.hw[::-1]), "mean": round(float(self.values.mean()), 4)}

    def draw(self, image: Tensor | None = None) -> Tensor:
        return (self.values.clamp(0, 1) * 255).to(torch.uint8).cpu().expand(3, -1, -1)

    def draw_with(self, other: "BrightnessPrediction", image: Tensor) -> tuple[Tensor, ...]:
        gap = BrightnessPrediction((self.values - other.values).abs())
        return self.draw(), other.draw(), gap.draw()


class Gradients(AbstractDataset):
    """A data set of random colour gradients, labelled with the mean of their channels."""

    def __init__(self, *, count: int = 8, size: int = 24, seed: int = 0) -> None:
        self.name = "gradients"
        self.count, self.size, self.seed = count, size, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(100 * self.seed + index)
        corners = torch.rand(1, 3, 2, 2, generator=generator)
        hw = (self.size, self.size + 8)
        image = (functional.interpolate(corners, hw, mode="bilinear")[0] * 255).to(torch.uint8)
        label = image.float().mean(dim=0, keepdim=True) / 255
        valid = torch.ones(hw, dtype=torch.bool)
        return Sample(str(index), image, {"brightness": label}, {"brightness": valid})
