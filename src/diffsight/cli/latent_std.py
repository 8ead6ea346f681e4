"""``diffsight latent-std``: measure the standard deviation of a data set's latents (EVP)."""

import sys

from diffsight.cli import options
from diffsight.cli.console import progress, write_json
from diffsight.cli.flags import command
from diffsight.errors import InputError


@command("latent-std")
def main(
    *, recipe: options.Recipe, trust: options.Trust = (), images: int = 1000, json: bool = False
) -> int:
    """Measure the standard deviation of a data set's latents, by which EVP divides them.

    The latents are computed from the augmented training images of the recipe.

    Args:
        images: largest number of images to use.

    Example:
        diffsight latent-std --recipe evp/depth_nyu --images 100
    """
    from diffsight.backbones.stable_diffusion import StableDiffusion
    from diffsight.cli.recipe import data_of_recipe, read
    from diffsight.datasets.base import AbstractTransform
    from diffsight.hub.build import construct
    from diffsight.inference.latents import measure_latent_std
    from diffsight.tasks.base import AbstractTask
    from diffsight.training.data import TrainingStream

    if images < 1:
        raise InputError(f"--images must be at least 1, got {images}")
    content = read(recipe)
    try:
        backbone_call = content["method"]["init_args"]["backbone"]
        task = construct(AbstractTask, content["task"], key="task", trusted=trust)
    except (KeyError, TypeError):
        raise InputError(f"{recipe}: no task, or no method with a backbone") from None
    # other backbones have no latents
    backbone = construct(StableDiffusion, backbone_call, key="method.backbone", trusted=trust)
    data = data_of_recipe(recipe, "train", trusted=trust)
    transforms = [
        construct(AbstractTransform, transform, key="augment", trusted=trust)
        for transform in content.get("augment") or []
    ]
    stream = TrainingStream(
        dataset=data, label=task.label, augment=transforms, batch_size=1, seed=0
    )
    count = min(images, len(data))
    with progress("latents", count) as advance:

        def images_of_stream():
            for _, batch in zip(range(count), stream.batches(), strict=False):
                yield batch.batch.inputs.image
                advance()

        std, channels = measure_latent_std(backbone, images_of_stream())
    scales = [1 / one for one in channels]
    if json:
        result = {"data": data.name, "images": count, "std": std, "latent_scale": 1 / std}
        write_json(result | {"channel_latent_scale": scales})
        return 0
    sys.stdout.write(
        f"standard deviation of the latents of {count} images of {data.name}: {std:.5f}\n"
        f"in a recipe: latent_scale: {1 / std:.8g}\n"
        f"or by channel: latent_scale: [{', '.join(f'{one:.8g}' for one in scales)}]\n"
    )
    return 0
