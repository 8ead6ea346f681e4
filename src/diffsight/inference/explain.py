"""How a model comes to its prediction in one image: its distribution over classes, and its maps."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from diffsight.atomic import replacing
from diffsight.errors import InputError
from diffsight.inference.compare_steps import compared
from diffsight.inference.explain_pictures import (
    bar_chart,
    codebook_chart,
    concept_sheet,
    map_sheet,
    picture_sheet,
)
from diffsight.inference.plan import Plan
from diffsight.inference.write import EXPLAINED, PICTURES
from diffsight.model import DenseModel, choose_output
from diffsight.ops.memory import memory_for
from diffsight.ops.resize import interpolated, resized_image
from diffsight.outputs import Output, SoftLabels
from diffsight.rig import Rig
from diffsight.types import Inputs

NO_CODEBOOK = "no codebook.png: the values of this task's classes are not learned"


@dataclass(frozen=True)
class ClassFigures:
    """The distribution over classes in one image.

    Attributes:
        probability: of every class; sums to 1 over them.
        predicted: fraction of the pixels whose prediction falls into each class.
        values: of the classes in this image, in the unit of the labels; None where they have none.
        centres: fixed values of the classes.
        intervals: edges of the classes where they are bins; else empty.
        names: of the classes in this image: their values, where they have some.
        bin_names: of the classes for a chart, such as the edges of the bins.
    """

    probability: Float[Tensor, "n h w"]
    predicted: Float[Tensor, " n"]
    values: Float[Tensor, "n d"] | None
    centres: Float[Tensor, "n d"] | None
    intervals: Sequence[tuple[float, float]]
    names: Sequence[str]
    bin_names: Sequence[str]

    def rows(self) -> list[dict[str, Any]]:
        """Return the numbers of every class, for ``explain.json``.

        ``weight`` is a class's mean probability, ``predicted`` the fraction of the pixels that are
        predicted as it; ``spatial_std`` is the standard deviation of its map, 0 for a concept that
        collapsed to a constant.
        """
        columns: dict[str, Sequence[Any]] = {
            "class": self.names,
            "weight": self.probability.mean(dim=(1, 2)).tolist(),
            "predicted": self.predicted.tolist(),
            "spatial_std": self.probability.std(dim=(1, 2), correction=0).tolist(),
            "largest": self.probability.amax(dim=(1, 2)).tolist(),
        }
        for key, values in (("value", self.values), ("centre", self.centres)):
            if values is not None:
                columns[key] = values.tolist()
        if self.intervals:
            columns["edges"] = list(map(list, self.intervals))
        rows = zip(*columns.values(), strict=True)
        return _rounded([dict(zip(columns, row, strict=True)) for row in rows])


@dataclass(frozen=True)
class ExplainedImage:
    """What a model computes on the way to its prediction for one image, at the working size.

    Attributes:
        image: RGB in [0, 1].
        picture: the prediction in colours.
        classes: of the output; None where it has none.
        maps: further maps by name, such as the cross-attention of a token.
        tables: of a learned codebook.
        weights: of the tables in this image, if there are several; they sum to 1.
        steps: the prediction after every step in colours, and how much it differs from the last
            one; empty for methods without steps.
        info: kind of the label, method, and unit of the values.
    """

    image: Float[Tensor, "3 h w"]
    picture: UInt8[Tensor, "3 _ _"]
    classes: ClassFigures | None
    maps: Mapping[str, Float[Tensor, "_ _"]]
    tables: Float[Tensor, "k n d"] | None
    weights: Float[Tensor, " k"] | None
    steps: Sequence[tuple[UInt8[Tensor, "3 _ _"], str]]
    info: Mapping[str, str]


def explain(
    model: DenseModel,
    image: UInt8[Tensor, "3 _ _"],
    prompt: str | None = None,
    rig: Rig | None = None,
) -> ExplainedImage:
    """Run one pass at the size of the training images, with the noise that ``Predictor`` takes.

    Args:
        model: the pass is run where it is, in evaluation mode.
        image: RGB of any size.
        prompt: for models that read one.
        rig: of several cameras, which the image shows side by side.

    Raises:
        InputError: if the image is too large, or the prompt or the rig cannot be used.
    """
    model.eval()
    method, task = model.method, model.task
    method.check_prompt(prompt)
    side = model.info.get("short_side") if rig is None else None
    height, width = Plan(short_side=side).working_hw(*image.shape[-2:])
    device = next(model.parameters()).device
    other = "a model of a smaller short side"
    if model.reads_rig or device.type != "cpu":
        other = "--device cpu, or smaller images"
    advice = f"{device} has not enough memory for {width} x {height} px: choose {other}"
    with memory_for(advice), torch.inference_mode():
        whole = resized_image(image[None].to(device).float() / 255, (height, width))[0]
        pixels = next(task.regions(whole, None))[0][None]  # of joints: the image shows one person
        inputs = Inputs(pixels, (prompt,), rig=Rig.of_samples([rig and rig.to(device)]))
        result = method.explain(inputs, method.encode(inputs))
        output = result.output.with_stack(result.output.stack.cpu())
        shown = pixels[0].cpu()
        return ExplainedImage(
            image=shown,
            picture=task.decode(output)[0].draw(shown),
            classes=_classes(model, output, result.values),
            maps={name: task.oriented(one.float().cpu()) for name, one in result.maps.items()},
            tables=None if result.tables is None else result.tables.cpu(),
            weights=None if result.weights is None else result.weights.cpu(),
            steps=_steps(model, result.steps, shown),
            info={
                "kind": model.info.get("kind", type(task).__name__.lower()),
                "method": model.info.get("chosen", type(method).__name__),
                "unit": task.unit,
            },
        )


def _steps(
    model: DenseModel, outputs: Sequence[Output], image: Float[Tensor, "3 h w"]
) -> list[tuple[UInt8[Tensor, "3 _ _"], str]]:
    """Return pictures of outputs, and in words how far they are from the last one."""
    task, hw = model.task, model.output.grid or (image.shape[-2], image.shape[-1])
    predictions = [
        task.decode(one.with_stack(interpolated(one.stack, hw).cpu()))[0] for one in outputs
    ]
    if not predictions:
        return []
    *earlier, last = predictions
    rows = [(last.draw_with(one, image)[1], compared(task, one, last)) for one in earlier]
    return [*rows, (last.draw_with(last, image)[1], "")]  # all on the scale of the last one


def _classes(model: DenseModel, output: Output, values: Tensor | None) -> ClassFigures | None:
    """Return the figures of an output on the CPU; None if it has no classes."""
    task, probability = model.task, output.class_probabilities()
    if probability is None:
        return None
    codec = choose_output(task, type(model.method)).codec
    centres = None if codec is None else codec.centres.cpu()
    values = centres if values is None else values.cpu()
    label = task.to_label(output)
    soft = task.encode_label(label) or SoftLabels.hard(label)
    count = probability.shape[1]
    numbered = [f"class {number}" for number in range(count)]
    names = _names(values, task.unit) or list(task.class_names) or numbered
    return ClassFigures(
        probability=probability[0],
        predicted=soft.distribution(count).float().mean(dim=(0, 2, 3)).cpu(),
        values=values,
        centres=centres,
        intervals=[] if codec is None else codec.intervals(),
        names=names,
        bin_names=names if codec is None else codec.names(task.unit) or names,
    )


def _names(values: Tensor | None, unit: str) -> list[str]:
    if values is None:
        return []
    if values.shape[1] == 1:
        return [f"{_short(x)} {unit}".strip() for x in values[:, 0].tolist()]
    return [f"({', '.join(_short(x, 2) for x in value)})" for value in values.tolist()]


def _short(value: float, digits: int = 3) -> str:
    """Return a few digits, without an exponent where whole numbers say more."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.{digits}g}"


