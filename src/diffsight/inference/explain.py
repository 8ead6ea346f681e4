"""Why a task of the user's own answers as it does: its distribution over classes in one image."""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from diffsight.codecs import ScalarBins
from diffsight.datasets.files import replacing
from diffsight.errors import InputError
from diffsight.hub.task_file import Task
from diffsight.inference.explain_pictures import bar_chart, codebook_chart, concept_sheet
from diffsight.inference.plan import Plan
from diffsight.inference.write import EXPLAINED
from diffsight.methods import FewShot
from diffsight.methods.base import AbstractCachedMethod
from diffsight.methods.few_shot import CLIP
from diffsight.ops.memory import memory_for
from diffsight.ops.resize import resized_image
from diffsight.tasks import AbstractDense, Classes
from diffsight.types import Draws, Inputs, RawOutput

NO_CODEBOOK = "no codebook.png: the values of this task's classes are not learned"


@dataclass(frozen=True)
class Explanation:
    """What a task computes on the way to its answer for one image, at the working size.

    Attributes:
        image: RGB in [0, 1].
        probability: of every class; sums to 1 over them.
        answered: share of the pixels whose answer falls into every class.
        answer: the answer in colours.
        values: of the classes in this image, in the unit of the labels; None where they have none.
        centres: of the classes, from the support.
        tables: of a codebook that was learned.
        weights: of the tables in this image, if there are several; they sum to 1.
    """

    image: Float[Tensor, "3 h w"]
    probability: Float[Tensor, "n h w"]
    answered: Float[Tensor, " n"]
    answer: UInt8[Tensor, "3 h w"]
    values: Float[Tensor, "n d"] | None
    centres: Float[Tensor, "n d"] | None
    tables: Float[Tensor, "k n d"] | None
    weights: Float[Tensor, " k"] | None


def explain(task: Task, image: UInt8[Tensor, "3 _ _"]) -> Explanation:
    """One pass, with the noise that ``Predictor`` takes.

    Args:
        task: where the model is, the pass is run.
        image: RGB of any size.

    Raises:
        InputError: if the image is too large.
    """
    method, dense = task.model.method, task.model.task
    assert isinstance(method, AbstractCachedMethod)
    assert isinstance(dense, AbstractDense)
    height, width = Plan(short_side=task.about["short_side"]).working_hw(*image.shape[-2:])
    device = next(method.parameters()).device
    pixels = resized_image(image[None].to(device).float() / 255, (height, width))
    other = "a task of a smaller short side" if device.type == "cpu" else "--device cpu"
    advice = f"{device} has not enough memory for {width} x {height} px: choose {other}"
    with memory_for(advice), torch.inference_mode():
        inputs = method.encode(Inputs(pixels))
        raw = _on_cpu(method(inputs, draws=Draws((0,))))
        values, tables, weights = _values(method, dense, inputs)
    return Explanation(
        image=pixels[0].cpu(),
        probability=raw.maps[0],
        answered=_answered(dense, raw),
        answer=dense.draw(dense.decode(raw)[0]),
        values=values,
        centres=dense.codec.centres,
        tables=tables,
        weights=weights,
    )


def _on_cpu(raw: RawOutput) -> RawOutput:
    auxiliary = {name: value.float().cpu() for name, value in raw.auxiliary.items()}
    return RawOutput(raw.maps.float().cpu(), raw.space, auxiliary)


