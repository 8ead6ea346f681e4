"""The table of a few-shot benchmark, from the files of its units."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffsight.atomic import replacing
from diffsight.benchmark.statistics import paired_difference, summarise
from diffsight.benchmark.units import DAMAGED, read_unit
from diffsight.errors import InputError
from diffsight.formats.text import reading

# FewShot's row of the paper's Table 2, under the measure that it holds (VTM's for Taskonomy)
TARGETS = {
    ("depth_euclidean", "vtm_mae"): 0.0776,
    ("depth_zbuffer", "vtm_mae"): 0.0308,
    ("edge_texture", "vtm_mae"): 0.0625,
    ("edge_occlusion", "vtm_mae"): 0.0812,
    ("keypoints2d", "vtm_mae"): 0.0626,
    ("keypoints3d", "vtm_mae"): 0.0389,
    ("reshading", "vtm_mae"): 0.1284,
    ("principal_curvature", "vtm_mae"): 0.0376,
    ("normal", "merr_vtm"): 10.1346,
    ("segment_semantic/*", "iou"): 0.4178,
    ("nyu_depth", "rmse"): 0.43,
    ("nyu_normal", "merr_true"): 16.4,
}

TARGET_CLASSES = 12  # of the mean over classes
# of every unit's file
UNIT_TYPES = {
    **dict.fromkeys(("task", "method", "source", "measure", "conditions"), str),
    **{"repeat": int, "shots": int, "higher_is_better": bool},
    **{"score": float, "fit_seconds": float},
    **{"measures": dict, "per_image": dict, "training_images": list},
}

Rows = Mapping[str, Mapping[int, dict[str, Any]]]


def _read(path: Path) -> dict[str, Any]:
    with reading(path, DAMAGED):
        unit = read_unit(path, UNIT_TYPES.keys())
        for name, kind in UNIT_TYPES.items():
            if type(unit[name]) is not kind and not (kind is float and type(unit[name]) is int):
                raise ValueError(f"{name} is no {kind.__name__}")
        numbers = {"score": unit["score"], **unit["measures"]}
        if wrong := [name for name, value in numbers.items() if not math.isfinite(value)]:
            raise ValueError(f"{wrong[0]} is no finite number")
        if unit["measure"] not in unit["measures"]:
            raise ValueError(f"no measure {unit['measure']!r}")
        return unit


def finished_methods(out: Path) -> set[str]:
    """Return the methods of the units in a folder.

    Raises:
        InputError: if a unit is damaged.
    """
    return {_read(path)["method"] for path in out.glob("**/shots*/rep*.json")}


def write_report(out: Path, *, reference: str | None = None) -> str:
    """Write ``report.md`` and ``report.json`` into the folder of a benchmark.

    Args:
        out: folder of the units.
        reference: method that the others are compared with; default, and for a task without it:
            ``auto``, or the first by name.

    Returns:
        The Markdown.

    Raises:
        InputError: if the folder holds no unit, a damaged one, or units that cannot be compared.
    """
    paths = sorted(out.glob("**/shots*/rep*.json"))
    if not paths:
        raise InputError(f"{out}: holds no finished unit: run the benchmark first")
    units = [_read(path) for path in paths]
    _check_pairs(dict(zip(paths, units, strict=True)))
    units += _class_means(units)
    tables: dict[tuple[str, int], dict[str, dict[int, dict[str, Any]]]] = defaultdict(dict)
    for unit in units:
        table = tables[unit["task"], unit["shots"]]
        table.setdefault(unit["method"], {})[unit["repeat"]] = unit
    methods = sorted({unit["method"] for unit in units})
    if reference is not None and reference not in methods:
        raise InputError(f"no unit of {reference!r}: choose from {', '.join(methods)}")
    text, data = [f"Few-shot benchmark on {', '.join(sorted({u['source'] for u in units}))}."], {}
    for (task, shots), rows in sorted(tables.items()):
        chosen = reference if reference in rows else ("auto" if "auto" in rows else min(rows))
        entries = _table(rows, chosen)
        data[f"{task}, {shots} shots"] = entries
        text += ["", _title(task, shots, rows), "", *_lines(entries, chosen)]
        curves = {entry["method"]: entry["curve"] for entry in entries if "curve" in entry}
        text += _matrix("mean after steps", curves)
    text += _shots(tables)
    text.append(
        "\n± is half the 95 % interval of the mean (Student's t), spread is 1.96 standard "
        "deviations of the runs. Differences are paired by training images, with the 95 % interval "
        "of their mean; one without 0 is marked *."
    )
    page = "\n".join(text) + "\n"
    for name, content in (("report.md", page), ("report.json", json.dumps(data, indent=1))):
        with replacing(out / name) as partial:
            partial.write_text(content, encoding="utf-8")
    return page


def _check_pairs(units: Mapping[Path, dict[str, Any]]) -> None:
    """Refuse units that cannot be compared.

    Those of one task and number of shots must have the same conditions, measures and scored images,
    those of one repeat the same training images.

    Raises:
        InputError: naming two that differ.
    """
    first_of: dict[tuple[Any, ...], Path] = {}
    for path, unit in units.items():
        task = unit["task"], unit["shots"]
        repeat = (*task, unit["repeat"])
        same = (
            (task, "conditions"),
            (task, "per_image"),
            (task, "measures"),
            (repeat, "training_images"),
        )
        for group, name in same:
            first = first_of.setdefault((*group, name), path)
            own, other = unit[name], units[first][name]
            if name in ("per_image", "measures"):  # which there are, not how good
                own, other = own.keys(), other.keys()
            if own != other:
                raise InputError(
                    f"{path}: made with another base, data, seed, size or time than {first}: the "
                    "two cannot be paired: run one of them again in another --out"
                )


def _class_means(units: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a unit ``NAME/*`` of the mean over classes that are a task each (``NAME/CLASS``).

    There is one wherever a method has all classes in a repeat.
    """
    groups: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    classes: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for unit in units:
        name, slash, one = unit["task"].partition("/")
        if slash:
            classes[name, unit["shots"]].add(one)
            groups[name, unit["shots"], unit["method"], unit["repeat"]][one] = unit
    means = []
    for (name, shots, *_), rows in groups.items():
        if rows.keys() != classes[name, shots]:
            continue
        first = next(iter(rows.values()))
        measures = _mean_measures(rows.values(), first["measures"])
        seconds = sum(row["fit_seconds"] for row in rows.values())
        mean = {"task": f"{name}/*", "measures": measures, "score": measures[first["measure"]]}
        means.append({**first, **mean, "fit_seconds": seconds, "classes": len(rows)})
    return means


