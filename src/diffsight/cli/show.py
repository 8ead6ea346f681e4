"""``diffsight show``: describe a saved model: task, method, scores and usage."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from diffsight.cli.console import printable, write_json
from diffsight.cli.flags import Flag, command

PROTOCOLS = "protocols"  # argument that lists the protocols
MAX_FIGURES = 12  # metrics of the held-out images in the description


@command("show")
def main(model: Annotated[str, Flag("PATH|ID")], *, json: bool = False) -> int:
    """Describe a saved model: task, method, held-out scores, and how to use it.

    The command reads the configuration only; it loads no weights and runs no code of the model.
    `diffsight show protocols` lists the evaluation protocols.

    Args:
        model: saved model (its folder or .safetensors file, the output folder of `diffsight fit`,
            or a hub id), or the word protocols.
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
    """Print names with their descriptions to stdout, one per line or as JSON."""
    if as_json:
        write_json(rows, indent=1)
        return
    width = max(map(len, rows))
    sys.stdout.writelines(f"{name:<{width}}  {text}\n" for name, text in rows.items())


def describe(config: Mapping[str, Any], source: str) -> str:
    """Return a few lines about a saved model.

    Args:
        config: configuration of the model.
        source: path or hub id of the model.
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
        note = "early, perhaps trained on some of the images: `adapt --resume` continues"
        rows.append(("stopped", note))
    packages = sorted(_foreign_packages([config["task"], config["method"]]))
    if packages:
        rows.append(("trust", f"uses code of {', '.join(packages)}, outside diffsight"))
    options = "".join(f" --trust {package}" for package in packages)
    image = "rig.json" if info.get("reads_rig") else "PHOTO.jpg"
    rows.append(("next", f"diffsight predict {image} --model {source}{options} --out DIR"))
    return printable("\n".join(f"{name + ':':<10} {text}" for name, text in rows if text))


def describe_task(config: Mapping[str, Any], *, lists_classes: bool = True) -> str:
    """Return the task of a saved model, with its classes or unit.

    Args:
        config: configuration of the model.
        lists_classes: whether the classes are listed; otherwise only their number is.
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
    """Return the method of a saved model, with its frozen backbones."""
    text = _name(config["method"])
    # parts of one backbone have the same source
    sources = {entry["source"]: entry["fingerprint"][:12] for entry in config["frozen"].values()}
    parts = [f"{source} ({fingerprint})" for source, fingerprint in sources.items()]
    return f"{text} on {' and '.join(parts)}" if parts else text


def _intervals(info: Mapping[str, Any]) -> str:
    """Return the range of ``predict --confidence``; empty without a calibration."""
    if not (calibration := info.get("calibration")):
        return ""
    low, high = calibration["confidence"][0], calibration["confidence"][-1]
    images = calibration["images"]
    return f"`predict --confidence` from {low:g} to {high:g}, calibrated on {images} images"


def _training(info: Mapping[str, Any]) -> str:
    """Return a description of the training by ``adapt`` or ``fit``."""
    parts = [f"{name} {value}" for name, value in info.get("training", {}).items()]
    if samples := info.get("samples"):
        parts.append(f"{len(samples)} images")
    if "chosen" in info:
        steps = info.get("steps", {}).get(info["chosen"])
        planned = " planned" if info.get("interrupted") else ""
        parts.append(f"{info['chosen']}, {steps} steps{planned}")
    if "learned_parameters" in info:
        parts.append(f"{info['learned_parameters']:,} trained parameters")
    numbers = {name: info[name] for name in ("seed", "alpha") if name in info}
    parts += [
        f"{name} {value if isinstance(value, str) else f'{value:g}'}"
        for name, value in numbers.items()
    ]
    parts += [f"{name} {value}" for name, value in (info.get("variant") or {}).items()]
    if info.get("short_side"):
        parts.append(f"short side {info['short_side']} px")
    return ", ".join(parts)


def describe_held_out(info: Mapping[str, Any]) -> str:
    """Return the held-out scores that ``adapt`` stored, the reason why it has none, or ""."""
    scores = info.get("held_out")
    if scores:
        names = sorted(scores, key=lambda name: name in ("constant", "mean map"))  # baselines last
        figures = ", ".join(f"{name} {scores[name]:.4g}" for name in names)
        return f"{figures} ({info['metric']})"
    if "chosen" in info and not info.get("interrupted"):
        return "no image could be held out: give more than one, or --validation"
    return ""


def _figures(info: Mapping[str, Any]) -> str:
    """Return further metrics of the chosen method on held-out images, without the main one."""
    figures = {k: v for k, v in info.get("figures", {}).items() if k != info.get("metric")}
    text = ", ".join(f"{name} {value:.4g}" for name, value in list(figures.items())[:MAX_FIGURES])
    more = len(figures) - MAX_FIGURES
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
    """Return the packages outside diffsight whose classes a configuration names."""
    if isinstance(value, Mapping):
        package, dot, _ = str(value.get("class_path", "")).partition(".")
        own = {package} if dot and package != "diffsight" else set[str]()
        return own.union(*map(_foreign_packages, value.values()))
    return set[str]().union(*map(_foreign_packages, value)) if isinstance(value, list) else set()
