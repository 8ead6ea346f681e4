"""Explain a prediction: the distribution over classes, attention maps and codebook of a model."""

import contextlib
import json
import math
import os
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
from diffsight.inference import storage
from diffsight.inference.compare_steps import format_difference
from diffsight.inference.explain_files import EXPLAINED, UNFINISHED, list_explanation
from diffsight.inference.explain_pictures import (
    draw_bar_chart,
    draw_codebook_chart,
    draw_concept_sheet,
    draw_map_sheet,
    draw_picture_sheet,
)
from diffsight.inference.plan import Plan
from diffsight.inference.write import OverwriteError
from diffsight.model import DenseModel, choose_output
from diffsight.ops.memory import report_out_of_memory
from diffsight.ops.resize import resize_image, resize_maps
from diffsight.outputs import Output, SoftLabels
from diffsight.rig import Rig
from diffsight.tasks import AbstractTask
from diffsight.types import Inputs

NO_CODEBOOK = "no codebook.png: the class values of this task are fixed, not learned"


@dataclass(frozen=True)
class ClassFigures:
    """The distribution over classes in one image.

    Attributes:
        probability: probability of every class; sums to 1 over the classes.
        predicted: fraction of the pixels whose prediction falls into each class.
        values: value of every class in this image, in the unit of the labels; None for classes
            without values.
        centres: value of every class that was fixed before the training; None for classes without
            values.
        intervals: edges of the classes if they are bins, else empty.
        names: name of every class in this image; for classes with values, the value.
        bin_names: name of every class for a chart, such as the edges of its bin.
    """

    probability: Float[Tensor, "n h w"]
    predicted: Float[Tensor, " n"]
    values: Float[Tensor, "n d"] | None
    centres: Float[Tensor, "n d"] | None
    intervals: Sequence[tuple[float, float]]
    names: Sequence[str]
    bin_names: Sequence[str]

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures of every class, for ``explain.json``.

        ``weight`` is the mean probability of a class. ``predicted`` is the fraction of the pixels
        that are predicted as the class. ``spatial_std`` is the standard deviation of its map; it is
        0 for a concept that collapsed to a constant. ``largest`` is the maximum of its map.
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
        return _round([dict(zip(columns, row, strict=True)) for row in rows])


@dataclass(frozen=True)
class ExplainedImage:
    """The prediction of a model for one image, and the quantities that it is computed from.

    All maps have the working size of the model.

    Attributes:
        image: RGB in [0, 1].
        picture: picture of the prediction.
        classes: distribution over classes; None for outputs without classes.
        maps: further maps by name, such as the cross-attention of a token.
        rearranged: product of the features with each prompt by its name, see ``Explanation``.
        tables: class values of every table of a learned codebook; None without one.
        weights: weight of each table in this image; they sum to 1. None for a single table.
        steps: picture of the prediction after every step, and the metric between it and the last
            one as text; empty for methods without steps.
        info: kind of the label, name of the method, and unit of the values.
    """

    image: Float[Tensor, "3 h w"]
    picture: UInt8[Tensor, "3 _ _"]
    classes: ClassFigures | None
    maps: Mapping[str, Float[Tensor, "_ _"]]
    rearranged: Mapping[str, Float[Tensor, "_ _"]]
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
    """Run one forward pass at the size of the training images and return its intermediate results.

    The pass uses the same noise as ``Predictor``.

    Args:
        model: model; the pass runs on its device. It is set to evaluation mode.
        image: RGB image of any size.
        prompt: prompt of the image, for models that use one.
        rig: cameras that the image shows side by side, for models of several cameras.

    Raises:
        InputError: if the image is too large, or the prompt or the rig cannot be used.
    """
    model.eval()
    method, task = model.method, model.task
    model.check_prompt(prompt)
    side = model.info.get("short_side") if rig is None else None
    height, width = Plan(short_side=side).working_hw(*image.shape[-2:])
    device = next(model.parameters()).device
    other = "a model of a smaller short side"
    if model.reads_rig or device.type != "cpu":
        other = "--device cpu, or smaller images"
    advice = f"{device} has not enough memory for {width} x {height} px: choose {other}"
    with report_out_of_memory(advice), torch.inference_mode():
        whole = resize_image(image[None].to(device).float() / 255, (height, width))[0]
        # models of joints: the whole image is the region of one person
        pixels = next(task.regions(whole, None))[0][None]
        inputs = Inputs(pixels, (prompt,), rig=Rig.of_samples([rig and rig.to(device)]))
        result = method.explain(inputs, method.encode(inputs))
        output = result.output.with_stack(result.output.stack.cpu())
        shown = pixels[0].cpu()
        return ExplainedImage(
            image=shown,
            picture=task.decode(output)[0].draw(shown),
            classes=_classes(model, output, result.values),
            maps=_oriented(task, result.maps),
            rearranged=_oriented(task, result.rearranged),
            tables=None if result.tables is None else result.tables.cpu(),
            weights=None if result.weights is None else result.weights.cpu(),
            steps=_steps(model, result.steps, shown),
            info={
                "kind": model.info.get("kind", type(task).__name__.lower()),
                "method": model.info.get("chosen", type(method).__name__),
                "unit": task.unit,
            },
        )