def _mean_measures(units: Collection[dict[str, Any]], names: Iterable[str]) -> dict[str, float]:
    return {name: float(np.mean([unit["measures"][name] for unit in units])) for name in names}


def _table(rows: Rows, reference: str) -> list[dict[str, Any]]:
    """Return one entry per method, the best mean first."""
    first = next(iter(rows[reference].values()))
    entries = []
    for method, repeats in rows.items():
        scores = np.array([repeats[r]["score"] for r in sorted(repeats)])
        common = sorted(repeats.keys() & rows[reference].keys())
        entry: dict[str, Any] = {"method": method, **vars(summarise(scores))}
        if method != reference and common:
            pairs = ([some[r]["score"] for r in common] for some in (repeats, rows[reference]))
            entry["difference"] = vars(paired_difference(*map(np.array, pairs)))
        measures = {name for unit in repeats.values() for name in unit["measures"]}
        entry["measures"] = _mean_measures(repeats.values(), sorted(measures))
        if curve := _mean_curve(repeats.values()):
            entry["curve"] = curve
        entry["fit_seconds"] = float(np.mean([unit["fit_seconds"] for unit in repeats.values()]))
        entries.append(entry)
    return sorted(entries, key=lambda e: e["mean"], reverse=first["higher_is_better"])


def _mean_curve(units: Collection[dict[str, Any]]) -> dict[int, float]:
    """Return the mean score by steps, where all units have one of the same steps."""
    curves = [dict(unit.get("curve", ())) for unit in units]
    steps = [step for step in curves[0] if all(step in curve for curve in curves)]
    return {step: float(np.mean([curve[step] for curve in curves])) for step in steps}


def _shots(tables: Mapping[tuple[str, int], Rows]) -> list[str]:
    """Return a table of means by number of shots for every task that has several."""
    means: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for (task, shots), rows in sorted(tables.items()):
        for method, repeats in sorted(rows.items()):
            scores = [unit["score"] for unit in repeats.values()]
            means[task][method][shots] = float(np.mean(scores))
    lines = []
    for task, rows in means.items():
        if len({shots for row in rows.values() for shots in row}) > 1:
            lines += ["", f"### {task}: mean by number of labelled images"]
            lines += _matrix("method", rows)
    return lines


def _matrix(corner: str, rows: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Return a table of numbers by method and by another number; empty without rows."""
    if not rows:
        return []
    columns = sorted({column for row in rows.values() for column in row})
    lines = ["", f"| {' | '.join([corner, *map(str, columns)])} |"]
    lines.append("|" + "---|" * (len(columns) + 1))
    for name, row in rows.items():
        cells = [f"{row[column]:.4g}" if column in row else "" for column in columns]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def _title(task: str, shots: int, rows: Rows) -> str:
    unit = next(iter(next(iter(rows.values())).values()))
    better = "higher" if unit["higher_is_better"] else "lower"
    what = f"mean {unit['measure']} of {unit['classes']}" if "classes" in unit else unit["measure"]
    title = f"### {task}: {what}, {shots} shots ({better} is better)"
    complete = unit.get("classes", TARGET_CLASSES) == TARGET_CLASSES
    target = TARGETS.get((task, unit["measure"])) if complete else None
    return title if target is None else f"{title}; the paper's FewShot: {target:g}"


def _lines(entries: Sequence[Mapping[str, Any]], reference: str) -> list[str]:
    names = [name for name in entries[0]["measures"] if name not in ("images", "skipped")]
    head = ("method", "mean", "spread", "repeats", f"minus {reference}", *names, "training, s")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for entry in entries:
        mean = f"{entry['mean']:.4g}"
        if entry["ci95"] is not None:
            mean += f" ± {entry['ci95']:.4g}"
        spread = "n/a" if entry["spread"] is None else f"{entry['spread']:.4g}"
        cells = [entry["method"], mean, spread, str(entry["repeats"]), _gap(entry)]
        cells += [f"{entry['measures'][name]:.4g}" for name in names]
        lines.append(f"| {' | '.join(cells)} | {entry['fit_seconds']:.0f} |")
    return lines


def _gap(entry: Mapping[str, Any]) -> str:
    gap = entry.get("difference")
    if gap is None:
        return ""
    if gap["interval"] is None:
        return f"{gap['mean']:+.4g}"
    low, high = gap["interval"]
    mark = "*" if low > 0 or high < 0 else ""
    return f"{gap['mean']:+.4g} [{low:+.4g}, {high:+.4g}]{mark}"
