"""Random inputs and labels that are the same in every run, and checks of samples."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.tasks import AbstractTask
from diffsight.types import Pyramid, Target

Module = TypeVar("Module", bound=nn.Module)
# architecture of a Stable Diffusion with the topology of the real one, but few channels
SMALL = {
    "unet": {
        "block_out_channels": [16, 32, 48, 48],
        "norm_num_groups": 8,
        "attention_head_dim": 2,
        "cross_attention_dim": 24,
    },
    "vae": {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4},
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers that depend only on the arguments."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def images(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Return random RGB images ``batch 3 height width`` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((batch, 3, height, width), generator=generator)


def random_target(task: AbstractTask, batch: int, height: int, width: int) -> Target:
    """Return random labels of a task (ids, positive numbers or joints); all pixels are valid."""
    valid = torch.ones(batch, height, width, dtype=torch.bool)
    if task.sigmas:
        points = images(batch, 1, len(task.sigmas))[:, :2].movedim(1, -1)
        points = points * torch.tensor([width - 1.0, height - 1.0])
        return Target(torch.cat([points, torch.full_like(points[..., :1], 2.0)], dim=-1), valid)
    values = next((spec for spec in task.outputs if spec.kind == "values"), None)
    if values is None:
        generator = torch.Generator().manual_seed(6)
        shape = (batch, height, width)
        return Target(torch.randint(task.outputs[0].channels, shape, generator=generator), valid)
    return Target(noise(batch, values.channels, height, width, seed=5).abs() + 0.5, valid)


def pyramid_of(
    channels: Sequence[int], strides: Sequence[int], batch: int, height: int, width: int
) -> Pyramid:
    """Return random features of images whose sides are multiples of the strides."""
    features = tuple(
        noise(batch, c, height // s, width // s, seed=i)
        for i, (c, s) in enumerate(zip(channels, strides, strict=True))
    )
    return Pyramid(features, tuple(strides), (height, width))


def take_row(pyramid: Pyramid, i: int) -> Pyramid:
    """Return the features of image ``i`` alone."""
    features = tuple(feature[i : i + 1] for feature in pyramid.features)
    attention = {level: maps[i : i + 1] for level, maps in pyramid.attention.items()}
    return replace(pyramid, features=features, attention=attention)


def weighted_sum(*maps: Tensor) -> Tensor:
    """Return the sum of all values with random weights, as a scalar to differentiate."""
    parts = [(m * noise(*m.shape, seed=i)).sum() for i, m in enumerate(maps)]
    return torch.stack(parts).sum()


@torch.no_grad()
def randomise_weights(module: Module) -> Module:
    """Set random weights in place, because many layers are initialised close to zero."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    return module


def assert_sample(sample: Sample, dataset: AbstractDataset) -> None:
    """Check types, shapes, validity masks and class ids of one sample."""
    image_size = sample.image.shape[-2:]
    assert sample.image.dtype == torch.uint8
    assert sample.image.shape[0] == 3
    assert sample.labels.keys() == sample.valid.keys()
    for name, label in sample.labels.items():
        valid = sample.valid[name]
        # a map around a vehicle does not have the size of the images
        size = image_size if sample.rig is None else label.shape[-2:]
        assert valid.shape == size, name
        if sample.people is not None:
            assert torch.equal(label, sample.people.keypoints)
            assert label.dtype == torch.float32
            assert (label[..., 2] == label[..., 2].round()).all()
            continue
        assert label.shape[-2:] == size, name
        if label.ndim == 3:
            assert label.dtype == torch.float32, name
            assert label[:, valid].isfinite().all(), f"{name} is not finite where it is valid"
        else:
            assert label.dtype == torch.int64, name
            ids = label[valid]
            assert (ids >= 0).all(), name
            if name == "referent":  # 1 is the object that the sentence describes
                assert (ids <= 1).all()
            elif name != "instance":  # numbers of instances, not of classes
                assert name in dataset.class_names, f"{name} holds ids of classes without names"
                assert (ids < len(dataset.class_names[name])).all(), name


def assert_same_sample(a: Sample, b: Sample) -> None:
    """Check that two samples are equal byte for byte; invalid labels may be NaN."""
    assert (a.id, a.prompt, a.camera) == (b.id, b.prompt, b.camera)
    assert torch.equal(a.image, b.image)
    assert a.labels.keys() == b.labels.keys()
    for name in a.labels:
        assert torch.equal(a.valid[name], b.valid[name]), name
        assert torch.equal(a.labels[name].nan_to_num(), b.labels[name].nan_to_num()), name