def _oriented(
    task: AbstractTask, maps: Mapping[str, Float[Tensor, "_ _"]]
) -> dict[str, Float[Tensor, "_ _"]]:
    """Return maps on the CPU, in the orientation in which the task draws them."""
    return {name: task.oriented(one.float().cpu()) for name, one in maps.items()}


def _steps(
    model: DenseModel, outputs: Sequence[Output], image: Float[Tensor, "3 h w"]
) -> list[tuple[UInt8[Tensor, "3 _ _"], str]]:
    """Return the picture of each output, and the metric between it and the last one as text."""
    task, hw = model.task, model.output.grid or (image.shape[-2], image.shape[-1])
    predictions = [
        task.decode(one.with_stack(resize_maps(one.stack, hw).cpu()))[0] for one in outputs
    ]
    if not predictions:
        return []
    *earlier, last = predictions
    rows = [(last.draw_with(one, image)[1], format_difference(task, one, last)) for one in earlier]
    return [*rows, (last.draw_with(last, image)[1], "")]  # all have the colour scale of the last


def _classes(model: DenseModel, output: Output, values: Tensor | None) -> ClassFigures | None:
    """Return the distribution over classes of an output on the CPU; None without classes."""
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
    names = _format_values(values, task.unit) or list(task.class_names) or numbered
    return ClassFigures(
        probability=probability[0],
        predicted=soft.distribution(count).float().mean(dim=(0, 2, 3)).cpu(),
        values=values,
        centres=centres,
        intervals=[] if codec is None else codec.intervals(),
        names=names,
        bin_names=names if codec is None else codec.names(task.unit) or names,
    )


def _format_values(values: Tensor | None, unit: str) -> list[str]:
    if values is None:
        return []
    if values.shape[1] == 1:
        return [f"{_format_number(x)} {unit}".strip() for x in values[:, 0].tolist()]
    return [f"({', '.join(_format_number(x, 2) for x in value)})" for value in values.tolist()]