def _values(
    method: AbstractCachedMethod, dense: AbstractDense, inputs: Inputs
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Values of the classes in this image, the tables that they come from, and their weights."""
    codebook = method.codebook if isinstance(method, FewShot) else None
    if codebook is None or codebook.size == 0:
        return dense.codec.centres, None, None
    features = inputs.cached.get(CLIP)
    tables = (codebook.tables * codebook.scale).cpu()
    values = codebook(features, 1)[0].cpu()
    if codebook.size == 1:
        return values, tables, None
    assert features is not None
    return values, tables, codebook.shares(features)[0].cpu()


def _answered(dense: AbstractDense, raw: RawOutput) -> Float[Tensor, " n"]:
    """Where the answers fall: the most probable class, or that of the expected value."""
    if dense.codec.centres is None:
        classes = functional.one_hot(raw.maps.argmax(dim=1), dense.num_outputs).movedim(-1, 1)
    else:
        classes = dense.codec.encode(dense.value(raw)).distribution(dense.num_outputs)
    return classes.float().mean(dim=(0, 2, 3))


def figures(task: Task, found: Explanation) -> dict[str, Any]:
    """The numbers of an explanation, for ``explain.json``.

    ``share`` is a class's mean probability, ``answered`` its share of the answers; ``spatial_std``
    is the standard deviation of its map, 0 for a concept that collapsed to a constant.
    """
    share = found.probability.mean(dim=(1, 2))
    rows = zip(
        _names(task, found.values),
        *(x.tolist() for x in (share, found.answered)),
        found.probability.std(dim=(1, 2), correction=0).tolist(),
        found.probability.amax(dim=(1, 2)).tolist(),
        strict=True,
    )
    keys = ("name", "share", "answered", "spatial_std", "largest")
    classes: list[dict[str, Any]] = [
        {key: _rounded(value) for key, value in zip(keys, row, strict=True)} for row in rows
    ]
    for key, values in (("value", found.values), ("centre", found.centres)):
        for row, value in zip(classes, [] if values is None else values.tolist(), strict=False):
            row[key] = [_rounded(x) for x in value]
    for row, edges in zip(classes, _edges(task), strict=False):
        row["edges"] = [_rounded(x) for x in edges]
    entropy = torch.special.entr(found.probability).sum(dim=0).mean()
    return {
        "kind": task.about["kind"],
        "method": task.about["method"],
        "unit": task.about["unit"] or "",
        "size": list(found.image.shape[:0:-1]),
        "entropy_nats": {
            "mean": _rounded(entropy.item()),
            "uniform": _rounded(math.log(len(classes))),
        },
        "mixing_weights": found.weights
        if found.weights is None
        else [_rounded(x) for x in found.weights.tolist()],
        "classes": classes,
    }


def _rounded(value: Any) -> Any:
    """To seven digits, about what single precision holds."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _names(task: Task, values: Tensor | None) -> list[str]:
    dense, unit = task.model.task, task.about["unit"] or ""
    if isinstance(dense, Classes):
        return list(dense.names.values())
    assert values is not None
    if values.shape[1] == 1:
        return [f"{_short(x)} {unit}".strip() for x in values[:, 0].tolist()]
    return [f"({', '.join(_short(x, 2) for x in value)})" for value in values.tolist()]


def _short(value: float, digits: int = 3) -> str:
    """A few digits, without an exponent where whole numbers tell more."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.{digits}g}"


def _edges(task: Task) -> list[tuple[float, float]]:
    """Of the bins of a scalar; none for other classes."""
    dense = task.model.task
    assert isinstance(dense, AbstractDense)
    if not isinstance(dense.codec, ScalarBins):
        return []
    edges = dense.codec.edges.tolist()
    return list(itertools.pairwise(edges))


def write_explanation(
    task: Task, found: Explanation, out: Path, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ``concepts.png``, ``codebook.png``, ``bins.png``, and ``explain.json`` last.

    Args:
        task: that was explained.
        found: what ``explain`` gave.
        out: folder, made if need be.
        notes: what else to say in the JSON file.

    Returns:
        The contents of the JSON file.

    Raises:
        InputError: if the files cannot be written.
    """
    about = figures(task, found)
    classes, unit = about["classes"], about["unit"]
    pictures = {"concepts": concept_sheet(found.image, found.answer, found.probability, classes)}
    if found.tables is not None and found.centres is not None and found.values is not None:
        pictures["codebook"] = codebook_chart(
            found.centres, found.values, found.tables, found.weights, unit
        )
    labels = [f"{_short(a)} to {_short(b)} {unit}".strip() for a, b in _edges(task)]
    labels = labels or [row["name"] for row in classes]
    columns = {"mean probability": "share", "share of the pixels' answers": "answered"}
    shares = {title: [row[key] for row in classes] for title, key in columns.items()}
    pictures["bins"] = bar_chart(labels, shares)
    files = {name: f"{name}.png" for name in pictures}
    told = [] if "codebook" in files else [NO_CODEBOOK]
    about = {**notes, "pictures": files, "notes": told, **about}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in (EXPLAINED, "codebook.png"):  # of an earlier run: not of these pictures
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}: choose another --out") from None
    for name, image in pictures.items():
        with replacing(out / files[name]) as partial:
            image.save(partial, format="PNG")
    with replacing(out / EXPLAINED) as partial:
        partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about
