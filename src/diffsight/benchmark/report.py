"""The report of a few-shot benchmark: its tables, from the files of its units."""

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

# FewShot's row in the paper's Table 2, by task and by the measure that the paper reports
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

TARGET_SHOTS = {"nyu_depth": 20, "nyu_normal": 20}  # of the paper's scores; 10 for other tasks
TARGET_CLASSES = 12  # number of classes in the paper's mean over classes
# the entries that every unit's file must have
UNIT_TYPES = {
    **dict.fromkeys(("task", "method", "source", "measure", "conditions"), str),
    **{"repeat": int, "shots": int, "higher_is_better": bool},
    **{"score": float, "fit_seconds": float},
    **{"measures": dict, "per_image": dict, "training_images": list},
}

Rows = Mapping[str, Mapping[int, dict[str, Any]]]
"""The units of one task and one number of shots, by method and repeat."""


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
    """Return the names of the methods that have a finished unit in a folder.

    Raises:
        InputError: if the file of a unit is damaged.
    """
    return {_read(path)["method"] for path in out.glob("**/shots*/rep*.json")}


def write_report(out: Path, *, reference: str | None = None) -> str:
    """Write ``report.md`` and ``report.json`` into the folder of a benchmark.

    Args:
        out: folder of the units.
        reference: method that the others are compared with. Default, also for a task without this
            method: ``auto``, else the first method by name.

    Returns:
        The text of ``report.md``.

    Raises:
        InputError: if the folder has no finished unit, a damaged one, or units that cannot be
            compared.
    """
    paths = sorted(out.glob("**/shots*/rep*.json"))
    if not paths:
        raise InputError(f"{out}: has no finished unit: run the benchmark first")
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
        compared = reference if reference in rows else ("auto" if "auto" in rows else min(rows))
        entries = _summarise_methods(rows, compared)
        data[f"{task}, {shots} shots"] = entries
        text += ["", _title(task, shots, rows), "", *_format_entries(entries, compared)]
        curves = {entry["method"]: entry["curve"] for entry in entries if "curve" in entry}
        text += _format_table("mean after steps", curves)
    text += _format_means_by_shots(tables)
    text.append(
        "\n± is half the width of the 95 % interval of the mean (Student's t). The spread is 1.96 "
        "standard deviations of the runs. Differences are paired by training images and have the "
        "95 % interval of their mean; * marks an interval without 0."
    )
    page = "\n".join(text) + "\n"
    for name, content in (("report.md", page), ("report.json", json.dumps(data, indent=1))):
        with replacing(out / name) as partial:
            partial.write_text(content, encoding="utf-8")
    return page


def _check_pairs(units: Mapping[Path, dict[str, Any]]) -> None:
    """Check that units can be compared.

    Units of the same task and number of shots must have the same conditions, measures and test
    images. Units of the same repeat must also have the same training images.

    Raises:
        InputError: if two units differ in one of these; the message names both files.
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
            if name in ("per_image", "measures"):  # compare the names, not the scores
                own, other = own.keys(), other.keys()
            if own != other:
                raise InputError(
                    f"{path}: made with another backbone, data, seed, size or time than {first}: "
                    "the two cannot be paired: run one of them again in another --out"
                )


def _class_means(units: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return units ``NAME/*`` with the mean over tasks that are one class each (``NAME/CLASS``).

    A method has such a unit for each repeat in which it has all classes.
    """
    groups: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    classes: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for unit in units:
        name, slash, class_name = unit["task"].partition("/")
        if slash:
            classes[name, unit["shots"]].add(class_name)
            groups[name, unit["shots"], unit["method"], unit["repeat"]][class_name] = unit
    means = []
    for (name, shots, *_), rows in groups.items():
        if rows.keys() != classes[name, shots]:
            continue
        first = next(iter(rows.values()))
        measures = _mean_measures(rows.values(), first["measures"])
        seconds = sum(row["fit_seconds"] for row in rows.values())
        mean = {"task": f"{name}/*", "measures": measures, "score": measures[first["measure"]]}
        unit = {**first, **mean, "fit_seconds": seconds, "classes": len(rows)}
        unit.pop("curve", None)  # it is that of one class
        means.append(unit)
    return means


def _mean_measures(units: Collection[dict[str, Any]], names: Iterable[str]) -> dict[str, float]:
    return {name: float(np.mean([unit["measures"][name] for unit in units])) for name in names}


