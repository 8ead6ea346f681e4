"""``diffsight show``: what a saved model is, how well it scored, and how to use it."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from diffsight.cli.console import printable, write_json
from diffsight.cli.flags import Flag, command

PROTOCOLS = "protocols"  # whose names are listed
FIGURES = 12  # that are shown at most


@command("show")
def main(model: Annotated[str, Flag("PATH|ID")], *, json: bool = False) -> int:
    """Describe a saved model: task, method, held-out scores, and how to use it.

    Nothing of the model is imported or loaded but its configuration. `diffsight show protocols`
    lists the names of all evaluation protocols.

    Args:
        model: folder or .safetensors file of a model, folder of a training, or a hub id; or
            protocols.
        json: print the whole configuration as JSON.

    Example:
        diffsight show mine.safetensors
    """
    if model == PROTOCOLS and not Path(model).exists():
        from diffsight import protocols

        rows = {name: protocols.get(name).describe() for name in protocols.names()}
        write_names(rows, as_json=json)
        return 0
    from diffsight.hub import read_config

    config = read_config(model)
    if json:
        write_json(config, indent=1)
    else:
        sys.stdout.write(describe(config, model) + "\n")
    return 0


def write_names(rows: Mapping[str, str], *, as_json: bool) -> None:
    """Print names, with a line about each, to stdout."""
    if as_json:
        write_json(rows, indent=1)
        return
    width = max(map(len, rows))
    sys.stdout.writelines(f"{name:<{width}}  {text}\n" for name, text in rows.items())


def describe(config: Mapping[str, Any], source: str) -> str:
    """Return a few lines about a saved model.

    Args:
        config: of the model.
        source: where it is.
    """
    info = config["info"]
    rows = [
        ("model", f"{source}, {config['parameters']:,} parameters, {config['fingerprint'][:12]}"),
        ("task", describe_task(config)),
        ("method", describe_method(config)),
        ("trained", _training(info)),
        ("held out", describe_held_out(info)),
        ("figures", _figures(info)),
        ("verdict", info.get("verdict", "")),
        ("intervals", _intervals(info)),
        *(("evaluated", line) for line in _results(info)),
    ]
    if info.get("interrupted"):
        note = "early, perhaps trained on a part of the images: `adapt --resume` continues"
        rows.append(("stopped", note))
    packages = sorted(_foreign_packages([config["task"], config["method"]]))
    if packages:
        rows.append(("trust", f"needs code of {', '.join(packages)}, outside diffsight"))
    options = "".join(f" --trust {package}" for package in packages)
    image = "rig.json" if info.get("reads_rig") else "PHOTO.jpg"
    rows.append(("next", f"diffsight predict {image} --model {source}{options} --out DIR"))
    return printable("\n".join(f"{name + ':':<10} {text}" for name, text in rows if text))


def describe_task(config: Mapping[str, Any], *, lists_classes: bool = True) -> str:
    """Return the task of a saved model, with its classes or unit.

    Args:
        config: of the model.
        lists_classes: whether the classes are named; else they are counted.
    """
    name, arguments, info = _name(config["task"]), _arguments(config["task"]), config["info"]
    kind = info.get("kind", "")
    kind = f"{name} ({kind})" if kind not in ("", name.lower()) else name
    classes = arguments.get("names")
    if isinstance(classes, str):
        return f"{kind}, classes {classes}"
    if classes:
        count = f"{kind}, {len(classes)} classes"
        return f"{count}: {', '.join(classes)}" if lists_classes else count
    unit = info.get("unit") or arguments.get("unit")
    return f"{kind} in {unit}" if unit else kind


def describe_method(config: Mapping[str, Any]) -> str:
    """Return the method of a saved model, and the frozen networks that it stands on."""
    text = _name(config["method"])
    # parts of one model have one source
    sources = {entry["source"]: entry["fingerprint"][:12] for entry in config["frozen"].values()}
    parts = [f"{source} ({fingerprint})" for source, fingerprint in sources.items()]
    return f"{text} on {' and '.join(parts)}" if parts else text


def _intervals(info: Mapping[str, Any]) -> str:
    """Return the confidences that ``predict --confidence`` may be given."""
    if not (calibration := info.get("calibration")):
        return ""
    low, high = calibration["confidence"][0], calibration["confidence"][-1]
    images = calibration["images"]
    return f"`predict --confidence` from {low:g} to {high:g}, calibrated on {images} images"


def _training(info: Mapping[str, Any]) -> str:
    """Return how the model was trained: by ``adapt``, or by ``fit``."""
    words = [f"{name} {value}" for name, value in info.get("training", {}).items()]
    if samples := info.get("samples"):
        words.append(f"{len(samples)} images")
    if "chosen" in info:
        steps = info.get("steps", {}).get(info["chosen"])
        words.append(f"{info['chosen']}, {steps} steps")
    if "learned_parameters" in info:
        words.append(f"{info['learned_parameters']:,} learned parameters")
    words += [f"{name} {info[name]:g}" for name in ("seed", "alpha") if name in info]
    words += [f"{name} {value}" for name, value in (info.get("variant") or {}).items()]
    if info.get("short_side"):
        words.append(f"short side {info['short_side']} px")
    return ", ".join(words)


def describe_held_out(info: Mapping[str, Any]) -> str:
    """Return the held-out scores that ``adapt`` stored; why there are none, or nothing."""
    scores = info.get("held_out")
    if scores:
        names = sorted(scores, key=lambda name: name in ("constant", "mean map"))  # last
        figures = ", ".join(f"{name} {scores[name]:.4g}" for name in names)
        return f"{figures} ({info['metric']})"
    if "chosen" in info and not info.get("interrupted"):
        return "no image could be held out: give more than one, or --validation"
    return ""


def _figures(info: Mapping[str, Any]) -> str:
    """Return more figures of the chosen method on held-out images, the metric left out."""
    figures = {k: v for k, v in info.get("figures", {}).items() if k != info.get("metric")}
    text = ", ".join(f"{name} {value:.4g}" for name, value in list(figures.items())[:FIGURES])
    more = len(figures) - FIGURES
    return f"{text}, and {more} more (--json)" if more > 0 else text


def _results(info: Mapping[str, Any]) -> Iterator[str]:
    for result in info.get("results", []):
        figures = ", ".join(f"{name} {value:.4g}" for name, value in result["metrics"].items())
        data = f" on {result['data']}" if result.get("data") else ""
        yield f"{result['protocol']['name']}{data}, {result['plan']}: {figures}"


def _name(call: Mapping[str, Any]) -> str:
    return str(call.get("class_path", "?")).rpartition(".")[2]


def _arguments(call: Mapping[str, Any]) -> Mapping[str, Any]:
    return call.get("init_args") or {}


def _foreign_packages(value: Any) -> set[str]:
    """Return the packages besides diffsight that a configuration names classes of."""
    if isinstance(value, Mapping):
        package, dot, _ = str(value.get("class_path", "")).partition(".")
        own = {package} if dot and package != "diffsight" else set[str]()
        return own.union(*map(_foreign_packages, value.values()))
    return set[str]().union(*map(_foreign_packages, value)) if isinstance(value, list) else set()
