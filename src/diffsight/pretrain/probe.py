"""Score the features of a model with linear probes for depth and classes."""

import functools
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from diffsight.backbones import StableDiffusion
from diffsight.backbones.architectures import from_folder
from diffsight.rooms import CLASSES, Rooms
from diffsight.types import Maps

IMAGES = 100  # training images; as many others are scored
RIDGE = 1e-2  # weight of the L2 penalty


@torch.inference_mode()
def probe(folder: Path, *, size: int) -> dict[str, float]:
    """Return the scores of linear probes on frozen features.

    The probes are trained on 100 rooms of the validation set and scored on 100 others.

    Args:
        folder: diffusers folder of the model.
        size: side of the rooms in pixels.

    Returns:
        ``probe_depth_rmse_m`` (metres) and ``probe_class_miou`` (0 to 1), at the finest stride of
        the features.
    """
    backbone = StableDiffusion(from_folder(folder), weights=folder).eval()
    image, depth_m, classes = _load_rooms(size, 2 * IMAGES, backbone.strides[0])
    context = torch.zeros(len(image), 1, backbone.context_dim)
    timesteps = torch.ones(len(image), dtype=torch.long)
    features = backbone.features(backbone.encode(image), context, timesteps)
    maps = [functional.interpolate(f, depth_m.shape[-2:]) for f in features]
    x = torch.cat(maps, dim=1)
    x = x / x.std(dim=(0, 2, 3), keepdim=True)
    train, held_out = x[:IMAGES], x[IMAGES:]
    one_hot = functional.one_hot(classes, len(CLASSES)).movedim(-1, 1).float()
    y = torch.cat([depth_m[:, None], one_hot], dim=1)
    predicted = _predict_ridge(train, y[:IMAGES], held_out)
    truth_m, truth = depth_m[IMAGES:], classes[IMAGES:]
    rmse = (predicted[:, 0] - truth_m).square().mean(dim=(1, 2)).sqrt().mean()
    ids = predicted[:, 1:].argmax(dim=1)
    ious = [
        ((ids == c) & (truth == c)).sum() / ((ids == c) | (truth == c)).sum()
        for c in truth.unique().tolist()
    ]
    return {
        "probe_depth_rmse_m": float(rmse),
        "probe_class_miou": float(torch.stack(ious).mean()),
    }


@functools.cache
def _load_rooms(
    size: int, count: int, stride: int
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b gh gw"], Int[Tensor, "b gh gw"]]:
    """Return images in [0, 1], and depths in metres and class ids at every ``stride``-th pixel."""
    rooms = Rooms("val", count=count, size=size, labels=("depth_m", "semantic"))
    samples = [rooms[i] for i in range(count)]
    middle = slice(stride // 2, None, stride)
    return (
        torch.stack([s.image for s in samples]).float() / 255,
        torch.stack([s.labels["depth_m"][0, middle, middle] for s in samples]),
        torch.stack([s.labels["semantic"][middle, middle] for s in samples]),
    )


def _predict_ridge(
    train: Maps, truth: Float[Tensor, "b k h w"], held_out: Float[Tensor, "n d h w"]
) -> Float[Tensor, "n k h w"]:
    """Return predictions of a ridge regression with an intercept, fitted to the training pixels."""

    def rows(maps: Tensor) -> Tensor:
        flat = maps.movedim(1, -1).flatten(0, 2)
        return torch.cat([flat, torch.ones(len(flat), 1)], dim=1).double()

    x, y = rows(train), truth.movedim(1, -1).flatten(0, 2).double()
    gram = x.mT @ x
    gram.diagonal().add_(RIDGE * len(x))
    weights = torch.linalg.solve(gram, x.mT @ y)
    predicted = rows(held_out) @ weights
    return predicted.unflatten(0, (len(held_out), *held_out.shape[-2:])).movedim(-1, 1).float()