def _summarise_methods(rows: Rows, reference: str) -> list[dict[str, Any]]:
    """Return one entry with the statistics of each method, the best mean first."""
    first = next(iter(rows[reference].values()))
    entries = []
    for method, repeats in rows.items():
        scores = np.array([repeats[r]["score"] for r in sorted(repeats)])
        common = sorted(repeats.keys() & rows[reference].keys())
        entry: dict[str, Any] = {"method": method, **vars(summarise(scores))}
        if method != reference and common:
            both = (repeats, rows[reference])
            pairs = ([units[r]["score"] for r in common] for units in both)
            entry["difference"] = vars(paired_difference(*map(np.array, pairs)))
        measures = {name for unit in repeats.values() for name in unit["measures"]}
        entry["measures"] = _mean_measures(repeats.values(), sorted(measures))
        if curve := _mean_curve(repeats.values()):
            entry["curve"] = curve
        entry["fit_seconds"] = float(np.mean([unit["fit_seconds"] for unit in repeats.values()]))
        entries.append(entry)
    return sorted(entries, key=lambda e: e["mean"], reverse=first["higher_is_better"])


def _mean_curve(units: Collection[dict[str, Any]]) -> dict[int, float]:
    """Return the mean score after each number of steps that all units have in their curves."""
    curves = [dict(unit.get("curve", ())) for unit in units]
    steps = [step for step in curves[0] if all(step in curve for curve in curves)]
    return {step: float(np.mean([curve[step] for curve in curves])) for step in steps}


def _format_means_by_shots(tables: Mapping[tuple[str, int], Rows]) -> list[str]:
    """Return a table of mean scores by number of shots, for every task with several numbers."""
    means: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for (task, shots), rows in sorted(tables.items()):
        for method, repeats in sorted(rows.items()):
            scores = [unit["score"] for unit in repeats.values()]
            means[task][method][shots] = float(np.mean(scores))
    lines = []
    for task, rows in means.items():
        if len({shots for row in rows.values() for shots in row}) > 1:
            lines += ["", f"### {task}: mean by number of labelled images"]
            lines += _format_table("method", rows)
    return lines


def _format_table(corner: str, rows: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Return the lines of a table with a row per method; none without rows.

    Args:
        corner: text of the top left cell.
        rows: by method, numbers by column.
    """
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
    measure = unit["measure"]
    if "classes" in unit:
        measure = f"mean {measure} of {unit['classes']}"
    title = f"### {task}: {measure}, {shots} shots ({better} is better)"
    has_all_classes = unit.get("classes", TARGET_CLASSES) == TARGET_CLASSES
    is_paper = has_all_classes and shots == TARGET_SHOTS.get(task, 10)
    target = TARGETS.get((task, unit["measure"])) if is_paper else None
    return title if target is None else f"{title}; the paper's FewShot: {target:g}"


def _format_entries(entries: Sequence[Mapping[str, Any]], reference: str) -> list[str]:
    """Return the table of one task at one number of shots, as lines with a row per method.

    Args:
        entries: results of the methods.
        reference: name of the method that the others are compared with.
    """
    names = [name for name in entries[0]["measures"] if name not in ("images", "skipped")]
    head = ("method", "mean", "spread", "repeats", f"minus {reference}", *names, "training, s")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for entry in entries:
        mean = f"{entry['mean']:.4g}"
        if entry["ci95"] is not None:
            mean += f" ± {entry['ci95']:.4g}"
        spread = "n/a" if entry["spread"] is None else f"{entry['spread']:.4g}"
        cells = [entry["method"], mean, spread, str(entry["repeats"]), _format_difference(entry)]
        cells += [f"{entry['measures'][name]:.4g}" for name in names]
        lines.append(f"| {' | '.join(cells)} | {entry['fit_seconds']:.0f} |")
    return lines


def _format_difference(entry: Mapping[str, Any]) -> str:
    """Return the difference to the reference with its interval; empty for the reference."""
    difference = entry.get("difference")
    if difference is None:
        return ""
    if difference["interval"] is None:
        return f"{difference['mean']:+.4g}"
    low, high = difference["interval"]
    mark = "*" if low > 0 or high < 0 else ""
    return f"{difference['mean']:+.4g} [{low:+.4g}, {high:+.4g}]{mark}"
