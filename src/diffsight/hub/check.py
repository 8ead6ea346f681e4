"""Check the configuration of a saved model."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from diffsight.config import INFINITY
from diffsight.errors import InputError

FORMAT = 2  # version of the format of saved models


def check_config(path: Path, config: Any) -> dict[str, Any]:
    """Return a configuration, after checking that it is complete.

    Args:
        path: file of the configuration, for messages.
        config: content of the file.

    Raises:
        InputError: if another library or a newer version of diffsight wrote it, or if an entry is
            missing or has a wrong type.
    """
    parts = ("task", "method", "info", "frozen")
    if not isinstance(config, dict) or not all(
        isinstance(config.get(part), Mapping) for part in parts[:2]
    ):
        raise InputError(f"{path}: names no task and method: give a model that diffsight saved")
    version = config.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        writer = config.get("diffsight_version", "unknown version")
        raise InputError(
            f"{path}: saved by a newer diffsight ({writer}): update with pip install -U diffsight"
        )
    for part in parts:
        if not isinstance(config.get(part), Mapping):
            raise InputError(f"{path}: incomplete ({part} is missing): copy it again")
    for name, kind in (("fingerprint", str), ("diffsight_version", str), ("parameters", int)):
        if not isinstance(config.get(name), kind):
            raise InputError(f"{path}: incomplete ({name} is missing): copy it again")
    for module_path, entry in config["frozen"].items():
        keys = ("source", "fingerprint")
        if not isinstance(entry, Mapping) or not all(isinstance(entry.get(k), str) for k in keys):
            raise InputError(f"{path}: incomplete (frozen part {module_path!r}): copy it again")
        if not isinstance(entry.get("revision"), str | None):
            raise InputError(f"{path}: incomplete (revision of {module_path!r}): copy it again")
    try:
        check_info(config["info"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return config


def check_info(info: Mapping[str, Any]) -> None:
    """Check the values of ``DenseModel.info`` that diffsight reads; other keys are free.

    Raises:
        InputError: for a value that cannot be used; the message names the key and the repair.
    """
    for name, (is_valid, expected) in _INFO.items():
        if name in info and not is_valid(info[name]):
            raise InputError(f"info.{name} is {_shorten(info[name])}: write {expected}")
    if "held_out" in info and info["held_out"] and not isinstance(info.get("metric"), str):
        raise InputError(
            "info.held_out has no info.metric: add the name of its metric, or delete info.held_out"
        )
    results = info.get("results", [])
    if not isinstance(results, list) or not all(map(_is_result, results)):
        raise InputError("info.results is no list of evaluations: delete it")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023


def _are_numbers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_number, value.values()))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _are_ascending(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not all(map(_is_number, value)):
        return False
    return all(0 <= a <= b for a, b in pairwise([0, *value]))


def _is_calibration(value: Any) -> bool:
    """Return whether a value has the form that ``adaptation.calibration`` returns."""
    if not isinstance(value, Mapping) or not _is_size(value.get("images")):
        return False
    confidence, q, residuals = (value.get(key) for key in ("confidence", "q", "residuals"))
    return (
        isinstance(confidence, list | tuple)
        and isinstance(q, list | tuple)
        and _are_ascending(confidence)
        and _are_ascending(q)
        and 0 < len(confidence) == len(q)
        and confidence[-1] < 1
        and isinstance(residuals, Mapping)
        and all(_are_ascending(r) and len(r) <= value["images"] for r in residuals.values())
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_result(value: Any) -> bool:
    """Return whether a value is an evaluation with all entries that a card shows."""
    if not isinstance(value, Mapping) or not _are_numbers(value.get("metrics")):
        return False
    protocol, rows = value.get("protocol"), value.get("baselines", {})
    if not isinstance(protocol, Mapping) or not _is_text(protocol.get("name")):
        return False
    return (
        _is_text(value.get("plan"))
        and isinstance(value.get("data"), str | None)
        and isinstance(rows, Mapping)
        and all(
            _are_numbers(row) and row.keys() >= value["metrics"].keys() for row in rows.values()
        )
    )


def _shorten(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "a huge number"
    return text if len(text) <= 60 else f"{text[:60]} ..."


_INFO: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    # a check of the value, and its description in a message
    "short_side": (lambda value: value is None or _is_size(value), "a number of pixels"),
    "reads_rig": (lambda value: isinstance(value, bool), "true or false"),
    "training": (_is_mapping, "an object"),
    "steps": (_is_mapping, "an object"),
    "variant": (lambda value: value is None or _is_mapping(value), "an object"),
    **dict.fromkeys(("held_out", "figures"), (_are_numbers, "an object of numbers")),
    "held_out_images": (lambda value: isinstance(value, int), "a whole number"),
    "calibration": (_is_calibration, "the calibration that adapt wrote, or delete it"),
    "learned_parameters": (lambda value: isinstance(value, int), "a whole number"),
    "seed": (_is_number, "a number"),
    "alpha": (lambda value: value == INFINITY or _is_number(value), f"a number, or {INFINITY!r}"),
    **dict.fromkeys(
        ("chosen", "metric", "kind", "license", "verdict", "backbone"), (_is_text, "a text")
    ),
    "unit": (lambda value: isinstance(value, str | None), "a text"),
    **dict.fromkeys(("samples", "datasets", "base_weights"), (_are_texts, "a list of texts")),
}
