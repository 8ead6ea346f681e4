"""Check whether concepts collapse to a constant map: loss, entropy and contrast over a training.

FewShot is trained for depth on ten rooms, on a frozen diffusion model. Five times during the
training, it predicts eight held-out rooms. A collapsed model predicts the same distribution for
every pixel. Then the contrast is 0 (the standard deviation of a class probability over an image,
divided by its mean), and the expected value is the same everywhere. For comparison, the same method
is trained on a UNet with random weights.

    python benchmarks/concept_collapse.py [--steps 400] [--backbone tiny] [--write]
"""

import argparse
import functools
import math
import sys
from collections.abc import Callable

import torch
from PIL import Image
from reporting import RESULTS, table, write_block

from diffsight.adaptation.candidates import candidates
from diffsight.atomic import replacing
from diffsight.backbones import BackboneSource, StableDiffusion
from diffsight.benchmark.rooms import rooms_source
from diffsight.benchmark.units import draw
from diffsight.inference.explain_pictures import draw_concept_sheet
from diffsight.model import DenseModel
from diffsight.ops.memory import keep_freed_memory
from diffsight.outputs import Distribution
from diffsight.training.loop import (
    Views,
    encode,
    few_shot_batches,
    few_shot_losses,
    fit_statistics,
    measure_variants,
    train,
)
from diffsight.training.step import TrainingStep
from diffsight.types import Draws

HELD_OUT, EVALUATIONS = 8, 5  # number of held-out rooms, and of evaluations during the training
TABLES = 10  # number of tables in the codebook
DRAWN_ROOM, PICTURE = 0, "concepts.png"  # index of the room in the picture; its file name


def predict(model: DenseModel, views: Views) -> Distribution:
    """Return the predicted distribution of an encoded image."""
    output = model(views[0].inputs, views[0].encoded, draws=Draws((0,)))
    assert isinstance(output, Distribution)
    return output


@torch.no_grad()
def collapse(model: DenseModel, held_out: list[Views]) -> list[float]:
    """Return four means over the held-out rooms that show whether the concepts collapse.

    They are the entropy divided by log N for N classes, the contrast of the maps, the standard
    deviation of the depth within an image in metres, and the RMSE in metres.
    """
    rows = []
    for views in held_out:
        output = predict(model, views)
        maps = output.probability[0].flatten(1)
        entropy = -(maps * maps.clamp(min=1e-8).log()).sum(dim=0).mean() / math.log(len(maps))
        contrast = (maps.std(dim=1) / maps.mean(dim=1).clamp(min=1e-8)).mean()
        rows.append([float(entropy), float(contrast), float(output.value.std())])
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    targets = [views[0].target for views in held_out]
    sums = torch.stack(measure_variants(model, held_out, targets))[:, 0].sum(dim=0)
    return [*means, model.task.score(sums)]


@torch.no_grad()
def draw_maps(model: DenseModel, views: Views) -> Image.Image:
    """Return a sheet of the image, the prediction and the probability of every class."""
    output = predict(model, views)
    classes = [
        {"class": f"{float(depth_m):.2f} m", "weight": float(p.mean()), "largest": float(p.max())}
        for depth_m, p in zip(output.centres[:, 0], output.probability[0], strict=True)
    ]
    prediction = model.task.decode(output)[0].draw()
    return draw_concept_sheet(views[0].inputs.image[0], prediction, output.probability[0], classes)


def run(
    source: BackboneSource, steps: int, seed: int, say: Callable[[str], None]
) -> tuple[list[list[float]], Image.Image]:
    """Train on a backbone; return the numbers of every evaluation, and a picture of final maps."""
    side = source.short_side_px
    rooms = rooms_source(size=side, count=HELD_OUT)
    spec = rooms.tasks["depth_zbuffer"]
    samples = draw(rooms, spec, 10, seed, 0)
    task = spec.fitted(samples)
    options = {"codebook": TABLES}
    (candidate,) = candidates(["few_shot"], [source], lambda **_: task, options=options)
    # loaded before the seed is set, because loading may use random numbers
    _ = source.diffusion, source.clip()
    torch.manual_seed(seed)
    model = DenseModel(task=task, method=candidate.builder)
    images = [encode(model, sample, side) for sample in samples]
    held_out = [encode(model, spec.test[i], side, mirror=False) for i in range(HELD_OUT)]
    fit_statistics(model, images)
    # the new model is still in training mode, and uses a random timestep of seed 0
    rows = [[0.0, math.nan, *collapse(model, held_out)]]
    losses: list[float] = []

    def record(step: int, parts: dict[str, float]) -> None:
        losses.append(parts["class"] / math.log(model.task.outputs[0].channels))
        if step % (steps // EVALUATIONS) == 0:
            recent = losses[-(steps // EVALUATIONS) :]
            model.eval()
            row = [float(step), sum(recent) / len(recent), *collapse(model, held_out)]
            model.train()
            rows.append(row)
            say(" ".join(f"{x:.4g}" for x in row))

    step = TrainingStep.of_settings(model, few_shot_losses(model), candidate.settings, steps)
    train(step, few_shot_batches(images, candidate.settings.batch_size, seed), advance=record)
    return rows, draw_maps(model, held_out[DRAWN_ROOM])


class RandomUNet(BackboneSource):
    """A backbone whose UNet has random weights; autoencoder and text tower are pretrained."""

    @functools.cached_property
    def diffusion(self) -> StableDiffusion:
        """The frozen diffusion model; its UNet has random weights of seed 0."""
        backbone = self.fresh_diffusion(trainable=()).eval()
        torch.manual_seed(0)
        for module in backbone.unet.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        return backbone


def main() -> None:
    """Train on both backbones and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the table to docs/results.md")
    args = parser.parse_args()
    if args.steps < EVALUATIONS:
        parser.error(f"--steps {args.steps}: give at least {EVALUATIONS}")
    keep_freed_memory()
    rows, sheet = [], None
    sources = {"pretrained": BackboneSource, "random UNet": RandomUNet}
    for name, cls in sources.items():
        numbers, maps = run(
            cls(args.backbone), args.steps, args.seed, lambda text: sys.stderr.write(text + "\n")
        )
        sheet = sheet or maps  # keep the maps of the pretrained UNet
        for row in numbers:
            cells = ["" if math.isnan(x) else f"{x:.3f}" for x in row[1:]]
            rows.append([name, f"{row[0]:.0f}", *cells])
    head = (
        "UNet",
        "step",
        "L_cls / log N",
        "entropy / log N",
        "contrast",
        "std of depth, m",
        "RMSE, m",
    )
    text = table(head, rows)
    sys.stdout.write(text + "\n")
    if args.write and sheet:
        command = f"python benchmarks/concept_collapse.py --steps {args.steps} --write"
        with replacing(RESULTS.with_name(PICTURE)) as partial:
            sheet.quantize(128).save(partial, format="PNG", optimize=True)
        picture = f"![Probability of every class of depth over a held-out room]({PICTURE})"
        write_block(RESULTS, "concept collapse", f"`{command}`\n\n{text}\n\n{picture}")


if __name__ == "__main__":
    main()
