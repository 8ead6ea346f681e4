"""The model card: what a saved model is, what it scored and how, and how to use it."""

from collections.abc import Mapping, Sequence
from typing import Any

PIPELINE_TAGS = {"Depth": "depth-estimation", "Segmentation": "image-segmentation"}


def card(config: Mapping[str, Any]) -> str:
    """Return the ``README.md`` of a saved model; its header is what the hub reads."""
    task, method = (config[part]["class_path"].rpartition(".")[2] for part in ("task", "method"))
    info = config["info"]
    results = info.get("results", [])
    lines = [
        *_header(task, method, info),
        f"# {method} for {task}",
        "",
        f"Made with diffsight {config['diffsight_version']}. "
        f"{config['parameters']:,} parameters, fingerprint `{config['fingerprint'][:16]}`.",
        "",
        "```python",
        "import diffsight",
        "",
        'predict = diffsight.pipeline("path/to/this/model")',
        f'prediction = predict("{"rig.json" if info.get("reads_rig") else "photo.jpg"}")',
        "```",
        "",
        "The constructor calls of task and method are in `config.json`.",
        *_results(results),
        *_held_out(info),
        *_training(info),
        *_licence(info),
    ]
    return "\n".join(lines) + "\n"


def _header(task: str, method: str, info: Mapping[str, Any]) -> list[str]:
    metrics = sorted({name for result in info.get("results", []) for name in result["metrics"]})
    fields: dict[str, str | Sequence[str]] = {
        "license": info.get("license", "other"),
        "library_name": "diffsight",
        "pipeline_tag": PIPELINE_TAGS.get(task, ""),
        "base_model": [source for source in info.get("base_weights", []) if _is_hub_id(source)],
        "datasets": info.get("datasets", []),
        "metrics": metrics,
        "tags": ["diffsight", method],
    }
    lines = ["---"]
    for name, value in fields.items():
        if isinstance(value, str) and value:
            lines.append(f"{name}: {value}")
        elif value:
            lines += [f"{name}:", *(f"- {item}" for item in value)]
    return [*lines, "---", ""]


def _results(results: Sequence[Mapping[str, Any]]) -> list[str]:
    if not results:
        command = "`diffsight evaluate --model . --protocol ID`"
        return ["", "## Results", "", f"Not evaluated yet: {command}."]
    lines = ["", "## Results"]
    for result in results:
        on = f" on {result['data']}" if "data" in result else ""
        lines += ["", f"Protocol {result['protocol']['name']}{on}, plan: {result['plan']}.", ""]
        names = list(result["metrics"])
        lines += [f"| | {' | '.join(names)} |", "|" + " --- |" * (len(names) + 1)]
        rows = {"**this model**": result["metrics"], **result.get("baselines", {})}
        for name, row in rows.items():
            lines.append(f"| {name} | " + " | ".join(f"{row[n]:.4g}" for n in names) + " |")
    return lines


def _held_out(info: Mapping[str, Any]) -> list[str]:
    """Return the scores on images that were held out while the method was chosen."""
    scores = info.get("held_out")
    if not scores:
        return []
    lines = ["", "## Held-out images", "", f"| | {info['metric']} |", "| --- | --- |"]
    lines += [f"| {name} | {value:.4g} |" for name, value in scores.items()]
    figures = {k: v for k, v in info.get("figures", {}).items() if k != info["metric"]}
    if figures:
        rows = [f"{name} {value:.4g}" for name, value in figures.items()]
        lines += ["", f"The chosen one: {', '.join(rows)}."]
    if info.get("verdict"):
        lines += ["", f"It is {info['verdict']}."]
    return lines


def _training(info: Mapping[str, Any]) -> list[str]:
    training = info.get("training", {})
    if not training:
        return []
    return ["", "## Training", "", *(f"* {name}: {value}" for name, value in training.items())]


def _licence(info: Mapping[str, Any]) -> list[str]:
    text = "The licence of these weights is its maker's to state, in the header of this card."
    if info.get("base_weights"):
        base = ", ".join(info["base_weights"])
        text += f" They started from {base}, whose licence goes with them."
    return ["", "## Licence", "", text]


def _is_hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~"))
