"""``diffsight show``: what a saved model is, how well it scored, and how to use it."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from diffsight.cli.console import printable, write_json
from diffsight.cli.flags import Flag, command

LISTS = ("recipes", "protocols")
FIGURES = 12  # that are shown at most


@command("show")
def main(model: Annotated[str, Flag("PATH|ID")], *, json: bool = False) -> int:
    """Describe a saved model: task, method, held-out scores, and how to use it.

    Nothing of the model is imported or loaded but its configuration. `diffsight show recipes` and
    `diffsight show protocols` list the names of all recipes and evaluation protocols.

    Args:
        model: folder or .safetensors file of a model, folder of a training, or a hub id; or
            recipes, or protocols.
        json: print the whole configuration as JSON.
    """
    if model in LISTS and not Path(model).exists():
        rows = _listed(model)
        if json:
            write_json(rows, indent=1)
        else:
            width = max(map(len, rows))
            sys.stdout.writelines(f"{name:<{width}}  {text}\n" for name, text in rows.items())
        return 0
    from diffsight.hub import read_config

    config = read_config(model)
    if json:
        write_json(config, indent=1)
    else:
        sys.stdout.write(describe(config, model) + "\n")
    return 0


def _listed(what: str) -> dict[str, str]:
    """Return the names of all recipes or protocols, with a line about each."""
    if what == "recipes":
        from diffsight import recipes

        return {name: recipes.summary(name) for name in recipes.names()}
    from diffsight import protocols

    return {name: protocols.get(name).describe() for name in protocols.names()}


def describe(config: Mapping[str, Any], source: str) -> str:
    """Return a few lines about a saved model.

    Args:
        config: of the model.
        source: where it is.
    """
    info = config["info"]
    rows = [
        ("model", f"{source}, {config['parameters']:,} parameters, {config['fingerprint'][:12]}"),
        ("task", _task(config)),
        ("method", _method(config)),
        ("trained", _training(info)),
        ("held out", _held_out(info)),
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
    image = "rig.json" if _name(config["task"]) == "BEV" else "PHOTO.jpg"
    rows.append(("next", f"diffsight predict {image} --model {source}{options} --out DIR"))
    return printable("\n".join(f"{name + ':':<10} {text}" for name, text in rows if text))


def _task(config: Mapping[str, Any]) -> str:
    name, arguments, info = _name(config["task"]), _arguments(config["task"]), config["info"]
    kind = info.get("kind", "")
    kind = f"{name} ({kind})" if kind not in ("", name.lower()) else name
    classes = arguments.get("names")
    if isinstance(classes, str):
        return f"{kind}, classes {classes}"
    if classes:
        return f"{kind}, {len(classes)} classes: {', '.join(classes)}"
    unit = info.get("unit") or arguments.get("unit")
    return f"{kind} in {unit}" if unit else kind


def _method(config: Mapping[str, Any]) -> str:
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


def _held_out(info: Mapping[str, Any]) -> str:
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