def _format_number(value: float, digits: int = 3) -> str:
    """Return a few significant digits; from 100 up to a million a whole number."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.{digits}g}"


def _round(value: Any) -> Any:
    """Return data whose floats have 7 significant digits, the precision of float32."""
    if isinstance(value, dict):
        return {key: _round(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_round(one) for one in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def summarise(result: ExplainedImage) -> dict[str, Any]:
    """Return the figures of an explanation as plain data for ``explain.json``.

    Outputs with classes have ``classes`` (see ``ClassFigures.rows``), ``entropy_nats`` and
    ``mixing_weights`` (the weights of the codebook's tables). ``maps`` and ``rearranged`` have the
    mean and the maximum of every further map.
    """
    about: dict[str, Any] = {**result.info, "size": list(result.image.shape[:0:-1])}
    if result.classes is not None:
        rows = result.classes.rows()
        entropy = torch.special.entr(result.classes.probability).sum(dim=0).mean()
        about["entropy_nats"] = {"mean": entropy.item(), "uniform": math.log(len(rows))}
        about["mixing_weights"] = None if result.weights is None else result.weights.tolist()
        about["classes"] = rows
    for key, maps in (("maps", result.maps), ("rearranged", result.rearranged)):
        if maps:
            about[key] = [
                {"name": name, "mean": values.mean().item(), "largest": values.max().item()}
                for name, values in maps.items()
            ]
    return _round(about)


def write_explanation(
    result: ExplainedImage, out: Path, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the pictures of an explanation, then ``explain.json``.

    * ``concepts.png`` and ``bins.png``: the distribution over classes,
    * ``codebook.png``: learned class values,
    * ``maps.png``: image, prediction and further maps, such as those of attention,
    * ``rearranged.png``: image, prediction and the products of the features with each prompt,
    * ``steps.png``: the prediction after every step.

    Only the pictures that apply to the model are written. Those that ``explain.json`` of an earlier
    run lists are replaced or deleted.

    Args:
        result: result of ``explain``.
        out: output folder; it is created if needed.
        notes: additional entries of the JSON file.

    Returns:
        The contents of the JSON file.

    Raises:
        OverwriteError: if it would overwrite a file that no earlier run wrote.
        InputError: if the files cannot be written.
    """
    about = summarise(result)
    pictures = _pictures(result, about)
    files = {name: f"{name}.png" for name in pictures}
    remarks = [NO_CODEBOOK] if result.classes is not None and "codebook" not in files else []
    about = {**notes, "pictures": files, "notes": remarks, **about}
    earlier, names = list_explanation(out), {EXPLAINED, *files.values()}
    for name in sorted(names - earlier):
        if os.path.lexists(out / name):
            raise OverwriteError(
                f"{out / name}: exists already and is not of an earlier run: choose another --out"
            )
    storage.make_folder(out)
    # a killed process must not leave files that look like those of the user
    pending = {**about, "pictures": {one: one for one in sorted(earlier | names)}}
    _write_json(out / UNFINISHED, pending)
    try:
        for name in earlier - set(files.values()):
            storage.remove(out / name)
        for name, image in pictures.items():
            with replacing(out / files[name]) as partial:
                image.save(partial, format="PNG")
        _write_json(out / EXPLAINED, about)
    except (Exception, KeyboardInterrupt):  # also a lack of memory
        for name in (*names, UNFINISHED):
            with contextlib.suppress(InputError):
                storage.remove(out / name)
        raise
    storage.remove(out / UNFINISHED)
    return about


def _write_json(path: Path, about: Mapping[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _pictures(result: ExplainedImage, about: Mapping[str, Any]) -> dict[str, Image.Image]:
    """Return the pictures that apply to the model, by file name without suffix."""
    pictures, classes = {}, result.classes
    if classes is not None:
        rows = about["classes"]
        pictures["concepts"] = draw_concept_sheet(
            result.image, result.picture, classes.probability, rows
        )
        tables, centres, values = result.tables, classes.centres, classes.values
        if tables is not None and centres is not None and values is not None:
            unit = about["unit"]
            pictures["codebook"] = draw_codebook_chart(
                centres, values, tables, result.weights, unit
            )
        columns = {"mean probability": "weight", "fraction of the pixels": "predicted"}
        bars = {title: [row[key] for row in rows] for title, key in columns.items()}
        pictures["bins"] = draw_bar_chart(classes.bin_names, bars)
    if result.steps:
        cells = [(picture, f"step {i + 1}", text) for i, (picture, text) in enumerate(result.steps)]
        pictures["steps"] = draw_picture_sheet(
            result.image, cells, "The prediction after every step, compared with the last one"
        )
    if classes is None or result.maps:
        pictures["maps"] = draw_map_sheet(result.image, result.picture, result.maps)
    if result.rearranged:
        pictures["rearranged"] = draw_map_sheet(
            result.image, result.picture, result.rearranged, "products of features and prompts"
        )
    return pictures