def _rounded(value: Any) -> Any:
    """Return seven digits, about what single precision holds; also inside lists and dicts."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def figures(result: ExplainedImage) -> dict[str, Any]:
    """Return the numbers of an explanation, for ``explain.json``.

    ``entropy_nats``, ``mixing_weights`` and ``classes`` are those of a distribution over classes;
    ``maps`` has the mean and the maximum of every further map.
    """
    about: dict[str, Any] = {**result.info, "size": list(result.image.shape[:0:-1])}
    if result.classes is not None:
        rows = result.classes.rows()
        entropy = torch.special.entr(result.classes.probability).sum(dim=0).mean()
        about["entropy_nats"] = {"mean": entropy.item(), "uniform": math.log(len(rows))}
        about["mixing_weights"] = None if result.weights is None else result.weights.tolist()
        about["classes"] = rows
    if result.maps:
        about["maps"] = [
            {"name": name, "mean": values.mean().item(), "largest": values.max().item()}
            for name, values in result.maps.items()
        ]
    return _rounded(about)


def write_explanation(
    result: ExplainedImage, out: Path, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the pictures that there are, and ``explain.json`` last.

    ``concepts.png`` and ``bins.png`` show a distribution over classes, ``codebook.png`` what the
    classes are worth where that is learned, ``maps.png`` image, prediction and further maps,
    ``steps.png`` the prediction after every step.

    Args:
        result: of ``explain``.
        out: folder, made if need be.
        notes: what else to write into the JSON file.

    Returns:
        The contents of the JSON file.

    Raises:
        InputError: if the files cannot be written.
    """
    about = figures(result)
    pictures = _pictures(result, about)
    files = {name: f"{name}.png" for name in pictures}
    remarks = [NO_CODEBOOK] if result.classes is not None and "codebook" not in files else []
    about = {**notes, "pictures": files, "notes": remarks, **about}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in {EXPLAINED, *PICTURES} - set(files.values()):  # of an earlier run
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}: choose another --out") from None
    for name, image in pictures.items():
        with replacing(out / files[name]) as partial:
            image.save(partial, format="PNG")
    with replacing(out / EXPLAINED) as partial:
        partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def _pictures(result: ExplainedImage, about: Mapping[str, Any]) -> dict[str, Image.Image]:
    pictures, classes = {}, result.classes
    if classes is not None:
        rows = about["classes"]
        pictures["concepts"] = concept_sheet(
            result.image, result.picture, classes.probability, rows
        )
        tables, centres, values = result.tables, classes.centres, classes.values
        if tables is not None and centres is not None and values is not None:
            unit = about["unit"]
            pictures["codebook"] = codebook_chart(centres, values, tables, result.weights, unit)
        columns = {"mean probability": "weight", "fraction of the pixels": "predicted"}
        bars = {title: [row[key] for row in rows] for title, key in columns.items()}
        pictures["bins"] = bar_chart(classes.bin_names, bars)
    if result.steps:
        cells = [(one, f"step {i + 1}", line) for i, (one, line) in enumerate(result.steps)]
        pictures["steps"] = picture_sheet(
            result.image, cells, "The prediction after every step, compared with the last one"
        )
    if classes is None or result.maps:
        pictures["maps"] = map_sheet(result.image, result.picture, result.maps)
    return pictures
